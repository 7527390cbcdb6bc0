from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gateway.routing.headers import routing_headers
from gateway.routing.rule import Decision
from models.family import Family
from models.prediction import Escalation, Forecast

ESCALATION = Escalation(first="alpha-0.4", second="base", surprisal=1.5)
DECISION = Decision(
    checkpoint="alpha-0.4",
    escalation=None,
    choice="alpha-0.4",
    kind="routed",
    why=lambda: "the cheapest within 0.005 of the best",
    routed=True,
    difficulty=0.25,
    predicted_tokens=20.0,
    reference_tokens=60.0,
    forecasts={"alpha-0.4": Forecast(0.9, 20.0, 20.0)},
)


def headers(
    family: Family,
    decision: Decision = DECISION,
    *,
    tokens: int | None = 64,
    escalated_to: str | None = None,
    debug: bool = False,
) -> dict[str, str]:
    return routing_headers(family, decision, tokens, escalated_to=escalated_to, debug=debug)


def test_a_routed_request_names_checkpoint_alpha_budget_decision_and_difficulty(family: Family) -> None:
    assert headers(family) == {
        "x-laconic-checkpoint": "alpha-0.4",
        "x-laconic-alpha": "0.4",
        "x-laconic-budget": "64",
        "x-laconic-decision": "routed",
        "x-laconic-difficulty": "0.250",
    }


def test_the_base_has_no_alpha_and_no_budget_is_unlimited(family: Family) -> None:
    result = headers(family, replace(DECISION, checkpoint="base", difficulty=None), tokens=None)
    assert (result["x-laconic-alpha"], result["x-laconic-budget"]) == ("none", "unlimited")
    assert "x-laconic-difficulty" not in result


@pytest.mark.parametrize(
    ("escalated_to", "checkpoint", "alpha"), [(None, "alpha-0.4", "0.4"), ("base", "base", "none")]
)
def test_an_escalation_is_announced_and_the_checkpoint_that_answered_is_named(
    family: Family, escalated_to: str | None, checkpoint: str, alpha: str
) -> None:
    result = headers(family, replace(DECISION, escalation=ESCALATION), escalated_to=escalated_to)
    assert result["x-laconic-escalation"] == "base"
    assert (result["x-laconic-checkpoint"], result["x-laconic-alpha"]) == (checkpoint, alpha)


def test_debug_adds_the_reason_and_the_forecasts(family: Family) -> None:
    result = headers(family, debug=True)
    assert result["x-laconic-reason"] == DECISION.reason
    assert json.loads(result["x-laconic-predictions"]) == {"alpha-0.4": {"success": 0.9, "tokens": 20.0}}
    assert "x-laconic-reason" not in headers(family)
