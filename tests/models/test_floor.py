"""Which of the stored floors counts, and what may be routed under it?"""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from models.floor import Certified, Floor, at_least


def certified(tokens: float) -> Certified:
    return Certified(tolerance=0.01, kept=1.0, low=0.99, tokens=tokens)


def floor(share: float, alone: Certified | None = None, escalating: Certified | None = None) -> Floor:
    return Floor(floor=share, confidence=0.95, prompts=500, alone=alone, escalating=escalating, needed=None)


FLOORS = [floor(0.9), floor(0.95), floor(0.99)]


@pytest.mark.parametrize(("asked", "found"), [(0.5, 0.9), (0.9, 0.9), (0.94, 0.95), (0.96, 0.99), (0.99, 0.99)])
def test_the_lowest_floor_that_implies_the_one_asked_for_counts(asked: float, found: float) -> None:
    chosen = at_least(FLOORS, asked)
    assert chosen is not None
    assert chosen.floor == found


def test_no_lower_floor_stands_in() -> None:
    assert at_least(FLOORS, 0.991) is None
    assert at_least([], 0.1) is None


def test_of_two_ways_the_one_that_spends_less_is_taken() -> None:
    alone, escalating = certified(0.5), certified(0.4)
    both = floor(0.9, alone, escalating)
    assert both.way(may_escalate=True) is escalating
    assert both.way(may_escalate=False) is alone
    assert floor(0.9, certified(0.3), escalating).way(may_escalate=True) == certified(0.3)
    assert floor(0.9, None, escalating).way(may_escalate=False) is None
    assert not floor(0.9).is_certified


def test_a_floor_is_a_share_above_0() -> None:
    for wrong in (0.0, 1.1):
        with pytest.raises(ValidationError, match="floor"):
            floor(wrong)
