"""Which reader of prompts does a family get? The simplest that predicts right answers about as well as the best one.

All readers are compared by nested cross-validation on the family's own prompts: what a reader chooses for itself, such
as the strength of its penalty, is chosen within each fold's fitting part. Of those whose loss is within one standard
error of the lowest, the simplest is taken (Breiman et al., 1984, the one-standard-error rule); the error is that of the
difference, prompt by prompt. With few prompts or a text that says nothing, that is the constant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from models.reader import Kind
from models.text import ngrams_of, text_of
from training.profile.boosting import SHARE, Folds, boost, constant_forest
from training.profile.enough import FEW
from training.profile.logistic import fit_logistic, logit, sigmoid
from training.profile.scores import auc, log_losses

Array = NDArray[np.float64]
Matrix = Array | csr_array
Rows = NDArray[np.int64]

BUCKETS = 4096
PENALTIES = (0.003, 0.03, 0.3, 3.0)
"""Inverse strengths of the linear readers' ridge penalty, of which cross-validation chooses."""
INNER_FOLDS = 3
_LINEAR: tuple[Kind, ...] = ("length", "counts", "text", "ngrams")
STACKED = ("text", "ngrams", "forest")
_CONSTANT = 1e-9
"""Inputs that vary less are the same everywhere but for rounding."""
ORDER = ("constant", "length", "counts", "text", "ngrams", "forest", "stack")
"""The readers, the simplest first."""


class Seen(NamedTuple):
    """What the readers see of the prompts."""

    inputs: dict[str, Matrix]
    """By reader, (prompts, width)."""
    counts: Array
    """What the forest sees, (prompts, features)."""

    def of(self, rows: Rows) -> Seen:
        """What they see of some of the prompts."""
        return Seen({name: inputs[rows] for name, inputs in self.inputs.items()}, self.counts[rows])


class Fitted(NamedTuple):
    """One reader: easiness = intercept + forest x the forest's value + the parts' values."""

    intercept: float
    forest: float
    parts: dict[Kind, Array]
    trees: dict[str, Any] | None


@dataclass(frozen=True)
class Choice:
    """The reader that was chosen."""

    stored: dict[str, Any]
    """As `models.reader.StoredReader` reads it."""
    forest: dict[str, Any]
    """The forest that it reads, or a constant one."""
    easiness: Array
    """Out-of-fold easiness of every prompt, in logits, (prompts,)."""
    every: dict[str, Array]
    """The same, by each reader."""


def see(prompts: Sequence[str], counts: Array) -> Seen:
    """What the readers see of these prompts."""
    length = np.log1p([[float(len(prompt))] for prompt in prompts])
    text = np.stack([text_of(prompt) for prompt in prompts])
    return Seen({"length": length, "counts": counts, "text": text, "ngrams": _hashed(prompts)}, counts)


def choose(seen: Seen, share: Array, folds: Folds, seed: int) -> Choice:
    """Compare all readers, and fit the simplest good one on all prompts.

    Args:
        seen: of the prompts.
        share: share of right samples over all checkpoints, in [0, 1], (prompts,).
        folds: the outer folds, over prompts.
        seed: of inner folds and trees.
    """
    # With few prompts, one of many readers is good by chance, so only the simplest two are weighed up.
    names = ORDER if len(share) >= FEW else ORDER[:2]
    easiness = {name: np.zeros(len(share)) for name in names}
    for train, test in folds:
        for name, fitted in fit_all(seen, share, train, seed, names).items():
            easiness[name][test] = values_of(fitted, seen, test)
    losses = {name: log_losses(share, sigmoid(values)) for name, values in easiness.items()}
    name = simplest_good_one(losses)
    everything = np.arange(len(share))
    fitted = fit_all(seen, share, everything, seed, names)[name]
    compared = {
        reader: {"log_loss": float(losses[reader].mean()), "auc": auc(share, sigmoid(values))}
        for reader, values in easiness.items()
    }
    stored = {
        "name": name,
        "intercept": fitted.intercept,
        "forest": fitted.forest,
        "parts": [{"kind": kind, "weights": weights.tolist()} for kind, weights in fitted.parts.items()],
        "compared": compared,
    }
    # A constant that leaves a fold out is lower where that fold is higher; scaled by that, it would turn round.
    values = np.full(len(share), fitted.intercept) if name == "constant" else easiness[name]
    return Choice(stored, fitted.trees or constant_forest(0.5), values, easiness)


def simplest_good_one(losses: dict[str, Array]) -> str:
    """The first reader that loses at most one standard error to the one with the lowest loss.

    Args:
        losses: of each prompt, by reader, (prompts,); the simplest reader first.
    """
    best = min(losses, key=lambda name: float(losses[name].mean()))
    for name, loss in losses.items():
        difference = loss - losses[best]
        if difference.mean() <= difference.std() / np.sqrt(len(difference)):
            return name
    return best


def fit_all(seen: Seen, share: Array, rows: Rows, seed: int, names: Sequence[str] = ORDER) -> dict[str, Fitted]:
    """Readers, fitted on some prompts; what each chooses for itself is cross-validated within them.

    Args:
        seen: of all prompts.
        share: of right samples, of all prompts.
        rows: the prompts to fit on.
        seed: of folds and trees.
        names: which readers; the stack needs those that it stacks.
    """
    inner = _folds(rows, seed)
    target = share[rows]
    fitted = {"constant": Fitted(_average(target), 0.0, {}, None)}
    out_of_fold: dict[str, Array] = {}
    kinds: list[Kind] = [kind for kind in _LINEAR if kind in names]
    for kind in kinds:
        fitted[kind], out_of_fold[kind] = _linear(kind, seen.inputs[kind][rows], target, inner)
    if "forest" in names:
        trees, out_of_fold["forest"] = boost(SHARE, seen.counts[rows], target, inner, seed)
        fitted["forest"] = Fitted(0.0, 1.0, {}, trees)
    if "stack" in names:
        fitted["stack"] = _stack(fitted, out_of_fold, target)
    return fitted


def _linear(kind: Kind, inputs: Matrix, share: Array, folds: Folds) -> tuple[Fitted, Array]:
    """A linear reader with the penalty that predicts best across the folds, and its out-of-fold easiness."""
    mean, scale = _standard(inputs)
    standard: Matrix = inputs if isinstance(inputs, csr_array) else (inputs - mean) / scale
    tried: list[Array] = []
    for penalty in PENALTIES:
        values = np.zeros(len(share))
        for train, test in folds:
            weights, intercept = _ridge(standard[train], share[train], penalty)
            values[test] = standard[test] @ weights + intercept
        tried.append(values)
    best = int(np.argmin([log_losses(share, sigmoid(values)).mean() for values in tried]))
    weights, intercept = _ridge(standard, share, PENALTIES[best])
    weights = weights / scale
    return Fitted(intercept - float(weights @ mean), 0.0, {kind: weights}, None), tried[best]


def _ridge(inputs: Matrix, share: Array, penalty: float) -> tuple[Array, float]:
    """Weights and intercept of a logistic regression on shares: each row counts as right and as wrong, weighted."""
    width = _width(inputs)
    weights = np.r_[share, 1 - share]
    used = weights > 0
    labels = np.r_[np.ones(len(share)), np.zeros(len(share))][used]
    if len(set(labels)) == 1:
        return np.zeros(width), _average(share)
    both = vstack([inputs, inputs]).tocsr() if isinstance(inputs, csr_array) else np.r_[inputs, inputs]
    model = LogisticRegression(C=penalty, max_iter=500).fit(both[used], labels, sample_weight=weights[used])
    return model.coef_[0], float(model.intercept_[0])


def _stack(fitted: dict[str, Fitted], out_of_fold: dict[str, Array], share: Array) -> Fitted:
    """A sum of some readers, weighted by how well they predict together; weights are never negative."""
    names = [*STACKED]
    while True:
        x = np.column_stack([*(out_of_fold[name] for name in names), np.ones(len(share))])
        prior = np.r_[np.full(len(names), 1 / len(names)), 0.0]
        weights = fit_logistic(x, share, prior)
        lowest = int(weights[:-1].argmin())
        if weights[lowest] >= 0 or len(names) == 1:
            break
        del names[lowest]
    parts: dict[Kind, Array] = {}
    intercept, forest = float(weights[-1]), 0.0
    for name, weight in zip(names, weights, strict=False):
        one = fitted[name]
        intercept += weight * one.intercept
        forest += weight * one.forest
        parts |= {kind: weight * values for kind, values in one.parts.items()}
    return Fitted(intercept, forest, parts, fitted["forest"].trees if forest else None)


def values_of(fitted: Fitted, seen: Seen, rows: Rows) -> Array:
    """A reader's easiness of some prompts, in logits, (rows,)."""
    values = np.full(len(rows), fitted.intercept)
    for kind, weights in fitted.parts.items():
        values += seen.inputs[kind][rows] @ weights
    if fitted.forest and fitted.trees:
        values += fitted.forest * _walked(fitted.trees, seen.counts[rows])
    return values


def _walked(trees: dict[str, Any], inputs: Array) -> Array:
    """A forest's value for each row."""
    feature, threshold, left, right = (np.array(trees[name]) for name in ("feature", "threshold", "left", "right"))
    total = np.full(len(inputs), float(trees["intercept"]))
    for root in trees["roots"]:
        node = np.full(len(inputs), root)
        while (left[node] != node).any():
            above = inputs[np.arange(len(inputs)), feature[node]] > threshold[node]
            node = np.where(above, right[node], left[node])
        total += np.array(trees["value"])[node]
    return total


def _folds(rows: Rows, seed: int) -> Folds:
    return list(KFold(min(INNER_FOLDS, len(rows)), shuffle=True, random_state=seed).split(rows))


def _standard(inputs: Matrix) -> tuple[Array, Array]:
    """Mean and scale of each input; hashed words are of one scale already."""
    if isinstance(inputs, csr_array):
        return np.zeros(_width(inputs)), np.ones(_width(inputs))
    spread = inputs.std(0)
    return inputs.mean(0), np.where(spread > _CONSTANT, spread, 1.0)


def _width(inputs: Matrix) -> int:
    shape: Any = inputs.shape  # scipy's stubs allow it to be None
    return int(shape[1])


def _hashed(prompts: Sequence[str]) -> csr_array:
    found = [ngrams_of(prompt, BUCKETS) for prompt in prompts]
    indices = np.concatenate([buckets for buckets, _ in found])
    values = np.concatenate([weights for _, weights in found])
    ends = np.cumsum([0, *(len(buckets) for buckets, _ in found)])
    return csr_array((values, indices, ends), shape=(len(prompts), BUCKETS))


def _average(share: Array) -> float:
    """The logit of the mean share, with one sample more, half right, so that few prompts are never certain."""
    return logit(float(share.sum() + 0.5) / (len(share) + 1))
