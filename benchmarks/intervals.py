"""How is a figure written with its 95 % interval? From resamples of what was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def with_interval(mean: float, resampled: Sequence[float] | NDArray[np.float64]) -> dict[str, float]:
    """A figure, and the 2.5 % and 97.5 % quantiles of its resamples."""
    low, high = np.quantile(resampled, (0.025, 0.975))
    return {"mean": float(mean), "low": float(low), "high": float(high)}
