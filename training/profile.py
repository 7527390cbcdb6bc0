"""How is the difficulty profile fitted? Two regularised linear models per checkpoint, from outcomes on test prompts.

The regularisation is chosen, and every figure of the report is measured, by cross-validation over *prompts*: samples
of one prompt never stand on both sides of a fold. `models.profile` says what the file means and reads it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold

from models.profile import COUNTS, LEVELS, SCHEMA_VERSION, features, words_of
from training.evaluate import Judged
from training.record import write_text

Array = NDArray[np.float64]

MIN_PROMPTS_PER_WORD = 3
_FOLDS = 5
_STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Inverse regularisation of the logistic model."""
_RIDGES = (3.0, 10.0, 30.0, 100.0, 300.0)
_MARGIN = float(np.log(1.25))
"""How far a count may lie above the largest seen in fitting before the prompt is unfamiliar."""


def fit(outcomes: Mapping[str, Sequence[Judged]], seed: int) -> dict[str, Any]:
    """Fit the profile on every checkpoint's outcomes over the same prompts.

    Raises:
        ValueError: the checkpoints were not measured on the same prompts.
    """
    rows = next(iter(outcomes.values()))
    texts = [row.prompt for row in rows]
    for name, other in outcomes.items():
        if [row.prompt for row in other] != texts:
            raise ValueError(f"{name} was measured on other prompts")
    seen = Counter(word for text in texts for word in set(words_of(text)))
    vocabulary = sorted(word for word, count in seen.items() if count >= MIN_PROMPTS_PER_WORD)
    index = {word: i for i, word in enumerate(vocabulary)}
    raw = np.stack([features(text, index) for text in texts])
    mean, spread = raw.mean(0), raw.std(0)
    scale = np.where(spread > 1e-6, spread, 1.0)
    x = (raw - mean) / scale
    folds = list(KFold(_FOLDS, shuffle=True, random_state=seed).split(x))
    models: dict[str, Any] = {}
    report: dict[str, dict[str, float]] = {}
    failure = np.zeros(len(x))
    for name, judged in outcomes.items():
        correct, correct_report = _fit_correct(x, np.array([row.accuracy for row in judged]), folds)
        tokens, tokens_report = _fit_tokens(
            x, np.array([[o.reasoning_tokens for o in row.outcomes] for row in judged], dtype=float), folds
        )
        models[name] = {**correct, **tokens}
        report[name] = {
            **correct_report,
            **tokens_report,
            "prompts": float(len(x)),
            "samples": float(len(judged[0].outcomes)),
        }
        failure += 1 - _sigmoid(x @ np.array(correct["correct_weights"]) + correct["correct_bias"])
    return {
        "schema_version": SCHEMA_VERSION,
        "vocabulary": vocabulary,
        "mean": mean.tolist(),
        "scale": scale.tolist(),
        "upper": (raw[:, : len(COUNTS)].max(0) + _MARGIN).tolist(),
        "difficulties": np.quantile(failure / len(outcomes), np.linspace(0, 1, 101)).tolist(),
        "checkpoints": models,
        "report": report,
    }


def save(profile: dict[str, Any], path: Path) -> None:
    """Write the profile with six digits, whole or not at all."""
    write_text(path, json.dumps(_rounded(profile)) + "\n")


def _fit_correct(
    x: Array, accuracy: Array, folds: Sequence[tuple[Any, Any]]
) -> tuple[dict[str, Any], dict[str, float]]:
    """P(correct | x) from each prompt's share of correct samples, (prompts,)."""
    predicted = {
        c: _cross_predict(lambda train, c=c: _logistic(x[train], accuracy[train], c), x, folds) for c in _STRENGTHS
    }
    best = min(_STRENGTHS, key=lambda c: _log_loss(accuracy, predicted[c]))
    weights, bias = _logistic(x, accuracy, best)
    constant = np.full_like(accuracy, accuracy.mean())
    report = {
        "log_loss": _log_loss(accuracy, predicted[best]),
        "log_loss_constant": _log_loss(accuracy, constant),
        "brier": _brier(accuracy, predicted[best]),
        "brier_constant": _brier(accuracy, constant),
        "auc": _auc(accuracy, predicted[best]),
        "calibration_error": _calibration_error(accuracy, predicted[best]),
        "strength": best,
    }
    return {"correct_weights": weights.tolist(), "correct_bias": bias}, report


def _logistic(x: Array, accuracy: Array, strength: float) -> tuple[Array, float]:
    labels, weights = np.r_[np.ones(len(x)), np.zeros(len(x))], np.r_[accuracy, 1 - accuracy]
    used = weights > 0
    if len(set(labels[used])) == 1:  # everything right, or everything wrong
        p = np.clip(accuracy[0], 1e-3, 1 - 1e-3)
        return np.zeros(x.shape[1]), float(np.log(p / (1 - p)))
    model = LogisticRegression(C=strength, max_iter=2000)
    model.fit(np.r_[x, x][used], labels[used], sample_weight=weights[used])
    return model.coef_[0], float(model.intercept_[0])


def _cross_predict(fit_on: Any, x: Array, folds: Sequence[tuple[Any, Any]]) -> Array:
    predicted = np.zeros(len(x))
    for train, test in folds:
        weights, bias = fit_on(train)
        predicted[test] = _sigmoid(x[test] @ weights + bias)
    return predicted


def _fit_tokens(x: Array, tokens: Array, folds: Sequence[tuple[Any, Any]]) -> tuple[dict[str, Any], dict[str, float]]:
    """log(1 + tokens) | x from each prompt's samples, (prompts, samples)."""
    target = np.log1p(tokens)
    means = target.mean(1)

    def cross_predict(ridge: float) -> Array:
        predicted = np.zeros(len(x))
        for train, test in folds:
            predicted[test] = Ridge(alpha=ridge).fit(x[train], means[train]).predict(x[test])
        return predicted

    predicted = {ridge: cross_predict(ridge) for ridge in _RIDGES}
    best = min(_RIDGES, key=lambda ridge: float(((means - predicted[ridge]) ** 2).mean()))
    residuals = target - predicted[best][:, None]
    model = Ridge(alpha=best).fit(x, means)
    constant = np.log1p(np.median(tokens))
    report = {
        "tokens_mean_error": float(np.abs(np.expm1(predicted[best])[:, None] - tokens).mean()),
        "tokens_mean_error_constant": float(np.abs(np.expm1(constant) - tokens).mean()),
        "log_tokens_r2": float(1 - ((means - predicted[best]) ** 2).mean() / max(means.var(), 1e-12)),
        "ridge": best,
    }
    fitted = {
        "tokens_weights": model.coef_.tolist(),
        "tokens_bias": float(model.intercept_),
        "residuals": np.quantile(residuals, LEVELS).tolist(),
    }
    return fitted, report


def _log_loss(accuracy: Array, predicted: Array) -> float:
    p = np.clip(predicted, 1e-6, 1 - 1e-6)
    return float(-(accuracy * np.log(p) + (1 - accuracy) * np.log(1 - p)).mean())


def _auc(accuracy: Array, predicted: Array) -> float:
    """Over single samples; 0.5 where all of them are right or all are wrong."""
    if accuracy.min() == accuracy.max() and accuracy[0] in (0, 1):
        return 0.5
    labels, weights = np.r_[np.ones_like(accuracy), np.zeros_like(accuracy)], np.r_[accuracy, 1 - accuracy]
    return float(roc_auc_score(labels, np.tile(predicted, 2), sample_weight=weights))


def _brier(accuracy: Array, predicted: Array) -> float:
    """Mean over single samples, whose label is 1 with frequency `accuracy`."""
    return float((accuracy * (1 - predicted) ** 2 + (1 - accuracy) * predicted**2).mean())


def _calibration_error(accuracy: Array, predicted: Array, bins: int = 10) -> float:
    """Expected calibration error over `bins` equally filled bins."""
    parts = np.array_split(np.argsort(predicted), bins)
    return float(
        sum(len(part) * abs(accuracy[part].mean() - predicted[part].mean()) for part in parts if len(part))
        / len(predicted)
    )


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
