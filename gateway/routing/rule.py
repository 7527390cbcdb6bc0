"""Which checkpoint answers, and why? The routing decision; pure.

For each checkpoint c the profile predicts P_c(correct | prompt, thinking limited to B), its success under the limit B.
The rule chooses the checkpoint with the fewest expected tokens under B, of thinking and answer, among those whose
success is within `tolerance` of the best success. An escalation (one checkpoint after another, see `models.profile`)
competes like a checkpoint. In a conversation, leaving the checkpoint of the last turn has a price (`conversation.py`).

A quality floor replaces the tolerance by the one that the profile is certified for, and what is not certified goes to
the reference checkpoint. The certificate is about a choice among everything, so a key that may not use every
checkpoint has none, and while a checkpoint is unavailable the one without escalations counts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from gateway.routing import conversation
from gateway.routing.conversation import LastTurn, Move
from models.family import Family
from models.floor import Certified, Floor
from models.prediction import Escalation, Forecast, Prediction
from models.rule import cheapest_good_enough

Kind = Literal["routed", "pinned", "holdout", "abstained", "fallback"]
"""How the decision was made. The header `x-laconic-decision` and the ledger's field `decision` show it."""

_ROUNDING = 1e-12


Abstention = Literal["none", "unfamiliar", "unreadable"]
"""Why the profile abstained, if it did. The ledger's field `abstention` shows it."""


class NoCheckpointError(Exception):
    """No checkpoint that may serve this request is available. The argument is the checkpoint that was wanted."""


@dataclass(slots=True, kw_only=True)  # not frozen: making it would cost as much as the rule itself
class RoutingRequest:
    """One request as the routing rule sees it. Nothing changes it."""

    prediction: Prediction | None
    """The profile's prediction for the prompt; None if the prompt is not plain text."""
    limit: int | None
    """Maximum reasoning tokens: the smaller of the budget and the completion's limit. None means no limit."""
    pinned: str | None = None
    """The checkpoint that the caller named. The rule never overrules it."""
    tolerance: float
    """How much predicted success a cheaper checkpoint may give up, in [0, 1]."""
    floor: Floor | None = None
    """What is certified to keep the reference's quality; it replaces the tolerance. None: no floor is to be kept."""
    pressure: float = 0.0
    """The part of the tolerance that is due to load. The reason states it."""
    holdout: bool = False
    """The request was drawn to measure what the reference checkpoint spends."""
    may_escalate: bool = True
    """The request's form allows an escalation."""
    allowed: frozenset[str]
    """The checkpoints that the caller may use, at least one."""
    available: frozenset[str]
    """The allowed checkpoints that an engine serves now."""
    in_conversation: bool = False
    """The request is a turn of a conversation that is remembered."""
    last: LastTurn | None = None
    """The conversation's last turn; None for the first one, and if it is not known."""

    @property
    def usable_prediction(self) -> Prediction | None:
        """The prediction, or None if there is none or the prompt is unlike those the profile was fitted on."""
        return self.prediction if self.prediction is not None and self.prediction.familiar else None


@dataclass(slots=True)  # as above
class Decision:
    """The checkpoint that serves, and what the choice was based on. An unfamiliar prompt has no forecasts."""

    checkpoint: str
    """The checkpoint that gets the request first."""
    escalation: Escalation | None
    choice: str
    """The checkpoint or escalation that the rule chose. In a holdout or a fallback another checkpoint serves."""
    kind: Kind
    why: Callable[[], str] = field(repr=False, compare=False)
    """Makes `reason`, which few requests ask for."""
    routed: bool
    """The rule chose. False if the caller pinned a checkpoint or the profile abstained."""
    difficulty: float | None
    """None without a usable prediction, and if the profile cannot rank prompts."""
    predicted_tokens: float | None
    """Expected reasoning tokens of the serving checkpoint or escalation under the limit."""
    reference_tokens: float | None
    """Expected reasoning tokens of the reference checkpoint under the limit."""
    forecasts: Mapping[str, Forecast]
    move: Move = "none"
    """What became of the conversation's checkpoint."""
    abstention: Abstention = "none"
    """Why the profile abstained, if it did, even if a fallback serves."""

    @property
    def reason(self) -> str:
        """The decision in words."""
        return self.why()


class _Because:
    """Words that are put together when somebody asks."""

    def __init__(self, *parts: str | Callable[[], str]) -> None:
        self._parts = parts

    def __call__(self) -> str:
        return "".join(part if isinstance(part, str) else part() for part in self._parts)


def decide(family: Family, request: RoutingRequest) -> Decision:
    """Choose among the checkpoints that the caller may use; if no engine serves the choice now, its neighbour serves.

    Raises:
        NoCheckpointError: the pinned checkpoint is not available, or none is.
    """
    way = certified(family, request)
    if way is not None and request.floor is not None:
        escalates = request.may_escalate and way is request.floor.escalating
        request = replace(request, tolerance=way.tolerance, may_escalate=escalates)
    prediction = request.usable_prediction
    escalations: Mapping[str, Escalation] = prediction.escalations if prediction else {}
    all_forecasts: Mapping[str, Forecast] = prediction.forecasts(request.limit) if prediction else {}
    forecasts = _candidates(all_forecasts, escalations, request)
    usable: Mapping[str, Forecast] = {} if request.floor and way is None else forecasts
    choice, kind, why, move = _choose(family, request, usable, escalations)
    routed = kind == "routed"
    abstention: Abstention = "none"
    if kind == "abstained":
        # Under a quality floor the reference may answer although the profile knows the prompt.
        known = "none" if request.usable_prediction else "unfamiliar"
        abstention = known if request.prediction else "unreadable"
    escalation = escalations.get(choice)
    checkpoint = escalation.first if escalation else choice
    if escalation:
        first, second = escalation.first, escalation.second
        why = _Because(f"{first} answers, or {second} if {first} is not confident enough: ", why)
    if routed and request.holdout:
        escalation = None
        checkpoint, kind = family.reference, "holdout"
        why = _Because("drawn to measure what the reference checkpoint spends")
    if checkpoint not in request.available:
        if request.pinned is not None or not request.available:
            raise NoCheckpointError(checkpoint)
        keeps = request.floor is not None and family.reference in request.available
        neighbour = family.reference if keeps else _neighbour(family, checkpoint, request.available)
        what = "the reference" if keeps else "its neighbour"
        why = _Because(f"{checkpoint} was chosen (", why, f") but is unavailable; {neighbour}, {what}, serves instead")
        checkpoint, kind = neighbour, "fallback"
    serving = choice if escalation else checkpoint
    return Decision(
        checkpoint=checkpoint,
        escalation=escalation,
        choice=choice,
        kind=kind,
        why=why,
        routed=routed,
        difficulty=prediction.difficulty if prediction else None,
        predicted_tokens=forecasts[serving].tokens if serving in forecasts else None,
        reference_tokens=all_forecasts[family.reference].tokens if family.reference in all_forecasts else None,
        forecasts=forecasts,
        move=move,
        abstention=abstention,
    )


def certified(family: Family, request: RoutingRequest) -> Certified | None:
    """How the request may be routed under its floor; None if it has no floor, or nothing is certified for it."""
    if request.floor is None:
        return None
    every = {checkpoint.name for checkpoint in family.checkpoints}
    if not every <= request.allowed:
        return None
    return request.floor.way(may_escalate=request.may_escalate and every <= request.available)


def _candidates(
    forecasts: Mapping[str, Forecast], escalations: Mapping[str, Escalation], request: RoutingRequest
) -> Mapping[str, Forecast]:
    """Those of the allowed checkpoints, and of the escalations whose two checkpoints are both available."""
    if request.may_escalate and len(request.available) == len(request.allowed) == len(forecasts) - len(escalations):
        return forecasts
    allowed, available = request.allowed, request.available if request.may_escalate else frozenset[str]()

    def may_be_chosen(name: str) -> bool:
        pair = escalations.get(name)
        return name in allowed if pair is None else pair.first in available and pair.second in available

    return {name: forecast for name, forecast in forecasts.items() if may_be_chosen(name)}


def _choose(
    family: Family,
    request: RoutingRequest,
    forecasts: Mapping[str, Forecast],
    escalations: Mapping[str, Escalation],
) -> tuple[str, Kind, Callable[[], str], Move]:
    """The chosen checkpoint or escalation, how it was chosen, why, and what that is to the conversation.

    Holdout and availability are not applied yet.
    """
    if request.pinned is not None:
        return request.pinned, "pinned", _Because("the caller named this checkpoint"), "none"
    if forecasts:
        last = request.last
        choice = cheapest_good_enough(forecasts, request.tolerance)
        if last is None or last.checkpoint not in request.available:
            # Not of the request: its prediction is as large as all else that a silent stream keeps of the decision.
            why = functools.partial(_why, forecasts, choice, request.tolerance, request.pressure, request.floor)
            return choice, "routed", why, "begun" if request.in_conversation else "none"
        best = max(forecast.success for forecast in forecasts.values())
        # Under a floor, a conversation stays only where that is expected to do as well as the certified choice.
        tolerance = best - forecasts[choice].success + _ROUNDING if request.floor else request.tolerance
        starts = {name: escalations[name].first if name in escalations else name for name in forecasts}
        next_turn = conversation.choose(family, forecasts, starts, tolerance, last)
        return next_turn.choice, "routed", _Because(next_turn.reason), next_turn.move
    why_not = _why_not(request)
    reference = family.reference
    if reference in request.allowed:
        return reference, "abstained", _Because(f"{why_not}, so the reference checkpoint serves"), "none"
    neighbour = _neighbour(family, reference, request.allowed)
    return (
        neighbour,
        "abstained",
        _Because(f"{why_not}, and this key may not use {reference}, so {neighbour}, its neighbour, serves"),
        "none",
    )


def _why_not(request: RoutingRequest) -> str:
    """Why nothing was forecast."""
    if request.prediction is None:
        return "the prompt cannot be read"
    if request.usable_prediction is None or request.floor is None:
        return "the prompt is unlike what the profile was fitted on"
    if not request.floor.is_certified:
        return f"no routing is certified to keep {request.floor.floor:g} of the reference's quality"
    return f"nothing that this request may use is certified to keep {request.floor.floor:g} of the reference's quality"


def _why(forecasts: Mapping[str, Forecast], choice: str, tolerance: float, pressure: float, floor: Floor | None) -> str:
    load = f" ({pressure:.3g} of it for load)" if pressure else ""
    if floor is not None:
        load = f" (certified to keep {floor.floor:g} of the reference's quality)"
    best = max(forecasts, key=lambda name: forecasts[name].success)
    return (
        f"cheapest within {tolerance:.3g}{load} of the best success: {forecasts[choice].success:.3f} for"
        f" {forecasts[choice].cost:.0f} tokens, best {forecasts[best].success:.3f} ({best})"
    )


def _neighbour(family: Family, wanted: str, available: frozenset[str]) -> str:
    """The available checkpoint that is nearest to `wanted` on the family's ladder."""
    position = {name: index for index, name in enumerate(family.ladder())}
    # Of two equally near, the one that thinks more: a costlier answer is better than a worse one.
    return min(available, key=lambda name: (abs(position[name] - position[wanted]), position[name]))
