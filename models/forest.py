"""What does a boosted forest say of some inputs? Regression trees in plain arrays, several forests in one pass.

A forest's value is `intercept` plus the sum of one leaf of each tree. Trees stand one after the other in the same
arrays: node i goes to `left[i]` where input `feature[i]` is at most `threshold[i]`, else to `right[i]`, and to itself
at a leaf. Children come after their parents, so every walk ends.

The last input is a place, 0, 1, ... up to the number of places; the forests are asked for all places at once. What a
node that looks at the place does is settled beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

Array = NDArray[np.float64]


class Forest(BaseModel):
    """One forest, as it is stored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)
    intercept: float
    roots: tuple[int, ...]
    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    left: tuple[int, ...]
    right: tuple[int, ...]
    value: tuple[float, ...]

    @model_validator(mode="after")
    def _walkable(self) -> Self:
        size = len(self.value)
        for name in ("feature", "threshold", "left", "right"):
            if len(getattr(self, name)) != size:
                raise ValueError(f"{name} has {len(getattr(self, name))} values, not {size}")
        if any(not 0 <= root < size for root in self.roots):
            raise ValueError("roots must be nodes")
        for node, (left, right) in enumerate(zip(self.left, self.right, strict=True)):
            if not (left == right == node or (node < left < size and node < right < size)):
                raise ValueError(f"node {node} must come before its children, or be its own")
        return self


class _Node(NamedTuple):
    feature: int
    threshold: float
    left: int
    right: int


class Forests:
    """Several forests, ready to predict."""

    def __init__(self, forests: Sequence[Forest], inputs: int, places: int) -> None:
        """`inputs` without the place.

        Raises:
            ValueError: a forest looks at an input beyond these and the place.
        """
        self._intercept = np.array([forest.intercept for forest in forests])
        nodes: list[_Node] = []
        value: list[float] = []
        roots: list[int] = []
        owner: list[int] = []
        for which, forest in enumerate(forests):
            if any(not 0 <= at <= inputs for at in forest.feature):
                raise ValueError(f"a feature is not one of the {inputs + 1} inputs")
            offset = len(value)
            lefts, rights = ([offset + child for child in side] for side in (forest.left, forest.right))
            nodes += map(_Node, forest.feature, forest.threshold, lefts, rights)
            value += forest.value
            roots += (offset + root for root in forest.roots)
            owner += [which] * len(forest.roots)
        size = len(value)
        self._places, self._trees = places, len(roots)
        self._threshold = np.array([node.threshold for node in nodes])
        self._feature = np.array([0 if node.feature == inputs else node.feature for node in nodes], dtype=np.intp)
        self._owner = np.eye(len(forests))[owner]
        self._value = np.tile(np.array(value), places)
        ways = [_settled(nodes, inputs, place) for place in range(places)]
        self._depth = max(map(_depth, ways))
        # Of place p, node i is p size + i.
        first = np.arange(places)[:, None] * size
        self._left, self._right = (
            (first + np.array([[way[side] for way in at] for at in ways], dtype=np.intp)).ravel() for side in (0, 1)
        )
        self._first = (first + np.array(roots, dtype=np.intp)).ravel()

    def __call__(self, inputs: Array) -> Array:
        """(inputs,) to (places, forests)."""
        # To ask every node is less work than to gather inputs and thresholds at each step.
        beyond = np.concatenate([inputs.take(self._feature) > self._threshold] * self._places)
        follows = np.where(beyond, self._right, self._left)
        nodes = self._first
        for _ in range(self._depth):
            nodes = follows.take(nodes)
        return self._intercept + self._value.take(nodes).reshape(self._places, self._trees) @ self._owner


def _settled(nodes: Sequence[_Node], at_place: int, place: int) -> list[tuple[int, int]]:
    """Where each node goes at one place: one that looks at the place goes where that leads, whatever else there is."""
    leads = list(range(len(nodes)))
    for at in reversed(range(len(nodes))):  # children come after their parents
        node = nodes[at]
        if node.feature == at_place and node.left != at:
            leads[at] = leads[node.right if place > node.threshold else node.left]
    return [
        (leads[node.left], leads[node.right]) if leads[at] == at else (leads[at], leads[at])
        for at, node in enumerate(nodes)
    ]


def _depth(ways: Sequence[tuple[int, int]]) -> int:
    """Steps that reach a leaf from anywhere."""
    steps = [0] * len(ways)
    for at in reversed(range(len(ways))):
        left, right = ways[at]
        if left != at:
            steps[at] = 1 + max(steps[left], steps[right])
    return max(steps, default=0)
