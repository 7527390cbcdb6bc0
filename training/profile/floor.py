"""At which tolerance is routing certain to keep a share of the reference's quality? Learn then Test; pure.

Routing keeps the floor f if E[a - f r] >= 0, for a the routed accuracy of a prompt and r the reference's. Each
tolerance is a null hypothesis, E[a - f r] < 0, and those that are rejected are certified (arXiv 2110.01052).

- The p-value is of betting (Waudby-Smith and Ramdas, arXiv 2010.09686): if the null is true, a gambler who stakes a
  share s_i of his wealth on prompt i, chosen before seeing it, multiplies his wealth by 1 + s_i (a_i / f - r_i), in
  expectation by less than 1. So his wealth ever reaches 1 / p with a probability of at most p. This holds for any
  number of prompts and any distribution. It needs far fewer prompts than bounds that know nothing of the variance
  (decision 50).
- Hypotheses are tested in a fixed order, from the most careful tolerance on, and the first that is not rejected ends
  the test. A true null that comes first in the order is rejected with a probability of at most alpha, and those behind
  it are only reached then, so nothing has to be corrected for how many are tested. Routing with and without escalations
  are two such sequences, each at half of alpha.

Prompts are decided by profiles that were fitted on others, but five of them share most of their prompts, so the
outcomes are not quite independent. `benchmarks.quality_floor` shows that the bound covers nevertheless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.floor import Certified, Floor

Array = NDArray[np.float64]
Way = Literal["alone", "escalating"]

FLOORS = (0.9, 0.95, 0.98, 0.99, 0.995)
"""Certified for every profile, where the prompts are enough."""
TOLERANCES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
"""The order of the tests."""
ALPHA = 0.05
_LARGEST_STAKE = 0.99
_STEPS = 30
"""Halvings that find a lower bound."""


@dataclass(frozen=True)
class Outcomes:
    """How prompts went, one value each, (prompts,)."""

    accuracy: Array
    """In [0, 1]."""
    tokens: Array


def certify(floor: float, reference: Outcomes, ways: Mapping[Way, Sequence[Outcomes]], seed: int) -> Floor:
    """What keeps the floor with 95 % confidence; nothing if the reference is never right.

    Args:
        floor: share of the reference's accuracy, in (0, 1].
        reference: of the reference on every prompt.
        ways: what was routed, at each of `TOLERANCES`; without `escalating` if there are no escalations.
        seed: of the order in which prompts are bet on.
    """
    order = np.random.default_rng(seed).permutation(len(reference.accuracy))
    if not reference.accuracy.any():  # a share of nothing is kept by anything, which says nothing
        return Floor(floor=floor, confidence=1 - ALPHA, prompts=len(order), alone=None, escalating=None, needed=None)
    level = ALPHA / len(ways)
    certified: dict[Way, Certified | None] = {"alone": None, "escalating": None}
    needed: list[int] = []
    for way, tried in ways.items():
        rejected: list[int] = []
        for which, routed in enumerate(tried):
            pair = routed.accuracy[order], reference.accuracy[order]
            if p_value(*pair, floor, level) > level:
                if not rejected and (prompts := prompts_needed(*pair, floor, level)) is not None:
                    needed.append(prompts)
                break
            rejected.append(which)
        if rejected:
            best = min(rejected, key=lambda which: float(tried[which].tokens.mean()))
            low = lower_bound(tried[best].accuracy[order], reference.accuracy[order], level)
            certified[way] = _certified(TOLERANCES[best], tried[best], reference, low)
    return Floor(
        floor=floor,
        confidence=1 - ALPHA,
        prompts=len(order),
        **certified,
        needed=None if any(certified.values()) else min(needed, default=None),
    )


def p_value(accuracy: Array, reference: Array, floor: float, level: float) -> float:
    """Of the null hypothesis that E[accuracy] < floor E[reference], valid for any number of prompts.

    Args:
        accuracy: routed, in [0, 1], (prompts,), in an order that has nothing to do with the values.
        reference: the same of the reference.
        floor: in (0, 1].
        level: at which the stakes are best; the p-value holds at every level.

    Stakes are those of arXiv 2010.09686, section 4.2 (predictable plug-in), of mean and variance so far.
    """
    count = len(accuracy)
    gain = accuracy / floor - reference
    # The first guess, made before anything is seen, is a mean of 0 and a variance of 1.
    so_far = np.arange(1, count + 1)
    mean = np.cumsum(gain) / (so_far + 1)
    squares = np.cumsum((gain - mean) ** 2)
    variance = (1 + np.r_[0.0, squares[:-1]]) / so_far
    stake = np.minimum(np.sqrt(2 * log(1 / level) / (count * variance)), _LARGEST_STAKE)
    wealth = np.cumsum(np.log1p(stake * gain))
    return exp(-max(float(wealth.max(initial=0.0)), 0.0))


def lower_bound(accuracy: Array, reference: Array, level: float) -> float:
    """The largest share of the reference's accuracy that is kept for certain; 0 if none is. Arguments of `p_value`."""
    low, high = 0.0, 2.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if p_value(accuracy, reference, middle, level) <= level:
            low = middle
        else:
            high = middle
    return low


def prompts_needed(accuracy: Array, reference: Array, floor: float, level: float) -> int | None:
    """About how many prompts such as these would reject the null; None if they keep less than the floor themselves."""
    gain = accuracy / floor - reference
    mean = float(gain.mean())
    if mean <= 0:
        return None
    # With the best stake wealth grows by mean ** 2 / (2 variance) a prompt, and with the largest by about the mean.
    # The first stakes are small, whatever the prompts are like: that takes a tenth more.
    needed = 1.1 * log(1 / level) * (2 * float(gain.var()) / mean**2 + 1 / np.log1p(_LARGEST_STAKE * mean))
    digits = max(int(np.floor(np.log10(needed))) - 1, 0)
    return int(np.ceil(needed / 10**digits) * 10**digits)


def _certified(tolerance: float, routed: Outcomes, reference: Outcomes, low: float) -> Certified:
    tokens = float(reference.tokens.mean())
    return Certified(
        tolerance=tolerance,
        kept=float(routed.accuracy.mean() / reference.accuracy.mean()),
        low=low,
        tokens=float(routed.tokens.mean()) / tokens if tokens else 1.0,
    )
