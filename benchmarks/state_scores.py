"""How much better do predictions get with the model's own state? Cross-validated figures with paired intervals.

A prompt is read as a text, by its state, or both. All checkpoints share one easiness, as in the shipped profile: a
logistic regression with a ridge penalty on the share of right answers, whose strength is chosen within each fitting
part. P(right) of each checkpoint is `training.profile.logistic.fit_scale` of it. Each kind of input is standardised and
then divided by the root of its width, so that a wide one does not outweigh a narrow one.

Intervals are 95 % intervals from resampling prompts. Differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from tqdm import tqdm

from benchmarks import predictors
from benchmarks.frontiers import TOLERANCES, Point, chosen, share_closed
from benchmarks.intervals import with_interval
from benchmarks.predictors import Outcomes
from models.features import features_of
from models.text import text_of
from training.profile.logistic import fit_scale, sigmoid
from training.profile.scores import log_loss, log_losses

Array = NDArray[np.float64]
FOLDS, INNER_FOLDS, RESAMPLES = 5, 4, 500
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
    inputs = _inputs(outcomes, states)
    predicted = {
        name: crossed(inputs[name], outcomes.accuracy, seed) for name in tqdm(inputs, "readers", mininterval=5)
    }
    predicted[BOOSTED] = crossed_boosted(outcomes, seed)
    weights = _weights(len(outcomes.prompts), seed)
    tokens = outcomes.tokens.mean(2)
    every = {name: figures(p, outcomes.accuracy, tokens, weights) for name, p in predicted.items()}
    return {
        "readers": {name: {key: _interval(values) for key, values in one.items()} for name, one in every.items()},
        f"minus {BASELINE}": {
            name: {key: _interval(values - every[BASELINE][key]) for key, values in one.items()}
            for name, one in every.items()
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


def figures(predicted: Array, accuracy: Array, tokens: Array, weights: Array) -> dict[str, Array]:
    """Log loss of P(right) in nats, its AUC, and what routing by it closes, each (resamplings,).

    *Closed* is `benchmarks.frontiers.share_closed` at the checkpoints' mean tokens; it is left out for one checkpoint.

    Args:
        predicted: P(right), (prompts, checkpoints).
        accuracy: share of right answers, (prompts, checkpoints).
        tokens: (prompts, checkpoints).
        weights: how often each prompt was drawn, (resamplings, prompts).
    """
    checkpoints = range(accuracy.shape[1])
    scores = {
        "log loss": weights @ log_losses(accuracy, predicted).mean(1) / weights.sum(1),
        "AUC": np.mean([areas(accuracy[:, c], predicted[:, c], weights) for c in checkpoints], axis=0),
    }
    return scores if len(checkpoints) == 1 else {**scores, "closed": _closed(predicted, accuracy, tokens, weights)}


def areas(accuracy: Array, predicted: Array, weights: Array) -> Array:
    """`training.profile.scores.auc` of every resampling, (resamplings,); 0.5 where all are right or all are wrong."""
    above = (predicted > predicted[:, None]) + 0.5 * (predicted == predicted[:, None])
    right, wrong = weights * accuracy, weights * (1 - accuracy)
    pairs = right.sum(1) * wrong.sum(1)
    ordered = ((wrong @ above) * right).sum(1)
    return np.divide(ordered, pairs, out=np.full(len(weights), 0.5), where=pairs > 0)


def _closed(predicted: Array, accuracy: Array, tokens: Array, weights: Array) -> Array:
    shares = weights / weights.sum(1, keepdims=True)
    rows = np.arange(len(accuracy))

    def points(success: Array, cost: Array) -> Array:
        """What the rule does at every tolerance, (resamplings, tolerances, 2)."""
        picks = [chosen(success, cost, tolerance) for tolerance in TOLERANCES]
        return np.stack([shares @ np.stack([what[rows, pick] for pick in picks], 1) for what in (tokens, accuracy)], 2)

    rule, known = points(predicted, np.tile(tokens.mean(0), (len(tokens), 1))), points(accuracy, tokens)
    single = np.stack([shares @ tokens, shares @ accuracy], 2)
    return np.array([share_closed(*map(_points, each)) for each in zip(rule, known, single, strict=True)])


def _points(table: Array) -> list[Point]:
    return [(float(tokens), float(accuracy)) for tokens, accuracy in table]


def of_surprisal(right: Array, surprisal: Array, seed: int) -> dict[str, float]:
    """AUC of the surprisal of an answer as a sign that it is wrong, the mean over checkpoints.

    The answer must be there for it. Both arguments are (prompts, checkpoints, samples).
    """
    prompts, checkpoints, samples = right.shape
    weights = np.repeat(_weights(prompts, seed), samples, axis=1)
    each = [areas(right[:, c].ravel(), -surprisal[:, c].ravel(), weights) for c in range(checkpoints)]
    return _interval(np.mean(each, axis=0))


def times(rows: Mapping[Any, Mapping[str, float]], seed: int) -> dict[str, Any]:
    """Of each kind that was timed: milliseconds, what reading the state adds, and shares of the prompt's tokens.

    Args:
        rows: by (kind, number), what `benchmarks.model_state.time_of` or `pooled_in` measured.
        seed: of the resampling.
    """
    kinds: dict[str, list[Mapping[str, float]]] = {}
    for key, row in rows.items():
        kinds.setdefault(str(key[0]), []).append(row)
    return {kind: _timed(measured, seed) for kind, measured in kinds.items()}


def _timed(rows: Sequence[Mapping[str, float]], seed: int) -> dict[str, Any]:
    column = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    table: dict[str, Any] = {"prompts": len(rows), "ms of reading": _spread(1000 * column["state"])}
    if "alone" not in column:
        return table
    added = 1000 * (column["state"] + column["after"] - column["alone"])
    rng = np.random.default_rng(seed)
    medians = [np.median(added), *(np.median(rng.choice(added, len(added))) for _ in range(RESAMPLES))]
    return {
        **table,
        "ms to first token": _spread(1000 * column["alone"]),
        "ms to first token, after reading": _spread(1000 * (column["state"] + column["after"])),
        "ms added": _interval(np.array(medians, dtype=np.float64)),
        "prompt tokens": float(np.median(column["tokens"])),
        "cached without reading": float((column["had"] / column["tokens"]).mean()),
        "cached after reading": float((column["cached"] / column["tokens"]).mean()),
    }


def _spread(values: Array) -> dict[str, float]:
    return {"median": float(np.median(values)), "p95": float(np.quantile(values, 0.95))}


def _weights(count: int, seed: int) -> Array:
    """How often each prompt is drawn, (1 + RESAMPLES, prompts); at first each once."""
    rng = np.random.default_rng(seed)
    draws = [np.bincount(rng.integers(0, count, count), minlength=count).astype(float) for _ in range(RESAMPLES)]
    return np.stack([np.ones(count), *draws])


def _interval(values: Array) -> dict[str, float]:
    """The figure, which is the first value, and its interval from the others."""
    return with_interval(float(values[0]), values[1:])
