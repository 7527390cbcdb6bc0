from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger.entry import Entry
from gateway.ledger.replay import Replay
from gateway.routing.rule import Forecast, cheapest_good_enough
from tests.gateway.entries import entry

forecasts = st.builds(Forecast, st.floats(0, 1), st.floats(0, 1000), st.floats(0, 1000))


def replay(sample: Iterable[Entry], tolerance: float) -> Replay:
    done = Replay(tolerance)
    for one in sample:
        done.add(one)
    return done


@st.composite
def routed(draw: st.DrawFn) -> Entry:
    """A request decided on at a tolerance of 0.1."""
    known = draw(st.fixed_dictionaries({"base": forecasts, "alpha-0.1": forecasts, "alpha-0.4": forecasts}))
    choice = cheapest_good_enough(known, 0.1)
    held = draw(st.booleans())
    return entry(
        forecasts=known,
        choice=choice,
        checkpoint="base" if held else choice,
        decision="holdout" if held else "routed",
        reference_tokens=known["base"].tokens,
    )


@given(st.lists(routed(), max_size=10))
def test_the_same_tolerance_chooses_the_same(sample: list[Entry]) -> None:
    done = replay(sample, 0.1)
    assert done.replayed == done.recorded
    assert done.requests == len(sample)


@given(st.lists(routed(), max_size=10), st.floats(0, 1), st.floats(0, 1))
def test_more_tolerance_never_costs_more(sample: list[Entry], one: float, other: float) -> None:
    strict, lax = (replay(sample, tolerance).replayed for tolerance in sorted((one, other)))
    assert lax.tokens <= strict.tokens


def test_what_was_not_routed_is_not_decided_again() -> None:
    assert replay([entry(decision="pinned", holdout_fraction=None)], 0.5).requests == 0


def test_several_choices_cost_several_times() -> None:
    one = entry(choices=1)
    assert (
        replay([dataclasses.replace(one, choices=3)], 0.02).replayed.tokens == 3 * replay([one], 0.02).replayed.tokens
    )
