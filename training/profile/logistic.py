"""How is a logistic regression with few weights fitted? By Newton's method, with a prior for the case of few rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NEWTON_STEPS = 25


def fit_logistic(
    x: Array,
    target: Array,
    prior: Array,
    offset: Array | float = 0.0,
    *,
    precision: float = 1.0,
    start: Array | None = None,
) -> Array:
    """The weights w of target = sigmoid(offset + x w), (width,). The fewer the rows, the closer w is to `prior`.

    Args:
        x: (rows, width).
        target: shares in [0, 1], (rows,).
        prior: the mean of a normal prior, (width,).
        offset: a part of the logits that is given, (rows,).
        precision: of the prior, 1 / variance.
        start: where Newton's method begins; None for the prior. From a prior that is sure and wrong it would diverge.
    """
    weights = prior if start is None else start
    for _ in range(_NEWTON_STEPS):
        p = sigmoid(offset + x @ weights)
        gradient = x.T @ (p - target) + precision * (weights - prior)
        weights = weights - np.linalg.solve((x.T * (p * (1 - p))) @ x + precision * np.eye(len(prior)), gradient)
    return weights


def fit_scale(easiness: Array, accuracy: Array) -> tuple[float, float]:
    """a and b of P(correct) = sigmoid(a easiness + b). The fewer the prompts, the closer they are to 1 and 0."""
    a, b = fit_logistic(np.column_stack([easiness, np.ones_like(easiness)]), accuracy, np.array([1.0, 0.0]))
    return float(a), float(b)


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), elementwise."""
    return 1 / (1 + np.exp(-z))


def logit(p: float) -> float:
    """log(p / (1 - p)), with p clipped to [0.001, 0.999]."""
    p = float(np.clip(p, 1e-3, 1 - 1e-3))
    return float(np.log(p / (1 - p)))
