from __future__ import annotations

import pytest

from benchmarks import growth


def test_what_grows_in_proportion_has_a_slope_of_one_and_what_is_constant_of_zero() -> None:
    sizes = (1, 10, 100, 1000)
    assert growth.slopes(sizes, [3.0 * size for size in sizes]) == pytest.approx((1.0, 1.0))
    assert growth.slopes(sizes, [5.0] * 4) == pytest.approx((0.0, 0.0))


def test_growth_that_a_constant_hides_shows_at_the_end() -> None:
    sizes = (1, 10, 100, 1000, 10_000)
    overall, last = growth.slopes(sizes, [1e6 + size**2 for size in sizes])
    assert overall < 1 < last


def test_a_size_of_zero_is_left_out_of_the_slope() -> None:
    assert growth.slopes((0, 1, 2), [7.0, 1.0, 2.0]) == pytest.approx((1.0, 1.0))


def test_dimensions_above_linear_anywhere_or_at_the_end_are_named() -> None:
    slopes = {"constant": (0.0, 0.0), "linear": (1.0, 1.1), "worse": (1.3, 1.0), "worse at the end": (0.6, 1.9)}
    dimensions = {name: {"slope": slope, "slope at the end": last} for name, (slope, last) in slopes.items()}
    assert growth.above_linear(dimensions) == ["worse", "worse at the end"]
