"""What would routing do on prompts that the profile was not fitted on? The rule, cross-validated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.family import Estimate
from training.measure.figures import interval
from training.profile.crossfit import Fold, decided, of_reference
from training.tasks.outcome import Graded

Array = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """The routed choice, beside one level. Differences are paired by prompt; all have 95 % intervals."""

    accuracy: Estimate
    tokens: Estimate
    accuracy_difference: Estimate
    """Routed minus the level."""
    tokens_share: Estimate
    """Routed tokens as a share of the level's."""


def routed(held_out: Sequence[Fold], tolerance: float | None, fallback: str) -> Array:
    """Return accuracy and tokens of what the rule chooses for each prompt, (prompts, 2).

    Each prompt is decided by a profile that was fitted on other prompts. An unfamiliar prompt gets `fallback`, and
    without a tolerance every prompt does.
    """
    if tolerance is None:
        return of_reference(held_out, fallback)
    return decided(held_out, [tolerance], fallback)[0]


def compare(decided: Array, rows: Sequence[Graded], seed: int) -> Comparison:
    """Return the routed choice beside one level, intervals from resampling prompts."""
    level = np.array([[row.accuracy, row.reasoning_tokens] for row in rows])
    draws = np.random.default_rng(seed).integers(0, len(decided), (RESAMPLES, len(decided)))
    ours, theirs = decided[draws].mean(1), level[draws].mean(1)
    mean, other = decided.mean(0), level.mean(0)
    share = mean[1] / other[1] if other[1] else 1.0
    shares = np.divide(ours[:, 1], theirs[:, 1], out=np.ones(RESAMPLES), where=theirs[:, 1] > 0)
    return Comparison(
        accuracy=interval(decided[:, 0].tolist(), seed, shares=True),
        tokens=_estimate(mean[1], ours[:, 1]),
        accuracy_difference=_estimate(mean[0] - other[0], ours[:, 0] - theirs[:, 0]),
        tokens_share=_estimate(share, shares),
    )


def _estimate(mean: float, resampled: Array) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(mean=float(mean), low=min(float(mean), float(low)), high=max(float(mean), float(high)))
