from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing import rule
from gateway.routing.feasibility import smallest_feasible
from gateway.routing.rule import Decision, NoCheckpointError, RoutingRequest
from models.family import Family
from models.profile import LEVELS, ChoicePrediction, Escalation, Prediction

ALL = frozenset({"base", "alpha-0.1", "alpha-0.4"})


def prediction(p_correct: float, low: float, high: float) -> ChoicePrediction:
    return ChoicePrediction(p_correct, np.linspace(low, high, len(LEVELS)))


def reading(familiar: bool = True, **predictions: ChoicePrediction) -> Prediction:
    named = {name.replace("alpha_", "alpha-0."): value for name, value in predictions.items()}
    return Prediction(0.25, familiar, named)


EASY = reading(base=prediction(0.95, 80, 120), alpha_1=prediction(0.95, 40, 60), alpha_4=prediction(0.94, 10, 20))
HARD = reading(base=prediction(0.90, 80, 120), alpha_1=prediction(0.70, 40, 60), alpha_4=prediction(0.30, 10, 20))


def decide(
    family: Family,
    read: Prediction | None,
    budget: int | None = None,
    *,
    pinned: str | None = None,
    holdout: bool = False,
    allowed: frozenset[str] = ALL,
    available: frozenset[str] = ALL,
    tolerance: float = 0.02,
    may_escalate: bool = True,
) -> Decision:
    request = RoutingRequest(
        prediction=read,
        limit=budget,
        pinned=pinned,
        tolerance=tolerance,
        holdout=holdout,
        may_escalate=may_escalate,
        allowed=allowed,
        available=available & allowed,
    )
    return rule.decide(family, request)


def test_the_cheapest_of_the_good_enough_serves(family: Family) -> None:
    easy, hard = decide(family, EASY), decide(family, HARD)
    assert (easy.checkpoint, easy.kind) == ("alpha-0.4", "routed")
    assert (hard.checkpoint, hard.kind) == ("base", "routed")
    assert easy.predicted_tokens == pytest.approx(15)
    assert easy.reference_tokens == pytest.approx(100)
    assert easy.difficulty == 0.25


def test_no_tolerance_buys_the_best_and_full_tolerance_the_cheapest(family: Family) -> None:
    assert decide(family, EASY, tolerance=0.0).checkpoint == "alpha-0.1"
    assert decide(family, HARD, tolerance=1.0).checkpoint == "alpha-0.4"


def test_a_budget_the_best_cannot_keep_moves_the_choice(family: Family) -> None:
    decision = decide(family, HARD, budget=60)
    assert decision.checkpoint == "alpha-0.1"
    assert decision.reference_tokens == pytest.approx(60)


def test_under_a_budget_that_stops_everyone_the_briefest_serves(family: Family) -> None:
    assert decide(family, HARD, budget=0).checkpoint == "alpha-0.4"


def test_an_unfamiliar_or_unreadable_prompt_goes_to_the_reference(family: Family) -> None:
    for read in (reading(familiar=False, base=prediction(0.1, 0, 1)), None):
        decision = decide(family, read)
        assert (decision.checkpoint, decision.kind) == ("base", "abstained")
        assert decision.predicted_tokens is decision.reference_tokens is decision.difficulty is None


def test_a_holdout_goes_to_the_reference_with_its_predictions(family: Family) -> None:
    decision = decide(family, EASY, holdout=True)
    assert (decision.checkpoint, decision.choice, decision.kind) == ("base", "alpha-0.4", "holdout")
    assert decision.reference_tokens == decision.predicted_tokens == pytest.approx(100)


def test_a_pinned_checkpoint_is_never_overruled(family: Family) -> None:
    for holdout in (False, True):
        decision = decide(family, EASY, pinned="base", holdout=holdout)
        assert (decision.checkpoint, decision.kind) == ("base", "pinned")
    with pytest.raises(NoCheckpointError):
        decide(family, EASY, pinned="base", available=ALL - {"base"})


def test_what_is_away_is_replaced_by_its_neighbour_on_the_ladder(family: Family) -> None:
    decision = decide(family, EASY, available=frozenset({"base", "alpha-0.1"}))
    assert (decision.checkpoint, decision.kind) == ("alpha-0.1", "fallback")
    assert decision.predicted_tokens == pytest.approx(50)
    # Of two neighbours the one that thinks more.
    between = reading(base=prediction(0.5, 80, 120), alpha_1=prediction(0.95, 40, 60), alpha_4=prediction(0.3, 1, 2))
    assert decide(family, between, available=frozenset({"base", "alpha-0.4"})).checkpoint == "base"
    assert decide(family, None, available=frozenset({"alpha-0.4"})).checkpoint == "alpha-0.4"


def test_the_rule_chooses_among_what_the_caller_may_use(family: Family) -> None:
    """The best of all is not theirs; of the two that are, the cheap one is the better one, too."""
    odd = reading(base=prediction(0.6, 80, 120), alpha_1=prediction(0.95, 40, 60), alpha_4=prediction(0.7, 10, 20))
    decision = decide(family, odd, allowed=ALL - {"alpha-0.1"})
    assert (decision.checkpoint, decision.choice, decision.kind) == ("alpha-0.4", "alpha-0.4", "routed")
    assert set(decision.forecasts) == {"base", "alpha-0.4"}, "what it was decided on, so that a replay decides alike"
    without = decide(family, HARD, allowed=ALL - {"base"})
    assert (without.checkpoint, without.kind) == ("alpha-0.1", "routed")
    assert without.reference_tokens == pytest.approx(100), "saved is against the reference all the same"
    lost = decide(family, None, allowed=ALL - {"base"})
    assert (lost.checkpoint, lost.kind) == ("alpha-0.1", "abstained")
    assert "not for base, so its neighbour alpha-0.1 serves" in lost.reason


def test_what_the_rule_chose_is_routed_whoever_serves(family: Family) -> None:
    assert decide(family, EASY).routed
    assert decide(family, EASY, holdout=True).routed
    assert decide(family, EASY, available=ALL - {"alpha-0.4"}).routed
    assert not decide(family, EASY, pinned="base").routed
    assert not decide(family, None).routed
    away = decide(family, EASY, holdout=True, available=ALL - {"base"})
    assert (away.checkpoint, away.choice, away.kind) == ("alpha-0.1", "alpha-0.4", "fallback")


def test_with_nothing_available_there_is_no_decision(family: Family) -> None:
    with pytest.raises(NoCheckpointError):
        decide(family, EASY, available=frozenset())


predictions = st.builds(prediction, st.floats(0, 1), st.floats(0, 100), st.floats(100, 500))
readings = st.fixed_dictionaries({"base": predictions, "alpha-0.1": predictions, "alpha-0.4": predictions})
budgets = st.none() | st.integers(0, 600)


@given(readings, budgets, st.floats(0, 1))
def test_no_checkpoint_that_is_good_enough_is_cheaper(
    family: Family, predicted: dict[str, ChoicePrediction], budget: int | None, tolerance: float
) -> None:
    decision = decide(family, Prediction(0.5, True, predicted), budget, tolerance=tolerance)
    best = max(forecast.success for forecast in decision.forecasts.values())
    chosen = decision.forecasts[decision.checkpoint]
    assert chosen.success >= best - tolerance
    for other in decision.forecasts.values():
        if other.tokens < chosen.tokens:
            assert other.success < best - tolerance


@given(readings, budgets)
def test_forecasts_are_the_predictions_under_the_budget(
    predicted: dict[str, ChoicePrediction], budget: int | None
) -> None:
    for name, forecast in rule.forecasts_of(predicted, budget).items():
        assert forecast.success == pytest.approx(predicted[name].success(budget), abs=1e-4)
        assert forecast.tokens == pytest.approx(predicted[name].expected_tokens(budget), abs=1e-2)
        assert forecast.unlimited_tokens == pytest.approx(predicted[name].expected_tokens(), abs=1e-2)


@given(readings, st.integers(0, 600))
def test_the_smallest_feasible_budget_is_feasible_and_the_one_below_is_not(
    predicted: dict[str, ChoicePrediction], budget: int
) -> None:
    smallest = smallest_feasible(predicted, budget)
    if smallest is None:
        return
    assert smallest > budget
    assert smallest_feasible(predicted, smallest) is None
    assert smallest_feasible(predicted, smallest - 1) == smallest


def thoughtful(p_correct: float, low: float, high: float) -> Prediction:
    """HARD, and what alpha-0.4 and then the base make of it."""
    both = Escalation(first="alpha-0.4", second="base", surprisal=1.5)
    tokens = np.linspace(low, high, len(LEVELS))
    return Prediction(0.25, True, {**HARD.choices, "both": ChoicePrediction(p_correct, tokens, escalation=both)})


def test_second_thoughts_are_chosen_as_if_they_were_one_more_checkpoint(family: Family) -> None:
    found = decide(family, thoughtful(0.89, 20, 60))
    assert (found.checkpoint, found.choice, found.kind) == ("alpha-0.4", "both", "routed")
    assert found.escalation == Escalation(first="alpha-0.4", second="base", surprisal=1.5)
    assert found.predicted_tokens == pytest.approx(40)
    for worse in (thoughtful(0.87, 20, 60), thoughtful(0.89, 90, 130)):  # not good enough, not cheaper
        assert (decide(family, worse).checkpoint, decide(family, worse).escalation) == ("base", None)


@pytest.mark.parametrize(
    "how",
    [
        {"allowed": frozenset({"base", "alpha-0.1"})},
        {"allowed": frozenset({"alpha-0.1", "alpha-0.4"})},
        {"available": frozenset({"base", "alpha-0.1"})},
        {"may_escalate": False},
        {"pinned": "alpha-0.4"},
        {"holdout": True},
    ],
)
def test_there_are_none_without_both_checkpoints_or_where_something_else_was_wanted(
    family: Family, how: dict[str, Any]
) -> None:
    found = decide(family, thoughtful(0.89, 20, 60), **how)
    assert found.escalation is None
    assert found.predicted_tokens == found.forecasts[found.checkpoint].tokens
    assert ("both" in found.forecasts) == ("pinned" in how or "holdout" in how)


def test_a_budget_that_would_stop_them_speaks_against_second_thoughts(family: Family) -> None:
    """Nothing is known of what is right when they are stopped, so nothing is taken to be."""
    assert decide(family, thoughtful(0.89, 20, 60), budget=60).escalation is not None
    assert decide(family, thoughtful(0.89, 20, 60), budget=22).escalation is None
