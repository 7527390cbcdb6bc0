"""How is the difficulty profile fitted? Boosted trees on the counts of a prompt, from outcomes on test prompts.

One forest serves all checkpoints, so what makes a question hard is learned from all of them at once: of their outcomes
together for P(correct), which is then scaled for each, and with the checkpoint's place in the family as an input for
lengths. How many trees is chosen, and every figure of the report is measured, by
cross-validation over *prompts*: samples of one prompt never stand on both sides of a fold. `models.profile` says what
the file means and reads it; `benchmarks.difficulty` compares it with other ways.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from models.features import features_of, words_of
from models.files import write_text
from models.profile import LEVELS, SCHEMA_VERSION
from training.profile import cascade
from training.tasks.outcome import BudgetForced, Graded

Array = NDArray[np.float64]
Folds = Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]

MIN_PROMPTS_PER_WORD = 3
_FOLDS = 5
_TREES = {"n_estimators": 100, "learning_rate": 0.1, "max_leaf_nodes": 6, "max_depth": None, "min_samples_leaf": 40}
"""The most trees; cross-validation says after which to stop."""
_NODES = ("feature", "threshold", "left", "right", "value")
_QUIETEST = 0.02
"""Added to a residual's size before its logarithm: some checkpoints think equally long every time."""
_NEWTON_STEPS = 25
_MARGIN = float(np.log(1.25))
"""How far a count may lie outside those seen in fitting before the prompt is unfamiliar."""


def fit(
    outcomes: Mapping[str, Sequence[Graded]], cuts: Mapping[str, Sequence[BudgetForced]], seed: int
) -> dict[str, Any]:
    """Fit the profile on every checkpoint's outcomes over the same prompts; their order is their place.

    Second thoughts are fitted where they are worth it. `cuts` is what each answered when its thinking was stopped, to
    any prompts.

    Raises:
        ValueError: the checkpoints were not measured on the same prompts.
    """
    rows = next(iter(outcomes.values()))
    texts = [row.prompt for row in rows]
    for name, other in outcomes.items():
        if [row.prompt for row in other] != texts:
            raise ValueError(f"{name} was measured on other prompts")
    seen = Counter(word for text in texts for word in set(words_of(text)))
    vocabulary = {word for word, count in seen.items() if count >= MIN_PROMPTS_PER_WORD}
    counts = np.stack([features_of(text, vocabulary) for text in texts])
    places = len(outcomes)
    # Row p * places + c is prompt p at checkpoint c.
    inputs = np.concatenate([_with_place(one, places) for one in counts])
    accuracy = np.array([[row.accuracy for row in judged] for judged in outcomes.values()]).T.ravel()
    tokens = np.stack(
        [[[o.reasoning_tokens for o in row.outcomes] for row in judged] for judged in outcomes.values()], axis=1
    ).reshape(len(inputs), -1)
    stored, unseen = forests(inputs, accuracy, tokens.astype(float), places, seed)
    failure = 1 - unseen.correct.reshape(-1, places).mean(1)
    stopped, shifts, losses = _stopped([cuts[name] for name in outcomes], vocabulary, seed)
    return {
        "schema_version": SCHEMA_VERSION,
        "vocabulary": sorted(vocabulary),
        "lower": (counts.min(0) - _MARGIN).tolist(),
        "upper": (counts.max(0) + _MARGIN).tolist(),
        "difficulties": np.quantile(failure, np.linspace(0, 1, 101)).tolist(),
        **stored,
        "scales": dict(zip(outcomes, stored["scales"], strict=True)),
        "residuals": dict(zip(outcomes, stored["residuals"], strict=True)),
        "escalations": _escalations(outcomes, unseen),
        "budget_forced": stopped,
        "budget_forced_shifts": dict(zip(outcomes, shifts, strict=True)),
        "report": {
            name: {
                **_correct_report(accuracy[c::places], unseen.correct[c::places]),
                **_tokens_report(tokens[c::places], unseen.quantiles[c::places]),
                **_surprisal_report(rows),
                **losses[c],
                "prompts": float(len(texts)),
                "samples": float(tokens.shape[1]),
            }
            for c, (name, rows) in enumerate(outcomes.items())
        },
    }


class Unseen(NamedTuple):
    """What forests say of prompts that they were not fitted on."""

    correct: Array
    """P(correct), (rows,)."""
    quantiles: Array
    """Reasoning tokens at `LEVELS`, (rows, levels)."""
    easiness: Array
    """What P(correct) is scaled from, (prompts,)."""
    centre: Array
    """log(1 + reasoning tokens), (rows,)."""


def forests(inputs: Array, accuracy: Array, tokens: Array, places: int, seed: int) -> tuple[dict[str, Any], Unseen]:
    """The three forests, the scales and the residuals by place, and what cross-validation saw of them.

    Args:
        inputs: (prompts * places, width), a prompt's places one after the other.
        accuracy: share of correct samples, (prompts * places,).
        tokens: reasoning tokens, (prompts * places, samples).
    """
    prompt = np.repeat(np.arange(len(inputs) // places), places)
    splits = GroupKFold(min(_FOLDS, prompt[-1] + 1), shuffle=True, random_state=seed)
    folds = list(splits.split(inputs, groups=prompt))
    log_tokens = np.log1p(tokens)
    of_prompts = [(train[::places] // places, test[::places] // places) for train, test in folds]
    by_place = accuracy.reshape(-1, places)
    correct, easiness = _boost(_CORRECT, inputs[::places, :-1], by_place.mean(1), of_prompts, seed)
    scales = [_scale(easiness, by_place[:, place]) for place in range(places)]
    logits = np.stack([a * easiness + b for a, b in scales], axis=1).ravel()
    mean, centre = _boost(_VALUE, inputs, log_tokens.mean(1), folds, seed)
    residual = log_tokens - centre[:, None]
    spread, log_size = _boost(_VALUE, inputs, np.log(np.abs(residual).mean(1) + _QUIETEST), folds, seed)
    size = np.exp(log_size)[:, None]
    residuals = [np.quantile((residual / size)[place::places], LEVELS) for place in range(places)]
    quantiles = np.expm1(centre[:, None] + size * np.tile(residuals, (prompt[-1] + 1, 1)))
    stored = {
        "correct": correct,
        "scales": [list(scale) for scale in scales],
        "tokens": mean,
        "spread": spread,
        "residuals": [z.tolist() for z in residuals],
    }
    return stored, Unseen(_sigmoid(logits), quantiles, easiness, centre)


def _escalations(outcomes: Mapping[str, Sequence[Graded]], unseen: Unseen) -> dict[str, Any]:
    """Those that are worth it, and what is predicted of them from what is said of prompts without having seen them."""
    stored: dict[str, Any] = {}
    order = list(outcomes)
    for name, (escalation, judged) in cascade.worthwhile(outcomes).items():
        first = outcomes[escalation.first]
        unsure = [[cascade.is_unsure(o, escalation.surprisal) for o in row.outcomes] for row in first]
        tokens = unseen.centre.reshape(-1, len(order))[:, order.index(escalation.first)]
        x = np.column_stack([np.ones_like(tokens), unseen.easiness, tokens])
        stored[name] = {
            **escalation.model_dump(),
            "scale": list(_scale(unseen.easiness, np.array([row.accuracy for row in judged]))),
            "unsure": _logistic(x, np.mean(unsure, axis=1), np.zeros(3)).tolist(),
            "measured": dict(zip(("tokens", "accuracy"), cascade.place_of(judged), strict=True)),
        }
    return stored


def _stopped(
    cuts: Sequence[Sequence[BudgetForced]], vocabulary: Container[str], seed: int
) -> tuple[dict[str, Any], list[list[float]], list[dict[str, float]]]:
    """Of stopped thinking: the forest, by place its shifts, and what cross-validation over prompts saw of both.

    One forest for all, because it is the question that makes most of the difference; the shifts say what the checkpoint
    makes, by budget, nearer to none the fewer cuts there are.
    """
    flat = [(cut, place) for place, of_place in enumerate(cuts) for cut in of_place]
    seen = {prompt: features_of(prompt, vocabulary) for prompt in sorted({cut.prompt for cut, _ in flat})}
    if len(seen) < _FOLDS:  # nothing is known, so nothing is right
        nothing = {"intercept": _logit(0.0), "roots": [], **{name: [] for name in _NODES}}
        return nothing, [[0.0] for _ in cuts], [{} for _ in cuts]
    place = np.array([place for _, place in flat])
    right = np.array([cut.correct for cut, _ in flat], dtype=float)
    u = np.log2([1.0 + cut.budget for cut, _ in flat])
    inputs = np.stack([np.r_[seen[cut.prompt], at] for (cut, _), at in zip(flat, u, strict=True)])
    number = {prompt: i for i, prompt in enumerate(seen)}
    splits = GroupKFold(_FOLDS, shuffle=True, random_state=seed)
    folds = list(splits.split(inputs, groups=[number[cut.prompt] for cut, _ in flat]))
    forest, logits = _boost(_STOPPED, inputs, right, folds, seed)
    knots = np.arange(int(np.ceil(u.max())) + 1)
    hats = np.stack([np.interp(u, knots, hat) for hat in np.eye(len(knots))], axis=1)
    shifts: list[list[float]] = []
    losses: list[dict[str, float]] = []
    for mine in (place == which for which in range(len(cuts))):
        shift = _logistic(hats[mine], right[mine], np.zeros(len(knots)), logits[mine])
        shifts.append(shift.tolist())
        losses.append(
            {
                "budget_forced_log_loss": log_loss(right[mine], _sigmoid(logits[mine] + hats[mine] @ shift)),
                "budget_forced_log_loss_constant": log_loss(right[mine], np.full(mine.sum(), right[mine].mean())),
            }
        )
    return forest, shifts, losses


def save(profile: dict[str, Any], path: Path) -> None:
    """Write the profile with six digits, whole or not at all."""
    write_text(path, json.dumps(_rounded(profile)) + "\n")


Model = GradientBoostingClassifier | GradientBoostingRegressor | HistGradientBoostingClassifier | None


class _Kind(NamedTuple):
    """What a forest is to say."""

    fit: Callable[[Array, Array, int, int], Model]
    losses: Callable[[Array, Array], Array]
    """Of predictions after each tree, (trees, rows), for their targets, (rows,): (trees,)."""


def _boost(kind: _Kind, inputs: Array, target: Array, folds: Folds, seed: int) -> tuple[dict[str, Any], Array]:
    """A forest with as many trees as suit unseen prompts best, and what such forests say of unseen prompts, (rows,)."""
    most = _TREES["n_estimators"]
    staged = np.zeros((most, len(inputs)))
    for train, test in folds:
        model = kind.fit(inputs[train], target[train], most, seed)
        staged[:, test] = _staged(model, inputs[test], target[train])
    best = int(kind.losses(target, staged).argmin())
    return _forest(kind.fit(inputs, target, best + 1, seed), target), staged[best]


def _fit_correct(inputs: Array, accuracy: Array, trees: int, seed: int) -> Model:
    labels, weights = np.r_[np.ones(len(inputs)), np.zeros(len(inputs))], np.r_[accuracy, 1 - accuracy]
    used = weights > 0
    if len(set(labels[used])) == 1:  # everything right, or everything wrong
        return None
    model = GradientBoostingClassifier(**{**_TREES, "n_estimators": trees}, random_state=seed)
    return model.fit(np.r_[inputs, inputs][used], labels[used], sample_weight=weights[used])


def _fit_stopped(inputs: Array, right: Array, trees: int, seed: int) -> Model:
    """Of inputs that end in the budget. More of it makes nothing worse."""
    if len(set(right)) == 1:
        return None
    grows = np.zeros(inputs.shape[1], dtype=int)
    grows[-1] = 1
    how = {**_TREES, "max_iter": trees, "early_stopping": False, "monotonic_cst": grows, "random_state": seed}
    del how["n_estimators"]
    return HistGradientBoostingClassifier(**how).fit(inputs, right)


def _fit_value(inputs: Array, target: Array, trees: int, seed: int) -> Model:
    return GradientBoostingRegressor(**{**_TREES, "n_estimators": trees}, random_state=seed).fit(inputs, target)


def _staged(model: Model, inputs: Array, target: Array) -> Array:
    """What the model says after every tree, (trees, rows); of probabilities their logits."""
    if model is None:
        return np.full((_TREES["n_estimators"], len(inputs)), _logit(target.mean()))
    if isinstance(model, GradientBoostingClassifier | HistGradientBoostingClassifier):
        return np.stack([np.ravel(stage) for stage in model.staged_decision_function(inputs)])
    return np.stack(list(model.staged_predict(inputs)))


def _forest(model: Model, target: Array) -> dict[str, Any]:
    """The model as `models.forest` reads it."""
    nodes: dict[str, list[Any]] = {name: [] for name in _NODES}
    roots: list[int] = []
    if model is None:
        return {"intercept": _logit(target.mean()), "roots": roots, **nodes}
    if isinstance(model, HistGradientBoostingClassifier):
        return _forest_of_histograms(model)
    if isinstance(model, GradientBoostingClassifier):
        wrong, right = model.init_.class_prior_
        intercept = float(np.log(right / wrong))
    else:
        intercept = float(model.init_.constant_.item())
    for estimator in model.estimators_[:, 0]:
        tree, offset = estimator.tree_, len(nodes["value"])
        leaf = tree.children_left < 0
        own = np.arange(tree.node_count)
        roots.append(offset)
        nodes["feature"] += np.where(leaf, 0, tree.feature).tolist()
        nodes["threshold"] += np.where(leaf, 0.0, tree.threshold).tolist()
        nodes["left"] += (offset + np.where(leaf, own, tree.children_left)).tolist()
        nodes["right"] += (offset + np.where(leaf, own, tree.children_right)).tolist()
        nodes["value"] += (model.learning_rate * tree.value[:, 0, 0]).tolist()
    return {"intercept": intercept, "roots": roots, **nodes}


def _forest_of_histograms(model: HistGradientBoostingClassifier) -> dict[str, Any]:
    nodes: dict[str, list[Any]] = {name: [] for name in _NODES}
    roots: list[int] = []
    for (tree,) in model._predictors:  # noqa: SLF001  there is no other way to its trees
        made, offset = tree.nodes, len(nodes["value"])
        leaf = made["is_leaf"].astype(bool)
        own = np.arange(len(made))
        roots.append(offset)
        nodes["feature"] += np.where(leaf, 0, made["feature_idx"]).tolist()
        nodes["threshold"] += np.where(leaf, 0.0, made["num_threshold"]).tolist()
        for side in ("left", "right"):
            nodes[side] += (offset + np.where(leaf, own, made[side])).tolist()
        nodes["value"] += np.where(leaf, made["value"], 0.0).tolist()
    return {"intercept": float(model._baseline_prediction.item()), "roots": roots, **nodes}  # noqa: SLF001


def _scale(easiness: Array, accuracy: Array) -> tuple[float, float]:
    """a and b of P(correct) = sigmoid(a easiness + b), by Newton's steps; of few prompts nearer to 1 and 0."""
    a, b = _logistic(np.column_stack([easiness, np.ones_like(easiness)]), accuracy, np.array([1.0, 0.0]))
    return float(a), float(b)


def _logistic(x: Array, target: Array, prior: Array, known: Array | float = 0.0) -> Array:
    """w of target = sigmoid(known + x w), by Newton's steps; x is (rows, width). Of few rows nearer to `prior`."""
    weights = prior
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(known + x @ weights)
        gradient = x.T @ (p - target) + (weights - prior)
        weights = weights - np.linalg.solve((x.T * (p * (1 - p))) @ x + np.eye(len(prior)), gradient)
    return weights


def _log_losses(accuracy: Array, logits: Array) -> Array:
    return (np.logaddexp(0, -logits) * accuracy + np.logaddexp(0, logits) * (1 - accuracy)).mean(1)


def _square_errors(target: Array, predicted: Array) -> Array:
    return ((target - predicted) ** 2).mean(1)


_CORRECT, _VALUE = _Kind(_fit_correct, _log_losses), _Kind(_fit_value, _square_errors)
_STOPPED = _Kind(_fit_stopped, _log_losses)


def _with_place(counts: Array, places: int) -> Array:
    """The forests' inputs at every place, (places, counts + 1)."""
    return np.column_stack([np.tile(counts, (places, 1)), np.arange(places)])


def _correct_report(accuracy: Array, predicted: Array) -> dict[str, float]:
    constant = np.full_like(accuracy, accuracy.mean())
    return {
        "log_loss": log_loss(accuracy, predicted),
        "log_loss_constant": log_loss(accuracy, constant),
        "brier": brier(accuracy, predicted),
        "brier_constant": brier(accuracy, constant),
        "auc": auc(accuracy, predicted),
        "calibration_error": calibration_error(accuracy, predicted),
    }


def _tokens_report(tokens: Array, quantiles: Array) -> dict[str, float]:
    constant = np.tile(np.quantile(tokens, LEVELS), (len(tokens), 1))
    return {
        "pinball": pinball(tokens, quantiles),
        "pinball_constant": pinball(tokens, constant),
        "tokens_mean_error": float(np.abs(_median(quantiles)[:, None] - tokens).mean()),
        "tokens_mean_error_constant": float(np.abs(np.median(tokens) - tokens).mean()),
    }


def _surprisal_report(rows: Sequence[Graded]) -> dict[str, float]:
    auc_of_surprisal = cascade.surprisal_auc(rows)
    return {} if auc_of_surprisal is None else {"surprisal_auc": auc_of_surprisal}


def _median(quantiles: Array) -> Array:
    return np.array([np.interp(0.5, LEVELS, row) for row in quantiles])


def pinball(tokens: Array, quantiles: Array) -> float:
    """Mean loss of quantiles at `LEVELS`, (prompts, levels), over samples, (prompts, samples); in tokens."""
    off = tokens[:, :, None] - quantiles[:, None, :]
    return float(np.maximum(LEVELS * off, (LEVELS - 1) * off).mean())


def log_loss(accuracy: Array, predicted: Array) -> float:
    """Mean over single samples, in nats; `accuracy` is a prompt's share of correct samples."""
    p = np.clip(predicted, 1e-6, 1 - 1e-6)
    return float(-(accuracy * np.log(p) + (1 - accuracy) * np.log(1 - p)).mean())


def auc(accuracy: Array, predicted: Array) -> float:
    """Area under the ROC curve over single samples; 0.5 where all of them are right or all are wrong."""
    if accuracy.min() == accuracy.max() and accuracy[0] in (0, 1):
        return 0.5
    labels, weights = np.r_[np.ones_like(accuracy), np.zeros_like(accuracy)], np.r_[accuracy, 1 - accuracy]
    return float(roc_auc_score(labels, np.tile(predicted, 2), sample_weight=weights))


def brier(accuracy: Array, predicted: Array) -> float:
    """Mean over single samples, whose label is 1 with frequency `accuracy`."""
    return float((accuracy * (1 - predicted) ** 2 + (1 - accuracy) * predicted**2).mean())


def calibration_error(accuracy: Array, predicted: Array, bins: int = 10) -> float:
    """Expected calibration error over `bins` equally filled bins."""
    parts = np.array_split(np.argsort(predicted), bins)
    return float(
        sum(len(part) * abs(accuracy[part].mean() - predicted[part].mean()) for part in parts if len(part))
        / len(predicted)
    )


def _sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def _logit(p: float) -> float:
    p = float(np.clip(p, 1e-3, 1 - 1e-3))
    return float(np.log(p / (1 - p)))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
