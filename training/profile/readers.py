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

from models.encoder import Encoder
from models.neighbours import MOST, Neighbours
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
_LINEAR: tuple[Kind, ...] = ("length", "counts", "text", "ngrams", "encoder")
STACKS: dict[str, tuple[str, ...]] = {
    "stack": ("text", "ngrams", "forest"),
    "full": ("text", "ngrams", "forest", "neighbours", "encoder"),
}
"""What each stack weighs up."""
_CONSTANT = 1e-9
"""Inputs that vary less are the same everywhere but for rounding."""
WITHOUT_ENCODER = ("constant", "length", "counts", "text", "ngrams", "forest", "stack")
ORDER = (*WITHOUT_ENCODER, "neighbours", "encoder", "full")
"""The readers, the simplest first."""


class Seen(NamedTuple):
    """What the readers see of the prompts."""

    inputs: dict[str, Matrix]
    """By kind, (prompts, width). The forest sees the counts, neighbours what the encoder makes of the prompts."""
    encoder: Encoder | None

    @property
    def counts(self) -> Array:
        """What the forest sees, (prompts, features)."""
        return _dense(self.inputs["counts"])

    @property
    def readers(self) -> tuple[str, ...]:
        """The readers that can be weighed up, the simplest first."""
        return WITHOUT_ENCODER if self.encoder is None else ORDER

    def of(self, rows: Rows) -> Seen:
        """What they see of some of the prompts."""
        inputs = {kind: matrix[rows] for kind, matrix in self.inputs.items()}
        return Seen(inputs, self.encoder)


class Fitted(NamedTuple):
    """One reader: easiness = intercept + forest x the forest's value + near x the neighbours' + the parts' values."""

    intercept: float
    parts: dict[Kind, Array]
    forest: float = 0.0
    trees: dict[str, Any] | None = None
    near: float = 0.0
    neighbours: Neighbours | None = None


@dataclass(frozen=True)
class Choice:
    """The reader that was chosen."""

    stored: dict[str, Any]
    """As `models.reader.StoredReader` reads it."""
    encoder: dict[str, str] | None
    """As `models.encoder.StoredEncoder` reads it; None if the reader needs none."""
    forest: dict[str, Any]
    """The forest that it reads, or a constant one."""
    easiness: Array
    """Out-of-fold easiness of every prompt, in logits, (prompts,)."""
    every: dict[str, Array]
    """The same, by each reader."""
    fitted: dict[str, Fitted]
    """Each reader, fitted on all prompts."""


def see(prompts: Sequence[str], counts: Array, encoder: Encoder | None = None) -> Seen:
    """What the readers see of these prompts; with an encoder, those that need it are weighed up, too."""
    inputs: dict[str, Matrix] = {
        "length": np.log1p([[float(len(prompt))] for prompt in prompts]),
        "counts": counts,
        "text": np.stack([text_of(prompt) for prompt in prompts]),
        "ngrams": _hashed(prompts),
    }
    if encoder is not None:
        inputs["encoder"] = np.stack([encoder(prompt) for prompt in prompts])
    return Seen(inputs, encoder)


def choose(seen: Seen, share: Array, folds: Folds, seed: int) -> Choice:
    """Compare all readers, and fit the simplest good one on all prompts.

    Args:
        seen: of the prompts.
        share: share of right samples over all checkpoints, in [0, 1], (prompts,).
        folds: the outer folds, over prompts.
        seed: of inner folds and trees.
    """
    # With few prompts, one of many readers is good by chance, so only the simplest two are weighed up.
    names = seen.readers if len(share) >= FEW else ORDER[:2]
    easiness = {name: np.zeros(len(share)) for name in names}
    for train, test in folds:
        for name, fitted in fit_all(seen, share, train, seed, names).items():
            easiness[name][test] = values_of(fitted, seen, test)
    losses = {name: log_losses(share, sigmoid(values)) for name, values in easiness.items()}
    name = simplest_good_one(losses)
    every = fit_all(seen, share, np.arange(len(share)), seed, names)
    fitted = every[name]
    compared = {
        reader: {"log_loss": float(losses[reader].mean()), "auc": auc(share, sigmoid(values))}
        for reader, values in easiness.items()
    }
    stored = {
        "name": name,
        "intercept": fitted.intercept,
        "forest": fitted.forest,
        "parts": [{"kind": kind, "weights": weights.tolist()} for kind, weights in fitted.parts.items()],
        "neighbours": fitted.neighbours and fitted.neighbours.store(fitted.near),
        "compared": compared,
    }
    encodes = seen.encoder is not None and ("encoder" in fitted.parts or fitted.neighbours is not None)
    # A constant that leaves a fold out is lower where that fold is higher; scaled by that, it would turn round.
    values = np.full(len(share), fitted.intercept) if name == "constant" else easiness[name]
    return Choice(
        stored,
        seen.encoder.stored.model_dump() if seen.encoder and encodes else None,
        fitted.trees or constant_forest(0.5),
        values,
        easiness,
        every,
    )


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


def fit_all(
    seen: Seen, share: Array, rows: Rows, seed: int, names: Sequence[str] = WITHOUT_ENCODER
) -> dict[str, Fitted]:
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
    fitted = {"constant": Fitted(_average(target), {})}
    out_of_fold: dict[str, Array] = {}
    kinds: list[Kind] = [kind for kind in _LINEAR if kind in names]
    for kind in kinds:
        fitted[kind], out_of_fold[kind] = _linear(kind, seen.inputs[kind][rows], target, inner)
    if "forest" in names:
        trees, out_of_fold["forest"] = boost(SHARE, seen.counts[rows], target, inner, seed)
        fitted["forest"] = Fitted(0.0, {}, forest=1.0, trees=trees)
    if "neighbours" in names:
        kept = np.arange(len(rows))[:MOST]
        neighbours = Neighbours.of(_dense(seen.inputs["encoder"])[rows[kept]], target[kept])
        out_of_fold["neighbours"] = neighbours(_dense(seen.inputs["encoder"])[rows])
        out_of_fold["neighbours"][kept] = neighbours.without_each()
        fitted["neighbours"] = Fitted(0.0, {}, near=1.0, neighbours=neighbours)
    return fitted | {name: _stack(fitted, out_of_fold, target, STACKS[name]) for name in STACKS if name in names}


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
    return Fitted(intercept - float(weights @ mean), {kind: weights}), tried[best]


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
    return np.ravel(model.coef_), float(np.ravel(model.intercept_)[0])


def _stack(fitted: dict[str, Fitted], out_of_fold: dict[str, Array], share: Array, stacked: Sequence[str]) -> Fitted:
    """A sum of some readers, weighted by how well they predict together; weights are never negative."""
    names = [*stacked]
    while True:
        x = np.column_stack([*(out_of_fold[name] for name in names), np.ones(len(share))])
        prior = np.r_[np.full(len(names), 1 / len(names)), 0.0]
        weights = fit_logistic(x, share, prior)
        lowest = int(weights[:-1].argmin())
        if weights[lowest] >= 0 or len(names) == 1:
            break
        del names[lowest]
    parts: dict[Kind, Array] = {}
    intercept, by_name = float(weights[-1]), dict(zip(names, weights.tolist(), strict=False))
    for name, weight in by_name.items():
        intercept += weight * fitted[name].intercept
        parts |= {kind: weight * values for kind, values in fitted[name].parts.items()}
    forest, near = by_name.get("forest", 0.0), by_name.get("neighbours", 0.0)
    return Fitted(
        intercept,
        parts,
        forest=forest,
        trees=fitted["forest"].trees if forest else None,
        near=near,
        neighbours=fitted["neighbours"].neighbours if near else None,
    )


def values_of(fitted: Fitted, seen: Seen, rows: Rows) -> Array:
    """A reader's easiness of some prompts, in logits, (rows,)."""
    values = np.full(len(rows), fitted.intercept)
    for kind, weights in fitted.parts.items():
        values += seen.inputs[kind][rows] @ weights
    if fitted.forest and fitted.trees:
        values += fitted.forest * _walked(fitted.trees, seen.counts[rows])
    if fitted.near and fitted.neighbours:
        values += fitted.near * fitted.neighbours(_dense(seen.inputs["encoder"])[rows])
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


def _dense(inputs: Matrix) -> Array:
    assert not isinstance(inputs, csr_array)
    return inputs


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
