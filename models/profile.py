"""How hard is this prompt, and what would each checkpoint make of it? The difficulty profile, read side.

Per checkpoint two linear models on the same prompt features x (standardised):

    P(correct | x)          = sigmoid(w . x + b)
    log(1 + tokens) | x     = u . x + c + z,   z drawn from the checkpoint's residual quantiles

so a prediction is a probability and a whole distribution of reasoning tokens. Features are counts that need no
tokenizer (numbers, digits, operators, words, lines) and a bag of the words seen in fitting. Its limits: it knows
words, not meaning, and it assumes that being correct and thinking briefly are independent given the prompt.
`laconic-train profile` fits it; the file is JSON, so loading executes nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

Vector = NDArray[np.float64]

SCHEMA_VERSION = 2
LEVELS: Vector = np.concatenate([[0.0], np.arange(0.025, 1.0, 0.05), [1.0]])
"""Quantile levels of the reasoning-token distribution, (22,)."""

COUNTS = (
    "characters",
    "words",
    "unknown_words",
    "numbers",
    "digits",
    "longest_number",
    "one_digit_numbers",
    "two_digit_numbers",
    "longer_numbers",
    "plus",
    "minus",
    "times",
    "digits_to_multiply",
    "strange_symbols",
    "lines",
)
"""What is counted. Digits matter together with what is done to them, hence `digits_to_multiply`; `strange_symbols`,
brackets and decimal points among them, are there so that a prompt with more of them than fitting saw is unfamiliar."""
MIN_FAMILIAR = 0.6
"""Share of a prompt's words that must have been seen in fitting; below it the profile abstains."""

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"\d+")
_TIMES = ("times", "multiplied", "multiply", "product")
# Possessive, and no start inside a number: the time taken is linear in the prompt's length, whatever the prompt.
_PRODUCT = re.compile(
    r"(?<!\d)(\d++)\s?(?:[*×x]|times|multiplied by)\s?(\d++)"  # noqa: RUF001
    r"|(?:product of|multiply) (\d++) (?:and|by|with) (\d++)",
    re.IGNORECASE,
)
_LETTER_X = re.compile(r"\d\s?x\s?\d", re.IGNORECASE)
_STRANGE = re.compile(r"[^\w\s+\-−*×=?.,:;!'\"]|(?<=\d)[.,](?=\d)")  # noqa: RUF001


class ProfileError(ValueError):
    """A profile that cannot be used; the message is one line."""


@dataclass(frozen=True)
class Prediction:
    """What one checkpoint is expected to do with one prompt when nothing caps it."""

    p_correct: float
    tokens: Vector
    """Reasoning tokens at `LEVELS`, non-decreasing, (22,)."""

    def p_within(self, budget: int | None) -> float:
        """P(reasoning tokens <= budget); None means unlimited."""
        if budget is None or budget >= self.tokens[-1]:
            return 1.0
        return float(np.interp(budget, self.tokens, LEVELS))

    def success(self, budget: int | None) -> float:
        """P(correct and reasoning tokens <= budget)."""
        return self.p_correct * self.p_within(budget)

    def expected_tokens(self, budget: int | None = None) -> float:
        """E[min(reasoning tokens, budget)]: what the checkpoint is expected to spend under the cap."""
        spent = self.tokens if budget is None else np.minimum(self.tokens, budget)
        return float(np.trapezoid(spent, LEVELS))


@dataclass(frozen=True)
class Reading:
    """The profile's word on one prompt."""

    difficulty: float
    """0 to 1: the share of the fitting prompts that were predicted to be easier."""
    familiar: bool
    """False: the prompt is unlike what the profile was fitted on, and its predictions are not to be used."""
    predictions: dict[str, Prediction]


class _LinearModel(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    correct_weights: list[float]
    correct_bias: float
    tokens_weights: list[float]
    tokens_bias: float
    residuals: list[float]


class _Stored(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    schema_version: int
    vocabulary: list[str]
    mean: list[float]
    scale: list[float]
    upper: list[float]
    difficulties: list[float]
    checkpoints: dict[str, _LinearModel]
    report: dict[str, dict[str, float]]


class Profile:
    """A fitted profile. `read` is pure and takes well under a millisecond."""

    def __init__(self, stored: _Stored) -> None:
        width = len(COUNTS) + len(stored.vocabulary)
        shapes = {"mean": (stored.mean, width), "scale": (stored.scale, width), "upper": (stored.upper, len(COUNTS))}
        for name, model in stored.checkpoints.items():
            shapes[f"{name}.correct_weights"] = (model.correct_weights, width)
            shapes[f"{name}.tokens_weights"] = (model.tokens_weights, width)
            shapes[f"{name}.residuals"] = (model.residuals, len(LEVELS))
        for field, (values, length) in shapes.items():
            if len(values) != length:
                raise ProfileError(f"{field} has {len(values)} values, not {length}")
        if not stored.checkpoints:
            raise ProfileError("checkpoints is empty")
        if min(stored.scale) <= 0:
            raise ProfileError("scale must be positive")
        self.stored = stored
        self.names = tuple(stored.checkpoints)
        models = [stored.checkpoints[name] for name in self.names]
        self._index = {word: i for i, word in enumerate(stored.vocabulary)}
        self._mean, self._scale = np.array(stored.mean), np.array(stored.scale)
        self._upper = np.array(stored.upper)
        self._correct = np.array([m.correct_weights for m in models])
        self._correct_bias = np.array([m.correct_bias for m in models])
        self._tokens = np.array([m.tokens_weights for m in models])
        self._tokens_bias = np.array([m.tokens_bias for m in models])
        self._residuals = np.sort(np.array([m.residuals for m in models]), axis=1)
        self._difficulties = np.sort(np.array(stored.difficulties))

    def read(self, prompt: str) -> Reading:
        """Predict for one prompt; any text, the empty one included."""
        raw = features(prompt, self._index)
        x = (raw - self._mean) / self._scale
        p_correct = _sigmoid(self._correct @ x + self._correct_bias)
        log_tokens = np.minimum((self._tokens @ x + self._tokens_bias)[:, None] + self._residuals, 20.0)
        tokens = np.maximum(np.expm1(log_tokens), 0.0)
        failure = float(1.0 - p_correct.mean())
        difficulty = float(np.searchsorted(self._difficulties, failure) / max(len(self._difficulties), 1))
        predictions = {n: Prediction(float(p_correct[i]), tokens[i]) for i, n in enumerate(self.names)}
        return Reading(difficulty, self._is_familiar(raw), predictions)

    def _is_familiar(self, raw: Vector) -> bool:
        counts = dict(zip(COUNTS, raw, strict=False))
        words, unknown = np.expm1(counts["words"]), np.expm1(counts["unknown_words"])
        known_enough = words - unknown >= MIN_FAMILIAR * words
        return bool(counts["numbers"] > 0 and known_enough and np.all(raw[: len(COUNTS)] <= self._upper))


def features(prompt: str, index: dict[str, int]) -> Vector:
    """Raw features of a prompt, (len(COUNTS) + len(index),): log(1 + count) of each count, then of each known word."""
    words = words_of(prompt)
    numbers = _NUMBER.findall(prompt)
    x = np.zeros(len(COUNTS) + len(index))
    unknown = 0
    for word in words:
        if (i := index.get(word)) is None:
            unknown += 1
        else:
            x[len(COUNTS) + i] += 1
    signs = prompt.count("*") + prompt.count("×") + len(_LETTER_X.findall(prompt))  # noqa: RUF001
    x[: len(COUNTS)] = (
        len(prompt),
        len(words),
        unknown,
        len(numbers),
        sum(map(len, numbers)),
        max(map(len, numbers), default=0),
        *(sum(1 for n in numbers if low <= len(n) <= high) for low, high in ((1, 1), (2, 2), (3, len(prompt)))),
        prompt.count("+"),
        prompt.count("-") + prompt.count("−"),  # noqa: RUF001
        signs + sum(1 for word in words if word in _TIMES),
        _digits_to_multiply(prompt),
        len(_STRANGE.findall(prompt)),
        prompt.count("\n") + 1,
    )
    return np.log1p(x)


def _digits_to_multiply(prompt: str) -> int:
    """Products of two digits that a long multiplication takes: 2 for 7 * 12, 4 for 12 * 34."""
    factors = ([group for group in match.groups() if group] for match in _PRODUCT.finditer(prompt))
    return sum(len(left) * len(right) for left, right in factors)


def words_of(prompt: str) -> list[str]:
    """The words of a prompt in lower case: runs of letters."""
    return _WORD.findall(prompt.lower())


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
        return Profile(_Stored.model_validate(raw))
    except ValidationError as error:
        first = error.errors()[0]
        raise ProfileError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except ProfileError as error:
        raise ProfileError(f"{path}: {error}") from None


def _sigmoid(z: Vector) -> Vector:
    return 1.0 / (1.0 + np.exp(-np.clip(z, -50, 50)))
