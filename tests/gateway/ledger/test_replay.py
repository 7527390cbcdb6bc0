"""Does a replay choose what the routing rule would have chosen?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.entry import Entry
from gateway.ledger.replay import Replay
from models.prediction import Forecast
from models.rule import cheapest_good_enough
from tests.gateway.entries import entry

forecasts = st.builds(Forecast, st.floats(0, 1), *[st.floats(0, 1000)] * 3)


def replay(sample: Iterable[Entry], tolerance: float) -> Replay:
    result = Replay(tolerance)
    for one in sample:
        result.add(one)
    return result


@st.composite
def routed(draw: st.DrawFn) -> Entry:
    """A routed request, decided with a tolerance of 0.1."""
    by_choice = draw(st.fixed_dictionaries({"base": forecasts, "alpha-0.1": forecasts, "alpha-0.4": forecasts}))
    choice = cheapest_good_enough(by_choice, 0.1)
    is_holdout = draw(st.booleans())
    return entry(
        forecasts=by_choice,
        choice=choice,
        checkpoint="base" if is_holdout else choice,
        decision="holdout" if is_holdout else "routed",
        reference_tokens=by_choice["base"].tokens,
    )


@given(st.lists(routed(), max_size=10))
def test_the_same_tolerance_makes_the_same_choices(sample: list[Entry]) -> None:
    result = replay(sample, 0.1)
    assert result.replayed == result.recorded
    assert result.requests == len(sample)


@given(st.lists(routed(), max_size=10), st.floats(0, 1), st.floats(0, 1))
def test_more_tolerance_never_costs_more(sample: list[Entry], one: float, other: float) -> None:
    strict, lax = (replay(sample, tolerance).replayed for tolerance in sorted((one, other)))
    assert lax.tokens + lax.answer_tokens <= strict.tokens + strict.answer_tokens + 1e-6


def test_requests_that_were_not_routed_are_not_replayed() -> None:
    assert replay([entry(decision="pinned", holdout_fraction=None)], 0.5).requests == 0


def test_tokens_are_multiplied_by_the_number_of_choices() -> None:
    one = entry(choices=1)
    assert (
        replay([dataclasses.replace(one, choices=3)], 0.02).replayed.tokens == 3 * replay([one], 0.02).replayed.tokens
    )
