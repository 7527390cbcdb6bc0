"""Why would this question go where it goes? One decision in full, for `POST /v1/route` and `laconic route`. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np

from gateway.request.budget import Budget
from gateway.routing import rule
from models.family import Family
from models.profile import LEVELS, ChoicePrediction, Prediction

QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def explain(
    family: Family,
    reading: Prediction | None,
    budget: Budget,
    *,
    limit: int | None,
    pinned: str | None,
    tolerance: float,
    may_escalate: bool = True,
    allowed: frozenset[str],
    available: frozenset[str],
) -> dict[str, Any]:
    """The decision as JSON, without a draw for the holdout.

    Args:
        limit: what thinking may take at most, the budget and the whole completion's limit considered.
        may_escalate: whether the request is one that can be escalated.
        allowed: the checkpoints that the caller may use.
        available: those of them that engines serve now.

    Raises:
        NoCheckpointError: the pinned one is not available, or none is.
    """
    decision = rule.decide(
        family,
        reading,
        limit,
        pinned=pinned,
        tolerance=tolerance,
        holdout=False,
        may_escalate=may_escalate,
        allowed=allowed,
        available=available,
    )
    known = rule.known_of(reading)
    predictions = known.choices if known else {}
    smallest = smallest_feasible(reading, pinned, allowed, budget)
    saved = None
    if decision.reference_tokens is not None and decision.predicted_tokens is not None:
        saved = round(decision.reference_tokens - decision.predicted_tokens, 1)
    return {
        "checkpoint": decision.checkpoint,
        "alpha": family.checkpoint(decision.checkpoint).alpha,
        "escalation": decision.escalation and decision.escalation.model_dump(),
        "decision": decision.kind,
        "choice": decision.choice,
        "reason": decision.reason,
        "difficulty": None if decision.difficulty is None else round(decision.difficulty, 3),
        "budget": {
            "tokens": budget.tokens,
            "source": budget.source,
            "policy": budget.policy,
            "feasible": smallest is None if known else None,
            "smallest_feasible": smallest,
            "refused": smallest is not None and budget.policy == "reject",
        },
        "expected_saving": saved,
        "reference": family.reference,
        "checkpoints": {
            checkpoint.name: {"alpha": checkpoint.alpha, **_prediction(predictions.get(checkpoint.name), limit)}
            for checkpoint in family.checkpoints
        },
        "escalations": {
            name: {**prediction.escalation.model_dump(), **_prediction(prediction, limit)}
            for name, prediction in predictions.items()
            if prediction.escalation
        },
    }


def smallest_feasible(
    reading: Prediction | None, pinned: str | None, allowed: frozenset[str], budget: Budget
) -> int | None:
    """The smallest feasible budget where this one is not; None where it is, or nothing is known or capped."""
    known = rule.known_of(reading)
    if known is None or budget.tokens is None:
        return None
    asked = {name: p for name, p in known.choices.items() if name in allowed and pinned in (None, name)}
    return rule.smallest_feasible(asked, budget.tokens) if asked else None


def _prediction(prediction: ChoicePrediction | None, limit: int | None) -> dict[str, Any]:
    if prediction is None:
        return {"success": None, "correct": None, "tokens": None, "quantiles": None}
    return {
        "success": round(prediction.success(limit), 4),
        "correct": round(prediction.p_correct, 4),
        "tokens": round(prediction.expected_tokens(limit), 1),
        "quantiles": {
            name: round(float(np.interp(level, LEVELS, prediction.tokens))) for name, level in QUANTILES.items()
        },
    }
