"""What is predicted for one prompt, and what does that mean under a limit of reasoning tokens? Pure."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Vector = NDArray[np.float64]

LEVELS: Vector = np.concatenate([[0.0], np.arange(0.025, 1.0, 0.05), [1.0]])
"""Quantile levels of the reasoning-token distribution, (22,)."""
TRAPEZOIDS: Vector = np.convolve(np.diff(LEVELS), [0.5, 0.5]).astype(np.float64)
"""Weights with which the quantiles at `LEVELS` sum to the mean, (22,)."""
_Tokens = Annotated[float, Field(ge=0, le=2**53)]


class Escalation(BaseModel):
    """The checkpoint `first` thinks; if its thinking was unsure, the checkpoint `second` thinks again and answers.

    Thinking is unsure if its surprisal exceeds a threshold: -log P of its tokens, the end marker included.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    first: str
    second: str
    surprisal: float
    """The threshold, in nats."""


class Forecast(NamedTuple):
    """What the profile expects of one checkpoint, or of one escalation, under the request's limit."""

    success: Annotated[float, Field(ge=0, le=1)]
    """P(correct within the limit)."""
    tokens: _Tokens
    """Expected reasoning tokens of one completion (the request may ask for `n`)."""
    unlimited_tokens: _Tokens
    """Expected reasoning tokens of one completion without a limit."""
    answer_tokens: _Tokens = 0.0
    """Expected tokens of its answer; 0 if the profile does not predict them."""

    @property
    def cost(self) -> float:
        """Expected tokens of the thinking under the limit and of the answer."""
        return self.tokens + self.answer_tokens


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
    answer_tokens: float = 0.0
    """Expected tokens of the answer; 0 if the profile does not predict them."""

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
        return sum(share * float(np.minimum(tokens, capped) @ TRAPEZOIDS) for share, tokens in self._parts)

    @property
    def _parts(self) -> tuple[tuple[float, Vector], ...]:
        return self.mixture or ((1.0, self.tokens),)


class Prediction:
    """What the profile predicts for one prompt.

    The rule asks for forecasts only. They are there sooner than `choices`, which are made when somebody asks.
    """

    def __init__(
        self,
        difficulty: float | None,
        familiar: bool,
        choices: Mapping[str, ChoicePrediction] | Callable[[], Mapping[str, ChoicePrediction]],
        *,
        failure: float | None = None,
        escalations: Mapping[str, Escalation] | None = None,
        forecasts: Callable[[int | None], dict[str, Forecast]] | None = None,
    ) -> None:
        """
        Args:
            difficulty: see the property.
            familiar: see the property.
            choices: by the name of the checkpoint or escalation, or what makes them.
            failure: mean P(wrong) over the checkpoints; None: it is taken from `choices`, as the next two are.
            escalations: those of the choices that are escalations.
            forecasts: from a limit, rounded as by `forecasts_of`.
        """
        self.difficulty = difficulty
        """0 to 1: the share of the fitting prompts that are predicted to be easier; None if these do not differ."""
        self.familiar = familiar
        """False: the prompt is unlike the fitting prompts, and the predictions must not be used."""
        self._choices, self._failure, self._escalations, self._forecasts = choices, failure, escalations, forecasts
        self.counts: tuple[int, ...] = ()
        """What was counted in the prompt (`models.features`)."""
        self.easiness = 0.0
        """What the reader added to the forest's value, in logits (`models.reader`)."""

    @functools.cached_property
    def choices(self) -> Mapping[str, ChoicePrediction]:
        """By the name of the checkpoint or escalation."""
        return self._choices() if callable(self._choices) else self._choices

    @property
    def escalations(self) -> Mapping[str, Escalation]:
        """By name, those of the choices that are escalations."""
        if self._escalations is None:
            self._escalations = {name: e for name, one in self.choices.items() if (e := one.escalation)}
        return self._escalations

    @property
    def failure(self) -> float:
        """Mean P(wrong) over the checkpoints, if nothing caps them."""
        if self._failure is None:
            alone = [one.p_correct for one in self.choices.values() if one.escalation is None]
            self._failure = 1.0 - sum(alone) / len(alone)
        return self._failure

    def forecasts(self, limit: int | None) -> dict[str, Forecast]:
        """Of every choice, under a limit of reasoning tokens; None means no limit."""
        return forecasts_of(self.choices, limit) if self._forecasts is None else self._forecasts(limit)


def forecasts_of(predictions: Mapping[str, ChoicePrediction], limit: int | None) -> dict[str, Forecast]:
    """The predictions under a limit, rounded as the ledger records them, so that a replay decides the same way."""
    forecasts: dict[str, Forecast] = {}
    for name, prediction in predictions.items():
        unlimited = round(prediction.expected_tokens(), 2)
        limited = unlimited if limit is None else round(prediction.expected_tokens(limit), 2)
        success, answer = round(prediction.p_correct_within(limit), 4), round(prediction.answer_tokens, 2)
        forecasts[name] = Forecast(success, limited, unlimited, answer)
    return forecasts
