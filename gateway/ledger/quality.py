"""Did routing cost quality? Scores of routed requests against those of the holdout, with a 95 % interval. No I/O.

    difference = mean over strata h, weighted by requests, of routed_h - holdout_h
    arm_h      = mean score + theta (mean of x over all requests of h - mean of x over those with a score)

The draw of the holdout is random, so both arms answer the same requests. Not every request gets a score. A stratum is a
fifth of the difficulties at one holdout fraction, merged with its neighbours where an arm has fewer than `MIN_STRATUM`
scores in it. Weighting strata by their requests (post-stratification), and the regression on x within them, correct for
scores that come more often for easy or for hard requests, in either arm. x is the success that the profile predicted
of its choice, so it is known before the draw (CUPED, Deng et al. 2013); a wrong x only widens the interval. What is
assumed: given arm, stratum and x, whether a request gets a score does not depend on how good its answer is.

An arm's variance is that of a regression estimator with the leverages of HC3 (MacKinnon and White 1985). Its interval
is Wilson's (1927) at the number of requests that this variance is worth, because most scores are near 1. The
difference's interval combines the two (Newcombe 1998, method 10; MOVER, Zou and Donner 2008). Holdout fractions are
measured apart and weighted by their requests. If one arm gets scores more often than the other at the same fractions,
Lee's bounds (2009) say how far the difference could be off: those who answer in both arms are compared, at worst and at
best.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.ledger.savings import LABELS, By, Cell, Totals, had_draw, sum_totals

Vector = NDArray[np.float64]
Indices = NDArray[np.int64]

MIN_SCORES = 30
"""Minimum number of scores in each arm at one holdout fraction; with fewer, nothing is measured there."""
MIN_STRATUM = 5
"""Minimum number of scores in each arm of a stratum."""
MAX_SOURCES = 20
"""Most sources that are reported, those with the most scores."""
UNEVEN_Z, UNEVEN_RATIO = 2.576, 1.1
"""Shares of requests with a score are uneven if they differ at 1 % significance, and by a tenth of the smaller one."""
_Z = 1.959964
"""The 97.5 % quantile of the normal distribution."""


class Score(NamedTuple):
    """One request's score from one source, with what the ledger knows of the request."""

    cell: Cell
    holdout: bool
    predicted: float
    """The success that the profile predicted of its choice, in [0, 1]."""
    source: str
    score: float
    """In [0, 1]."""


@dataclass(frozen=True)
class Arm:
    """The requests of one side of the draw."""

    requests: int
    scores: int
    mean: float | None
    """Of the scores, adjusted for missing ones; None if nothing is measured."""
    share: float
    """Of the requests that have a score, at the holdout fractions where something is measured, weighted like `mean`."""


@dataclass(frozen=True)
class Estimate:
    """Quality by one source, in [-1, 1]: negative if routed requests did worse than the holdout."""

    difference: float | None
    """Routed minus holdout; None with fewer than `MIN_SCORES` scores in an arm. Then come its 95 % interval's ends."""
    low: float | None
    high: float | None
    routed: Arm
    holdout: Arm
    uneven: bool
    """Whether one arm gets scores more often than the other. The difference then rests on more than the draw."""
    bound_low: float | None
    """If uneven: the difference between requests that get a score in both arms, at worst and at best."""
    bound_high: float | None


@dataclass(frozen=True)
class Quality:
    """Quality by every source, and by one dimension for the source with the most scores of holdouts."""

    by: By
    source: str | None
    """The source that `groups` are of; None without scores."""
    sources: dict[str, Estimate]
    groups: dict[str, Estimate]

    @property
    def total(self) -> Estimate | None:
        """The estimate by `source`."""
        return None if self.source is None else self.sources[self.source]

    def as_json(self) -> dict[str, object]:
        """The JSON of `quality` in `/v1/savings` and of `laconic quality --json`."""
        return {
            "by": self.by,
            "source": self.source,
            "sources": {name: asdict(estimate) for name, estimate in self.sources.items()},
            "groups": {name: asdict(estimate) for name, estimate in self.groups.items()},
        }


def compute_quality(
    cells: Iterable[tuple[Cell, Totals]],
    scores: Iterable[Score],
    by: By = "checkpoint",
    source: str | None = None,
    since_hour: int = 0,
) -> Quality:
    """Compute the quality from `since_hour` on.

    Args:
        cells: the ledger's sums, in any order; a cell may occur several times. They say how many requests there were.
        scores: in any order; those of requests that took no part in a draw do not count.
        by: the dimension of the groups.
        source: whose scores the groups are of; None for the source with the most scores of holdouts.
    """
    drawn = [(cell, sums) for cell, sums in cells if cell.hour >= since_hour and had_draw(cell.holdout_fraction)]
    by_source: defaultdict[str, list[Score]] = defaultdict(list)
    for one in scores:
        if one.cell.hour >= since_hour and had_draw(one.cell.holdout_fraction):
            by_source[one.source].append(one)
    ranked = sorted(by_source, key=lambda name: (-_least(by_source[name]), -len(by_source[name]), name))
    shown = ranked[:MAX_SOURCES]
    if source in by_source and source not in shown:
        shown.append(source)
    chosen = source if source is not None else next(iter(shown), None)
    sources = {name: estimate(drawn, by_source[name]) for name in shown}
    if chosen is not None and chosen not in sources:
        sources[chosen] = estimate(drawn, [])
    label = LABELS[by]
    cells_by: defaultdict[str, list[tuple[Cell, Totals]]] = defaultdict(list)
    scores_by: defaultdict[str, list[Score]] = defaultdict(list)
    for cell, sums in drawn:
        cells_by[label(cell)].append((cell, sums))
    for one in by_source[chosen] if chosen is not None else ():
        scores_by[label(one.cell)].append(one)
    return Quality(by, chosen, sources, {name: estimate(cells_by[name], scores_by[name]) for name in sorted(scores_by)})


def _least(scores: Sequence[Score]) -> int:
    """How many scores the smaller arm has."""
    holdouts = sum(one.holdout for one in scores)
    return min(holdouts, len(scores) - holdouts)


def estimate(cells: Sequence[tuple[Cell, Totals]], scores: Sequence[Score]) -> Estimate:
    """The quality of some requests by one source: all their cells, and their scores. All took part in a draw."""
    sums = sum_totals([totals for _, totals in cells])
    counts = Counter(one.holdout for one in scores)
    fractions: defaultdict[float, list[Score]] = defaultdict(list)
    for one in scores:
        fractions[one.cell.holdout_fraction or 0.0].append(one)
    at = {fraction: [one for one in cells if one[0].holdout_fraction == fraction] for fraction in fractions}
    scored = [(_scored(at[one], some), _measure(_strata(at[one], some))) for one, some in fractions.items()]
    parts = [(part, measured) for part, measured in scored if measured is not None]
    # Shares are not pooled over the fractions: if scores come more often at one of them, the arm with more of its
    # requests there would look as if its answers decided who gives one.
    used = [part for part, _ in parts] or [part for part, _ in scored]
    whole = sum(part.weight for part in used)
    weights = [part.weight / whole if whole else 0.0 for part in used]
    shares = [_total(weights, [part.share(arm) for part in used]) for arm in (False, True)]
    uneven = _is_uneven(used, weights)
    bounds = _lee_bounds(used, weights) if uneven and parts else (None, None)
    arms = ((sums.eligible, counts[False]), (sums.holdout, counts[True]))
    if not parts:
        routed, holdout = (Arm(*arm, None, share) for arm, share in zip(arms, shares, strict=True))
        return Estimate(None, None, None, routed, holdout, uneven, *bounds)
    measured = [one for _, one in parts]
    *means, difference = (_total(weights, [one[i] for one in measured]) for i in (0, 1, 2))
    below, above = (
        math.hypot(*(weight * (one.difference - one[i]) for weight, one in zip(weights, measured, strict=True)))
        for i in (3, 4)
    )
    routed, holdout = (Arm(*arm, mean, share) for arm, mean, share in zip(arms, means, shares, strict=True))
    low, high = max(difference - below, -1.0), min(difference + above, 1.0)
    return Estimate(difference, low, high, routed, holdout, uneven, *bounds)


def _total(weights: Sequence[float], values: Iterable[float]) -> float:
    return sum(weight * value for weight, value in zip(weights, values, strict=True))


@dataclass(frozen=True)
class Scored:
    """The requests at one holdout fraction, and their scores, by arm: routed and holdout."""

    requests: tuple[int, int]
    scores: tuple[Vector, Vector]

    @property
    def weight(self) -> float:
        """As much as there are requests."""
        return float(sum(self.requests))

    def share(self, arm: bool) -> float:
        """Of an arm's requests that have a score."""
        return min(len(self.scores[arm]) / self.requests[arm], 1.0) if self.requests[arm] else 0.0


def _scored(cells: Sequence[tuple[Cell, Totals]], scores: Sequence[Score]) -> Scored:
    sums = sum_totals([totals for _, totals in cells])
    routed, holdout = (np.array([one.score for one in scores if one.holdout == arm]) for arm in (False, True))
    return Scored((sums.eligible, sums.holdout), (routed, holdout))


class Measured(NamedTuple):
    """The adjusted means of both arms and their difference, with the ends of its 95 % interval."""

    routed: float
    holdout: float
    difference: float
    low: float
    high: float


class Sample(NamedTuple):
    """Scores at one holdout fraction, and the strata that they are in."""

    score: Vector
    """(scores,)."""
    x: Vector
    """Predicted success, (scores,)."""
    holdout: NDArray[np.bool_]
    stratum: Indices
    """(scores,)."""
    weight: Vector
    """Each stratum's share of the requests, (strata,)."""
    x_mean: Vector
    """Mean predicted success of each stratum's requests, (strata,); NaN if it is not known."""


def _strata(cells: Sequence[tuple[Cell, Totals]], scores: Sequence[Score]) -> Sample:
    """Sort scores into strata: fifths of the difficulties, merged until both arms have enough scores in each."""
    by_label: defaultdict[str, list[Totals]] = defaultdict(list)
    for cell, totals in cells:
        by_label[cell.difficulty].append(totals)
    sums = {label: sum_totals(by_label[label]) for label in sorted(by_label)}
    scores = [one for one in scores if one.cell.difficulty in sums]
    counts = Counter((one.cell.difficulty, one.holdout) for one in scores)
    stratum_of = _merged({label: (counts[label, False], counts[label, True]) for label in sums})
    strata = max(stratum_of.values(), default=-1) + 1
    requests, predicted, success = np.zeros((3, strata))
    for label, totals in sums.items():
        at = stratum_of[label]
        requests[at] += totals.eligible + totals.holdout
        predicted[at] += totals.predicted
        success[at] += totals.predicted_success
    x_mean = np.divide(success, predicted, out=np.full(strata, np.nan), where=predicted > 0)
    return Sample(
        np.array([one.score for one in scores]),
        np.array([one.predicted for one in scores]),
        np.array([one.holdout for one in scores], dtype=bool),
        np.array([stratum_of[one.cell.difficulty] for one in scores], dtype=np.int64),
        requests / max(requests.sum(), 1.0),
        x_mean,
    )


def _merged(counts: Mapping[str, tuple[int, int]]) -> dict[str, int]:
    """The stratum of each label, in order: a stratum ends when both arms have `MIN_STRATUM` scores in it."""
    strata: dict[str, int] = {}
    stratum, routed, holdouts = 0, 0, 0
    for label, (more_routed, more_holdouts) in counts.items():
        strata[label] = stratum
        routed, holdouts = routed + more_routed, holdouts + more_holdouts
        if min(routed, holdouts) >= MIN_STRATUM:
            stratum, routed, holdouts = stratum + 1, 0, 0
    return {label: min(at, max(stratum - 1, 0)) for label, at in strata.items()}  # the rest joins the last one


def _measure(sample: Sample) -> Measured | None:
    """The difference at one holdout fraction; None with fewer than `MIN_SCORES` scores in an arm."""
    holdouts = int(sample.holdout.sum())
    if min(holdouts, len(sample.score) - holdouts) < MIN_SCORES:
        return None
    routed, holdout = (measure_arm(sample, sample.holdout == arm) for arm in (False, True))
    difference = routed.mean - holdout.mean
    low = difference - math.hypot(routed.mean - routed.low, holdout.high - holdout.mean)
    high = difference + math.hypot(routed.high - routed.mean, holdout.mean - holdout.low)
    return Measured(routed.mean, holdout.mean, difference, low, high)


class ArmInterval(NamedTuple):
    """An arm's adjusted mean, with its 95 % interval."""

    mean: float
    low: float
    high: float


def measure_arm(sample: Sample, members: NDArray[np.bool_]) -> ArmInterval:
    """The mean score of one arm, as it would be if all requests had a score. Every stratum has members."""
    score, x, stratum = sample.score[members], sample.x[members], sample.stratum[members]
    strata = len(sample.weight)
    counts = np.bincount(stratum, minlength=strata).astype(float)
    score_mean, x_mean = (np.bincount(stratum, values, strata) / counts for values in (score, x))
    score_off, x_off = score - score_mean[stratum], x - x_mean[stratum]
    squares = float(x_off @ x_off)
    varies = squares > 1e-9
    theta = float(x_off @ score_off) / squares if varies else 0.0
    x_missing = float(sample.weight @ np.where(np.isnan(sample.x_mean), 0.0, sample.x_mean - x_mean))
    mean = float(sample.weight @ score_mean) + theta * x_missing
    pull = x_off / squares if varies else np.zeros_like(x_off)
    leverage = np.minimum(1 / counts[stratum] + x_off * pull, 0.999)
    residual = (score_off - theta * x_off) / (1 - leverage)
    influence = sample.weight[stratum] / counts[stratum] + x_missing * pull
    variance = float(((influence * residual) ** 2).sum())
    return ArmInterval(mean, *_wilson(mean, variance, len(score)))


def _wilson(mean: float, variance: float, scores: int) -> tuple[float, float]:
    """Wilson's interval for a mean in [0, 1], at the number of draws of 0 or 1 that would have its variance."""
    p = min(max(mean, 0.0), 1.0)
    spread = p * (1 - p)
    n = spread / variance if variance > 0 and spread > 0 else float(scores)
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(spread / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return min(middle - half, mean), max(middle + half, mean)


def _is_uneven(parts: Sequence[Scored], weights: Sequence[float]) -> bool:
    """Whether one arm gets scores more often than the other: a test of two proportions, stratified by the fractions."""
    if not all(part.requests[0] and part.requests[1] for part in parts):
        return False
    one, other = (_total(weights, [part.share(arm) for part in parts]) for arm in (False, True))
    error = math.hypot(*(weight * _share_error(part) for weight, part in zip(weights, parts, strict=True)))
    return abs(one - other) > UNEVEN_Z * error and max(one, other) > UNEVEN_RATIO * min(one, other)


def _share_error(part: Scored) -> float:
    """The standard error of the difference between both arms' shares, if they are the same but for chance."""
    pooled = min(sum(map(len, part.scores)) / sum(part.requests), 1.0)
    return math.sqrt(pooled * (1 - pooled) * sum(1 / requests for requests in part.requests))


def _lee_bounds(parts: Sequence[Scored], weights: Sequence[float]) -> tuple[float | None, float | None]:
    """Lee's bounds at each fraction, weighted; None if they are not known at one of them."""
    low = high = 0.0
    for weight, part in zip(weights, parts, strict=True):
        if (bounds := _lee(part)) is None:
            return None, None
        low, high = low + weight * bounds[0], high + weight * bounds[1]
    return low, high


def _lee(part: Scored) -> tuple[float, float] | None:
    """Lee's bounds: the arm with more scores loses its best or its worst ones, until the shares are equal."""
    share, holdout_share = part.share(False), part.share(True)
    routed, holdout = (np.sort(scores) for scores in part.scores)
    kept = min(share, holdout_share) / max(share, holdout_share)
    more = routed if share > holdout_share else holdout
    count = round(kept * len(more))
    if not count:
        return None
    low, high = float(more[:count].mean()), float(more[-count:].mean())
    if more is routed:
        return low - float(holdout.mean()), high - float(holdout.mean())
    return float(routed.mean()) - high, float(routed.mean()) - low
