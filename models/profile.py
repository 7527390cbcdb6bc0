"""How hard is this prompt, and how would each checkpoint do on it? The difficulty profile, as the gateway reads it.

It consists of boosted forests over the features x of the prompt. Those for tokens also take the position of the
checkpoint c in the family as an input:

    P(correct | x, c)       = sigmoid(a_c f(x) + b_c)
    log(1 + tokens) | x, c  = g(x, c) + exp(h(x, c)) z,   z drawn from the checkpoint's residual quantiles

The first is the two-parameter logistic model of item response theory (Birnbaum, 1968). One function of the prompt, f,
says how easy the question is: the reader that fitting chose (`models.reader`). Each checkpoint adds two numbers.
Checkpoints differ much less than questions do, and with two numbers each even small differences can be learned.

Thinking that is ended by a budget B (budget-forced) can still lead to a correct answer. One more forest and a vector
of shifts d for each checkpoint predict how often; the prediction never falls as B grows:

    P(correct | forced at B, x, c) = sigmoid(s(x, u) + d_c(u)),   u = log2(1 + B), interpolated between whole u

So a prediction is a probability of a correct answer, a distribution of reasoning tokens, and what a budget leaves of
the probability. For an `Escalation`, the tokens are a mixture of those of its two checkpoints:

    P(correct | x) = sigmoid(a f(x) + b),   P(unsure | x) = sigmoid(k f(x) + l g(x, first) + m)

Its limits: it counts words and does not know what they mean, and it assumes that a correct answer and short thinking
are independent given the prompt (decision 13 says what that costs). `laconic-train profile` fits it. The file is
JSON, so loading it executes nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from models import encoder as encoders
from models.encoder import Encoder, EncoderError, StoredEncoder
from models.features import FEATURES, features_of, is_familiar
from models.field import first_error, one_line
from models.files import MIB, read_json
from models.floor import Floor
from models.forest import Forest, Forests
from models.reader import Reader, StoredReader

Vector = NDArray[np.float64]

SCHEMA_VERSION = 10
READABLE = (7, 8, 9, 10)
"""Version 7 had no reader: easiness was the forest's value. Version 8 had no encoder. Version 9 had no answers."""
MAX_BYTES = 64 * MIB
MAX_SHIFTS = 64
"""Most values of u, which is the logarithm of a budget."""
MAX_NODES = 2**22
"""Most nodes of a forest at all its positions, which are in memory together."""
LEVELS: Vector = np.concatenate([[0.0], np.arange(0.025, 1.0, 0.05), [1.0]])
"""Quantile levels of the reasoning-token distribution, (22,)."""

_TRAPEZOIDS: Vector = np.convolve(np.diff(LEVELS), [0.5, 0.5]).astype(np.float64)
"""Weights with which the quantiles at `LEVELS` sum to the mean, (22,)."""


class ProfileError(ValueError):
    """The profile cannot be used. The message is one line."""


class Escalation(BaseModel):
    """The checkpoint `first` thinks; if its thinking was unsure, the checkpoint `second` thinks again and answers.

    Thinking is unsure if its surprisal exceeds a threshold: -log P of its tokens, the end marker included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    first: str
    second: str
    surprisal: float
    """The threshold, in nats."""


@dataclass(frozen=True)
class ChoicePrediction:
    """What one choice, a checkpoint or an escalation, is expected to do with one prompt if nothing caps it."""

    p_correct: float
    tokens: Vector
    """Reasoning tokens at `LEVELS`, non-decreasing, (22,)."""
    budget_forced: Callable[[float], float] = lambda _: 0.0
    """P(correct) if thinking is ended after so many tokens; never falls as they grow."""
    tokens_before: float = 0.0
    """Tokens that an escalation spends before its second checkpoint, whose thinking `budget_forced` is about."""
    escalation: Escalation | None = None
    """None for a checkpoint. For an escalation, `tokens` are those of both checkpoints."""
    mixture: tuple[tuple[float, Vector], ...] = ()
    """An escalation's tokens in two parts: their shares and quantiles. `tokens` is too coarse for the rare part."""

    def p_within(self, budget: int | None) -> float:
        """P(reasoning tokens <= budget); None means unlimited."""
        if budget is None or budget >= self.tokens[-1]:
            return 1.0
        return sum(share * float(np.interp(budget, tokens, LEVELS)) for share, tokens in self._parts)

    def p_correct_within(self, budget: int | None) -> float:
        """P(correct) under a budget, whether or not it ends the thinking; never more than without a budget."""
        if budget is None:
            return self.p_correct
        if (within := self.p_within(budget)) == 1.0:
            return self.p_correct
        forced = self.budget_forced(max(budget - self.tokens_before, 0.0))
        return min(self.p_correct, self.p_correct * within + forced * (1.0 - within))

    def expected_tokens(self, budget: int | None = None) -> float:
        """E[min(reasoning tokens, budget)]: the expected reasoning tokens under the cap."""
        capped = math.inf if budget is None else budget
        return sum(share * float(np.minimum(tokens, capped) @ _TRAPEZOIDS) for share, tokens in self._parts)

    @property
    def _parts(self) -> tuple[tuple[float, Vector], ...]:
        return self.mixture or ((1.0, self.tokens),)


@dataclass(frozen=True)
class Prediction:
    """What the profile predicts for one prompt."""

    difficulty: float
    """0 to 1: the share of the fitting prompts that are predicted to be easier."""
    familiar: bool
    """False: the prompt is unlike the fitting prompts, and the predictions must not be used."""
    choices: dict[str, ChoicePrediction]
    """By the name of the checkpoint or escalation."""


class _StoredEscalation(Escalation):
    scale: tuple[float, float]
    """a and b of P(correct)."""
    unsure: tuple[float, float, float]
    """m, k and l of P(unsure)."""
    measured: dict[str, float]
    """`tokens` and `accuracy` on the fitting prompts, for people to read."""


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    schema_version: int
    vocabulary: list[str]
    lower: list[float]
    upper: list[float]
    difficulties: list[float]
    correct: Forest
    reader: StoredReader | None = None
    """How easy a prompt looks; None for what the forest `correct` says."""
    encoder: StoredEncoder | None = None
    """Which encoder the reader needs; None if it needs none."""
    scales: dict[str, tuple[float, float]]
    """a and b by checkpoint."""
    tokens: Forest
    spread: Forest
    answers: Forest | None = None
    """The mean of log(1 + answer tokens); None if no answer tokens were measured."""
    answer_scales: dict[str, float] = {}
    """By checkpoint in the order of `residuals`: E[answer tokens | x] = scale * exp(answers(x)) - 1, at least 0."""
    escalations: dict[str, _StoredEscalation]
    """By name."""
    budget_forced: Forest
    """s, a function of the features and u."""
    budget_forced_shifts: dict[str, list[float]]
    """d at u = 0, 1, ... by checkpoint."""
    residuals: dict[str, list[float]]
    """Quantiles of z at `LEVELS`, by checkpoint in the order of their positions."""
    report: dict[str, dict[str, float]]
    reliability: dict[str, list[tuple[float, float, float]]] = {}
    """By checkpoint, in bins of P(correct): its mean, the share that was correct, and the prompts; for people."""
    floors: list[Floor] = []
    """What keeps which share of the reference's quality, the lowest share first; empty if that was not tested."""


class Profile:
    """A fitted profile. `predict` is pure and takes well under a millisecond."""

    def __init__(self, stored: _Stored, encoder: Encoder | None = None) -> None:
        _check(stored)
        _check_encoder(stored, encoder)
        checkpoints = len(stored.residuals)
        try:
            self._forests = Forests([stored.correct, stored.tokens, stored.spread], len(FEATURES), checkpoints)
            self._budget_forced = Forests(
                [stored.budget_forced], len(FEATURES), len(next(iter(stored.budget_forced_shifts.values())))
            )
            self._longest = int(math.expm1(stored.upper[FEATURES.index("characters")]))
        except (ValueError, OverflowError) as error:
            raise ProfileError(str(error)) from None
        self.stored = stored
        self.checkpoints = tuple(stored.residuals)
        self.escalations = {
            name: Escalation(first=fitted.first, second=fitted.second, surprisal=fitted.surprisal)
            for name, fitted in stored.escalations.items()
        }
        self.floors = tuple(stored.floors)
        self._reader = stored.reader and Reader(stored.reader, encoder)
        self._vocabulary = frozenset(stored.vocabulary)
        self._lower, self._upper = np.array(stored.lower), np.array(stored.upper)
        self._slope, self._shift = np.array(list(stored.scales.values())).T
        self._shifts = np.array(list(stored.budget_forced_shifts.values()))
        self._residuals = np.sort(np.array(list(stored.residuals.values())), axis=1)
        self._difficulties = np.sort(np.array(stored.difficulties))

    @classmethod
    def of(cls, raw: object, encoder: Encoder | None = None) -> Self:
        """A profile from the JSON of its file, or from what `training.profile.fit.fit` returned.

        Args:
            raw: the JSON.
            encoder: the one that it was fitted with, if its reader needs one.

        Raises:
            ProfileError: its arrays do not fit each other, or it needs another encoder.
        """
        return cls(_Stored.model_validate(raw), encoder)

    @property
    def encodes(self) -> bool:
        """Whether a sentence encoder reads each prompt: a prediction then takes milliseconds."""
        return self.stored.encoder is not None

    @property
    def ranks(self) -> bool:
        """Whether the fitting prompts differ in difficulty; not if nothing in a prompt says how hard it is."""
        return len(self._difficulties) > 0 and bool(self._difficulties[-1] > self._difficulties[0])

    def predict(self, prompt: str) -> Prediction:
        """Predict for one prompt, which may be any text, even an empty one.

        Characters beyond 1.25 times the longest fitting prompt are not read: such a prompt is unfamiliar anyway.
        """
        text = prompt[: self._longest + 1]
        x = features_of(text, self._vocabulary)
        correct, mean, spread = self._forests(x).T
        if self._reader is not None:
            correct = self._reader(text, x) + self._reader.forest * correct
        p_correct = _sigmoid(self._slope * correct + self._shift)
        log_tokens = mean[:, None] + np.exp(np.minimum(spread, 10.0))[:, None] * self._residuals
        tokens = np.maximum(np.expm1(np.minimum(log_tokens, 20.0)), 0.0)
        failure = 1.0 - float(p_correct.mean())
        difficulty = int(self._difficulties.searchsorted(failure)) / max(len(self._difficulties), 1)
        budget_forced = self._budget_forced_curves(x)
        alone = {
            name: ChoicePrediction(float(p_correct[i]), tokens[i], budget_forced[i])
            for i, name in enumerate(self.checkpoints)
        }
        escalated = {name: self._escalated(name, alone, correct, mean) for name in self.escalations}
        return Prediction(difficulty, is_familiar(x, self._lower, self._upper), alone | escalated)

    def _budget_forced_curves(self, x: Vector) -> list[Callable[[float], float]]:
        """For each checkpoint, P(correct) as a function of the budget. The forest is evaluated on the first call."""

        @functools.cache
        def levels() -> Vector:
            return np.maximum.accumulate(_sigmoid(self._budget_forced(x)[:, 0] + self._shifts), axis=1)

        return [
            lambda budget, position=position: _interpolated(levels()[position], math.log2(1.0 + budget))
            for position in range(len(self.checkpoints))
        ]

    def _escalated(
        self, name: str, alone: Mapping[str, ChoicePrediction], correct: Vector, mean: Vector
    ) -> ChoicePrediction:
        """The prediction for an escalation, from those for its two checkpoints and the values of the forests at x."""
        fitted, escalation = self.stored.escalations[name], self.escalations[name]
        constant, weight, slope = fitted.unsure
        z = np.array(
            [
                constant + weight * correct[0] + slope * mean[self.checkpoints.index(fitted.first)],
                fitted.scale[0] * correct[0] + fitted.scale[1],
            ]
        )
        p_unsure, p_correct = _sigmoid(z).tolist()
        first, second = alone[fitted.first], alone[fitted.second]
        mixture = ((1.0 - p_unsure, first.tokens), (p_unsure, first.tokens + second.tokens))
        return ChoicePrediction(
            p_correct,
            _quantiles(mixture),
            budget_forced=second.budget_forced,
            tokens_before=first.expected_tokens(),
            escalation=escalation,
            mixture=mixture,
        )


def _interpolated(values: Vector, at: float) -> float:
    """The value at `at`, interpolated between values at 0, 1, ...; beyond the last it is the last."""
    if at >= len(values) - 1:
        return float(values[-1])
    below = int(at)
    return float(values[below] + (at - below) * (values[below + 1] - values[below]))


def _quantiles(mixture: Sequence[tuple[float, Vector]]) -> Vector:
    """Quantiles at `LEVELS` of a mixture, given as shares and quantiles at `LEVELS`, (22,)."""
    values = np.concatenate([tokens for _, tokens in mixture])
    weights = np.concatenate([share * _TRAPEZOIDS for share, _ in mixture])
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    quantiles = np.interp(LEVELS, np.cumsum(weights) - 0.5 * weights, values)
    quantiles[0], quantiles[-1] = values[0], values[-1]
    return quantiles


def _check(stored: _Stored) -> None:
    """Raise ProfileError unless the stored arrays fit each other."""
    for bound, bounds in (("lower", stored.lower), ("upper", stored.upper)):
        if len(bounds) != len(FEATURES):
            raise ProfileError(f"{bound} has {len(bounds)} values, not {len(FEATURES)}")
    for name, values in stored.residuals.items():
        if len(values) != len(LEVELS):
            raise ProfileError(f"residuals.{name} has {len(values)} values, not {len(LEVELS)}")
    _check_names(stored)
    positions = max(len(stored.residuals), *map(len, stored.budget_forced_shifts.values()))
    answers = () if stored.answers is None else (stored.answers,)
    forests = (stored.correct, stored.tokens, stored.spread, stored.budget_forced, *answers)
    if positions > MAX_SHIFTS or positions * sum(len(forest.value) for forest in forests) > MAX_NODES:
        raise ProfileError("the forests are too large to be evaluated for each request")


def _check_names(stored: _Stored) -> None:
    """Raise ProfileError unless every part is about the same checkpoints."""
    if not stored.residuals:
        raise ProfileError("residuals is empty")
    if list(stored.scales) != list(stored.residuals):
        raise ProfileError(f"scales has {', '.join(stored.scales)}, residuals has {', '.join(stored.residuals)}")
    if stored.answers is not None and list(stored.answer_scales) != list(stored.residuals):
        has = ", ".join(stored.answer_scales) or "nothing"
        raise ProfileError(f"answer_scales has {has}, residuals has {', '.join(stored.residuals)}")
    if list(stored.budget_forced_shifts) != list(stored.residuals):
        raise ProfileError(
            f"budget_forced_shifts has {', '.join(stored.budget_forced_shifts)},"
            f" residuals has {', '.join(stored.residuals)}"
        )
    if len({len(shifts) for shifts in stored.budget_forced_shifts.values()} - {0}) != 1:
        raise ProfileError("budget_forced_shifts: every checkpoint needs the same number of values, at least one")
    for name, escalation in stored.escalations.items():
        if name in stored.residuals:
            raise ProfileError(f"escalations.{name}: a checkpoint has the same name")
        for field in ("first", "second"):
            if (checkpoint := getattr(escalation, field)) not in stored.residuals:
                raise ProfileError(f"escalations.{name}.{field}: {checkpoint} is not one of the checkpoints")


def _check_encoder(stored: _Stored, encoder: Encoder | None) -> None:
    """Raise ProfileError unless this is the encoder that the reader needs."""
    width = stored.reader.encoder_width if stored.reader else None
    if (stored.encoder is None) != (width is None):
        raise ProfileError("encoder: must name one if the reader has parts for it, and else be missing")
    if stored.encoder is None:
        return
    if encoder is None or encoder.stored.sha256 != stored.encoder.sha256:
        has = "none" if encoder is None else encoder.stored.name
        raise ProfileError(f"encoder: fitted with {one_line(stored.encoder.name)}, and given is {has}")
    if encoder.width != width:
        raise ProfileError(f"reader: for encoder vectors of {width} numbers, not {encoder.width}")


def load(path: Path, encoder: Path | None = None) -> Profile:
    """Read a profile from a file.

    Args:
        path: the file.
        encoder: directory of the sentence encoder, if it needs one; None for the one that the extra installs.

    Raises:
        ProfileError: the file is missing or not JSON, its version is unknown, its arrays do not fit each other, or it
            needs a sentence encoder that is not there.
    """
    try:
        raw = read_json(path, MAX_BYTES)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise ProfileError(f"{path}: not JSON ({one_line(str(error))})") from None
    if not isinstance(raw, dict) or cast("dict[str, object]", raw).get("schema_version") not in READABLE:
        raise ProfileError(f"{path}: not a difficulty profile of version {' or '.join(map(str, READABLE))}")
    try:
        stored = _Stored.model_validate(raw)
        return Profile(stored, encoders.load(encoder) if stored.encoder else None)
    except EncoderError as error:
        raise ProfileError(f"{path}: encoder: {one_line(str(error))}") from None
    except ValidationError as error:
        raise ProfileError(f"{path}: {': '.join(first_error(error))}") from None
    except ProfileError as error:
        raise ProfileError(f"{path}: {one_line(str(error))}") from None


def _sigmoid(z: Vector) -> Vector:
    return 1.0 / (1.0 + np.exp(-np.minimum(np.maximum(z, -50), 50)))
