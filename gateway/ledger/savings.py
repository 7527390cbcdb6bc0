"""What was saved? Two answers over the same requests, one that trusts the profile and one that does not. Pure.

    estimate = sum over answered requests of (expected reference tokens - reasoning tokens spent)
    measured = n (mean of the holdout's tokens + theta (mean of x over the others - mean of x over the holdout))
               - reasoning tokens the others spent

Requests that are routed are drawn, each with probability p, into a *holdout* that the reference checkpoint serves. What
the holdout spends is what the n others would have spent, whatever the profile says, and holds for requests that fail or
whose callers leave, too. x, the profile's expectation, only narrows the interval: theta is the slope of tokens on x
within the holdout (CUPED, Deng et al. 2013). The interval is studentised by the bootstrap (Efron and Tibshirani 1993,
ch. 12.5), because lengths are skewed. Where p was changed, each p is measured by itself and the savings are added.
Nothing is measured where too few holdouts differ, since a budget stopped nearly all of them, or where too many tokens
are only assumed.

Where the estimate leaves the interval of the same measurement over answered requests alone, the profile has drifted.
Requests that were not routed, because the caller named the checkpoint or the profile abstained, are counted and saved
nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from gateway.ledger.entry import Entry

By = Literal["checkpoint", "key", "day", "difficulty"]
DIMENSIONS: tuple[By, ...] = get_args(By)
MIN_HOLDOUTS = 30
"""That tell something: with fewer the interval would be wide, and covers less often than it says."""
MAX_ASSUMED = 0.05
"""Share of requests whose tokens are those predicted, up to which a measurement may be called one."""
_RESAMPLES, _BLOCK = 999, 111
ENOUGH = 2_000
"""Holdouts from which on a mean is as good as normal, and resampling only costs time."""
_HOUR = 3600

Vector = NDArray[np.float64]
Interval = tuple[float, float, float]
"""Tokens saved, and the ends of their 95 % interval."""


class Cell(NamedTuple):
    """What entries are summed by."""

    hour: int
    """Since the epoch."""
    key: str
    checkpoint: str
    """The one that was decided on, or second thoughts."""
    difficulty: str
    holdout_fraction: float | None


class Totals(NamedTuple):
    """Sums over some entries. Tokens are reasoning tokens where nothing else is said."""

    requests: int = 0
    failed: int = 0
    """Entries whose status is not 200."""
    assumed: int = 0
    """Entries whose reasoning tokens are those predicted: the caller left before a whole answer came."""
    holdout: int = 0
    spent_tokens: int = 0
    answer_tokens: int = 0
    estimated: int = 0
    """Routed and answered entries outside of the holdout: those that the estimate is about."""
    estimated_spent_tokens: int = 0
    expected_reference_tokens: float = 0.0
    drawn: int = 0
    """Entries that might have been holdouts and are not, answered or not: those that the measurement is about."""
    drawn_spent_tokens: int = 0
    drawn_reference_tokens: float = 0.0
    """Expected of the reference."""

    @property
    def saved_tokens(self) -> float:
        """The estimate; negative where more was thought than expected."""
        return self.expected_reference_tokens - self.estimated_spent_tokens

    @property
    def saved_share(self) -> float | None:
        """The estimate as a share of what the reference was expected to spend; None where that is nothing."""
        return self.saved_tokens / self.expected_reference_tokens if self.expected_reference_tokens > 0 else None


def added(parts: Sequence[Totals]) -> Totals:
    """The sum of some totals."""
    return Totals(*map(sum, zip(*parts, strict=True))) if parts else Totals()


@dataclass(frozen=True)
class Measurement:
    """Tokens saved by the holdout's word, with a 95 % interval."""

    saved_tokens: float
    low: float
    high: float
    requests: int
    """On which they were saved: as many of `drawn` as have holdouts enough to compare with."""
    estimate: float
    """What the profile says was saved on those of them that were answered: of others it says nothing."""
    drift: bool | None
    """Whether that lies outside of the interval over answered requests alone; None where this is not measured."""


@dataclass(frozen=True)
class Group:
    """The books of some requests."""

    totals: Totals
    measured: Measurement | None
    """None with fewer than `MIN_HOLDOUTS` holdouts that tell something, or more than `MAX_ASSUMED` assumed."""

    def as_json(self, price: float | None = None) -> dict[str, object]:
        """The figures by name."""
        said: dict[str, object] = {
            **self.totals._asdict(),
            "saved_tokens": self.totals.saved_tokens,
            "saved_share": self.totals.saved_share,
            "measured": None if self.measured is None else asdict(self.measured),
        }
        if price is not None:
            said["saved_money"] = self.totals.saved_tokens * price / 1e6
        return said


@dataclass(frozen=True)
class Savings:
    """The books by one dimension, and over everything."""

    by: By
    groups: dict[str, Group]
    """Days and difficulties in their order, keys and checkpoints most used first."""
    total: Group

    def as_json(self, price: float | None = None) -> dict[str, object]:
        """What the endpoint and `laconic savings --json` say; with a price of a million tokens in money, too."""
        groups = {name: group.as_json(price) for name, group in self.groups.items()}
        return {"by": self.by, "total": self.total.as_json(price), "groups": groups}


def cell_of(entry: Entry) -> Cell:
    """Where an entry is summed."""
    difficulty = _fifth(entry.difficulty)
    return Cell(int(entry.time // _HOUR), entry.key, entry.choice, difficulty, entry.holdout_fraction)


def totals_of(entry: Entry) -> Totals:
    """What one entry adds."""
    failed = entry.status != 200
    routed = entry.holdout_fraction is not None and not entry.holdout
    drawn, estimated = routed and _was_drawn(entry.holdout_fraction), routed and not failed
    expected, spent = entry.reference_tokens or 0.0, entry.reasoning_tokens
    return Totals(
        requests=1,
        failed=int(failed),
        assumed=int(entry.assumed),
        holdout=int(entry.holdout),
        spent_tokens=spent,
        answer_tokens=entry.answer_tokens,
        estimated=int(estimated),
        estimated_spent_tokens=spent if estimated else 0,
        expected_reference_tokens=expected if estimated else 0.0,
        drawn=int(drawn),
        drawn_spent_tokens=spent if drawn else 0,
        drawn_reference_tokens=expected if drawn else 0.0,
    )


def compute_savings(
    cells: Iterable[tuple[Cell, Totals]], holdouts: Iterable[Entry], by: By = "checkpoint", since_hour: int = 0
) -> Savings:
    """The books from `since_hour` on.

    Args:
        cells: sums, in any order; one cell may come in several parts.
        holdouts: entries of holdouts. Hours from which some are missing, for only the latest are kept, are not
            measured, nor are hours without sums, which are kept for a time.
    """
    label = _LABELS[by]
    booked = [(cell, totals) for cell, totals in cells if cell.hour >= since_hour]
    seen = [(cell, entry) for entry in holdouts if (cell := cell_of(entry)).hour >= since_hour]
    complete = _complete_from(booked, [cell for cell, _ in seen])
    hours = {cell.hour for cell, _ in booked if cell.hour >= complete}
    sums: defaultdict[str, list[tuple[Cell, Totals]]] = defaultdict(list)
    held: defaultdict[str, list[Entry]] = defaultdict(list)
    for cell, totals in booked:
        sums[label(cell)].append((cell, totals))
    usable = [(cell, entry) for cell, entry in seen if cell.hour in hours]
    for cell, entry in usable:
        held[label(cell)].append(entry)
    groups = {name: _group(parts, held[name], complete) for name, parts in sums.items()}
    in_order = by in ("day", "difficulty")
    ranked = sorted(groups, key=lambda name: name if in_order else (-groups[name].totals.requests, name))
    total = _group(booked, [entry for _, entry in usable], complete)
    return Savings(by, {name: groups[name] for name in ranked}, total)


def _complete_from(booked: Sequence[tuple[Cell, Totals]], seen: Sequence[Cell]) -> int:
    """The first hour from which on every holdout that was counted is there."""
    missing = Counter[int]()
    for cell, totals in booked:
        missing[cell.hour] += totals.holdout
    missing.subtract(cell.hour for cell in seen)
    return max((hour + 1 for hour, count in missing.items() if count > 0), default=0)


def _group(parts: Sequence[tuple[Cell, Totals]], holdouts: Sequence[Entry], complete: int) -> Group:
    others: defaultdict[float, list[Totals]] = defaultdict(list)
    drawn: defaultdict[float, list[Entry]] = defaultdict(list)
    for cell, totals in parts:
        if cell.hour >= complete and cell.holdout_fraction is not None:
            others[cell.holdout_fraction].append(totals)
    for entry in holdouts:
        if entry.holdout_fraction is not None and _was_drawn(entry.holdout_fraction):
            drawn[entry.holdout_fraction].append(entry)
    measured = _measured([(added(others[p]), some) for p, some in drawn.items()])
    return Group(added([totals for _, totals in parts]), measured)


def _measured(parts: Sequence[tuple[Totals, Sequence[Entry]]]) -> Measurement | None:
    """The measurement, from the sums and the holdouts of each holdout fraction."""
    found: list[Interval] = []
    answered: list[Interval] = []
    requests, estimate = 0, 0.0
    for sums, holdouts in parts:
        others = TreatmentTotals(sums.drawn, sums.drawn_reference_tokens, sums.drawn_spent_tokens)
        if (interval := _interval(holdouts, others, sums)) is None:
            continue
        found.append(interval)
        requests, estimate = requests + sums.drawn, estimate + sums.saved_tokens
        others = TreatmentTotals(sums.estimated, sums.expected_reference_tokens, sums.estimated_spent_tokens)
        if (check := _interval([entry for entry in holdouts if entry.status == 200], others, sums)) is not None:
            answered.append(check)
    if not found:
        return None
    drift = None
    if len(answered) == len(found):
        _, low, high = _together(answered)
        drift = not low <= estimate <= high
    return Measurement(*_together(found), requests, estimate, drift)


def _interval(holdouts: Sequence[Entry], others: TreatmentTotals, sums: Totals) -> Interval | None:
    if count_informative((entry.budget, entry.reasoning_tokens) for entry in holdouts) < MIN_HOLDOUTS:
        return None
    assumed = sum(entry.assumed for entry in holdouts)
    if assumed > MAX_ASSUMED * len(holdouts) or sums.assumed > MAX_ASSUMED * sums.requests:
        return None
    x = np.array([entry.reference_tokens or 0.0 for entry in holdouts])
    y = np.array([float(entry.reasoning_tokens) for entry in holdouts])
    return measure(HoldoutSample(x, y), others)


def count_informative(holdouts: Iterable[tuple[object, int]]) -> int:
    """How many holdouts differ from the rest, given the budget and the tokens spent of each.

    Where a budget stops nearly all of them, the few that it does not stop make the whole spread, and an interval from a
    handful is too narrow: with 30 holdouts under a cap that stops 19 of 20 it covers the truth one time in two.
    """
    spent: defaultdict[object, Counter[int]] = defaultdict(Counter)
    for budget, tokens in holdouts:
        spent[budget][tokens] += 1
    return sum(counts.total() - max(counts.values()) for counts in spent.values())


def _together(parts: Sequence[Interval]) -> Interval:
    """Savings add, and so do the squares of how far each interval reaches: the draws are independent."""
    saved = sum(saved for saved, _, _ in parts)
    below = sum((saved - low) ** 2 for saved, low, _ in parts) ** 0.5
    above = sum((high - saved) ** 2 for saved, _, high in parts) ** 0.5
    return saved, saved - below, saved + above


def _was_drawn(fraction: float | None) -> bool:
    return fraction is not None and 0 < fraction < 1


@dataclass(frozen=True)
class HoldoutSample:
    """The holdout, or many resamples of it: (holdouts,), or (samples, holdouts)."""

    x: Vector
    """Tokens expected of the reference checkpoint."""
    y: Vector
    """Tokens it spent."""


@dataclass(frozen=True)
class TreatmentTotals:
    """Those that were in the draw and not drawn."""

    requests: int
    x: float
    """Tokens expected of the reference checkpoint, in all."""
    y: float
    """Tokens spent, in all."""


def measure(holdout: HoldoutSample, others: TreatmentTotals, *, adjust: bool = True) -> Interval | None:
    """Tokens that the others saved, with their 95 % interval; None with fewer than `MIN_HOLDOUTS`.

    Without `adjust` x is left out of it.
    """
    size = len(holdout.y)
    if size < MIN_HOLDOUTS or others.requests == 0:
        return None
    at = others.x / others.requests
    (mean,), (spread,) = _reference(_rows(holdout, np.arange(size)[None]), at, adjust)
    low, high = _quantiles(holdout, at, mean, adjust)
    # What the others would have spent is itself a draw about its mean, hence the second term.
    width = others.requests * float(spread * np.sqrt(1 / size + 1 / others.requests))
    saved = others.requests * float(mean) - others.y
    return saved, saved - high * width, saved - low * width


def _reference(rows: HoldoutSample, at: float, adjust: bool) -> tuple[Vector, Vector]:
    """Mean tokens of the reference where x is `at` on average, and the spread of single requests; both (samples,)."""
    x_mean, y_mean = rows.x.mean(1), rows.y.mean(1)
    x_off, y_off = rows.x - x_mean[:, None], rows.y - y_mean[:, None]
    variance, covariance = (x_off**2).mean(1), (x_off * y_off).mean(1)
    theta = np.divide(covariance, variance, out=np.zeros_like(variance), where=(variance > 1e-9) & adjust)
    residual = y_off - theta[:, None] * x_off
    freedom = rows.y.shape[1] - 1 - adjust
    return y_mean + theta * (at - x_mean), np.sqrt((residual**2).sum(1) / freedom)


def _quantiles(holdout: HoldoutSample, at: float, mean: float, adjust: bool) -> tuple[float, float]:
    """2.5 and 97.5 % of (estimate - truth) / standard error, over resamples; seeded, so repeatable."""
    size = len(holdout.y)
    if size >= ENOUGH:
        return -1.96, 1.96
    rng = np.random.default_rng(0)
    ratios: list[Vector] = []
    for _ in range(0, _RESAMPLES, _BLOCK):
        means, spreads = _reference(_rows(holdout, rng.integers(0, size, (_BLOCK, size))), at, adjust)
        kept = spreads > 0
        ratios.append((means[kept] - mean) / spreads[kept] * np.sqrt(size))
    pooled = np.concatenate(ratios)
    if not len(pooled):  # the profile foretells every one of them
        return 0.0, 0.0
    low, high = np.quantile(pooled, [0.025, 0.975])
    return float(low), float(high)


def _rows(holdout: HoldoutSample, index: NDArray[np.int64]) -> HoldoutSample:
    return HoldoutSample(holdout.x[index], holdout.y[index])


def _fifth(difficulty: float | None) -> str:
    if difficulty is None:
        return "unknown"
    fifth = min(int(difficulty * 5), 4)
    return f"{fifth / 5:.1f}-{(fifth + 1) / 5:.1f}"


def _day(cell: Cell) -> str:
    return datetime.fromtimestamp(cell.hour * _HOUR, UTC).date().isoformat()


_LABELS: dict[By, Callable[[Cell], str]] = {
    "checkpoint": lambda cell: cell.checkpoint,
    "key": lambda cell: cell.key or "(none)",  # a name that no key can have
    "day": _day,
    "difficulty": lambda cell: cell.difficulty,
}
