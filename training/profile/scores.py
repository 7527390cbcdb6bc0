"""How good are a profile's predictions? Scores of probabilities and quantiles, each beside those of a constant guess.

`accuracy` is always a prompt's share of correct samples, (prompts,), and scores are means over single samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from models.prediction import LEVELS

Array = NDArray[np.float64]


def correct_scores(accuracy: Array, predicted: Array) -> dict[str, float]:
    """Scores of P(correct); those named `_constant` are of the mean accuracy as the prediction for every prompt."""
    constant = np.full_like(accuracy, accuracy.mean())
    return {
        "log_loss": log_loss(accuracy, predicted),
        "log_loss_constant": log_loss(accuracy, constant),
        "brier": brier(accuracy, predicted),
        "brier_constant": brier(accuracy, constant),
        "auc": auc(accuracy, predicted),
        "calibration_error": calibration_error(accuracy, predicted),
    }


def token_scores(tokens: Array, quantiles: Array) -> dict[str, float]:
    """Scores of predicted tokens; those named `_constant` are of the quantiles over all prompts for every prompt."""
    constant = np.tile(np.quantile(tokens, LEVELS).astype(float), (len(tokens), 1))
    medians = np.array([np.interp(0.5, LEVELS, row) for row in quantiles])
    return {
        "pinball": pinball(tokens, quantiles),
        "pinball_constant": pinball(tokens, constant),
        "tokens_mean_error": float(np.abs(medians[:, None] - tokens).mean()),
        "tokens_mean_error_constant": float(np.abs(np.median(tokens) - tokens).mean()),
    }


def answer_scores(tokens: Array, expected: Array) -> dict[str, float]:
    """The mean, and root mean square errors: of expected answer tokens, (prompts,), and of the mean for every prompt.

    For an expected value the mean square is the fair measure: the mean absolute error would favour medians.
    """
    return {
        "answers_mean": float(tokens.mean()),
        "answers_error": float(np.sqrt(((tokens - expected[:, None]) ** 2).mean())),
        "answers_error_constant": float(tokens.std()),
    }


def pinball(tokens: Array, quantiles: Array) -> float:
    """Pinball loss in tokens: of quantiles at `LEVELS`, (prompts, levels), for samples, (prompts, samples)."""
    error = tokens[:, :, None] - quantiles[:, None, :]
    return float(np.maximum(LEVELS * error, (LEVELS - 1) * error).mean())


def log_loss(accuracy: Array, predicted: Array) -> float:
    """Log loss of P(correct), in nats."""
    return float(log_losses(accuracy, predicted).mean())


def log_losses(accuracy: Array, predicted: Array) -> Array:
    """Log loss of each P(correct), in nats, in the shape of the predictions."""
    p = np.clip(predicted, 1e-6, 1 - 1e-6)
    return -(accuracy * np.log(p) + (1 - accuracy) * np.log(1 - p))


def auc(accuracy: Array, predicted: Array) -> float:
    """Area under the ROC curve of P(correct); 0.5 if all samples are correct or all are wrong."""
    if accuracy.min() == accuracy.max() and accuracy[0] in (0, 1):
        return 0.5
    labels, weights = np.r_[np.ones_like(accuracy), np.zeros_like(accuracy)], np.r_[accuracy, 1 - accuracy]
    return float(roc_auc_score(labels, np.tile(predicted, 2), sample_weight=weights))


def brier(accuracy: Array, predicted: Array) -> float:
    """Brier score of P(correct)."""
    return float((accuracy * (1 - predicted) ** 2 + (1 - accuracy) * predicted**2).mean())


def calibration_error(accuracy: Array, predicted: Array, bins: int = 10) -> float:
    """Expected calibration error of P(correct) over `bins` bins with equally many prompts."""
    parts = np.array_split(np.argsort(predicted), bins)
    return float(
        sum(len(part) * abs(accuracy[part].mean() - predicted[part].mean()) for part in parts if len(part))
        / len(predicted)
    )


def reliability(accuracy: Array, predicted: Array, bins: int = 5) -> list[list[float]]:
    """Mean P(correct), the share that was correct, and the number of prompts, in bins of equally many prompts."""
    parts = [part for part in np.array_split(np.argsort(predicted, kind="stable"), bins) if len(part)]
    return [[float(predicted[part].mean()), float(accuracy[part].mean()), float(len(part))] for part in parts]
