"""How many tokens does an answer take, beside the thinking? A forest over prompts, and a scale for each checkpoint.

    E[answer tokens | x, c] = max(0, s_c exp(g(x, c)) - 1)

g is the mean of log(1 + answer tokens), whose exponential is less than the mean of 1 + answer tokens. s_c makes up for
that. It is the smearing factor of Duan (JASA 78, 1983, pages 605 to 610): the mean of exp(residual), over residuals of
forests that were not fitted on the prompt. A checkpoint's factor is drawn towards the mean of all checkpoints, as far
as a few prompts could have made the difference (docs/decisions/0055-answer-tokens.md).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.profile.boosting import VALUE, Folds, boost

Array = NDArray[np.float64]


class Answers(NamedTuple):
    """What the profile stores of answer tokens, and the expected ones of every prompt when it was held out."""

    forest: dict[str, Any]
    scales: list[float]
    """s by position."""
    expected: Array
    """E[answer tokens], (prompts * n_checkpoints,)."""


def fit(inputs: Array, tokens: Array, n_checkpoints: int, folds: Folds, seed: int) -> Answers | None:
    """The forest and the scales; None if no answer has a token, because nothing tells answers from thinking.

    Args:
        inputs: (prompts * n_checkpoints, width), a prompt's checkpoints one after the other.
        tokens: answer tokens, (prompts * n_checkpoints, samples).
        n_checkpoints: the number of checkpoints.
        folds: over rows; a prompt's rows are never on both sides.
        seed: for trees.
    """
    if not tokens.any():
        return None
    log_tokens = np.log1p(tokens)
    forest, mean = boost(VALUE, inputs, log_tokens.mean(1), folds, seed)
    scales = smearing(log_tokens - mean[:, None], n_checkpoints)
    expected = np.tile(scales, len(inputs) // n_checkpoints) * np.exp(mean) - 1
    return Answers(forest, scales.tolist(), np.maximum(expected, 0.0))


def smearing(residual: Array, n_checkpoints: int) -> Array:
    """Smearing factors by position, (n_checkpoints,), from residuals of log(1 + answer tokens), (rows, samples).

    Checkpoint c weighs its own mean by t / (t + v_c), and the mean over checkpoints by the rest: v_c is the variance of
    its mean over prompts, and t is the variance between checkpoints beyond the mean of v, at least 0.
    """
    factors = np.exp(residual).mean(1).reshape(-1, n_checkpoints)
    own, pooled = factors.mean(0), factors.mean()
    if len(factors) < 2 or n_checkpoints < 2:
        return np.full(n_checkpoints, pooled)
    of_mean = factors.var(0, ddof=1) / len(factors)
    between = max(own.var(ddof=1) - of_mean.mean(), 0.0)
    weight = between / (between + of_mean) if between > 0 else np.zeros(n_checkpoints)
    return weight * own + (1 - weight) * pooled
