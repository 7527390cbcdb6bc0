"""How good is a way to choose checkpoints? Cost against accuracy of checkpoints, mixtures, a rule and an oracle.

A *frontier* is the upper concave hull of points (tokens, accuracy): what they reach if one may also toss a coin
between two of them. `gap_closed` compares a point with random mixing and with the oracle, at the point's own cost: 0
is no better than tossing a coin, 1 is as good as knowing the outcomes, and below 0 is worse than the coin.
`share_closed` does the same for the areas under frontiers. A rule may be mixed with checkpoints there, so its share is
never below 0, and luck alone lifts it a little above.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Point = tuple[float, float]
"""Mean reasoning tokens, and accuracy in [0, 1]."""

TOLERANCES = np.concatenate([np.linspace(0, 0.1, 41), np.linspace(0.1, 1, 37)[1:]])


def singles(accuracy: Array, tokens: Array) -> list[Point]:
    """Every checkpoint for everything; both (prompts, checkpoints)."""
    return [(float(t), float(a)) for t, a in zip(tokens.mean(0), accuracy.mean(0), strict=True)]


def chosen(success: Array, cost: Array, tolerance: float) -> NDArray[np.intp]:
    """The gateway's rule for each prompt: the cheapest whose success is within `tolerance` of the best; (prompts,)."""
    good = success >= success.max(1, keepdims=True) - tolerance
    return np.where(good, cost, np.inf).argmin(1)


def swept(success: Array, cost: Array, accuracy: Array, tokens: Array) -> list[Point]:
    """What the rule does with predictions at every tolerance, measured on outcomes; all (prompts, checkpoints)."""
    rows = np.arange(len(accuracy))
    picks = (chosen(success, cost, tolerance) for tolerance in TOLERANCES)
    return [(float(tokens[rows, pick].mean()), float(accuracy[rows, pick].mean())) for pick in picks]


def oracle(accuracy: Array, tokens: Array) -> list[Point]:
    """The rule with the outcomes themselves for predictions."""
    return swept(accuracy, tokens, accuracy, tokens)


def hull(points: Sequence[Point]) -> list[Point]:
    """The frontier: rising, concave, from the cheapest point on."""
    vertices: list[Point] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if vertices and point[1] <= vertices[-1][1]:
            continue
        while len(vertices) > 1 and _slope(vertices[-2], vertices[-1]) <= _slope(vertices[-1], point):
            vertices.pop()
        vertices.append(point)
    return vertices


def at(frontier: Sequence[Point], tokens: Array) -> Array:
    """Accuracy at these costs: beyond the frontier's end that of its end, before its beginning none."""
    x, y = np.array(frontier).T
    return np.interp(tokens, x, y, left=0.0)


def gap_closed(point: Point, oracle: Sequence[Point], single: Sequence[Point]) -> float | None:
    """How much of the way from random mixing to the oracle a point has come, at its own cost.

    None for a point that costs less than every checkpoint: no mixing is that cheap.
    """
    mix, cost = hull(single), np.array([point[0]])
    if cost[0] < mix[0][0]:
        return None
    mixed, known = at(mix, cost)[0], at(hull([*oracle, *single]), cost)[0]
    return float((point[1] - mixed) / (known - mixed)) if known > mixed else 0.0


def share_closed(rule: Sequence[Point], oracle: Sequence[Point], single: Sequence[Point]) -> float:
    """How much of the way from random mixing to the oracle, between the cheapest and the dearest point of mixing."""
    mix = hull(single)
    grid = np.linspace(mix[0][0], mix[-1][0], 1001)
    base = at(mix, grid).mean()
    gained, possible = at(hull([*rule, *single]), grid).mean() - base, at(hull([*oracle, *single]), grid).mean() - base
    return float(gained / possible) if possible > 0 else 0.0


def _slope(one: Point, other: Point) -> float:
    return (other[1] - one[1]) / (other[0] - one[0]) if other[0] > one[0] else np.inf
