import numpy as np
import pytest

from training.measure import figures


def test_the_interval_of_a_mean_is_at_the_95_percent_level():
    """Of many normal values the bootstrap agrees with the normal interval: 1.96 standard errors on either side."""
    values = np.random.default_rng(0).normal(10, 2, 4000)
    interval = figures.interval(list(values), seed=0)
    standard_error = values.std() / len(values) ** 0.5
    assert interval.mean == pytest.approx(values.mean())
    assert (interval.mean - interval.low) / standard_error == pytest.approx(1.96, abs=0.12)
    assert (interval.high - interval.mean) / standard_error == pytest.approx(1.96, abs=0.12)


def test_the_interval_of_shares_that_are_all_equal_is_at_the_95_percent_level():
    assert figures.interval([1.0] * 30, 0, shares=True).low == pytest.approx(0.025 ** (1 / 30))
