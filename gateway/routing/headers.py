"""Which response headers tell a caller how its request was routed? Pure."""

from __future__ import annotations

import json

from gateway.routing.rule import Decision
from models.family import Family


def routing_headers(
    family: Family, decision: Decision, cap: int | None, *, escalated_to: str | None, debug: bool
) -> dict[str, str]:
    """The `x-laconic-*` headers; `cap` is in tokens, and `debug` adds the reason and every forecast.

    A stream's headers leave before an escalation, so they name the first checkpoint and the one that may take over.
    """
    checkpoint = escalated_to or decision.checkpoint
    alpha = family.checkpoint(checkpoint).alpha
    headers = {
        "x-laconic-checkpoint": checkpoint,
        "x-laconic-alpha": "none" if alpha is None else f"{alpha:g}",
        "x-laconic-budget": "unlimited" if cap is None else str(cap),
        "x-laconic-decision": decision.kind,
    }
    if decision.escalation is not None:
        headers["x-laconic-escalation"] = decision.escalation.second
    if decision.move != "none":
        headers["x-laconic-conversation"] = decision.move
    if decision.difficulty is not None:
        headers["x-laconic-difficulty"] = f"{decision.difficulty:.3f}"
    if debug:
        forecasts = {name: {"success": f.success, "tokens": f.tokens} for name, f in decision.forecasts.items()}
        headers |= {"x-laconic-reason": decision.reason, "x-laconic-predictions": json.dumps(forecasts)}
    return headers
