"""What does a profile predict for one prompt? In numpy: in full, and what `forecast.c` must agree with."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from models.features import FEATURES
from models.forest import Forests
from models.prediction import LEVELS, TRAPEZOIDS, ChoicePrediction, Escalation
from models.stored import StoredProfile

Vector = NDArray[np.float64]


class Plain:
    """The formulas of `models.profile` in numpy. Pure."""

    def __init__(self, stored: StoredProfile, escalations: Mapping[str, Escalation]) -> None:
        """
        Raises:
            ValueError: a forest reads an input that does not exist.
        """
        self.stored, self.escalations, self.checkpoints = stored, escalations, tuple(stored.residuals)
        checkpoints, shifts = len(stored.residuals), len(next(iter(stored.budget_forced_shifts.values())))
        self._forests = Forests([stored.correct, stored.tokens, stored.spread], len(FEATURES), checkpoints)
        self._budget_forced = Forests([stored.budget_forced], len(FEATURES), shifts)
        self._answers = None if stored.answers is None else Forests([stored.answers], len(FEATURES), checkpoints)
        self._answer_scales = np.array(list(stored.answer_scales.values()))
        self._slope, self._shift = np.array(list(stored.scales.values())).T
        self._shifts = np.array(list(stored.budget_forced_shifts.values()))
        self._residuals = np.sort(np.array(list(stored.residuals.values())), axis=1)
        self._weight = 1.0 if stored.reader is None else stored.reader.forest

    def choices(self, x: Vector, easiness: float) -> dict[str, ChoicePrediction]:
        """By the name of the checkpoint or escalation.

        Args:
            x: the features, (len(FEATURES),).
            easiness: what the reader adds to the forest's value, in logits.
        """
        correct, mean, spread = self._forests(x).T
        correct = easiness + self._weight * correct
        p_correct = _sigmoid(self._slope * correct + self._shift)
        log_tokens = mean[:, None] + np.exp(np.minimum(spread, 10.0))[:, None] * self._residuals
        tokens = np.maximum(np.expm1(np.minimum(log_tokens, 20.0)), 0.0)
        budget_forced, answers = self._budget_forced_curves(x), self._answer_tokens(x)
        alone = {
            name: ChoicePrediction(float(p_correct[i]), tokens[i], budget_forced[i], answer_tokens=float(answers[i]))
            for i, name in enumerate(self.checkpoints)
        }
        return alone | {name: self._escalated(name, alone, correct, mean) for name in self.escalations}

    def _answer_tokens(self, x: Vector) -> Vector:
        """Expected answer tokens by checkpoint; 0 if they are not predicted."""
        if self._answers is None:
            return np.zeros(len(self.checkpoints))
        return np.maximum(self._answer_scales * np.exp(np.minimum(self._answers(x)[:, 0], 20.0)) - 1.0, 0.0)

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
            answer_tokens=(1.0 - p_unsure) * first.answer_tokens + p_unsure * second.answer_tokens,
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
    weights = np.concatenate([share * TRAPEZOIDS for share, _ in mixture])
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    quantiles = np.interp(LEVELS, np.cumsum(weights) - 0.5 * weights, values)
    quantiles[0], quantiles[-1] = values[0], values[-1]
    return quantiles


def _sigmoid(z: Vector) -> Vector:
    return 1.0 / (1.0 + np.exp(-np.minimum(np.maximum(z, -50), 50)))
