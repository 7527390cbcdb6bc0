"""What was saved? Two answers over the same requests, one that trusts the profile and one that does not. Pure.

    estimate = sum over answered requests of (expected reference tokens - reasoning tokens spent)
    measured = n (mean of the holdout's tokens + theta (mean of x over the routed - mean of x over the holdout))
               - reasoning tokens the routed spent

Requests that are routed are drawn, each with probability p, into a *holdout* that the reference checkpoint serves. What
the holdout spends is what the n others would have spent, whatever the profile says, and holds for requests that fail or
whose callers leave, too. x, the profile's expectation, only narrows the interval: theta is the slope of tokens on x
within the holdout (CUPED, Deng et al. 2013). A holdout counts (1 - p) / p times, so that p may change meanwhile.
The interval is studentised by the bootstrap (Efron and Tibshirani 1993, ch. 12.5), because lengths are skewed.

Where the estimate leaves the interval, the profile has drifted. Requests that were not routed, because the caller named
the checkpoint or the profile abstained, are counted and saved nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from gateway.entry import Entry

By = Literal["checkpoint", "key", "day", "difficulty"]
DIMENSIONS: tuple[By, ...] = get_args(By)
MIN_HOLDOUTS = 30
"""With fewer the interval would be wide, and covers less often than it says."""
_RESAMPLES, _BLOCK = 999, 111
_ENOUGH = 5_000
"""Holdouts from which on a mean is as good as normal, and resampling only costs time."""
_HOUR = 3600

Vector = NDArray[np.float64]


class Cell(NamedTuple):
    """What entries are summed by."""

    hour: int
    """Since the epoch."""
    key: str
    checkpoint: str
    """The one that was decided on."""
    difficulty: str


@dataclass(frozen=True)
class Totals:
    """Sums over some entries. Tokens are reasoning tokens where nothing else is said."""

    requests: int = 0
    failed: int = 0
    """Entries whose status is not 200."""
    holdout: int = 0
    spent_tokens: int = 0
    answer_tokens: int = 0
    estimated: int = 0
    """Routed and answered entries outside of the holdout: those that the estimate is about."""
    estimated_spent_tokens: int = 0
    expected_reference_tokens: float = 0.0
    drawn: int = 0
    """Routed entries that were in the draw for the holdout and not drawn: those that the measurement is about."""
    drawn_spent_tokens: int = 0
    drawn_reference_tokens: float = 0.0
    """Expected of the reference, answered or not."""
    drawn_estimate: float = 0.0
    """The estimate over `drawn` alone."""

    def __add__(self, other: Totals) -> Totals:
        return Totals(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Totals)})

    @property
    def saved_tokens(self) -> float:
        """The estimate; negative where more was thought than expected."""
        return self.expected_reference_tokens - self.estimated_spent_tokens

    @property
    def saved_share(self) -> float | None:
        """The estimate as a share of what the reference was expected to spend; None where that is nothing."""
        return self.saved_tokens / self.expected_reference_tokens if self.expected_reference_tokens > 0 else None


@dataclass(frozen=True)
class Measured:
    """Tokens saved on the drawn requests, by the holdout, with a 95 % interval."""

    saved_tokens: float
    low: float
    high: float


@dataclass(frozen=True)
class Group:
    """The books of some requests."""

    totals: Totals
    measured: Measured | None
    """None with fewer than `MIN_HOLDOUTS` holdouts."""

    @property
    def drift(self) -> bool | None:
        """Whether the estimate lies outside of the measurement's interval; None without a measurement."""
        if self.measured is None:
            return None
        return not self.measured.low <= self.totals.drawn_estimate <= self.measured.high

    def as_json(self, price: float | None = None) -> dict[str, object]:
        """The figures by name."""
        said: dict[str, object] = {
            **asdict(self.totals),
            "saved_tokens": self.totals.saved_tokens,
            "saved_share": self.totals.saved_share,
            "measured": None if self.measured is None else asdict(self.measured),
            "drift": self.drift,
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
    return Cell(int(entry.time // _HOUR), entry.key, entry.choice, _fifth(entry.difficulty))


def totals_of(entry: Entry) -> Totals:
    """What one entry adds."""
    failed, holdout = entry.status != 200, entry.decision == "holdout"
    routed = entry.holdout_fraction is not None and not holdout
    drawn = routed and 0 < (entry.holdout_fraction or 0) < 1
    expected, spent = entry.reference_tokens or 0.0, entry.reasoning_tokens
    estimated = routed and not failed
    return Totals(
        requests=1,
        failed=int(failed),
        holdout=int(holdout),
        spent_tokens=spent,
        answer_tokens=entry.answer_tokens,
        estimated=int(estimated),
        estimated_spent_tokens=spent if estimated else 0,
        expected_reference_tokens=expected if estimated else 0.0,
        drawn=int(drawn),
        drawn_spent_tokens=spent if drawn else 0,
        drawn_reference_tokens=expected if drawn else 0.0,
        drawn_estimate=expected - spent if drawn and estimated else 0.0,
    )


def summarise(
    cells: Iterable[tuple[Cell, Totals]], holdouts: Iterable[Entry], by: By = "checkpoint", since_hour: int = 0
) -> Savings:
    """The books from `since_hour` on.

    Args:
        cells: sums, in any order; one cell may come in several parts.
        holdouts: entries of holdouts.
    """
    label = _LABELS[by]
    sums: defaultdict[str, Totals] = defaultdict(Totals)
    for cell, totals in cells:
        if cell.hour >= since_hour:
            sums[label(cell)] += totals
    observed: defaultdict[str, list[Entry]] = defaultdict(list)
    for entry in holdouts:
        if (cell := cell_of(entry)).hour >= since_hour:
            observed[label(cell)].append(entry)
    ranked = sorted(sums, key=lambda name: name if by in ("day", "difficulty") else (-sums[name].requests, name))
    groups = {name: Group(sums[name], _measured(sums[name], observed[name])) for name in ranked}
    total = sum(sums.values(), Totals())
    return Savings(by, groups, Group(total, _measured(total, [e for some in observed.values() for e in some])))


@dataclass(frozen=True)
class Sample:
    """The holdout, or many resamples of it: (holdouts,), or (samples, holdouts)."""

    x: Vector
    """Tokens expected of the reference checkpoint."""
    y: Vector
    """Tokens it spent."""
    weight: Vector
    """How many of the others each stands for, up to a common factor; positive."""


@dataclass(frozen=True)
class Others:
    """Those that were in the draw and not drawn."""

    requests: int
    x: float
    """Tokens expected of the reference checkpoint, in all."""
    y: float
    """Tokens spent, in all."""


def measure(holdout: Sample, others: Others, *, adjust: bool = True) -> Measured | None:
    """What the others saved; None with fewer than `MIN_HOLDOUTS`. Without `adjust` x is left out of it."""
    size = len(holdout.y)
    if size < MIN_HOLDOUTS or others.requests == 0:
        return None
    at = others.x / others.requests
    (mean,), (error,), (spread,) = _reference(_rows(holdout, np.arange(size)[None]), at, adjust)
    low, high = _quantiles(holdout, at, mean, adjust)
    # What the others would have spent is itself a draw about its mean, hence the second term.
    width = others.requests * float(np.sqrt(error**2 + spread**2 / others.requests))
    saved = others.requests * float(mean) - others.y
    return Measured(saved, saved - high * width, saved - low * width)


def _measured(totals: Totals, holdouts: Sequence[Entry]) -> Measured | None:
    seen = [e for e in holdouts if e.holdout_fraction is not None and 0 < e.holdout_fraction < 1]
    x = np.array([entry.reference_tokens or 0.0 for entry in seen])
    y = np.array([float(entry.reasoning_tokens) for entry in seen])
    weight = np.array([1 / (entry.holdout_fraction or 1) - 1 for entry in seen])
    others = Others(totals.drawn, totals.drawn_reference_tokens, totals.drawn_spent_tokens)
    return measure(Sample(x, y, weight), others)


def _reference(rows: Sample, at: float, adjust: bool) -> tuple[Vector, Vector, Vector]:
    """Mean tokens of the reference where x is `at` on average, its standard error, and the spread of single requests.

    All three for each row, (samples,).
    """
    share = rows.weight / rows.weight.sum(1, keepdims=True)
    x_mean, y_mean = (share * rows.x).sum(1), (share * rows.y).sum(1)
    x_off, y_off = rows.x - x_mean[:, None], rows.y - y_mean[:, None]
    variance = (share * x_off**2).sum(1)
    covariance = (share * x_off * y_off).sum(1)
    theta = np.divide(covariance, variance, out=np.zeros_like(variance), where=(variance > 1e-9) & adjust)
    residual = y_off - theta[:, None] * x_off
    effective = 1 / (share**2).sum(1)
    freedom = effective / np.maximum(effective - 1 - adjust, 1)
    error = np.sqrt(freedom * (share**2 * residual**2).sum(1))
    return y_mean + theta * (at - x_mean), error, np.sqrt(freedom * (share * residual**2).sum(1))


def _quantiles(holdout: Sample, at: float, mean: float, adjust: bool) -> tuple[float, float]:
    """2.5 and 97.5 % of (estimate - truth) / standard error, over resamples; seeded, so repeatable."""
    size = len(holdout.y)
    if size >= _ENOUGH:
        return -1.96, 1.96
    rng = np.random.default_rng(0)
    ratios: list[Vector] = []
    for _ in range(0, _RESAMPLES, _BLOCK):
        means, errors, _spread = _reference(_rows(holdout, rng.integers(0, size, (_BLOCK, size))), at, adjust)
        ratios.append((means[errors > 0] - mean) / errors[errors > 0])
    pooled = np.concatenate(ratios)
    if not len(pooled):  # all holdouts spent the same
        return 0.0, 0.0
    low, high = np.quantile(pooled, [0.025, 0.975])
    return float(low), float(high)


def _rows(holdout: Sample, index: NDArray[np.int64]) -> Sample:
    return Sample(holdout.x[index], holdout.y[index], holdout.weight[index])


def _fifth(difficulty: float | None) -> str:
    if difficulty is None:
        return "unknown"
    fifth = min(int(difficulty * 5), 4)
    return f"{fifth / 5:.1f}-{(fifth + 1) / 5:.1f}"


def _day(cell: Cell) -> str:
    return datetime.fromtimestamp(cell.hour * _HOUR, UTC).date().isoformat()


_LABELS: dict[By, Callable[[Cell], str]] = {
    "checkpoint": lambda cell: cell.checkpoint,
    "key": lambda cell: cell.key or "none",
    "day": _day,
    "difficulty": lambda cell: cell.difficulty,
}
