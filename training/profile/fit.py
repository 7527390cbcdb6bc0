"""How is the difficulty profile fitted? A reader of prompts and boosted trees, from validation outcomes.

One reader serves all checkpoints, so that it learns from all their outcomes what makes a question hard: `readers`
chooses it, and each checkpoint scales what it says. For lengths of thinking and of answers (`answers`) there are
forests, of which the position of the checkpoint in the family is an input. `models.profile` describes the file and
reads it; `benchmarks.difficulty` compares this fit with others.

The number of trees comes from cross-validation over *prompts*: samples of one prompt are never on both sides of a fold.
Scores in the report use out-of-fold predictions of the forests. Each checkpoint's scales, residuals and shifts are
fitted on the rows that they are scored on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold

from models.encoder import Encoder
from models.features import features_of, words_of
from models.files import write_text
from models.prediction import LEVELS
from models.stored import SCHEMA_VERSION
from training.profile import answers, cascade, readers
from training.profile.boosting import RISING, SHARE, VALUE, Folds, boost, constant_forest
from training.profile.enough import FEW
from training.profile.logistic import fit_logistic, fit_scale, sigmoid
from training.profile.scores import answer_scores, correct_scores, log_loss, reliability, token_scores
from training.tasks.outcome import BudgetForced, Graded, Outcome

Array = NDArray[np.float64]

MIN_PROMPTS_PER_WORD = 3
"""A word is in the vocabulary if at least this many prompts contain it."""
_FOLDS = 5
_MIN_RESIDUAL = 0.02
"""Added to the size of a residual before its logarithm, because some checkpoints think equally long every time."""
_MARGIN = float(np.log(1.25))
"""How far a feature may be outside the range of the fitting prompts before the prompt is unfamiliar."""


def fit(
    outcomes: Mapping[str, Sequence[Graded]],
    budget_forced: Mapping[str, Sequence[BudgetForced]],
    seed: int,
    encoder: Encoder | None = None,
) -> dict[str, Any]:
    """The profile as JSON, escalations that pay included.

    Args:
        outcomes: by checkpoint, over the same prompts; the order of checkpoints gives their positions.
        budget_forced: by checkpoint, answers after thinking that a budget ended; over any prompts.
        seed: for folds and trees.
        encoder: makes readers that need it candidates, too.

    Raises:
        ValueError: the checkpoints were not measured on the same prompts.
    """
    prompts = [row.prompt for row in next(iter(outcomes.values()))]
    for name, rows in outcomes.items():
        if [row.prompt for row in rows] != prompts:
            raise ValueError(f"{name} was measured on other prompts")
    occurrences = Counter(word for prompt in prompts for word in set(words_of(prompt)))
    vocabulary = {word for word, count in occurrences.items() if count >= MIN_PROMPTS_PER_WORD}
    features = np.stack([features_of(prompt, vocabulary) for prompt in prompts])
    n_checkpoints = len(outcomes)
    # Row p * n_checkpoints + c is prompt p at checkpoint c.
    inputs = np.concatenate([_at_every_position(x, n_checkpoints) for x in features])
    accuracy = np.array([[row.accuracy for row in rows] for rows in outcomes.values()]).T.ravel()
    tokens = _counted(outcomes, lambda outcome: outcome.reasoning_tokens)
    seen = readers.see(prompts, features, encoder if len(prompts) >= FEW else None)
    stored, out_of_fold = forests(inputs, accuracy, tokens, n_checkpoints, seed, seen=seen)
    answer_tokens = _counted(outcomes, lambda outcome: outcome.answer_tokens)
    answered = answers.fit(inputs, answer_tokens, n_checkpoints, _folds(len(inputs), n_checkpoints, seed), seed)
    failure = 1 - out_of_fold.correct.reshape(-1, n_checkpoints).mean(1)
    forced, shifts, forced_scores = _fit_budget_forced([budget_forced[name] for name in outcomes], vocabulary, seed)
    return {
        "schema_version": SCHEMA_VERSION,
        "vocabulary": sorted(vocabulary),
        "lower": (features.min(0) - _MARGIN).tolist(),
        "upper": (features.max(0) + _MARGIN).tolist(),
        "difficulties": np.quantile(failure, np.linspace(0, 1, 101)).tolist(),
        **stored,
        "scales": dict(zip(outcomes, stored["scales"], strict=True)),
        "residuals": dict(zip(outcomes, stored["residuals"], strict=True)),
        "answers": answered and answered.forest,
        "answer_scales": dict(zip(outcomes, answered.scales, strict=True)) if answered else {},
        "escalations": _fit_escalations(outcomes, out_of_fold),
        "reliability": {
            name: reliability(accuracy[c::n_checkpoints], out_of_fold.correct[c::n_checkpoints])
            for c, name in enumerate(outcomes)
        },
        "budget_forced": forced,
        "budget_forced_shifts": dict(zip(outcomes, shifts, strict=True)),
        "report": {
            name: _scores(rows, slice(c, None, n_checkpoints), out_of_fold, answered)
            | forced_scores[c]
            | {"prompts": float(len(prompts)), "samples": float(tokens.shape[1])}
            for c, (name, rows) in enumerate(outcomes.items())
        },
    }


class OutOfFold(NamedTuple):
    """Predictions for prompts by forests that were not fitted on them."""

    correct: Array
    """P(correct), (rows,)."""
    quantiles: Array
    """Reasoning tokens at `LEVELS`, (rows, levels)."""
    easiness: Array
    """What P(correct) is scaled from, (prompts,)."""
    log_tokens: Array
    """The predicted mean of log(1 + reasoning tokens), (rows,)."""


def forests(
    inputs: Array, accuracy: Array, tokens: Array, n_checkpoints: int, seed: int, *, seen: readers.Seen | None = None
) -> tuple[dict[str, Any], OutOfFold]:
    """The three forests, the scales and the residuals by position, and the predictions of cross-validation.

    Args:
        inputs: (prompts * n_checkpoints, width), a prompt's checkpoints one after the other.
        accuracy: share of correct samples, (prompts * n_checkpoints,).
        tokens: reasoning tokens, (prompts * n_checkpoints, samples).
        n_checkpoints: the number of checkpoints.
        seed: for folds and trees.
        seen: what readers see of the prompts, of which the best one is chosen; None: the forest reads the inputs.
    """
    folds = _folds(len(inputs), n_checkpoints, seed)
    log_tokens = np.log1p(tokens)
    prompt_folds = [
        (train[::n_checkpoints] // n_checkpoints, test[::n_checkpoints] // n_checkpoints) for train, test in folds
    ]
    by_position = accuracy.reshape(-1, n_checkpoints)
    reader: dict[str, Any] = {}
    if seen is None:
        correct, easiness = boost(SHARE, inputs[::n_checkpoints, :-1], by_position.mean(1), prompt_folds, seed)
    else:
        choice = readers.choose(seen, by_position.mean(1), prompt_folds, seed)
        correct, easiness, reader = choice.forest, choice.easiness, {"reader": choice.stored, "encoder": choice.encoder}
    scales = [fit_scale(easiness, by_position[:, position]) for position in range(n_checkpoints)]
    logits = np.stack([a * easiness + b for a, b in scales], axis=1).ravel()
    mean, predicted_mean = boost(VALUE, inputs, log_tokens.mean(1), folds, seed)
    residual = log_tokens - predicted_mean[:, None]
    spread, log_size = boost(VALUE, inputs, np.log(np.abs(residual).mean(1) + _MIN_RESIDUAL), folds, seed)
    size = np.exp(log_size)[:, None]
    residuals = [np.quantile((residual / size)[position::n_checkpoints], LEVELS) for position in range(n_checkpoints)]
    quantiles = np.expm1(predicted_mean[:, None] + size * np.tile(residuals, (len(by_position), 1)))
    stored = {
        "correct": correct,
        **reader,
        "scales": [list(scale) for scale in scales],
        "tokens": mean,
        "spread": spread,
        "residuals": [z.tolist() for z in residuals],
    }
    return stored, OutOfFold(sigmoid(logits), quantiles, easiness, predicted_mean)


def _fit_escalations(outcomes: Mapping[str, Sequence[Graded]], out_of_fold: OutOfFold) -> dict[str, Any]:
    """The escalations that pay, each with the weights that predict it from out-of-fold predictions."""
    stored: dict[str, Any] = {}
    order = list(outcomes)
    for name, (escalation, rows) in cascade.worthwhile(outcomes).items():
        first = outcomes[escalation.first]
        unsure = [[cascade.is_unsure(o, escalation.surprisal) for o in row.outcomes] for row in first]
        log_tokens = out_of_fold.log_tokens.reshape(-1, len(order))[:, order.index(escalation.first)]
        x = np.column_stack([np.ones_like(log_tokens), out_of_fold.easiness, log_tokens])
        stored[name] = {
            **escalation.model_dump(),
            "scale": list(fit_scale(out_of_fold.easiness, np.array([row.accuracy for row in rows]))),
            "unsure": fit_logistic(x, np.mean(unsure, axis=1), np.zeros(3)).tolist(),
            "measured": dict(zip(("tokens", "accuracy"), cascade.tokens_and_accuracy(rows), strict=True)),
        }
    return stored


def _fit_budget_forced(
    outcomes: Sequence[Sequence[BudgetForced]], vocabulary: Container[str], seed: int
) -> tuple[dict[str, Any], list[list[float]], list[dict[str, float]]]:
    """For budget-forced answers: the forest, and by position the shifts and the scores.

    One forest serves all checkpoints, because the question makes most of the difference. A checkpoint adds a shift for
    each budget; the fewer its outcomes, the closer the shifts are to 0. Scores are of out-of-fold forests, with the
    shifts.
    """
    flat = [
        (outcome, position)
        for position, outcomes_of_checkpoint in enumerate(outcomes)
        for outcome in outcomes_of_checkpoint
    ]
    features = {prompt: features_of(prompt, vocabulary) for prompt in sorted({outcome.prompt for outcome, _ in flat})}
    if len(features) < _FOLDS:  # too few to learn from: predict that nothing is correct
        return constant_forest(0.0), [[0.0] for _ in outcomes], [{} for _ in outcomes]
    position = np.array([position for _, position in flat])
    correct = np.array([outcome.correct for outcome, _ in flat], dtype=float)
    u = np.log2([1.0 + outcome.budget for outcome, _ in flat])
    inputs = np.stack([np.r_[features[outcome.prompt], at] for (outcome, _), at in zip(flat, u, strict=True)])
    prompt_index = {prompt: i for i, prompt in enumerate(features)}
    splits = GroupKFold(_FOLDS, shuffle=True, random_state=seed)
    folds = list(splits.split(inputs, groups=[prompt_index[outcome.prompt] for outcome, _ in flat]))
    forest, logits = boost(RISING, inputs, correct, folds, seed)
    knots = np.arange(int(np.ceil(u.max())) + 1)
    interpolation_basis = np.stack([np.interp(u, knots, basis) for basis in np.eye(len(knots))], axis=1)
    shifts: list[list[float]] = []
    scores: list[dict[str, float]] = []
    for rows in (position == index for index in range(len(outcomes))):
        if not rows.any():  # nothing is known of this checkpoint, so it is like the others
            shifts.append([0.0] * len(knots))
            scores.append({})
            continue
        shift = fit_logistic(interpolation_basis[rows], correct[rows], np.zeros(len(knots)), logits[rows])
        shifts.append(shift.tolist())
        scores.append(
            {
                "budget_forced_log_loss": log_loss(
                    correct[rows], sigmoid(logits[rows] + interpolation_basis[rows] @ shift)
                ),
                "budget_forced_log_loss_constant": log_loss(correct[rows], np.full(rows.sum(), correct[rows].mean())),
            }
        )
    return forest, shifts, scores


def save(profile: dict[str, Any], path: Path) -> None:
    """Write the profile atomically, its numbers with six digits."""
    write_text(path, json.dumps(_rounded(profile)) + "\n")


def _counted(outcomes: Mapping[str, Sequence[Graded]], count: Callable[[Outcome], int]) -> Array:
    """A number of each sample, in the order of the inputs, (prompts * n_checkpoints, samples)."""
    by_checkpoint = [[[count(outcome) for outcome in row.outcomes] for row in rows] for rows in outcomes.values()]
    every = np.stack(by_checkpoint, axis=1).astype(float)
    return every.reshape(-1, every.shape[-1])


def _folds(rows: int, n_checkpoints: int, seed: int) -> Folds:
    """Folds over rows of inputs; the rows of one prompt are never on both sides."""
    prompt = np.repeat(np.arange(rows // n_checkpoints), n_checkpoints)
    splits = GroupKFold(min(_FOLDS, prompt[-1] + 1), shuffle=True, random_state=seed)
    return list(splits.split(prompt, groups=prompt))


def _at_every_position(features: Array, n_checkpoints: int) -> Array:
    """The forests' inputs for one prompt at every position, (n_checkpoints, features + 1)."""
    return np.column_stack([np.tile(features, (n_checkpoints, 1)), np.arange(n_checkpoints, dtype=float)])


def _scores(
    rows: Sequence[Graded], own: slice, out_of_fold: OutOfFold, answered: answers.Answers | None
) -> dict[str, float]:
    """Scores of one checkpoint's out-of-fold predictions, which are at `own` among those of all."""
    accuracy = np.array([row.accuracy for row in rows])
    tokens = np.array([[o.reasoning_tokens for o in row.outcomes] for row in rows], dtype=float)
    answer_tokens = np.array([[o.answer_tokens for o in row.outcomes] for row in rows], dtype=float)
    auc = cascade.surprisal_auc(rows)
    return {
        **correct_scores(accuracy, out_of_fold.correct[own]),
        **token_scores(tokens, out_of_fold.quantiles[own]),
        **(answer_scores(answer_tokens, answered.expected[own]) if answered else {}),
        **({} if auc is None else {"surprisal_auc": auc}),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value
