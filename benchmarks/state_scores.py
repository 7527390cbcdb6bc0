"""How much better do predictions get with the model's own state? Cross-validated figures with paired intervals.

A prompt is read as a text, by its state, or both. All checkpoints share one easiness, as in the shipped profile: a
logistic regression with a ridge penalty on the share of right answers, whose strength is chosen within each fitting
part. P(right) of each checkpoint is `training.profile.logistic.fit_scale` of it. Each kind of input is standardised and
then divided by the root of its width, so that a wide one does not outweigh a narrow one.

Intervals are 95 % intervals from resampling prompts. Differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from benchmarks import predictors
from benchmarks.frontiers import oracle, share_closed, singles, swept
from benchmarks.predictors import Outcomes
from models.features import features_of
from models.text import text_of
from training.profile.logistic import fit_scale, sigmoid
from training.profile.scores import auc, log_loss

Array = NDArray[np.float64]
FOLDS, INNER_FOLDS, RESAMPLES = 5, 4, 200
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""Inverse strengths of the penalty."""
BASELINE, BOOSTED = "text", "counts, boosted"
FIRST = 3
"""Of the log probabilities' features, the last ones that are of the first answer token."""


def compared(outcomes: Outcomes, states: Mapping[str, Array], seed: int) -> dict[str, Any]:
    """Figures of every way to read the prompts, and their differences to reading the text alone.

    Args:
        outcomes: of the same prompts.
        states: by name, (prompts, width); one is named `log probabilities`.
        seed: of the folds and of the resampling.
    """
    predicted = {name: crossed(blocks, outcomes.accuracy, seed) for name, blocks in _inputs(outcomes, states).items()}
    predicted[BOOSTED] = crossed_boosted(outcomes, seed)
    tokens = outcomes.tokens.mean(2)
    draws = _draws(len(tokens), seed)
    every = {
        name: [figures(p[rows], outcomes.accuracy[rows], tokens[rows]) for rows in draws]
        for name, p in predicted.items()
    }
    own = {name: figures(p, outcomes.accuracy, tokens) for name, p in predicted.items()}
    return {
        "readers": {
            name: {key: _interval(value, [one[key] for one in every[name]]) for key, value in own[name].items()}
            for name in predicted
        },
        f"minus {BASELINE}": {
            name: {
                key: _interval(
                    value - own[BASELINE][key],
                    [one[key] - other[key] for one, other in zip(every[name], every[BASELINE], strict=True)],
                )
                for key, value in own[name].items()
            }
            for name in predicted
            if name != BASELINE
        },
    }


def _inputs(outcomes: Outcomes, states: Mapping[str, Array]) -> dict[str, list[Array]]:
    """What each reader sees, in blocks of (prompts, width)."""
    length = np.log1p([[float(len(prompt))] for prompt in outcomes.prompts])
    text = [np.stack([np.r_[features_of(prompt, ()), text_of(prompt)] for prompt in outcomes.prompts])]
    first = {"first token": states["log probabilities"][:, -FIRST:], **states}
    alone = {"length": [length], BASELINE: text, **{name: [state] for name, state in first.items()}}
    both = {f"{BASELINE} + {name}": [*text, state] for name, state in first.items()}
    return {**alone, **both, f"{BASELINE} + all of it": [*text, *states.values()]}


def crossed(blocks: Sequence[Array], accuracy: Array, seed: int) -> Array:
    """P(right) of every prompt, predicted from the other folds, (prompts, checkpoints).

    Args:
        blocks: the kinds of input, each (prompts, width).
        accuracy: share of right answers, (prompts, checkpoints).
        seed: of the folds.
    """
    predicted = np.zeros_like(accuracy)
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(accuracy):
        x = np.concatenate([_scaled(block, train) for block in blocks], axis=1)
        share = accuracy[train].mean(1)
        tried = [_out_of_fold(x[train], share, strength, seed) for strength in STRENGTHS]
        best = int(np.argmin([log_loss(share, sigmoid(easiness)) for easiness in tried]))
        easiness = _fit(x[train], share, STRENGTHS[best])(x[test])
        scales = [fit_scale(tried[best], accuracy[train, c]) for c in range(accuracy.shape[1])]
        predicted[test] = sigmoid(np.stack([a * easiness + b for a, b in scales], axis=1))
    return predicted


def crossed_boosted(outcomes: Outcomes, seed: int) -> Array:
    """The same, by the shipped family's boosted trees on counts of the prompt."""
    predicted = np.zeros_like(outcomes.accuracy)
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(outcomes.accuracy):
        part, others = outcomes.of(train), [outcomes.prompts[i] for i in test]
        see = predictors.counts(part.prompts)
        predicted[test] = predictors.boosted(see(part.prompts), part)(see(others)).correct
    return predicted


def _scaled(block: Array, train: NDArray[np.int64]) -> Array:
    spread = block[train].std(0)
    return (block - block[train].mean(0)) / np.where(spread > 1e-9, spread, 1.0) / np.sqrt(block.shape[1])


def _out_of_fold(x: Array, share: Array, strength: float, seed: int) -> Array:
    easiness = np.zeros(len(share))
    for train, test in KFold(INNER_FOLDS, shuffle=True, random_state=seed).split(x):
        easiness[test] = _fit(x[train], share[train], strength)(x[test])
    return easiness


def _fit(x: Array, share: Array, strength: float) -> Callable[[Array], Array]:
    """The easiness of other prompts, in logits: each of these counts as right and as wrong, weighted."""
    weights = np.r_[share, 1 - share]
    used = weights > 0
    labels = np.r_[np.ones(len(share)), np.zeros(len(share))][used]
    model = LogisticRegression(C=strength, max_iter=2000).fit(np.r_[x, x][used], labels, sample_weight=weights[used])
    return model.decision_function


def figures(predicted: Array, accuracy: Array, tokens: Array) -> dict[str, float]:
    """Log loss of P(right) in nats, its AUC, and what routing by it closes; all are (prompts, checkpoints).

    *Closed* is `benchmarks.frontiers.share_closed` at the checkpoints' mean tokens; it is left out for one checkpoint.
    """
    checkpoints = range(accuracy.shape[1])
    areas = [auc(accuracy[:, c], predicted[:, c]) for c in checkpoints]
    scores = {"log loss": log_loss(accuracy, predicted), "AUC": float(np.mean(areas))}
    if len(checkpoints) == 1:
        return scores
    cost = np.tile(tokens.mean(0), (len(tokens), 1))
    rule = swept(predicted, cost, accuracy, tokens)
    return {**scores, "closed": share_closed(rule, oracle(accuracy, tokens), singles(accuracy, tokens))}


def of_surprisal(right: Array, surprisal: Array, seed: int) -> dict[str, float]:
    """AUC of the surprisal of an answer as a sign that it is wrong, the mean over checkpoints.

    The answer must be there for it. Both arguments are (prompts, checkpoints, samples).
    """

    def area(rows: NDArray[np.int64]) -> float:
        checkpoints = range(right.shape[1])
        return float(np.mean([auc(right[rows, c].ravel(), -surprisal[rows, c].ravel()) for c in checkpoints]))

    return _interval(area(np.arange(len(right))), [area(rows) for rows in _draws(len(right), seed)])


def times(rows: Mapping[Hashable, Mapping[str, float]], seed: int) -> dict[str, Any]:
    """Of each kind that was timed: milliseconds, what reading the state adds, and shares of the prompt's tokens.

    Args:
        rows: by (kind, number), what `benchmarks.model_state.time_of` or `pooled_in` measured.
        seed: of the resampling.
    """
    kinds: dict[str, list[Mapping[str, float]]] = {}
    for key, row in rows.items():
        assert isinstance(key, tuple)
        kinds.setdefault(str(key[0]), []).append(row)
    return {kind: _timed(measured, seed) for kind, measured in kinds.items()}


def _timed(rows: Sequence[Mapping[str, float]], seed: int) -> dict[str, Any]:
    column = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    table: dict[str, Any] = {"prompts": len(rows), "ms of reading": _spread(1000 * column["state"])}
    if "alone" not in column:
        return table
    added = 1000 * (column["state"] + column["after"] - column["alone"])
    medians = [float(np.median(added[draw])) for draw in _draws(len(rows), seed)]
    return {
        **table,
        "ms to first token": _spread(1000 * column["alone"]),
        "ms to first token, after reading": _spread(1000 * (column["state"] + column["after"])),
        "ms added": _interval(float(np.median(added)), medians),
        "prompt tokens": float(np.median(column["tokens"])),
        "cached without reading": float((column["had"] / column["tokens"]).mean()),
        "cached after reading": float((column["cached"] / column["tokens"]).mean()),
    }


def _spread(values: Array) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.quantile(values, 0.95))}


def _draws(count: int, seed: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, count, count) for _ in range(RESAMPLES)]


def _interval(mean: float, resampled: Sequence[float]) -> dict[str, float]:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return {"mean": mean, "low": float(low), "high": float(high)}
