"""What does `laconic quality` do and print? Whether routing costs quality, by source, key, day and more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from redis.asyncio import Redis
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gateway.commands import terminal
from gateway.ledger import feedback, ledger, shadows
from gateway.ledger.ledger import LedgerSnapshot
from gateway.ledger.quality import MIN_SCORES, Estimate, Quality, Score, compute_quality
from gateway.ledger.savings import DIMENSIONS, By, Savings, compute_savings
from gateway.ledger.shadows import Comparisons

EXAMPLES = """examples:
  laconic quality                                 every source of scores that POST /v1/feedback has recorded
  laconic quality --by key --source thumbs        one source, by key; also checkpoint, day or difficulty
  laconic quality --since 7d --json

Routed requests are compared with the holdout, the random share that went to the reference instead. Differences are in
points, hundredths of a score, with a 95 % interval; they are adjusted for the scores that are missing. What is assumed:
among requests that are alike to the profile, whether one is scored does not depend on how good its answer is."""


@dataclass(frozen=True)
class Report:
    """What the ledger says of quality, and of savings for the sentence that has both."""

    quality: Quality
    savings: Savings
    pairs: Comparisons


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = terminal.command_parser("quality", "Show whether routing costs quality.", EXAMPLES)
    terminal.add_redis(parser)
    terminal.add_since(parser)
    parser.add_argument(
        "--by", choices=DIMENSIONS, default="checkpoint", help="what to group the rows by (default: checkpoint)"
    )
    parser.add_argument("--source", metavar="NAME", help="whose scores; default: the one whose smaller side has most")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parsed = parser.parse_args(arguments)
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config")

    async def read(redis: Redis) -> tuple[LedgerSnapshot, list[Score], Comparisons]:
        since = terminal.window_start(parsed)
        pairs = shadows.compare(await shadows.read(redis, since))
        return await ledger.read_snapshot(redis, since), await feedback.read_scores(redis, since), pairs

    snapshot, scores, pairs = terminal.with_redis("quality", settings, read)
    by: By = parsed.by
    quality = compute_quality(snapshot.cells, scores, by, parsed.source, snapshot.since_hour)
    if parsed.json:
        print(json.dumps({**quality.as_json(), "shadows": pairs.as_json()}, indent=2))
        return
    savings = compute_savings(snapshot.cells, snapshot.holdouts, since_hour=snapshot.since_hour)
    terminal.console().print(report(Report(quality, savings, pairs)))


def report(found: Report) -> RenderableType:
    """A table of the sources, one of the groups, and the sentences that matter."""
    quality, compared = found.quality, comparison(found.pairs)
    if not quality.sources:
        nothing = "No scores yet. Send them to POST /v1/feedback, with the x-request-id of each response."
        return Text("\n".join([nothing, *compared]))
    parts: list[RenderableType] = [_table("Quality by source, in points", "source", quality.sources)]
    if quality.groups:
        parts.append(_table(f"By {quality.by}, as {quality.source} scores it", quality.by, quality.groups))
    return Lines(*parts, Text("\n".join([*sentences(quality, found.savings), *compared])))


def sentences(quality: Quality, savings: Savings) -> list[str]:
    """What was saved and what it cost, as far as both are measured, and what to beware of."""
    total = quality.total
    if total is None:
        return []
    lines = [f"{_saved(savings)}quality {points(total)}, as {quality.source} scores it."]
    if total.difference is None:
        lines[0] = (
            f"Quality is measured once {MIN_SCORES} routed requests and {MIN_SCORES} holdouts at one --holdout-fraction"
            f" have scores: {quality.source} has {total.routed.scores:,} and {total.holdout.scores:,}."
        )
    if total.uneven:
        lines.append(_beware(total))
    return lines


def comparison(pairs: Comparisons) -> list[str]:
    """What the shadow comparisons say and cost; nothing without any."""
    if pairs.agreement is None or pairs.agreement_low is None or pairs.agreement_high is None:
        return []
    shares = (100 * one for one in (pairs.agreement, pairs.agreement_low, pairs.agreement_high))
    agreed = "agreed with the reference in {:.1f} % ({:.1f} to {:.1f})".format(*shares)
    lines = [f"Of {pairs.compared:,} answers that the reference gave, too, routed ones {agreed}."]
    if pairs.judged or pairs.difference is not None:
        verdict = "not enough for an interval"
        if pairs.difference is not None and pairs.low is not None and pairs.high is not None:
            ends = (100 * one for one in (pairs.difference, pairs.low, pairs.high))
            verdict = "{:+.1f} points ({:+.1f} to {:+.1f})".format(*ends)
        lines.append(
            f"The judge prefers {pairs.better:,} routed answers and {pairs.worse:,} of the reference: {verdict}."
        )
        if pairs.unjudged:
            lines[-1] += f" It gave no verdict on {pairs.unjudged:,} pairs that differ."
    return [
        *lines,
        f"Comparing cost {pairs.reference_tokens:,} tokens of the reference and {pairs.judge_tokens:,} of the judge.",
    ]


def points(estimate: Estimate) -> str:
    """A difference in points with its interval, such as `-0.3 points (-1.1 to +0.5)`."""
    if estimate.difference is None or estimate.low is None or estimate.high is None:
        return "not measured"
    difference, low, high = (100 * value for value in (estimate.difference, estimate.low, estimate.high))
    return f"{difference:+.1f} points ({low:+.1f} to {high:+.1f})"


def _saved(savings: Savings) -> str:
    measured = savings.total.measured
    if measured is None or measured.low + measured.spent_tokens <= 0:
        return ""
    # Of what the reference would have spent.
    ends = (measured.saved_tokens, measured.low, measured.high)
    share, low, high = (100 * saved / (saved + measured.spent_tokens) for saved in ends)
    return f"saved {share:.0f} % of reasoning tokens ({low:.0f} to {high:.0f}), "


def _beware(total: Estimate) -> str:
    shares = f"{total.routed.share:.1%} of routed requests and {total.holdout.share:.1%} of holdouts have a score"
    if total.bound_low is None or total.bound_high is None:
        return f"Beware: {shares}, so the answer may decide who gives one."
    bounds = f"{100 * total.bound_low:+.1f} and {100 * total.bound_high:+.1f}"
    return (
        f"Beware: {shares}, so the answer may decide who gives one. If so, the difference is between {bounds} points"
        " for requests that get a score on either side."
    )


def _table(title: str, first: str, rows: dict[str, Estimate]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first, justify="left", overflow="fold")
    for header in ("routed", "scored", "score", "holdout", "scored", "score", "difference"):
        table.add_column(header, justify="right")
    for name, one in rows.items():
        cells = [
            cell
            for arm in (one.routed, one.holdout)
            for cell in (f"{arm.requests:,}", f"{arm.scores:,}", "-" if arm.mean is None else f"{100 * arm.mean:.1f}")
        ]
        table.add_row(name, *cells, "-" if one.difference is None else points(one).replace(" points", ""))
    return table
