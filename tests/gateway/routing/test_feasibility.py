from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.feasibility import smallest_feasible
from models.prediction import ChoicePrediction
from tests.gateway.routing.test_rule import choices


@given(choices, st.integers(0, 600))
def test_the_smallest_feasible_budget_is_feasible_and_the_one_below_is_not(
    predicted: dict[str, ChoicePrediction], budget: int
) -> None:
    smallest = smallest_feasible(predicted, budget)
    if smallest is None:
        return
    assert smallest > budget
    assert smallest_feasible(predicted, smallest) is None
    assert smallest_feasible(predicted, smallest - 1) == smallest
