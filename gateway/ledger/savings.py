"""What was saved? Two figures over the same requests: one trusts the profile, the other does not. No I/O.

    estimate = sum over answered requests of (expected reference tokens - reasoning tokens spent)
    measured = n (mean of the holdout's tokens + theta (mean of x over the others - mean of x over the holdout))
               - reasoning tokens the others spent

Each routed request joins the *holdout*, which the reference checkpoint serves, with probability p. The holdout's
mean is an unbiased estimate of what the n other requests would have spent, even if the profile is wrong, and even for
requests that fail or whose callers leave. x, the tokens that the profile expects of the reference, only narrows the
interval: theta is the slope of tokens on x within the holdout (CUPED, Deng et al. 2013). The interval is a studentised
bootstrap (Efron and Tibshirani 1993, ch. 12.5), because lengths are skewed. If p was changed, each p is measured
separately and the savings are added. There is no measurement if too few holdouts are informative (a budget forced
nearly all of them to the same length), or if too many token counts are assumed.

If the estimate lies outside the interval of the same measurement over answered requests only, the profile has drifted.
Requests that were not routed (the caller named a checkpoint, or the profile abstained) are counted but save nothing.
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
"""Minimum number of informative holdouts. With fewer, the interval is wide and covers the truth too rarely."""
MAX_ASSUMED = 0.05
"""Largest share of requests with assumed tokens (predicted, not counted) for which savings are measured."""
_RESAMPLES, _BLOCK = 999, 111
NORMAL_HOLDOUTS = 2_000
"""With this many holdouts their mean is practically normal, so resampling is not needed."""
_HOUR = 3600
LIMITS = (0.2, 0.4, 0.6, 0.8)
"""Where one fifth of the difficulties ends and the next begins."""

Vector = NDArray[np.float64]
Interval = tuple[float, float, float]
"""Tokens saved, and the lower and upper end of their 95 % interval."""


class Cell(NamedTuple):
    """Entries with the same cell are summed."""

    hour: int
    """Hours since the epoch."""
    key: str
    checkpoint: str
    """The checkpoint or escalation that was decided on."""
    difficulty: str
    holdout_fraction: float | None


class Totals(NamedTuple):
    """Sums over some entries. Tokens are reasoning tokens unless the name says otherwise."""

    requests: int = 0
    failed: int = 0
    """Entries whose status is known and not 200."""
    unanswered: int = 0
    """Entries whose status is 200 and whose response had no answer: cut off while thinking, or empty."""
    assumed: int = 0
    """Entries with assumed reasoning tokens: the caller left a non-streaming response, or a router never reported."""
    holdout: int = 0
    spent_tokens: int = 0
    answer_tokens: int = 0
    estimated: int = 0
    """Routed and answered entries outside the holdout, which the estimate covers. Unreported ones count as a loss."""
    estimated_spent_tokens: int = 0
    expected_reference_tokens: float = 0.0
    eligible: int = 0
    """Entries that could have become holdouts and did not, answered or not. The measurement covers them."""
    eligible_spent_tokens: int = 0
    eligible_reference_tokens: float = 0.0
    """Tokens expected of the reference checkpoint for them."""
    abstained: int = 0
    """Entries that were not routed because the prompt is unlike the fitting prompts."""
    unreadable: int = 0
    """Entries that were not routed because the prompt is not plain text."""
    predicted: int = 0
    """Entries that took part in the draw, holdouts included, and whose choice has a predicted success."""
    predicted_success: float = 0.0
    """Sum of that success, a probability."""
    unreported: int = 0
    """Entries that another router never reported on."""

    @property
    def saved_tokens(self) -> float:
        """The estimate; negative if more was spent than the reference was expected to."""
        return self.expected_reference_tokens - self.estimated_spent_tokens

    @property
    def saved_share(self) -> float | None:
        """The estimate as a share of what the reference was expected to spend; None if that is 0."""
        return self.saved_tokens / self.expected_reference_tokens if self.expected_reference_tokens > 0 else None


def sum_totals(parts: Sequence[Totals]) -> Totals:
    """Sum each figure over several totals."""
    return Totals(*map(sum, zip(*parts, strict=True))) if parts else Totals()


@dataclass(frozen=True)
class Measurement:
    """Tokens saved as measured against the holdout, with a 95 % interval."""

    saved_tokens: float
    low: float
    high: float
    requests: int
    """How many requests it covers: those of `eligible` for which there are enough holdouts."""
    spent_tokens: int
    """Tokens that these requests spent."""
    estimate: float
    """The profile's estimate for the answered ones among them; it says nothing about the treatment."""
    answered_low: float | None
    """The interval of the same measurement over answered requests only; None if that was not measured."""
    answered_high: float | None
    drift: bool | None
    """Whether the estimate lies outside the interval over answered requests only; None without one."""


@dataclass(frozen=True)
class Group:
    """The savings of some requests."""

    totals: Totals
    measured: Measurement | None
    """None with fewer than `MIN_HOLDOUTS` informative holdouts, or if more than `MAX_ASSUMED` of them are assumed."""

    def as_json(self, price: float | None = None) -> dict[str, object]:
        """The figures by name."""
        figures: dict[str, object] = {
            **self.totals._asdict(),
            "saved_tokens": self.totals.saved_tokens,
            "saved_share": self.totals.saved_share,
            "measured": None if self.measured is None else asdict(self.measured),
        }
        if price is not None:
            figures["saved_money"] = self.totals.saved_tokens * price / 1e6
        return figures


@dataclass(frozen=True)
class Savings:
    """The savings by one dimension, and in total."""

    by: By
    groups: dict[str, Group]
    """Days and difficulties in ascending order, keys and checkpoints by number of requests."""
    total: Group

    def as_json(self, price: float | None = None) -> dict[str, object]:
        """The JSON of `/v1/savings` and `laconic savings --json`; `price` (of a million tokens) adds `saved_money`."""
        groups = {name: group.as_json(price) for name, group in self.groups.items()}
        return {"by": self.by, "total": self.total.as_json(price), "groups": groups}


def cell_of(entry: Entry) -> Cell:
    """The cell in which an entry is summed."""
    difficulty = difficulty_label(entry.difficulty)
    return Cell(int(entry.time // _HOUR), entry.key, entry.choice, difficulty, entry.holdout_fraction)


def totals_of(entry: Entry) -> Totals:
    """What one entry adds to the totals of its cell."""
    expected, spent, fraction = entry.reference_tokens or 0.0, entry.reasoning_tokens, entry.holdout_fraction
    routed = fraction is not None and not entry.holdout
    eligible, estimated = routed and had_draw(fraction), routed and (entry.succeeded or not entry.is_reported)
    success = entry.predicted_success if eligible or (entry.holdout and had_draw(fraction)) else None
    return Totals(
        requests=1,
        failed=int(entry.status != 200 and entry.is_reported),
        unanswered=int(entry.status == 200 and not entry.answered),
        assumed=int(entry.assumed),
        holdout=int(entry.holdout),
        spent_tokens=spent,
        answer_tokens=entry.answer_tokens,
        estimated=int(estimated),
        estimated_spent_tokens=spent if estimated else 0,
        expected_reference_tokens=expected if estimated else 0.0,
        eligible=int(eligible),
        eligible_spent_tokens=spent if eligible else 0,
        eligible_reference_tokens=expected if eligible else 0.0,
        abstained=int(entry.abstention == "unfamiliar"),
        unreadable=int(entry.abstention == "unreadable"),
        predicted=int(success is not None),
        predicted_success=success or 0.0,
        unreported=int(not entry.is_reported),
    )


def compute_savings(
    cells: Iterable[tuple[Cell, Totals]], holdouts: Iterable[Entry], by: By = "checkpoint", since_hour: int = 0
) -> Savings:
    """Compute the savings from `since_hour` on.

    Args:
        cells: sums, in any order; a cell may occur several times.
        holdouts: the entries of holdouts. Hours with missing holdouts are not measured, because only the latest
            holdouts are kept. Nor are hours without sums, which expire.
    """
    label = LABELS[by]
    sums_since = [(cell, totals) for cell, totals in cells if cell.hour >= since_hour]
    holdouts_since = [(cell, entry) for entry in holdouts if (cell := cell_of(entry)).hour >= since_hour]
    complete = complete_from(sums_since, [cell for cell, _ in holdouts_since])
    hours = {cell.hour for cell, _ in sums_since if cell.hour >= complete}
    label_sums: defaultdict[str, list[tuple[Cell, Totals]]] = defaultdict(list)
    label_holdouts: defaultdict[str, list[Entry]] = defaultdict(list)
    for cell, totals in sums_since:
        label_sums[label(cell)].append((cell, totals))
    usable = [(cell, entry) for cell, entry in holdouts_since if cell.hour in hours]
    for cell, entry in usable:
        label_holdouts[label(cell)].append(entry)
    groups = {name: _group(parts, label_holdouts[name], complete) for name, parts in label_sums.items()}
    in_order = by in ("day", "difficulty")
    ranked = sorted(groups, key=lambda name: name if in_order else (-groups[name].totals.requests, name))
    total = _group(sums_since, [entry for _, entry in usable], complete)
    return Savings(by, {name: groups[name] for name in ranked}, total)


def complete_from(sums: Sequence[tuple[Cell, Totals]], holdouts: Sequence[Cell]) -> int:
    """The first hour from which on no counted holdout is missing."""
    missing = Counter[int]()
    for cell, totals in sums:
        missing[cell.hour] += totals.holdout
    missing.subtract(cell.hour for cell in holdouts)
    return max((hour + 1 for hour, count in missing.items() if count > 0), default=0)


def _group(parts: Sequence[tuple[Cell, Totals]], holdouts: Sequence[Entry], complete: int) -> Group:
    sums: defaultdict[float, list[Totals]] = defaultdict(list)
    holdouts_by_fraction: defaultdict[float, list[Entry]] = defaultdict(list)
    for cell, totals in parts:
        if cell.hour >= complete and cell.holdout_fraction is not None:
            sums[cell.holdout_fraction].append(totals)
    for entry in holdouts:
        if entry.holdout_fraction is not None and had_draw(entry.holdout_fraction):
            holdouts_by_fraction[entry.holdout_fraction].append(entry)
    measured = _measured([(sum_totals(sums[p]), entries) for p, entries in holdouts_by_fraction.items()])
    return Group(sum_totals([totals for _, totals in parts]), measured)


def _measured(parts: Sequence[tuple[Totals, Sequence[Entry]]]) -> Measurement | None:
    """Measure the savings from the sums and the holdouts of each holdout fraction."""
    intervals, answered = list[Interval](), list[Interval]()
    requests, spent, estimate = 0, 0, 0.0
    for sums, holdouts in parts:
        treatment = TreatmentTotals(sums.eligible, sums.eligible_reference_tokens, sums.eligible_spent_tokens)
        if (interval := _interval(holdouts, treatment, sums)) is None:
            continue
        intervals.append(interval)
        requests, estimate = requests + sums.eligible, estimate + sums.saved_tokens
        spent += sums.eligible_spent_tokens
        treatment = TreatmentTotals(sums.estimated, sums.expected_reference_tokens, sums.estimated_spent_tokens)
        if (check := _interval([entry for entry in holdouts if entry.succeeded], treatment, sums)) is not None:
            answered.append(check)
    if not intervals:
        return None
    if len(answered) < len(intervals):
        return Measurement(*add_intervals(intervals), requests, spent, estimate, None, None, None)
    _, low, high = add_intervals(answered)
    return Measurement(*add_intervals(intervals), requests, spent, estimate, low, high, not low <= estimate <= high)


def _interval(holdouts: Sequence[Entry], treatment: TreatmentTotals, sums: Totals) -> Interval | None:
    if count_informative((entry.budget, entry.reasoning_tokens) for entry in holdouts) < MIN_HOLDOUTS:
        return None
    assumed = sum(entry.assumed for entry in holdouts)
    if assumed > MAX_ASSUMED * len(holdouts) or sums.assumed > MAX_ASSUMED * sums.requests:
        return None
    x = np.array([entry.reference_tokens or 0.0 for entry in holdouts])
    y = np.array([float(entry.reasoning_tokens) for entry in holdouts])
    return measure(HoldoutSample(x, y), treatment)


def count_informative(holdouts: Iterable[tuple[object, int]]) -> int:
    """How many holdouts are informative, given the budget and the tokens spent of each.

    For each budget, the holdouts with the most common number of tokens do not count. If a budget forces nearly all
    holdouts to the same length, the spread comes from the few others, and the interval is too narrow: with 30 holdouts
    of which 19 in 20 are budget-forced, it covers the truth only every other time.
    """
    spent: defaultdict[object, Counter[int]] = defaultdict(Counter)
    for budget, tokens in holdouts:
        spent[budget][tokens] += 1
    return sum(counts.total() - max(counts.values()) for counts in spent.values())


def add_intervals(parts: Sequence[Interval]) -> Interval:
    """Add savings and the squares of their intervals' half-widths, because the draws are independent."""
    saved = sum(saved for saved, _, _ in parts)
    below = sum((saved - low) ** 2 for saved, low, _ in parts) ** 0.5
    above = sum((high - saved) ** 2 for saved, _, high in parts) ** 0.5
    return saved, saved - below, saved + above


def had_draw(fraction: float | None) -> bool:
    """Whether chance decided if such a request became a holdout."""
    return fraction is not None and 0 < fraction < 1


@dataclass(frozen=True)
class HoldoutSample:
    """The holdout, with arrays of shape (holdouts,), or resamples of it, of shape (samples, holdouts)."""

    x: Vector
    """Tokens that the profile expected of the reference checkpoint."""
    y: Vector
    """Tokens that it spent."""


@dataclass(frozen=True)
class TreatmentTotals:
    """Sums over the requests that took part in the draw and are not holdouts."""

    requests: int
    x: float
    """Sum of the tokens that the profile expected of the reference checkpoint."""
    y: float
    """Sum of the tokens spent."""


def measure(holdout: HoldoutSample, treatment: TreatmentTotals, *, adjust: bool = True) -> Interval | None:
    """Tokens that the treatment saved, with a 95 % interval; None with fewer than `MIN_HOLDOUTS` holdouts.

    Without `adjust`, the covariate x is not used.
    """
    size = len(holdout.y)
    if size < MIN_HOLDOUTS or treatment.requests == 0:
        return None
    x_mean_treatment = treatment.x / treatment.requests
    (mean,), (spread,) = _reference(_rows(holdout, np.arange(size)[None]), x_mean_treatment, adjust)
    low, high = _quantiles(holdout, x_mean_treatment, mean, adjust)
    # What the treatment would have spent also varies about its mean, hence the second term.
    width = treatment.requests * float(spread * np.sqrt(1 / size + 1 / treatment.requests))
    saved = treatment.requests * float(mean) - treatment.y
    return saved, saved - high * width, saved - low * width


def _reference(rows: HoldoutSample, x_target: float, adjust: bool) -> tuple[Vector, Vector]:
    """Mean tokens of the reference at mean x = `x_target`, and the spread of single requests; both (samples,)."""
    x_mean, y_mean = rows.x.mean(1), rows.y.mean(1)
    x_off, y_off = rows.x - x_mean[:, None], rows.y - y_mean[:, None]
    variance, covariance = (x_off**2).mean(1), (x_off * y_off).mean(1)
    theta = np.divide(covariance, variance, out=np.zeros_like(variance), where=(variance > 1e-9) & adjust)
    residual = y_off - theta[:, None] * x_off
    freedom = rows.y.shape[1] - 1 - adjust
    return y_mean + theta * (x_target - x_mean), np.sqrt((residual**2).sum(1) / freedom)


def _quantiles(holdout: HoldoutSample, x_target: float, mean: float, adjust: bool) -> tuple[float, float]:
    """The 2.5 and 97.5 % quantiles of (estimate - truth) / standard error over resamples. Seeded, so repeatable."""
    size = len(holdout.y)
    if size >= NORMAL_HOLDOUTS:
        return -1.96, 1.96
    rng = np.random.default_rng(0)
    ratios: list[Vector] = []
    for _ in range(0, _RESAMPLES, _BLOCK):
        means, spreads = _reference(_rows(holdout, rng.integers(0, size, (_BLOCK, size))), x_target, adjust)
        positive = spreads > 0
        ratios.append((means[positive] - mean) / spreads[positive] * np.sqrt(size))
    pooled = np.concatenate(ratios)
    if not len(pooled):  # the profile predicts every holdout exactly
        return 0.0, 0.0
    low, high = np.quantile(pooled, [0.025, 0.975])
    return float(low), float(high)


def _rows(holdout: HoldoutSample, index: NDArray[np.int64]) -> HoldoutSample:
    return HoldoutSample(holdout.x[index], holdout.y[index])


def difficulty_label(difficulty: float | None) -> str:
    """The fifth of [0, 1] that a difficulty is in, or `unknown`."""
    if difficulty is None:
        return "unknown"
    fifth = min(int(difficulty * 5), len(LIMITS))
    return f"{fifth / 5:.1f}-{(fifth + 1) / 5:.1f}"


def day_of(cell: Cell) -> str:
    """The day of a cell (UTC), such as `2027-01-15`."""
    return datetime.fromtimestamp(cell.hour * _HOUR, UTC).date().isoformat()


LABELS: dict[By, Callable[[Cell], str]] = {
    "checkpoint": lambda cell: cell.checkpoint,
    "key": lambda cell: cell.key or "(none)",  # no key can have this name
    "day": day_of,
    "difficulty": lambda cell: cell.difficulty,
}
