"""Which numbers does a command line take? Readers for `argparse`, whose errors say what is allowed.

Each reads text and raises ArgumentTypeError, which `argparse` prints behind the option's name.
"""

from __future__ import annotations

import argparse
import math
from functools import partial

LARGEST_SEED = 2**32 - 1
"""numpy's and scikit-learn's limit."""


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seed(text: str) -> int:
    """A whole number that every generator takes as a seed."""
    if not text.isdecimal() or int(text) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {LARGEST_SEED}")
    return int(text)


def _number(text: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {most:g}")
    return value


share, temperature = partial(_number, most=1.0), partial(_number, most=2.0)


def positive_share(text: str) -> float:
    """A number above 0 and up to 1."""
    if not (value := share(text)):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
