"""What do `laconic savings`, `replay` and `route` print? Tables, and the sentences under them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, cast

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gateway.ledger.drift import Drift, Sign
from gateway.ledger.replay import Replay, ReplaySide
from gateway.ledger.savings import MAX_ASSUMED, MIN_HOLDOUTS, Group, Measurement, Savings

BAR_WIDTH = 24
"""Characters in the longest bar."""
WIDE = 120
"""From this terminal width on, tables show bars."""
_DIRECTIONS: dict[Sign, str] = {
    "harder": "harder",
    "easier": "easier",
    "more extreme": "more often very easy or very hard",
    "less extreme": "less often very easy or very hard",
}


def savings_report(savings: Savings, drift: Drift, price: float | None, *, bars: bool) -> RenderableType:
    """A table of the savings, with a bar per row if there is room, and the measurement and the drift in words.

    Without requests, a sentence that says so.
    """
    if not savings.total.totals.requests:
        return Text("No requests in this time yet. The gateway counts every chat completion once it has ended.")
    table = _table("Reasoning tokens", savings.by)
    headers = ["requests", "failed", "holdout", "spent", "reference", "saved", "share"]
    for header in headers if price is None else [*headers, "money"]:
        table.add_column(header, justify="right", overflow="fold")
    if bars:
        table.add_column("spent ▇ and saved ░", justify="left", no_wrap=True)
    longest = max((group.totals.expected_reference_tokens for group in savings.groups.values()), default=0.0)
    for name, group in savings.groups.items():
        table.add_row(name, *_cells(group, price), *([_bar(group, longest)] if bars else []))
    table.add_section()
    table.add_row("total", *_cells(savings.total, price), style="bold")
    return Lines(table, Text(f"{_others(savings.total)}{_measured(savings.total)}\n{drift_sentence(drift)}"))


_WIDEST_BOUND = 0.2
"""With fewer requests than give this bound, about 47, chance alone may look like a strong drift."""


def drift_sentence(drift: Drift) -> str:
    """In one line, whether the prompts are unlike the fitting prompts, and by how much."""
    figures: list[str] = []
    if drift.distance is not None and drift.bound is not None:
        figures.append(f"distance {drift.distance:.2f} ± {drift.bound:.2f}")
    if drift.abstained_share is not None:
        low, high = drift.abstained_low or 0.0, drift.abstained_high or 0.0
        figures.append(f"unfamiliar {drift.abstained_share:.1%} ({low:.1%} to {high:.1%})")
    if not figures:
        return "No request was routed by its prompt, so there is no drift to see."
    if not drift.signs and drift.bound is not None and drift.bound > _WIDEST_BOUND:
        return "Drift of the prompts shows after some fifty routed requests."
    fitted = "what the profile was fitted on"
    directions = [_DIRECTIONS[sign] for sign in drift.signs if sign in _DIRECTIONS]
    if "unfamiliar" in drift.signs:
        others = "".join(f", and the others are {direction}" for direction in directions)
        verdict = f"Drift: many prompts are unlike {fitted}{others}"
    elif directions:
        verdict = f"Drift: the prompts are {directions[0]} than {fitted}"
    else:
        verdict = "No drift of the prompts is seen"
    return f"{verdict} ({', '.join(figures)})."


def replay_report(replay: Replay) -> RenderableType:
    """A table of what was chosen, and of what another tolerance would have chosen."""
    table = _table(f"Replay of {replay.requests:,} routed requests with quality_tolerance {replay.tolerance:g}", "")
    for header in ("recorded", "replayed"):
        table.add_column(header, justify="right")
    if replay.requests:
        sides = (replay.recorded, replay.replayed)
        table.add_row("expected reasoning tokens", *(f"{side.tokens:,.0f}" for side in sides))
        if any(side.answer_tokens for side in sides):
            table.add_row("expected answer tokens", *(f"{side.answer_tokens:,.0f}" for side in sides))
        table.add_row("saved against the reference", *(_saved(side, replay) for side in sides))
        table.add_row("expected success", *(f"{side.success / replay.requests:.3f}" for side in sides))
        table.add_section()
    for name in sorted(set(replay.recorded.choices) | set(replay.replayed.choices)):
        table.add_row(f"sent to {name}", f"{replay.recorded.choices[name]:,}", f"{replay.replayed.choices[name]:,}")
    return Lines(table, Text("Both columns are predictions of the profile. `laconic savings` shows what was spent."))


def route_report(explained: dict[str, Any]) -> RenderableType:
    """A table of what each checkpoint and escalation is predicted to do, with the choice marked."""
    table = _table("", "checkpoint")
    choices: dict[str, Any] = {**explained["checkpoints"], **explained["escalations"]}
    answers = ["answer"] if any(one["answer_tokens"] for one in choices.values()) else []
    for header in ("alpha", "success", "correct", "tokens", *answers, "p10", "p50", "p90"):
        table.add_column(header, justify="right")
    serves = explained["choice"] if explained["escalation"] else explained["checkpoint"]
    for name, prediction in choices.items():
        quantiles: dict[str, int] = prediction["quantiles"] or {}
        chosen = name == serves
        table.add_row(
            f"{name} ◀" if chosen else name,
            _format(prediction.get("alpha"), "g"),
            _format(prediction["success"], ".3f"),
            _format(prediction["correct"], ".3f"),
            _format(prediction["tokens"], ".1f"),
            *(_format(prediction["answer_tokens"], ".1f") for _ in answers),
            *(_format(quantiles.get(level), "d") for level in ("p10", "p50", "p90")),
            style="bold" if chosen else "",
        )
    budget = explained["budget"]
    tokens = _format(budget["tokens"], "d", "unlimited")
    difficulty = _format(explained["difficulty"], ".2f")
    sentences = [
        f"{explained['checkpoint']} ({explained['decision']}): {explained['reason']}.",
        f"Difficulty {difficulty} on a scale of 0 to 1. Budget {tokens} ({budget['source']}).",
    ]
    if (turns := explained["conversation"]["turns"]) > 1:
        earlier = explained["conversation"]["read_with"]
        sentences.append(f"The last of {turns} user turns, read alone and with {earlier} before it; the harder counts.")
    if explained["floor"] is not None:
        sentences.append(_floor(explained["floor"], explained["reference"]))
    if explained["expected_saving"] is not None:
        sentences.append(
            f"Expected to save {explained['expected_saving']:.0f} tokens compared with {explained['reference']}."
        )
    if budget["feasible"] is False:
        subject = f"{explained['checkpoint']} is not" if explained["decision"] == "pinned" else "No checkpoint is"
        sentences.append(
            f"{subject} predicted to answer within it; the smallest feasible budget is {budget['smallest_feasible']}."
        )
    return Lines(table, Text("\n".join(sentences)))


def _floor(floor: dict[str, Any], reference: str) -> str:
    """The quality floor and its bound."""
    asked, way = f"Quality floor {floor['floor']:g}", floor["certified"]
    if way is None:
        needed = floor["needed"]
        more = (
            ""
            if needed is None
            else f"; about {needed:,} prompts would certify something, {floor['prompts']:,} did not"
        )
        return f"{asked}: nothing is certified for this request, so {reference} serves{more}."
    return (
        f"{asked}: a tolerance of {way['tolerance']:g} is certified with {100 * floor['confidence']:.0f} % confidence."
        f" On {floor['prompts']:,} prompts it kept {100 * way['kept']:.1f} % of the accuracy of {reference} (at least"
        f" {100 * way['low']:.1f} %), for {100 * way['tokens']:.0f} % of its tokens."
    )


def savings_rows(savings: Savings, price: float | None) -> Iterable[dict[str, object]]:
    """The savings as flat rows for CSV, with the total last."""
    for name, group in [*savings.groups.items(), ("total", savings.total)]:
        figures = group.as_json(price)
        measured = cast("dict[str, object]", figures.pop("measured") or {})
        yield {
            savings.by: name,
            **figures,
            **{f"measured_{f.name}": measured.get(f.name) for f in fields(Measurement)},
        }


def _table(title: str, first: str) -> Table:
    table = Table(title=title or None, title_justify="left")
    table.add_column(first, justify="left", overflow="fold")
    return table


def _cells(group: Group, price: float | None) -> list[str]:
    totals, has_estimate = group.totals, group.totals.estimated > 0
    cells = [
        f"{totals.requests:,}",
        f"{totals.failed:,}",
        f"{totals.holdout:,}",
        f"{totals.estimated_spent_tokens:,}" if has_estimate else "-",
        f"{totals.expected_reference_tokens:,.0f}" if has_estimate else "-",
        f"{totals.saved_tokens:,.0f}" if has_estimate else "-",
        f"{totals.saved_share:.0%}" if totals.saved_share is not None else "-",
    ]
    return cells if price is None else [*cells, f"{totals.saved_tokens * price / 1e6:,.2f}" if has_estimate else "-"]


def _bar(group: Group, longest: float) -> str:
    totals = group.totals
    if longest <= 0 or totals.estimated == 0:
        return ""
    spent = round(BAR_WIDTH * min(totals.estimated_spent_tokens / longest, 1))
    saved = max(round(BAR_WIDTH * totals.expected_reference_tokens / longest) - spent, 0)
    return "▇" * spent + "░" * saved


def _others(total: Group) -> str:
    """What the requests spent for which nothing is estimated."""
    totals = total.totals
    others = totals.requests - totals.estimated
    if not others:
        return ""
    spent = totals.spent_tokens - totals.estimated_spent_tokens
    return (
        f"Not in these figures: {others:,} of the requests, with {spent:,} reasoning tokens, that save nothing. They"
        "\nwere holdouts, failed, unanswered or pinned, or the profile does not know their prompts.\n"
    )


def _measured(total: Group) -> str:
    assumed = ""
    if total.totals.unanswered:
        assumed = (
            f"\n{total.totals.unanswered:,} requests had no answer (cut off while thinking, or empty) and save nothing."
        )
    if total.totals.unreported:
        assumed += (
            f"\nAnother router never reported what became of {total.totals.unreported:,} requests. Each counts as the"
            " longest thinking that was possible, in the holdout as none.\n"
            f"With more than {MAX_ASSUMED:.0%} of them, savings are not measured."
        )
    if predicted := total.totals.assumed - total.totals.unreported:
        assumed += (
            f"\nFor {predicted:,} requests the tokens are predicted, because their callers left before a"
            f" non-streaming response was complete. With more than {MAX_ASSUMED:.0%} of them, savings are not measured."
        )
    if total.measured is None:
        return (
            f"Saved is an estimate of the profile. Savings are measured once {MIN_HOLDOUTS} routed requests went to"
            " the reference checkpoint\nat one --holdout-fraction, not counting those that a budget forced to the same"
            " length." + assumed
        )
    measured = total.measured
    if measured.drift is None:
        verdict = "not compared, because too few holdouts were answered"
    else:
        verdict = (
            f"{'outside' if measured.drift else 'within'} the interval of the same measurement over answered requests"
            f" only ({measured.answered_low:,.0f} to {measured.answered_high:,.0f})"
        )
    if measured.drift:
        verdict += (
            ", so the profile has drifted.\nFit it again: an adopted family with laconic adopt, any family with laconic"
            " refit if its requests have scores,\nor with laconic-train profile RECIPE and then laconic-train publish"
            " RECIPE"
        )
    return (
        f"Measured against the holdout, over {measured.requests:,} requests: {measured.saved_tokens:,.0f} tokens saved"
        f" (95 % interval {measured.low:,.0f} to {measured.high:,.0f}).\n"
        f"The profile's estimate for the answered requests is {measured.estimate:,.0f}: {verdict}.{assumed}"
    )


def _saved(side: ReplaySide, replay: Replay) -> str:
    saved = replay.reference_tokens - side.tokens
    share = f" ({saved / replay.reference_tokens:.0%})" if replay.reference_tokens else ""
    return f"{saved:,.0f}{share}"


def _format(value: float | None, form: str, otherwise: str = "-") -> str:
    return otherwise if value is None else format(value, form)
