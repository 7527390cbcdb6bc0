"""How accurate are these outcomes, and how long is their thinking? Means with 95 % intervals; no torch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import binomtest, bootstrap

from models.family import Estimate, QuantileName, Slice
from training.tasks.outcome import Graded
from training.tasks.question import DIFFICULTIES

QUANTILES: dict[QuantileName, float] = {
    "p05": 0.05,
    "p10": 0.1,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
}


def summarise(rows: Sequence[Graded], seed: int) -> Slice:
    """Accuracy and reasoning tokens with 95 % bootstrap intervals over prompts, and quantiles of the tokens."""
    tokens = np.array([o.reasoning_tokens for row in rows for o in row.outcomes], dtype=float)
    levels = np.quantile(tokens, list(QUANTILES.values()))
    return Slice(
        prompts=len(rows),
        accuracy=interval([row.accuracy for row in rows], seed, shares=True),
        reasoning_tokens=interval([row.reasoning_tokens for row in rows], seed),
        quantiles=dict(zip(QUANTILES, map(float, levels), strict=True)),
    )


def interval(values: Sequence[float], seed: int, *, shares: bool = False) -> Estimate:
    """Mean with its 95 % percentile bootstrap interval over `values`, which must be independent.

    With `shares`, values are in [0, 1]. If all are 0 or all are 1, resampling would give an interval of width 0, so the
    interval is the exact binomial one.
    """
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if shares and np.ptp(data) == 0 and mean in (0, 1):
        exact = binomtest(int(data.sum()), len(data)).proportion_ci()
        return Estimate(mean=mean, low=float(exact.low), high=float(exact.high))
    if np.ptp(data) == 0:
        return Estimate(mean=mean, low=mean, high=mean)
    resampled = bootstrap(
        (data,), np.mean, n_resamples=2000, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Estimate(mean=mean, low=min(mean, float(resampled.low)), high=max(mean, float(resampled.high)))


def difficulties(rows: Sequence[Graded]) -> list[str]:
    """The difficulties of the rows: first the arithmetic ones from easy to hard, then others by name."""
    present = {row.difficulty for row in rows}
    return [d for d in DIFFICULTIES if d in present] + sorted(present - set(DIFFICULTIES))
