"""Why would this question go where it goes? One decision in full, for `POST /v1/route` and `laconic route`. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gateway.request.budget import Budget
from gateway.request.dialogue import Dialogue
from gateway.routing import rule
from gateway.routing.feasibility import smallest_for
from gateway.routing.rule import Decision, RoutingRequest
from models.family import Family
from models.prediction import LEVELS, ChoicePrediction

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def explain(
    family: Family, request: RoutingRequest, budget: Budget, dialogue: Dialogue | None = None
) -> dict[str, Any]:
    """The decision as JSON. `request` must not be a holdout: an explanation is about the rule, not the draw.

    Raises:
        NoCheckpointError: the pinned checkpoint is not available, or none is.
    """
    decision = rule.decide(family, request)
    prediction = request.usable_prediction
    predictions: Mapping[str, ChoicePrediction] = prediction.choices if prediction else {}
    return {
        "checkpoint": decision.checkpoint,
        "alpha": family.checkpoint(decision.checkpoint).alpha,
        "escalation": decision.escalation and decision.escalation.model_dump(),
        "decision": decision.kind,
        "choice": decision.choice,
        "reason": decision.reason,
        "difficulty": None if decision.difficulty is None else round(decision.difficulty, 3),
        "budget": _budget(request, budget),
        "conversation": _conversation(request, decision, dialogue or Dialogue()),
        "expected_saving": _saving(decision),
        "reference": family.reference,
        "floor": _floor(family, request),
        "checkpoints": {
            checkpoint.name: {"alpha": checkpoint.alpha, **_choice(predictions.get(checkpoint.name), request.limit)}
            for checkpoint in family.checkpoints
        },
        "escalations": {
            name: {**prediction.escalation.model_dump(), **_choice(prediction, request.limit)}
            for name, prediction in predictions.items()
            if prediction.escalation
        },
    }


def _budget(request: RoutingRequest, budget: Budget) -> dict[str, Any]:
    smallest = smallest_for(request, budget)
    return {
        "tokens": budget.tokens,
        "source": budget.source,
        "policy": budget.policy,
        "feasible": smallest is None if request.usable_prediction else None,
        "smallest_feasible": smallest,
        "refused": smallest is not None and budget.policy == "reject",
    }


def _floor(family: Family, request: RoutingRequest) -> dict[str, Any] | None:
    """The quality floor, and what is certified for this request; None if no floor is set."""
    if (floor := request.floor) is None:
        return None
    way = rule.certified(family, request)
    return {
        "floor": floor.floor,
        "confidence": floor.confidence,
        "prompts": floor.prompts,
        "certified": None if way is None else {**way.model_dump(), "escalates": way is floor.escalating},
        "needed": floor.needed,
    }


def _conversation(request: RoutingRequest, decision: Decision, dialogue: Dialogue) -> dict[str, Any]:
    """What was read of the conversation, and what the decision does to its checkpoint."""
    return {
        "turns": dialogue.turns,
        "tool_results": dialogue.tool_results,
        "read_with": len(dialogue.context),
        "last_checkpoint": request.last and request.last.checkpoint,
        "move": decision.move,
    }


def _saving(decision: Decision) -> float | None:
    """Expected reasoning tokens of the reference checkpoint minus those of the serving checkpoint or escalation."""
    if decision.reference_tokens is None or decision.predicted_tokens is None:
        return None
    return round(decision.reference_tokens - decision.predicted_tokens, 1)


def _choice(prediction: ChoicePrediction | None, limit: int | None) -> dict[str, Any]:
    """What one checkpoint or escalation is expected to do under the limit."""
    if prediction is None:
        return {"success": None, "correct": None, "tokens": None, "answer_tokens": None, "quantiles": None}
    return {
        "success": round(prediction.p_correct_within(limit), 4),
        "correct": round(prediction.p_correct, 4),
        "tokens": round(prediction.expected_tokens(limit), 1),
        "answer_tokens": round(prediction.answer_tokens, 1),
        "quantiles": {
            name: round(float(np.interp(level, LEVELS, prediction.tokens))) for name, level in QUANTILES.items()
        },
    }
