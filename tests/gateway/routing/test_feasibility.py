from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.feasibility import smallest_feasible
from models.prediction import ChoicePrediction
from tests.gateway.routing.test_rule import choices, prediction

Curve = tuple[float, float]
curves = st.tuples(st.floats(0, 1), st.floats(1, 500))


def ended(prediction: ChoicePrediction, curve: Curve) -> ChoicePrediction:
    """The prediction, with a success that rises towards a limit in the tokens after which thinking is ended."""
    most, half = curve
    return replace(prediction, budget_forced=lambda tokens: most * tokens / (tokens + half))


@given(choices, st.lists(curves, min_size=3, max_size=3), st.integers(0, 600))
def test_the_smallest_feasible_budget_is_feasible_and_the_one_below_is_not(
    predicted: dict[str, ChoicePrediction], forced: list[Curve], budget: int
) -> None:
    predicted = {name: ended(one, curve) for (name, one), curve in zip(predicted.items(), forced, strict=True)}
    smallest = smallest_feasible(predicted, budget)
    if smallest is None:
        return
    assert smallest > budget
    assert smallest_feasible(predicted, smallest) is None
    assert smallest_feasible(predicted, smallest - 1) == smallest


def test_an_answer_after_ended_thinking_makes_a_smaller_budget_feasible() -> None:
    thinks = prediction(0.9, 0, 100)
    assert smallest_feasible({"base": thinks}, 5) == 50
    assert (smallest_feasible({"base": ended(thinks, (0.9, 10.0))}, 5) or 0) < 20
