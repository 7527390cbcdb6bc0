"""How hard is this prompt, and what would each checkpoint make of it? The difficulty profile, read side.

Boosted forests over the counts x of the prompt, all but one of them over the checkpoint c's place in the family, too:

    P(correct | x, c)       = sigmoid(a_c f(x) + b_c)
    log(1 + tokens) | x, c  = g(x, c) + exp(h(x, c)) z,   z drawn from the checkpoint's residual quantiles

The first is the two-parameter logistic model of item response theory (Birnbaum, 1968): how easy a question is, f, is
read off the prompt, and what a checkpoint makes of easy and hard ones are two numbers each, so that even differences
between checkpoints that are small beside those between questions can be learned. Thinking that a budget B stops may
still be answered right, which one more forest and a line of numbers d for each checkpoint say; it never falls with B:

    P(correct | stopped at B, x, c) = sigmoid(s(x, u) + d_c(u)),   u = log2(1 + B), between whole u interpolated

So a prediction is a probability and a whole distribution of reasoning tokens, and what a budget leaves of the former.
Where a second checkpoint thinks again whenever the first was unsure (`Escalation`), tokens are a mixture of theirs:

    P(correct | x) = sigmoid(a f(x) + b),   P(unsure | x) = sigmoid(u f(x) + v g(x, first) + w)

Counts need no tokenizer: numbers, digits, operators, words, lines. Its limits: it counts words and does not know what
they mean, and it takes being correct and thinking briefly as independent given the prompt (decision 13 says what that
costs). `laconic-train profile` fits it; the file is JSON, so loading executes nothing.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from models import features
from models.features import FEATURES, features_of
from models.field import path_of
from models.forest import Forest, Forests

Vector = NDArray[np.float64]

SCHEMA_VERSION = 7
LEVELS: Vector = np.concatenate([[0.0], np.arange(0.025, 1.0, 0.05), [1.0]])
"""Quantile levels of the reasoning-token distribution, (22,)."""

_TRAPEZOIDS: Vector = np.convolve(np.diff(LEVELS), [0.5, 0.5]).astype(np.float64)
"""Weights with which quantiles at `LEVELS` sum up to the mean, (22,)."""


class ProfileError(ValueError):
    """A profile that cannot be used; the message is one line."""


class Escalation(BaseModel):
    """One checkpoint thinks, and where its thinking was unsure of itself, another thinks anew and answers in its place.

    Unsure is thinking whose surprisal, -log P of its tokens up to and with the end marker, exceeds a threshold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    first: str
    second: str
    surprisal: float
    """The threshold, in nats."""


@dataclass(frozen=True)
class ChoicePrediction:
    """What one checkpoint is expected to do with one prompt when nothing caps it."""

    p_correct: float
    tokens: Vector
    """Reasoning tokens at `LEVELS`, non-decreasing, (22,)."""
    budget_forced: Callable[[float], float] = lambda _: 0.0
    """P(correct) of thinking that is stopped after so many tokens; never falls."""
    tokens_before: float = 0.0
    """Tokens that are spent before the thinking that `budget_forced` is about."""
    escalation: Escalation | None = None
    """Where this is not about one checkpoint; tokens are then those of both, and what is stopped is the second's."""
    mixture: tuple[tuple[float, Vector], ...] = ()
    """Where the tokens are one: shares, and what each has at `LEVELS`. `tokens` are too coarse for its rare part."""

    def p_within(self, budget: int | None) -> float:
        """P(reasoning tokens <= budget); None means unlimited."""
        if budget is None or budget >= self.tokens[-1]:
            return 1.0
        return sum(share * float(np.interp(budget, tokens, LEVELS)) for share, tokens in self._parts)

    def success(self, budget: int | None) -> float:
        """P(correct) under the budget, the thinking stopped where that ends: never more than without."""
        if budget is None:
            return self.p_correct
        if (within := self.p_within(budget)) == 1.0:
            return self.p_correct
        stopped = self.budget_forced(max(budget - self.tokens_before, 0.0))
        return min(self.p_correct, self.p_correct * within + stopped * (1.0 - within))

    def expected_tokens(self, budget: int | None = None) -> float:
        """E[min(reasoning tokens, budget)]: what the checkpoint is expected to spend under the cap."""
        capped = math.inf if budget is None else budget
        return sum(share * float(np.minimum(tokens, capped) @ _TRAPEZOIDS) for share, tokens in self._parts)

    @property
    def _parts(self) -> tuple[tuple[float, Vector], ...]:
        return self.mixture or ((1.0, self.tokens),)


@dataclass(frozen=True)
class Prediction:
    """The profile's word on one prompt."""

    difficulty: float
    """0 to 1: the share of the fitting prompts that were predicted to be easier for the checkpoints."""
    familiar: bool
    """False: the prompt is unlike what the profile was fitted on, and its predictions are not to be used."""
    choices: dict[str, ChoicePrediction]


class _StoredEscalation(Escalation):
    scale: tuple[float, float]
    """a and b."""
    unsure: tuple[float, float, float]
    """w, u and v."""
    measured: dict[str, float]
    """`tokens` and `accuracy` on the fitting prompts, to be read by people."""


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    schema_version: int
    vocabulary: list[str]
    lower: list[float]
    upper: list[float]
    difficulties: list[float]
    correct: Forest
    scales: dict[str, tuple[float, float]]
    """a and b by checkpoint."""
    tokens: Forest
    spread: Forest
    escalations: dict[str, _StoredEscalation]
    """By name."""
    budget_forced: Forest
    """s, of the counts and u."""
    budget_forced_shifts: dict[str, list[float]]
    """d at u = 0, 1, ..., by checkpoint."""
    residuals: dict[str, list[float]]
    """z at `LEVELS`, by checkpoint in the order of their places."""
    report: dict[str, dict[str, float]]


class Profile:
    """A fitted profile. `read` is pure and takes well under a millisecond."""

    def __init__(self, stored: _Stored) -> None:
        _check(stored)
        places = len(stored.residuals)
        try:
            self._forests = Forests([stored.correct, stored.tokens, stored.spread], len(FEATURES), places)
            self._budget_forced = Forests(
                [stored.budget_forced], len(FEATURES), len(next(iter(stored.budget_forced_shifts.values())))
            )
        except ValueError as error:
            raise ProfileError(str(error)) from None
        self.stored = stored
        self.checkpoints = tuple(stored.residuals)
        self.escalations = {
            name: Escalation(first=kept.first, second=kept.second, surprisal=kept.surprisal)
            for name, kept in stored.escalations.items()
        }
        self._vocabulary = frozenset(stored.vocabulary)
        self._lower, self._upper = np.array(stored.lower), np.array(stored.upper)
        self._longest = int(np.expm1(stored.upper[FEATURES.index("characters")]))
        self._slope, self._shift = np.array(list(stored.scales.values())).T
        self._shifts = np.array(list(stored.budget_forced_shifts.values()))
        self._residuals = np.sort(np.array(list(stored.residuals.values())), axis=1)
        self._difficulties = np.sort(np.array(stored.difficulties))

    @classmethod
    def of(cls, raw: object) -> Self:
        """A profile from what `training.profile.fit.fit` made, or the file's JSON."""
        return cls(_Stored.model_validate(raw))

    def predict(self, prompt: str) -> Prediction:
        """Predict for one prompt; any text, the empty one included. Of a longer one than fitting saw only the start."""
        counts = features_of(prompt[: self._longest + 1], self._vocabulary)
        correct, mean, spread = self._forests(counts).T
        p_correct = _sigmoid(self._slope * correct + self._shift)
        log_tokens = mean[:, None] + np.exp(np.minimum(spread, 10.0))[:, None] * self._residuals
        tokens = np.maximum(np.expm1(np.minimum(log_tokens, 20.0)), 0.0)
        failure = 1.0 - float(p_correct.mean())
        difficulty = int(self._difficulties.searchsorted(failure)) / max(len(self._difficulties), 1)
        stopped = self._budget_forced_curves(counts)
        predictions = {
            name: ChoicePrediction(float(p_correct[i]), tokens[i], stopped[i])
            for i, name in enumerate(self.checkpoints)
        }
        escalated = {name: self._escalated(name, predictions, correct, mean) for name in self.escalations}
        return Prediction(difficulty, features.is_familiar(counts, self._lower, self._upper), predictions | escalated)

    def _budget_forced_curves(self, counts: Vector) -> list[Callable[[float], float]]:
        """By place: P(correct) by where the thinking is stopped. The forest is asked when somebody wants to know."""

        @functools.cache
        def levels() -> Vector:
            return np.maximum.accumulate(_sigmoid(self._budget_forced(counts)[:, 0] + self._shifts), axis=1)

        return [
            lambda budget, place=place: _between(levels()[place], math.log2(1.0 + budget))
            for place in range(len(self.checkpoints))
        ]

    def _escalated(
        self, name: str, predictions: Mapping[str, ChoicePrediction], correct: Vector, mean: Vector
    ) -> ChoicePrediction:
        """What second thoughts come to, by what is predicted of their checkpoints and what the forests said of x."""
        kept, escalation = self.stored.escalations[name], self.escalations[name]
        constant, u, v = kept.unsure
        z = np.array(
            [
                constant + u * correct[0] + v * mean[self.checkpoints.index(kept.first)],
                kept.scale[0] * correct[0] + kept.scale[1],
            ]
        )
        unsure, p_correct = _sigmoid(z).tolist()
        first, second = predictions[kept.first], predictions[kept.second]
        mixture = ((1.0 - unsure, first.tokens), (unsure, first.tokens + second.tokens))
        return ChoicePrediction(
            p_correct,
            _quantiles(mixture),
            budget_forced=second.budget_forced,
            tokens_before=first.expected_tokens(),
            escalation=escalation,
            mixture=mixture,
        )


def _between(values: Vector, at: float) -> float:
    """Interpolated between values at 0, 1, ...; beyond the last the last."""
    if at >= len(values) - 1:
        return float(values[-1])
    below = int(at)
    return float(values[below] + (at - below) * (values[below + 1] - values[below]))


def _quantiles(mixture: Sequence[tuple[float, Vector]]) -> Vector:
    """Quantiles at `LEVELS` of a mixture of what has others there, (22,)."""
    values = np.concatenate([tokens for _, tokens in mixture])
    weights = np.concatenate([share * _TRAPEZOIDS for share, _ in mixture])
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    found = np.interp(LEVELS, np.cumsum(weights) - 0.5 * weights, values)
    found[0], found[-1] = values[0], values[-1]
    return found


def _check(stored: _Stored) -> None:
    """See that what is stored fits together."""
    for bound, bounds in (("lower", stored.lower), ("upper", stored.upper)):
        if len(bounds) != len(FEATURES):
            raise ProfileError(f"{bound} has {len(bounds)} values, not {len(FEATURES)}")
    for name, values in stored.residuals.items():
        if len(values) != len(LEVELS):
            raise ProfileError(f"residuals.{name} has {len(values)} values, not {len(LEVELS)}")
    _check_places(stored)


def _check_places(stored: _Stored) -> None:
    """See that everything is of the same places."""
    if not stored.residuals:
        raise ProfileError("residuals is empty")
    if list(stored.scales) != list(stored.residuals):
        raise ProfileError(f"scales is of {', '.join(stored.scales)}, residuals of {', '.join(stored.residuals)}")
    if list(stored.budget_forced_shifts) != list(stored.residuals):
        raise ProfileError(
            f"budget_forced_shifts is of {', '.join(stored.budget_forced_shifts)},"
            f" residuals of {', '.join(stored.residuals)}"
        )
    if len({len(shifts) for shifts in stored.budget_forced_shifts.values()} - {0}) != 1:
        raise ProfileError("budget_forced_shifts: every checkpoint needs the same number of them, at least one")
    for name, escalation in stored.escalations.items():
        if name in stored.residuals:
            raise ProfileError(f"escalations.{name}: a checkpoint is called so")
        for field in ("first", "second"):
            if (checkpoint := getattr(escalation, field)) not in stored.residuals:
                raise ProfileError(f"escalations.{name}.{field}: {checkpoint} is none of the checkpoints")


def load(path: Path) -> Profile:
    """Read a profile.

    Raises:
        ProfileError: the file is missing, not JSON, of an unknown version, or its arrays do not fit each other.
    """
    try:
        raw = json.loads(path.read_text())
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ProfileError(f"{path}: not JSON ({error})") from None
    if not isinstance(raw, dict) or cast("dict[str, object]", raw).get("schema_version") != SCHEMA_VERSION:
        raise ProfileError(f"{path}: not a difficulty profile of version {SCHEMA_VERSION}")
    try:
        return Profile.of(cast("object", raw))
    except ValidationError as error:
        first = error.errors()[0]
        raise ProfileError(f"{path}: {path_of(first['loc'])}: {first['msg']}") from None
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None


def _sigmoid(z: Vector) -> Vector:
    return 1.0 / (1.0 + np.exp(-np.minimum(np.maximum(z, -50), 50)))
