"""Which checkpoint answers, and why? The decision; pure.

For each checkpoint c the profile predicts P_c(correct | prompt, thinking stopped at B), its success under the budget B.
The cheapest checkpoint, by expected reasoning tokens under B, whose success is within `tolerance` of the best one's
is chosen. An escalation, one checkpoint after another (`models.profile`), is a choice like any checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from models.family import Family
from models.profile import LEVELS, ChoicePrediction, Escalation, Prediction

_Tokens = Annotated[float, Field(ge=0, le=2**53)]

Kind = Literal["routed", "pinned", "holdout", "abstained", "fallback"]

FEASIBLE_SHARE = 0.5
"""A budget is feasible when it leaves at least this share of the best success that no budget would limit."""


class Forecast(NamedTuple):
    """What the profile expected of one checkpoint, or of second thoughts, under the request's budget."""

    success: Annotated[float, Field(ge=0, le=1)]
    """P(correct within the budget)."""
    tokens: _Tokens
    """Expected reasoning tokens of a choice."""
    unlimited_tokens: _Tokens
    """The same under no budget."""


class NoCheckpointError(Exception):
    """Nothing that may serve this request is available."""


@dataclass(frozen=True)
class Decision:
    """The checkpoint that serves and what it was chosen on. Without a familiar prompt there are no predictions."""

    checkpoint: str
    """The first to think, where second thoughts were chosen."""
    escalation: Escalation | None
    choice: str
    """What was decided on, a checkpoint or second thoughts; a holdout and a fallback are served by another."""
    kind: Kind
    reason: str
    routed: bool
    """The rule chose; the caller did not, and the profile did not abstain."""
    difficulty: float | None
    predicted_tokens: float | None
    """Reasoning tokens expected of what serves, second thoughts included, under the budget."""
    reference_tokens: float | None
    """The same of the reference checkpoint."""
    forecasts: Mapping[str, Forecast]


def decide(
    family: Family,
    reading: Prediction | None,
    budget: int | None,
    *,
    pinned: str | None,
    tolerance: float,
    pressure: float = 0.0,
    holdout: bool,
    may_escalate: bool = True,
    allowed: frozenset[str],
    available: frozenset[str],
) -> Decision:
    """Choose one of the checkpoints that the caller may use, and where no engine serves it now, its neighbour.

    Args:
        reading: the profile's word on the prompt; None where it could not be read.
        budget: what the thinking may take at most, in tokens; None is no limit.
        pinned: the checkpoint the caller named; never overruled.
        tolerance: how much predicted success a cheaper checkpoint may give away, in [0, 1].
        pressure: how much of the tolerance is owed to load; said in the reason.
        holdout: this request was drawn to measure what the reference checkpoint spends.
        may_escalate: whether the request is one that can be escalated.
        allowed: the checkpoints that the caller may use, at least one.
        available: those of them that engines serve now.

    Raises:
        NoCheckpointError: the pinned one is not available, or none is.
    """
    known = known_of(reading)
    predictions = known.choices if known else {}
    everyone = forecasts_of(predictions, budget)
    possible = _possible(predictions, allowed, available if may_escalate else frozenset())
    forecasts = {name: forecast for name, forecast in everyone.items() if name in possible}
    routed = pinned is None and bool(forecasts)
    kind: Kind
    if pinned is not None:
        choice, kind, reason = pinned, "pinned", "the caller named this checkpoint"
    elif not forecasts:
        why = "the prompt is unlike what the profile was fitted on" if reading else "the prompt cannot be read"
        choice, kind, reason = family.reference, "abstained", f"{why}, so the reference checkpoint serves"
        if choice not in allowed:
            choice = _neighbour(family, choice, allowed)
            reason = f"{why}, and this key is not for {family.reference}, so its neighbour {choice} serves"
    else:
        choice, kind = cheapest_good_enough(forecasts, tolerance), "routed"
        reason = _why(forecasts, choice, tolerance, pressure)
    escalation = predictions[choice].escalation if choice in predictions else None
    wanted = escalation.first if escalation else choice
    if escalation:
        reason = f"{escalation.first} first, and {escalation.second} where that is unsure of itself: {reason}"
    if routed and holdout:
        escalation = None
        wanted, kind, reason = family.reference, "holdout", "drawn to measure what the reference checkpoint spends"
    if wanted not in available:
        if pinned is not None or not available:
            raise NoCheckpointError(wanted)
        kind, reason = "fallback", f"{wanted} is not available, its neighbour on the alpha ladder is"
        wanted = _neighbour(family, wanted, available)
    serves = choice if escalation else wanted
    return Decision(
        checkpoint=wanted,
        escalation=escalation,
        choice=choice,
        kind=kind,
        reason=reason,
        routed=routed,
        difficulty=known.difficulty if known else None,
        predicted_tokens=forecasts[serves].tokens if serves in forecasts else None,
        reference_tokens=everyone[family.reference].tokens if family.reference in everyone else None,
        forecasts=forecasts,
    )


def _possible(
    predictions: Mapping[str, ChoicePrediction], allowed: frozenset[str], available: frozenset[str]
) -> frozenset[str]:
    """The allowed checkpoints, and the second thoughts whose checkpoints are both available."""
    escalations = {name: p.escalation for name, p in predictions.items() if p.escalation}
    return allowed | {name for name, both in escalations.items() if {both.first, both.second} <= available}


def known_of(reading: Prediction | None) -> Prediction | None:
    """The reading, where its predictions may be used."""
    return reading if reading is not None and reading.familiar else None


def forecasts_of(predictions: Mapping[str, ChoicePrediction], budget: int | None) -> dict[str, Forecast]:
    """The predictions under a budget, as they are decided on and recorded: rounded, so that a replay decides alike."""
    forecasts: dict[str, Forecast] = {}
    for name, prediction in predictions.items():
        unlimited = round(prediction.expected_tokens(), 2)
        capped = unlimited if budget is None else round(prediction.expected_tokens(budget), 2)
        forecasts[name] = Forecast(round(prediction.success(budget), 4), capped, unlimited)
    return forecasts


def cheapest_good_enough(forecasts: Mapping[str, Forecast], tolerance: float) -> str:
    """The rule: of the checkpoints whose success is within `tolerance` of the best one's, the one that spends least."""
    threshold = max(forecast.success for forecast in forecasts.values()) - tolerance
    good = {name: forecast for name, forecast in forecasts.items() if forecast.success >= threshold}
    # Under a cap that stops everyone the capped costs are equal: then the one that wants to think least.
    return min(good, key=lambda name: (good[name].tokens, good[name].unlimited_tokens))


def smallest_feasible(predictions: Mapping[str, ChoicePrediction], budget: int) -> int | None:
    """The smallest budget under which some checkpoint is predicted to do it, or None where `budget` already is one.

    To do it is to keep at least `FEASIBLE_SHARE` of the success that the best checkpoint has without any budget.
    """
    needed = FEASIBLE_SHARE * max(p.p_correct for p in predictions.values())

    def feasible(tokens: int) -> bool:
        return any(p.success(tokens) >= needed for p in predictions.values())

    if feasible(budget):
        return None
    able = [p for p in predictions.values() if p.p_correct >= needed]
    levels = [needed / p.p_correct if p.p_correct else 0.0 for p in able]
    smallest = min(math.ceil(np.interp(level, LEVELS, p.tokens)) for level, p in zip(levels, able, strict=True))
    while not feasible(smallest):  # interpolation and its inverse may differ by a rounding
        smallest += 1
    return smallest


def _why(forecasts: Mapping[str, Forecast], choice: str, tolerance: float, pressure: float) -> str:
    load = f" ({pressure:.3g} of it for load)" if pressure else ""
    best = max(forecasts, key=lambda name: forecasts[name].success)
    return (
        f"cheapest within {tolerance:.3g}{load} of the best success: {forecasts[choice].success:.3f} for"
        f" {forecasts[choice].tokens:.0f} tokens, best {forecasts[best].success:.3f} ({best})"
    )


def _neighbour(family: Family, wanted: str, available: frozenset[str]) -> str:
    ladder = sorted(family.checkpoints, key=lambda c: -1.0 if c.alpha is None else c.alpha)
    rungs = {checkpoint.name: rung for rung, checkpoint in enumerate(ladder)}
    # Of two neighbours the one that thinks more: an answer that costs more is better than one that is worse.
    return min(available, key=lambda name: (abs(rungs[name] - rungs[wanted]), rungs[name]))
