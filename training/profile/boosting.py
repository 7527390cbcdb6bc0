"""How is one forest of the profile fitted? Boosted trees on histograms, as many as cross-validation chooses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from training.profile.logistic import logit

Array = NDArray[np.float64]
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]
"""Row indices to fit on and to predict, fold by fold."""
Model = HistGradientBoostingClassifier | HistGradientBoostingRegressor | None
"""None is the constant model, for targets that are all equal."""

MOST_TREES = 100
"""Cross-validation chooses how many of them are used."""
_TREES = {"learning_rate": 0.1, "max_leaf_nodes": 6, "min_samples_leaf": 40, "early_stopping": False}
_NODE_FIELDS = ("feature", "threshold", "left", "right", "value")


class Objective(NamedTuple):
    """What a forest predicts: how a model is fitted, and how its predictions are scored."""

    fit: Callable[[Array, Array, int, int], Model]
    """From inputs, targets, the number of trees and a seed."""
    losses: Callable[[Array, Array], Array]
    """From targets, (rows,), and predictions after each tree, (trees, rows), to the loss after each tree, (trees,)."""


def boost(objective: Objective, inputs: Array, target: Array, folds: Folds, seed: int) -> tuple[dict[str, Any], Array]:
    """A forest with the number of trees that predicts best across folds, and its out-of-fold predictions, (rows,)."""
    staged = np.zeros((MOST_TREES, len(inputs)))
    for train, test in folds:
        model = objective.fit(inputs[train], target[train], MOST_TREES, seed)
        staged[:, test] = _staged(model, inputs[test], target[train])
    best = int(objective.losses(target, staged).argmin())
    return to_forest(objective.fit(inputs, target, best + 1, seed), target), staged[best]


def constant_forest(p: float) -> dict[str, Any]:
    """A forest without trees, whose value is the logit of p."""
    return {"intercept": logit(p), "roots": [], **{name: [] for name in _NODE_FIELDS}}


def to_forest(model: Model, target: Array) -> dict[str, Any]:
    """The fitted model as JSON for `models.forest.Forest`."""
    if model is None:
        return constant_forest(float(target.mean()))
    nodes: dict[str, list[Any]] = {name: [] for name in _NODE_FIELDS}
    roots: list[int] = []
    for (tree,) in model._predictors:  # noqa: SLF001  scikit-learn has no public way to these trees
        fields, offset = tree.nodes, len(nodes["value"])
        leaf = fields["is_leaf"].astype(bool)
        own = np.arange(len(fields))
        roots.append(offset)
        nodes["feature"] += np.where(leaf, 0, fields["feature_idx"]).tolist()
        nodes["threshold"] += np.where(leaf, 0.0, fields["num_threshold"]).tolist()
        for side in ("left", "right"):
            nodes[side] += (offset + np.where(leaf, own, fields[side])).tolist()
        nodes["value"] += np.where(leaf, fields["value"], 0.0).tolist()
    return {"intercept": float(model._baseline_prediction.item()), "roots": roots, **nodes}  # noqa: SLF001


def _fit_share(inputs: Array, share: Array, trees: int, seed: int) -> Model:
    """A classifier whose targets are shares of correct samples: each row counts as correct and wrong, weighted."""
    labels, weights = np.r_[np.ones(len(inputs)), np.zeros(len(inputs))], np.r_[share, 1 - share]
    used = weights > 0
    if len(set(labels[used])) == 1:  # every sample is correct, or every one is wrong
        return None
    model = HistGradientBoostingClassifier(**_TREES, max_iter=trees, random_state=seed)
    return model.fit(np.r_[inputs, inputs][used], labels[used], sample_weight=weights[used])


def _fit_rising(inputs: Array, correct: Array, trees: int, seed: int) -> Model:
    """A classifier that never falls in the last input."""
    if len(set(correct)) == 1:
        return None
    constraints = np.zeros(inputs.shape[1], dtype=int)
    constraints[-1] = 1
    settings = {**_TREES, "max_iter": trees, "random_state": seed}
    return HistGradientBoostingClassifier(**settings, monotonic_cst=constraints).fit(inputs, correct)


def _fit_value(inputs: Array, target: Array, trees: int, seed: int) -> Model:
    return HistGradientBoostingRegressor(**_TREES, max_iter=trees, random_state=seed).fit(inputs, target)


def _staged(model: Model, inputs: Array, target: Array) -> Array:
    """The model's predictions after every tree, (trees, rows); logits if it predicts probabilities."""
    if model is None:
        return np.full((MOST_TREES, len(inputs)), logit(float(target.mean())))
    if isinstance(model, HistGradientBoostingClassifier):
        return np.stack([np.ravel(stage) for stage in model.staged_decision_function(inputs)])
    return np.stack(list(model.staged_predict(inputs)))


def _log_losses(share: Array, logits: Array) -> Array:
    return (np.logaddexp(0, -logits) * share + np.logaddexp(0, logits) * (1 - share)).mean(1)


def _square_errors(target: Array, predicted: Array) -> Array:
    return ((target - predicted) ** 2).mean(1)


SHARE = Objective(_fit_share, _log_losses)
"""The logit of a share in [0, 1]."""
RISING = Objective(_fit_rising, _log_losses)
"""The logit of a probability that never falls in the last input."""
VALUE = Objective(_fit_value, _square_errors)
"""The mean of a real number."""
