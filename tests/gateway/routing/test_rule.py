from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing import rule
from gateway.routing.rule import Decision, NoCheckpointError, RoutingRequest
from models.family import Family
from models.floor import Certified, Floor
from models.prediction import LEVELS, ChoicePrediction, Escalation, Prediction, forecasts_of

ALL = frozenset({"base", "alpha-0.1", "alpha-0.4"})
ESCALATION = "alpha-0.4>base@10%"


def prediction(p_correct: float, low: float, high: float) -> ChoicePrediction:
    return ChoicePrediction(p_correct, np.linspace(low, high, len(LEVELS)))


def prompt(familiar: bool = True, **predictions: ChoicePrediction) -> Prediction:
    named = {name.replace("alpha_", "alpha-0."): value for name, value in predictions.items()}
    return Prediction(0.25, familiar, named)


EASY = prompt(base=prediction(0.95, 80, 120), alpha_1=prediction(0.95, 40, 60), alpha_4=prediction(0.94, 10, 20))
HARD = prompt(base=prediction(0.90, 80, 120), alpha_1=prediction(0.70, 40, 60), alpha_4=prediction(0.30, 10, 20))


def decide(
    family: Family,
    prompt_prediction: Prediction | None,
    budget: int | None = None,
    *,
    pinned: str | None = None,
    holdout: bool = False,
    allowed: frozenset[str] = ALL,
    available: frozenset[str] = ALL,
    tolerance: float = 0.02,
    may_escalate: bool = True,
    floor: Floor | None = None,
) -> Decision:
    request = RoutingRequest(
        prediction=prompt_prediction,
        limit=budget,
        pinned=pinned,
        tolerance=tolerance,
        holdout=holdout,
        may_escalate=may_escalate,
        floor=floor,
        allowed=allowed,
        available=available & allowed,
    )
    return rule.decide(family, request)


def test_a_brief_thinker_with_a_long_answer_is_not_cheap(family: Family) -> None:
    """Tokens of the answer count as those of the thinking do, with and without a budget."""
    brief = EASY.choices["alpha-0.4"]
    for answer_tokens, chosen in ((30.0, "alpha-0.4"), (60.0, "alpha-0.1")):
        choices = {**EASY.choices, "alpha-0.4": replace(brief, answer_tokens=answer_tokens)}
        predicted = Prediction(0.25, True, choices)
        for budget in (None, 100):
            decision = decide(family, predicted, budget)
            assert decision.checkpoint == chosen
            assert decision.forecasts["alpha-0.4"].answer_tokens == answer_tokens
            assert decision.forecasts["alpha-0.4"].tokens < 20


def test_the_cheapest_good_enough_checkpoint_serves(family: Family) -> None:
    easy, hard = decide(family, EASY), decide(family, HARD)
    assert (easy.checkpoint, easy.kind) == ("alpha-0.4", "routed")
    assert (hard.checkpoint, hard.kind) == ("base", "routed")
    assert easy.predicted_tokens == pytest.approx(15)
    assert easy.reference_tokens == pytest.approx(100)
    assert easy.difficulty == 0.25


def test_zero_tolerance_chooses_the_best_and_full_tolerance_the_cheapest(family: Family) -> None:
    assert decide(family, EASY, tolerance=0.0).checkpoint == "alpha-0.1"
    assert decide(family, HARD, tolerance=1.0).checkpoint == "alpha-0.4"


def test_a_budget_too_small_for_the_best_checkpoint_changes_the_choice(family: Family) -> None:
    decision = decide(family, HARD, budget=60)
    assert decision.checkpoint == "alpha-0.1"
    assert decision.reference_tokens == pytest.approx(60)


def test_under_a_budget_of_zero_the_briefest_checkpoint_serves(family: Family) -> None:
    assert decide(family, HARD, budget=0).checkpoint == "alpha-0.4"


def test_an_unfamiliar_or_unreadable_prompt_goes_to_the_reference(family: Family) -> None:
    for prompt_prediction in (prompt(familiar=False, base=prediction(0.1, 0, 1)), None):
        decision = decide(family, prompt_prediction)
        assert (decision.checkpoint, decision.kind) == ("base", "abstained")
        assert decision.predicted_tokens is decision.reference_tokens is decision.difficulty is None
        assert decision.abstention == ("unfamiliar" if prompt_prediction else "unreadable")


def test_an_abstention_is_known_even_if_a_fallback_serves_and_a_pinned_checkpoint_is_none(family: Family) -> None:
    unfamiliar = prompt(familiar=False, base=prediction(0.1, 0, 1))
    fallback = decide(family, unfamiliar, available=ALL - {"base"})
    assert (fallback.kind, fallback.abstention) == ("fallback", "unfamiliar")
    assert decide(family, unfamiliar, pinned="base").abstention == "none"
    assert decide(family, EASY).abstention == decide(family, EASY, holdout=True).abstention == "none"


def test_a_holdout_goes_to_the_reference_and_keeps_its_predictions(family: Family) -> None:
    decision = decide(family, EASY, holdout=True)
    assert (decision.checkpoint, decision.choice, decision.kind) == ("base", "alpha-0.4", "holdout")
    assert decision.reference_tokens == decision.predicted_tokens == pytest.approx(100)


def test_a_pinned_checkpoint_is_never_overridden(family: Family) -> None:
    for holdout in (False, True):
        decision = decide(family, EASY, pinned="base", holdout=holdout)
        assert (decision.checkpoint, decision.kind) == ("base", "pinned")
    with pytest.raises(NoCheckpointError):
        decide(family, EASY, pinned="base", available=ALL - {"base"})


def test_an_unavailable_checkpoint_is_replaced_by_the_nearest_in_alpha(family: Family) -> None:
    decision = decide(family, EASY, available=frozenset({"base", "alpha-0.1"}))
    assert (decision.checkpoint, decision.kind) == ("alpha-0.1", "fallback")
    assert decision.reason.startswith("alpha-0.4 was chosen (cheapest within 0.02 of the best success:")
    assert decision.reason.endswith(") but is unavailable; alpha-0.1, its neighbour, serves instead")
    assert decision.predicted_tokens == pytest.approx(50)
    # Of two neighbours the one that thinks more.
    between = prompt(base=prediction(0.5, 80, 120), alpha_1=prediction(0.95, 40, 60), alpha_4=prediction(0.3, 1, 2))
    assert decide(family, between, available=frozenset({"base", "alpha-0.4"})).checkpoint == "base"
    assert decide(family, None, available=frozenset({"alpha-0.4"})).checkpoint == "alpha-0.4"


def test_the_rule_chooses_among_the_allowed_checkpoints(family: Family) -> None:
    """The best checkpoint is not allowed; of the two that are, the cheaper one is also the better one."""
    mixed = prompt(base=prediction(0.6, 80, 120), alpha_1=prediction(0.95, 40, 60), alpha_4=prediction(0.7, 10, 20))
    decision = decide(family, mixed, allowed=ALL - {"alpha-0.1"})
    assert (decision.checkpoint, decision.choice, decision.kind) == ("alpha-0.4", "alpha-0.4", "routed")
    assert set(decision.forecasts) == {"base", "alpha-0.4"}, "what a replay decides on again"
    without_base = decide(family, HARD, allowed=ALL - {"base"})
    assert (without_base.checkpoint, without_base.kind) == ("alpha-0.1", "routed")
    assert without_base.reference_tokens == pytest.approx(100), "savings are still computed against the reference"
    abstained = decide(family, None, allowed=ALL - {"base"})
    assert (abstained.checkpoint, abstained.kind) == ("alpha-0.1", "abstained")
    assert "may not use base, so alpha-0.1, its neighbour, serves" in abstained.reason


def test_a_holdout_or_fallback_still_counts_as_routed(family: Family) -> None:
    assert decide(family, EASY).routed
    assert decide(family, EASY, holdout=True).routed
    assert decide(family, EASY, available=ALL - {"alpha-0.4"}).routed
    assert not decide(family, EASY, pinned="base").routed
    assert not decide(family, None).routed
    moved = decide(family, EASY, holdout=True, available=ALL - {"base"})
    assert (moved.checkpoint, moved.choice, moved.kind) == (
        "alpha-0.1",
        "alpha-0.4",
        "fallback",
    )


def test_without_available_checkpoints_there_is_no_decision(family: Family) -> None:
    with pytest.raises(NoCheckpointError):
        decide(family, EASY, available=frozenset())


predictions = st.builds(prediction, st.floats(0, 1), st.floats(0, 100), st.floats(100, 500))
choices = st.fixed_dictionaries({"base": predictions, "alpha-0.1": predictions, "alpha-0.4": predictions})
budgets = st.none() | st.integers(0, 600)


@given(choices, budgets, st.floats(0, 1))
def test_the_choice_is_the_cheapest_within_tolerance(
    family: Family, predicted: dict[str, ChoicePrediction], budget: int | None, tolerance: float
) -> None:
    decision = decide(family, Prediction(0.5, True, predicted), budget, tolerance=tolerance)
    best = max(forecast.success for forecast in decision.forecasts.values())
    chosen = decision.forecasts[decision.checkpoint]
    assert chosen.success >= best - tolerance
    for other in decision.forecasts.values():
        if other.tokens < chosen.tokens:
            assert other.success < best - tolerance


@given(choices, budgets)
def test_forecasts_are_the_predictions_under_the_limit(
    predicted: dict[str, ChoicePrediction], budget: int | None
) -> None:
    for name, forecast in forecasts_of(predicted, budget).items():
        assert forecast.success == pytest.approx(predicted[name].p_correct_within(budget), abs=1e-4)
        assert forecast.tokens == pytest.approx(predicted[name].expected_tokens(budget), abs=1e-2)
        assert forecast.unlimited_tokens == pytest.approx(predicted[name].expected_tokens(), abs=1e-2)


def escalating(p_correct: float, low: float, high: float) -> Prediction:
    """HARD, with an escalation from alpha-0.4 to the base."""
    escalation = Escalation(first="alpha-0.4", second="base", surprisal=1.5)
    tokens = np.linspace(low, high, len(LEVELS))
    return Prediction(
        0.25, True, {**HARD.choices, ESCALATION: ChoicePrediction(p_correct, tokens, escalation=escalation)}
    )


def test_an_escalation_competes_like_a_checkpoint(family: Family) -> None:
    decision = decide(family, escalating(0.89, 20, 60))
    assert (decision.checkpoint, decision.choice, decision.kind) == ("alpha-0.4", ESCALATION, "routed")
    assert decision.escalation == Escalation(first="alpha-0.4", second="base", surprisal=1.5)
    assert decision.predicted_tokens == pytest.approx(40)
    for worse in (escalating(0.87, 20, 60), escalating(0.89, 90, 130)):  # not good enough, not cheaper
        assert (decide(family, worse).checkpoint, decide(family, worse).escalation) == ("base", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"allowed": frozenset({"base", "alpha-0.1"})},
        {"allowed": frozenset({"alpha-0.1", "alpha-0.4"})},
        {"available": frozenset({"base", "alpha-0.1"})},
        {"may_escalate": False},
        {"pinned": "alpha-0.4"},
        {"holdout": True},
    ],
)
def test_there_is_no_escalation_without_both_checkpoints_or_if_the_request_rules_it_out(
    family: Family, changes: dict[str, Any]
) -> None:
    decision = decide(family, escalating(0.89, 20, 60), **changes)
    assert decision.escalation is None
    assert decision.predicted_tokens == decision.forecasts[decision.checkpoint].tokens
    assert (ESCALATION in decision.forecasts) == ("pinned" in changes or "holdout" in changes)


def test_a_small_budget_rules_out_an_escalation(family: Family) -> None:
    """The fixture has no budget-forced accuracy, so a truncated escalation counts as wrong."""
    assert decide(family, escalating(0.89, 20, 60), budget=60).escalation is not None
    assert decide(family, escalating(0.89, 20, 60), budget=22).escalation is None


def certified(tolerance: float, tokens: float) -> Certified:
    return Certified(tolerance=tolerance, kept=1.0, low=0.99, tokens=tokens)


def kept(alone: Certified | None = None, escalating: Certified | None = None) -> Floor:
    return Floor(floor=0.99, confidence=0.95, prompts=500, alone=alone, escalating=escalating, needed=None)


def test_a_floor_chooses_the_tolerance(family: Family) -> None:
    """`tolerance` would choose alpha-0.1 here, and does without a floor."""
    middling = prompt(base=prediction(0.9, 80, 120), alpha_1=prediction(0.88, 40, 60), alpha_4=prediction(0.8, 10, 20))
    assert decide(family, middling).checkpoint == "alpha-0.1"
    careful, careless = (decide(family, middling, floor=kept(certified(t, 0.5))) for t in (0.01, 0.1))
    assert (careful.checkpoint, careless.checkpoint) == ("base", "alpha-0.4")
    assert careless.kind == "routed"
    assert "certified to keep 0.99 of the reference's quality" in careless.reason


def test_the_reference_serves_where_nothing_is_certified(family: Family) -> None:
    decision = decide(family, EASY, floor=kept())
    assert (decision.checkpoint, decision.kind, decision.routed) == ("base", "abstained", False)
    assert decision.abstention == "none", "the profile knows the prompt, so this is no sign of drift"
    assert decide(family, None, floor=kept()).abstention == "unreadable"
    assert decision.reason == (
        "no routing is certified to keep 0.99 of the reference's quality, so the reference checkpoint serves"
    )


def test_a_floor_does_not_overrule_a_pin(family: Family) -> None:
    assert decide(family, EASY, floor=kept(), pinned="alpha-0.4").checkpoint == "alpha-0.4"


def test_a_floor_escalates_only_if_that_is_certified(family: Family) -> None:
    escalation = ChoicePrediction(
        0.95, np.linspace(10, 40, len(LEVELS)), escalation=Escalation(first="alpha-0.4", second="base", surprisal=1.0)
    )
    easy = Prediction(0.25, True, {**EASY.choices, ESCALATION: escalation})
    assert decide(family, easy, floor=kept(certified(0.0, 0.5), certified(0.0, 0.3))).choice == ESCALATION
    assert decide(family, easy, floor=kept(certified(0.0, 0.5))).choice == "alpha-0.1"
    # Routing alone spends less here, so it is what is used.
    assert decide(family, easy, floor=kept(certified(0.02, 0.1), certified(0.0, 0.3))).choice == "alpha-0.4"


def test_a_request_that_cannot_have_escalations_is_routed_by_what_is_certified_without_them(family: Family) -> None:
    only_escalating = kept(None, certified(0.02, 0.3))
    unable = decide(family, EASY, floor=only_escalating, may_escalate=False)
    down = decide(family, EASY, floor=only_escalating, available=ALL - {"alpha-0.1"})
    for decision in (unable, down):
        assert decision.checkpoint == "base"
        assert "nothing that this request may use is certified" in decision.reason


def test_a_key_that_may_not_use_every_checkpoint_has_no_certificate(family: Family) -> None:
    decision = decide(family, EASY, floor=kept(certified(1.0, 0.1)), allowed=ALL - {"alpha-0.1"})
    assert decision.checkpoint == "base"


def test_under_a_floor_the_reference_serves_for_a_checkpoint_that_is_down(family: Family) -> None:
    """Without one it is the neighbour, which may be any worse."""
    down = ALL - {"alpha-0.4"}
    assert decide(family, EASY, available=down).checkpoint == "alpha-0.1"
    decision = decide(family, EASY, available=down, floor=kept(certified(0.02, 0.1)))
    assert (decision.checkpoint, decision.kind) == ("base", "fallback")
