"""Is a routed choice compared with the best mixture of single checkpoints at its tokens?"""

from __future__ import annotations

import pytest

from benchmarks.few_prompts import below, report

MIX = [(10.0, 0.5), (30.0, 0.7)]


@pytest.mark.parametrize(
    ("place", "distance"), [((20.0, 0.6), 0), ((20.0, 0.55), 0.05), ((20.0, 0.65), -0.05), ((90.0, 0.7), 0)]
)
def test_the_distance_is_to_the_mixture_at_equal_tokens(place: tuple[float, float], distance: float) -> None:
    assert below(MIX, place) == pytest.approx(distance)


def test_half_a_point_below_is_within() -> None:
    def fit(distance: float) -> dict[str, object]:
        places = {tolerance: {"place": (20.0, 0.6), "below": distance} for tolerance in ("0", "0.005", "0.02")}
        return {"of": {"prompts": 150}, "reader": "length", "unfamiliar": 0.1, "tolerances": places}

    told = report([fit(0.004), fit(0.006), fit(-0.1), fit(0.0)])
    assert told["tolerances"]["0.005"]["within"]["mean"] == 0.75
    assert told["readers"] == {"length": 4}
