from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.frontiers import at, chosen, gap_closed, hull, share_closed, singles, swept

points = st.lists(st.tuples(st.floats(1, 100), st.floats(0.1, 1)), min_size=1, max_size=8)


@given(points)
def test_a_frontier_rises_is_concave_and_lies_above_every_point(given_points: list[tuple[float, float]]) -> None:
    frontier = hull(given_points)
    assert set(frontier) <= set(given_points)
    tokens, accuracy = np.array(frontier).T
    assert np.all(np.diff(tokens) > 0)
    assert np.all(np.diff(accuracy) > 0)
    slopes = np.diff(accuracy) / np.diff(tokens)
    assert np.all(np.diff(slopes) <= 1e-9)
    for x, y in given_points:
        assert at(frontier, np.array([x]))[0] >= y - 1e-9


def test_the_rule_takes_the_cheapest_that_is_good_enough() -> None:
    success, cost = np.array([[0.9, 0.88, 0.5]] * 2), np.array([[100.0, 40.0, 10.0], [30.0, 40.0, 10.0]])
    assert chosen(success, cost, 0.05).tolist() == [1, 0]
    assert chosen(success, cost, 0.0).tolist() == [0, 0]
    assert chosen(success, cost, 0.4).tolist() == [2, 2]


EASY_AND_HARD = np.array([[1.0, 1.0], [1.0, 0.0]] * 50)
"""The expensive checkpoint is always right, the cheap one on every other prompt."""
TOKENS = np.array([[100.0, 10.0]] * 100)


def test_knowing_the_outcomes_closes_the_whole_gap_and_knowing_nothing_closes_none() -> None:
    single = singles(EASY_AND_HARD, TOKENS)
    oracle = swept(EASY_AND_HARD, TOKENS, EASY_AND_HARD, TOKENS)
    assert (55.0, 1.0) in oracle
    assert share_closed(oracle, oracle, single) == pytest.approx(1)
    same = np.tile(EASY_AND_HARD.mean(0), (100, 1))
    blind = swept(same, TOKENS, EASY_AND_HARD, TOKENS)
    assert set(blind) == set(single)
    assert share_closed(blind, oracle, single) == pytest.approx(0)


def test_predictions_that_are_right_half_of_the_time_close_part_of_the_gap() -> None:
    guess = EASY_AND_HARD.copy()
    guess[:50, 1] = 1.0
    single = singles(EASY_AND_HARD, TOKENS)
    oracle = swept(EASY_AND_HARD, TOKENS, EASY_AND_HARD, TOKENS)
    assert 0.2 < share_closed(swept(guess, TOKENS, EASY_AND_HARD, TOKENS), oracle, single) < 0.8


def test_a_point_below_the_mixture_has_a_negative_gap() -> None:
    single, oracle = [(10.0, 0.5), (100.0, 1.0)], [(10.0, 0.5), (55.0, 1.0)]
    assert gap_closed((55.0, 0.75), oracle, single) == pytest.approx(0)
    assert gap_closed((55.0, 1.0), oracle, single) == pytest.approx(1)
    assert gap_closed((55.0, 0.625), oracle, single) == pytest.approx(-0.5)
    assert gap_closed((9.9, 0.49), oracle, single) is None, "nothing that can be mixed is as cheap"


def test_the_share_is_0_if_nothing_can_be_gained() -> None:
    alike = np.ones((10, 2))
    single = singles(alike, TOKENS[:10])
    assert share_closed(single, single, single) == 0
