"""Is the certificate right: does it hold, is it not idle, and does it say what is missing?"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.profile import floor
from training.profile.floor import Outcomes, certify, lower_bound, p_value, prompts_needed

Array = NDArray[np.float64]


def outcomes(accuracy: Array, tokens: float) -> Outcomes:
    return Outcomes(accuracy, np.full(len(accuracy), tokens))


def losing(reference: Array, share: float, seed: int) -> Array:
    """The reference's outcomes, a share of them turned wrong."""
    return reference * (np.random.default_rng(seed).random(len(reference)) >= share)


def reference(count: int, seed: int = 0, right: float = 0.9) -> Array:
    return (np.random.default_rng(seed).random(count) < right).astype(float)


@pytest.mark.parametrize(("kept", "count"), [(0.95, 100), (0.95, 300), (0.99, 1000)])
def test_a_true_null_is_rejected_in_at_most_five_of_a_hundred(kept: float, count: int) -> None:
    """At the boundary, where exactly the floor is kept. A test at 10 % would show here: 2,000 draws."""
    rejected = 0
    for seed in range(2000):
        measured = reference(count, seed)
        rejected += p_value(losing(measured, 1 - kept, seed + 10**6), measured, kept, 0.05) <= 0.05
    assert rejected / 2000 <= 0.06


def test_it_needs_no_more_prompts_than_an_exact_binomial_bound_where_nothing_is_lost() -> None:
    """Of n prompts that all agree, an exact bound on a loss of 5 % needs 59: 0.95 ** 59 < 0.05."""
    assert p_value(np.ones(70), np.ones(70), 0.95, 0.05) < 0.05
    assert p_value(np.ones(40), np.ones(40), 0.95, 0.05) > 0.05


def test_gains_make_up_for_losses() -> None:
    measured, rng = reference(1000), np.random.default_rng(1)
    lost, gained = rng.random(1000) < 0.02, rng.random(1000) < 0.3
    routed = np.where(measured == 1, ~lost, gained).astype(float)
    assert p_value(routed, measured, 0.99, 0.05) < 0.01


def test_the_lower_bound_is_what_would_just_be_certified() -> None:
    measured = reference(500)
    routed = losing(measured, 0.02, 1)
    low = lower_bound(routed, measured, 0.05)
    assert low < routed.mean() / measured.mean()
    assert p_value(routed, measured, low - 0.001, 0.05) < 0.05 < p_value(routed, measured, low + 0.001, 0.05)


def test_the_first_tolerance_that_is_not_certified_ends_the_test() -> None:
    """Those behind it are not certified, however good they look: otherwise luck among nine would pass for certainty."""
    measured = reference(400)
    good, bad = outcomes(measured, 50), outcomes(losing(measured, 0.3, 1), 20)
    best = outcomes(measured, 10)
    tried = [good, good, bad, *[best] * (len(floor.TOLERANCES) - 3)]
    found = certify(0.95, outcomes(measured, 100), {"alone": tried}, 0)
    assert found.alone is not None
    assert found.alone.tolerance == floor.TOLERANCES[0]  # the first of two that spend the same
    assert found.alone.tokens == 0.5


def test_with_few_prompts_it_says_how_many_it_would_take() -> None:
    measured = reference(60)
    tried = {"alone": [outcomes(measured, 10)] * len(floor.TOLERANCES)}
    found = certify(0.99, outcomes(measured, 100), tried, 0)
    assert not found.is_certified
    assert found.needed is not None
    assert found.way(may_escalate=True) is None
    many = reference(found.needed * 6 // 5)
    certified = certify(0.99, outcomes(many, 100), {"alone": [outcomes(many, 10)] * len(floor.TOLERANCES)}, 0)
    assert certified.is_certified
    assert certified.needed is None
    half = reference(found.needed // 2)
    assert p_value(half, half, 0.99, 0.05) > 0.05


def test_no_number_of_prompts_is_named_where_routing_does_not_keep_the_floor() -> None:
    measured = reference(500)
    assert prompts_needed(losing(measured, 0.2, 1), measured, 0.95, 0.05) is None


def test_two_ways_share_the_error() -> None:
    """Each is tested at half of 5 %, so what one alone just certifies is not certified beside another."""
    for count in range(40, 200):
        measured = np.ones(count)
        tried = [outcomes(measured, 10)] * len(floor.TOLERANCES)
        one = certify(0.95, outcomes(measured, 100), {"alone": tried}, 0)
        two = certify(0.95, outcomes(measured, 100), {"alone": tried, "escalating": tried}, 0)
        if one.is_certified:
            break
    assert one.alone is not None
    assert not two.is_certified


def test_a_reference_that_is_never_right_certifies_nothing() -> None:
    wrong = outcomes(np.zeros(100), 10)
    for routed in (wrong, outcomes(np.ones(100), 5)):
        found = certify(0.9, wrong, {"alone": [routed] * len(floor.TOLERANCES)}, 0)
        assert not found.is_certified
        assert found.needed is None
