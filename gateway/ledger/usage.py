"""Who used what? Whole numbers of tokens by key, team, day and checkpoint, which add up to the ledger exactly. No I/O.

A line is of one checkpoint. An escalated request has two: the checkpoint that answered counts the request and its
prompt, and each counts the tokens that it generated itself. That the first checkpoint had read the same prompt before
is in `repeated_prompt_tokens`, which cost money and are in no usage that a caller saw.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple, get_args

from gateway.access.cost import TRILLIONTHS, Spent, cost
from gateway.access.prices import PriceList
from gateway.ledger.entry import Entry
from gateway.ledger.savings import LABELS, Cell
from gateway.ledger.table import csv_text

By = Literal["team", "key", "day", "checkpoint"]
DIMENSIONS: tuple[By, ...] = get_args(By)
Outcome = Literal["answered", "failed", "holdout", "unreported"]
MILLI = 1000
"""Expected tokens are summed in thousandths, as whole numbers."""


class Line(NamedTuple):
    """Parts of entries with the same line are summed."""

    hour: int
    """Hours since the epoch."""
    key: str
    team: str
    choice: str
    """The checkpoint or escalation that was decided on."""
    difficulty: str
    holdout_fraction: float | None
    outcome: Outcome
    """`answered` if the caller got an answer, else `failed`; a holdout; or `unreported` by another router."""
    checkpoint: str
    """The checkpoint that spent the tokens."""

    @property
    def cell(self) -> Cell:
        """The cell of the savings that it belongs to."""
        return Cell(self.hour, self.key, self.choice, self.difficulty, self.holdout_fraction)


class Usage(NamedTuple):
    """Sums over some lines, whole numbers."""

    requests: int = 0
    failed: int = 0
    """Requests whose status is not 200."""
    assumed: int = 0
    """Requests with predicted tokens, because the caller left before a non-streaming response was complete."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens, those that the engine had in its prefix cache."""
    repeated_prompt_tokens: int = 0
    """Prompt tokens that an escalation's first checkpoint had read as well."""
    reasoning_tokens: int = 0
    answer_tokens: int = 0
    expected_reasoning: int = 0
    """Thousandths of the reasoning tokens that were expected of the reference; of routed requests, not of holdouts."""
    expected_answer: int = 0
    """The same of answer tokens; what was spent, if the profile does not predict answers."""


def dimensions(text: str) -> tuple[By, ...]:
    """The dimensions in a list such as `team,day`.

    Raises:
        ValueError: one does not exist, or is there twice; the message is one line.
    """
    known: dict[str, By] = {one: one for one in DIMENSIONS}
    names = text.split(",")
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"{unknown[0]!r} is not one of {', '.join(DIMENSIONS)}")
    if len(set(names)) < len(names):
        raise ValueError("one of them is there twice")
    return tuple(known[name] for name in names)


def usage_of(entry: Entry, cell: Cell) -> list[tuple[Line, Usage]]:
    """What one entry adds to its lines; `cell` is its own."""
    outcome = _outcome(entry)
    lines: list[tuple[Line, Usage]] = []
    hour, key, choice, difficulty, fraction = cell
    for checkpoint, (prompt, cached, reasoning, answer), repeats in entry.parts:
        line = Line(hour, key, entry.team, choice, difficulty, fraction, outcome, checkpoint)
        if repeats:
            lines.append((line, Usage(0, 0, 0, 0, 0, prompt, reasoning, answer)))
            continue
        thought, said = 0, 0
        if fraction is not None and not entry.holdout:
            thought = round((entry.reference_tokens or 0.0) * MILLI)
            said = round((answer if entry.reference_answer_tokens is None else entry.reference_answer_tokens) * MILLI)
        counts = (1, int(entry.status != 200), int(entry.assumed))
        lines.append((line, Usage(*counts, prompt, cached, 0, reasoning, answer, thought, said)))
    return lines


def _outcome(entry: Entry) -> Outcome:
    if entry.holdout:
        return "holdout"
    if not entry.is_reported:
        return "unreported"
    return "answered" if entry.succeeded else "failed"


def sum_usage(parts: Sequence[Usage]) -> Usage:
    """Sum each figure over several usages."""
    return Usage(*map(sum, zip(*parts, strict=True))) if parts else Usage()


def spent_of(usage: Usage) -> Spent:
    """The tokens that a price is of."""
    prompt = usage.prompt_tokens + usage.repeated_prompt_tokens
    return Spent(prompt, usage.cached_tokens, usage.reasoning_tokens, usage.answer_tokens)


def tokens_of(usage: Usage) -> int:
    """All tokens that a price is of."""
    spent = spent_of(usage)
    return spent.prompt + spent.reasoning + spent.answer


_LABELS: Mapping[By, Callable[[Line], str]] = {
    "team": lambda line: line.team or "(none)",  # no team and no key can have this name
    "key": lambda line: LABELS["key"](line.cell),
    "day": lambda line: LABELS["day"](line.cell),
    "checkpoint": lambda line: line.checkpoint,
}


@dataclass(frozen=True)
class Row:
    """The usage of one group, and what it cost."""

    labels: tuple[str, ...]
    usage: Usage
    cost: int
    """Trillionths of the currency unit."""
    unpriced: int
    """Tokens of checkpoints that have no price."""

    def figures(self, by: Sequence[By], currency: str | None) -> dict[str, object]:
        """The row by name, for JSON and CSV; `cost` only with prices, exactly."""
        fields: dict[str, object] = dict(zip(by, self.labels, strict=False))
        fields |= {name: getattr(self.usage, name) for name in _SHOWN}
        if currency is not None:
            fields |= {"cost": money(self.cost), "currency": currency, "unpriced_tokens": self.unpriced}
        return fields


_SHOWN = Usage._fields[: Usage._fields.index("expected_reasoning")]


@dataclass(frozen=True)
class Report:
    """The usage of a window."""

    by: tuple[By, ...]
    currency: str | None
    """None without prices."""
    rows: list[Row]
    """In ascending order of their labels."""
    total: Row

    def as_json(self) -> dict[str, Any]:
        """The JSON of `/v1/usage` and `laconic usage --json`."""
        rows = [_numbers(row.figures(self.by, self.currency)) for row in self.rows]
        return {"by": list(self.by), "rows": rows, "total": _numbers(self.total.figures((), self.currency))}

    def as_csv(self) -> str:
        """The rows as CSV, with costs as they are exactly. The total is not among them."""
        columns = list(self.total.figures((), self.currency))
        return csv_text((row.figures(self.by, self.currency) for row in self.rows), [*self.by, *columns])


def report(lines: Iterable[tuple[Line, Usage]], by: Sequence[By], prices: PriceList | None) -> Report:
    """Group the usage.

    Args:
        lines: in any order; a line may occur several times.
        by: what to group by; rows have these labels in this order.
        prices: of now, None without.
    """
    groups: defaultdict[tuple[str, ...], list[tuple[Line, Usage]]] = defaultdict(list)
    for line, usage in lines:
        groups[tuple(_LABELS[one](line) for one in by)].append((line, usage))
    rows = [_row(labels, groups[labels], prices) for labels in sorted(groups)]
    every = [part for parts in groups.values() for part in parts]
    return Report(tuple(by), None if prices is None else prices.currency, rows, _row((), every, prices))


def money(trillionths: int) -> Decimal:
    """An amount in currency units, exactly, without trailing zeros."""
    amount = (Decimal(trillionths) / TRILLIONTHS).normalize()
    return amount.quantize(Decimal(1)) if amount == amount.to_integral() else amount


def _numbers(figures: dict[str, object]) -> dict[str, object]:
    return {name: float(value) if isinstance(value, Decimal) else value for name, value in figures.items()}


def _row(labels: tuple[str, ...], parts: Sequence[tuple[Line, Usage]], prices: PriceList | None) -> Row:
    spent, unpriced = 0, 0
    for line, usage in parts:
        price = None if prices is None else prices.of(line.checkpoint)
        if price is not None:
            spent += cost(price, spent_of(usage))
        else:
            unpriced += tokens_of(usage)
    return Row(labels, sum_usage([usage for _, usage in parts]), spent, unpriced)
