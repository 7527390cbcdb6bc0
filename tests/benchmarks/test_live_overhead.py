from __future__ import annotations

import numpy as np
import pytest

from benchmarks.live_overhead import PLAIN, SHADOWS, Load, quantiles, ratios


def rounds(seed: int, factor: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [factor * rng.lognormal(0, 0.3, 60) for _ in range(12)]


def test_quantiles_are_of_all_rounds_and_in_milliseconds() -> None:
    found = quantiles([np.full(99, 0.1), np.array([0.9])])
    assert found["p50"] == pytest.approx(100)
    assert found["p99"] == pytest.approx(108)


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_a_ratio_has_an_interval_that_covers_what_it_is(factor: float) -> None:
    found = ratios({PLAIN: rounds(0), SHADOWS: rounds(1, factor)}, SHADOWS)
    assert found["p50"]["low"] < factor < found["p50"]["high"]
    assert found["p50"]["low"] <= found["p50"]["mean"] <= found["p50"]["high"]
    assert (found["p50"]["low"] > 1.2) is (factor > 1)
    assert found["p99"]["high"] - found["p99"]["low"] > found["p50"]["high"] - found["p50"]["low"]


def test_rounds_that_are_slow_for_both_arms_leave_the_ratio_as_it_is() -> None:
    plain = rounds(0)
    slowed = [one * (1 + number) for number, one in enumerate(plain)]
    found = ratios({PLAIN: slowed, SHADOWS: [2 * one for one in slowed]}, SHADOWS)
    for figure in found.values():
        assert figure == pytest.approx({"mean": 2.0, "low": 2.0, "high": 2.0})


def test_a_turn_has_the_requests_of_its_rate() -> None:
    assert Load(rate=4.0, seconds=15.0, rounds=3).requests == 60
    assert Load(rate=0.01, seconds=1.0, rounds=3).requests == 1
