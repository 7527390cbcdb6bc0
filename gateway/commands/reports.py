"""What does a terminal show of the books and of a decision? Tables, bars and the words under them. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, cast

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from gateway.ledger.replay import Replay, ReplaySide
from gateway.ledger.savings import MAX_ASSUMED, MIN_HOLDOUTS, Group, Measurement, Savings

BAR = 24
"""Characters of the longest bar."""
WIDE = 120
"""Columns from which on there is room for bars."""


def savings_report(savings: Savings, price: float | None, *, bars: bool) -> RenderableType:
    """The books as a table, with a bar a row where there is room, and what was measured in words."""
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
    return Lines(table, Text(_measured(savings.total)))


def replay_report(replay: Replay) -> RenderableType:
    """What was chosen, and what would be."""
    table = _table(f"quality_tolerance {replay.tolerance:g} on {replay.requests:,} routed requests", "")
    for header in ("as it was", "replayed"):
        table.add_column(header, justify="right")
    if replay.requests:
        sides = (replay.recorded, replay.replayed)
        table.add_row("expected reasoning tokens", *(f"{side.tokens:,.0f}" for side in sides))
        table.add_row("saved against the reference", *(_saved(side, replay) for side in sides))
        table.add_row("expected success", *(f"{side.success / replay.requests:.3f}" for side in sides))
        table.add_section()
    for name in sorted(set(replay.recorded.choices) | set(replay.replayed.choices)):
        table.add_row(f"sent to {name}", f"{replay.recorded.choices[name]:,}", f"{replay.replayed.choices[name]:,}")
    return Lines(table, Text("Both columns are the profile's expectation; `laconic savings` measures what was spent."))


def route_report(explained: dict[str, Any]) -> RenderableType:
    """A decision as a table of what each checkpoint was expected to do, with the choice marked."""
    table = _table("", "checkpoint")
    for header in ("alpha", "success", "correct", "tokens", "p10", "p50", "p90"):
        table.add_column(header, justify="right")
    serves = explained["choice"] if explained["escalation"] else explained["checkpoint"]
    for name, known in {**explained["checkpoints"], **explained["escalations"]}.items():
        quantiles: dict[str, int] = known["quantiles"] or {}
        chosen = name == serves
        table.add_row(
            f"{name} ◀" if chosen else name,
            _said(known.get("alpha"), "g"),
            _said(known["success"], ".3f"),
            _said(known["correct"], ".3f"),
            _said(known["tokens"], ".1f"),
            *(_said(quantiles.get(level), "d") for level in ("p10", "p50", "p90")),
            style="bold" if chosen else "",
        )
    budget = explained["budget"]
    tokens = _said(budget["tokens"], "d", "unlimited")
    words = [
        f"{explained['checkpoint']} ({explained['decision']}): {explained['reason']}.",
        f"Difficulty {_said(explained['difficulty'], '.2f')} of 1, budget {tokens} ({budget['source']}).",
    ]
    if explained["expected_saving"] is not None:
        words.append(f"Expected to save {explained['expected_saving']:.0f} tokens against {explained['reference']}.")
    if budget["feasible"] is False:
        who = f"{explained['checkpoint']} is not" if explained["decision"] == "pinned" else "No checkpoint is"
        words.append(f"{who} predicted to do it: the smallest feasible budget is {budget['smallest_feasible']}.")
    return Lines(table, Text("\n".join(words)))


def savings_rows(savings: Savings, price: float | None) -> Iterable[dict[str, object]]:
    """The books as flat rows for CSV, the total last."""
    for name, group in [*savings.groups.items(), ("total", savings.total)]:
        said = group.as_json(price)
        measured = cast("dict[str, object]", said.pop("measured") or {})
        yield {
            savings.by: name,
            **said,
            **{f"measured_{f.name}": measured.get(f.name) for f in fields(Measurement)},
        }


def _table(title: str, first: str) -> Table:
    table = Table(title=title or None, title_justify="left")
    table.add_column(first, justify="left", overflow="fold")
    return table


def _cells(group: Group, price: float | None) -> list[str]:
    totals, known = group.totals, group.totals.estimated > 0
    cells = [
        f"{totals.requests:,}",
        f"{totals.failed:,}",
        f"{totals.holdout:,}",
        f"{totals.spent_tokens:,}",
        f"{totals.expected_reference_tokens:,.0f}" if known else "-",
        f"{totals.saved_tokens:,.0f}" if known else "-",
        f"{totals.saved_share:.0%}" if totals.saved_share is not None else "-",
    ]
    return cells if price is None else [*cells, f"{totals.saved_tokens * price / 1e6:,.2f}" if known else "-"]


def _bar(group: Group, longest: float) -> str:
    totals = group.totals
    if longest <= 0 or totals.estimated == 0:
        return ""
    spent = round(BAR * min(totals.estimated_spent_tokens / longest, 1))
    saved = max(round(BAR * totals.expected_reference_tokens / longest) - spent, 0)
    return "▇" * spent + "░" * saved


def _measured(total: Group) -> str:
    assumed = ""
    if total.totals.assumed:
        assumed = (
            f"\nOf {total.totals.assumed:,} requests the tokens are those predicted: their callers left before a whole"
            f" answer came. Where they are more than {MAX_ASSUMED:.0%} nothing is measured."
        )
    if total.measured is None:
        return (
            f"Saved is the profile's estimate. It is measured once {MIN_HOLDOUTS} routed requests have gone to the"
            " reference checkpoint\nat one --holdout-fraction below 1, and a budget has not stopped nearly all of them."
            + assumed
        )
    measured = total.measured
    verdict = {
        True: "outside, so the profile has drifted: fit it anew (laconic-train profile)",
        False: "within the interval",
        None: "too few of them are left to compare with",
    }[measured.drift]
    return (
        f"Measured against the holdout, over {measured.requests:,} requests: {measured.saved_tokens:,.0f} tokens saved"
        f" (95 % interval {measured.low:,.0f} to {measured.high:,.0f}).\n"
        f"The profile's estimate for those that were answered is {measured.estimate:,.0f}: {verdict}.{assumed}"
    )


def _saved(side: ReplaySide, replay: Replay) -> str:
    saved = replay.reference_tokens - side.tokens
    share = f" ({saved / replay.reference_tokens:.0%})" if replay.reference_tokens else ""
    return f"{saved:,.0f}{share}"


def _said(value: float | None, form: str, otherwise: str = "-") -> str:
    return otherwise if value is None else format(value, form)
