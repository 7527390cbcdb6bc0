"""Does every number of a command line get a clear error if it makes no sense?"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from training import numbers


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (numbers.count, "1", 1),
        (numbers.seed, "0", 0),
        (numbers.seed, str(numbers.LARGEST_SEED), numbers.LARGEST_SEED),
        (numbers.share, "0", 0.0),
        (numbers.share, "1", 1.0),
        (numbers.positive_share, "0.99", 0.99),
        (numbers.temperature, "2", 2.0),
    ],
)
def test_numbers_are_read(read: Callable[[str], float], text: str, value: float) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text", "said"),
    [
        (numbers.count, "0", "'0' is not a whole number above 0"),
        (numbers.count, "two", "'two' is not a whole number above 0"),
        (numbers.count, "1.5", "'1.5' is not a whole number above 0"),
        (numbers.seed, "-1", "'-1' is not a whole number from 0 to 4294967295"),
        (numbers.seed, "4294967296", "'4294967296' is not a whole number from 0 to 4294967295"),
        (numbers.share, "1.01", "'1.01' is not a number from 0 to 1"),
        (numbers.share, "nan", "'nan' is not a number from 0 to 1"),
        (numbers.share, "high", "'high' is not a number from 0 to 1"),
        (numbers.temperature, "-0.1", "'-0.1' is not a number from 0 to 2"),
        (numbers.positive_share, "0", "0 is not above 0"),
    ],
)
def test_what_is_none_is_said(read: Callable[[str], float], text: str, said: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        read(text)
    assert str(refused.value) == said
