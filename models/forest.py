"""What does a boosted forest predict for an input? Regression trees in plain arrays, several forests in one pass.

A forest's value is `intercept` plus the sum of one leaf of each tree. All trees share the same arrays, one tree after
the other. Node i goes to `left[i]` if input `feature[i]` is at most `threshold[i]`, else to `right[i]`; a leaf goes to
itself. Children come after their parents, so every walk ends. A node has one parent at most, and a root none: where
several paths lead to the same nodes, their number doubles with every level, and so does what is compiled of them.

The last input is a position: 0, 1, ... up to the number of positions. The forests are evaluated at all positions at
once, so every node that tests the position is resolved in advance.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
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
            raise ValueError("roots must be indices of nodes")
        for node, (left, right) in enumerate(zip(self.left, self.right, strict=True)):
            if not (left == right == node or (node < left < size and node < right < size)):
                raise ValueError(f"node {node} must come before its children, or be a leaf that points to itself")
        pairs = enumerate(zip(self.left, self.right, strict=True))
        reached = [*self.roots, *(child for node, pair in pairs for child in pair if child != node)]
        if len(set(reached)) < len(reached):
            raise ValueError("roots, left and right must lead to a node in one way only")
        return self


class _Node(NamedTuple):
    feature: int
    threshold: float
    left: int
    right: int


class Tree(NamedTuple):
    """A tree as it is at some positions: no node of it tests the position. Its root is the first node."""

    low: int
    high: int
    """It is for the positions low, ..., high - 1."""
    nodes: list[_Node]
    """Children are indices in this list; a leaf, whose threshold is infinite, points to itself."""
    values: list[float]
    """By node."""
    depth: int
    """After so many steps, every walk has reached a leaf."""


class Forests:
    """Several forests, ready to predict."""

    def __init__(self, forests: Sequence[Forest], inputs: int, positions: int) -> None:
        """`inputs` is the number of inputs without the position.

        Raises:
            ValueError: a forest reads an input beyond these and the position.
        """
        self._intercept = np.array([forest.intercept for forest in forests])
        nodes: list[_Node] = []
        value: list[float] = []
        roots: list[int] = []
        owner: list[int] = []
        for index, forest in enumerate(forests):
            if any(not 0 <= feature <= inputs for feature in forest.feature):
                raise ValueError(f"a feature is not one of the {inputs + 1} inputs")
            offset = len(value)
            lefts, rights = ([offset + child for child in side] for side in (forest.left, forest.right))
            nodes += map(_Node, forest.feature, forest.threshold, lefts, rights)
            value += forest.value
            roots += (offset + root for root in forest.roots)
            owner += [index] * len(forest.roots)
        size = len(value)
        self._positions, self._trees = positions, len(roots)
        self._threshold = np.array([node.threshold for node in nodes])
        self._feature = np.array([0 if node.feature == inputs else node.feature for node in nodes], dtype=np.intp)
        self._owner = np.eye(len(forests))[owner]
        self._value = np.tile(np.array(value), positions)
        resolved = [_resolved(nodes, inputs, position) for position in range(positions)]
        self._depth = max(map(_depth, resolved))
        # At position p, node i has the index p * size + i.
        first = np.arange(positions)[:, None] * size
        self._left, self._right = (
            (first + np.array([[pair[side] for pair in pairs] for pairs in resolved], dtype=np.intp)).ravel()
            for side in (0, 1)
        )
        self._first = (first + np.array(roots, dtype=np.intp)).ravel()

    def __call__(self, inputs: Array) -> Array:
        """Predictions for one input vector: (inputs,) to (positions, forests)."""
        # Comparing every node at once is cheaper than gathering inputs and thresholds at each step of the walk.
        above = np.concatenate([inputs.take(self._feature) > self._threshold] * self._positions)
        next_node = np.where(above, self._right, self._left)
        nodes = self._first
        for _ in range(self._depth):
            nodes = next_node.take(nodes)
        return self._intercept + self._value.take(nodes).reshape(self._positions, self._trees) @ self._owner


def trees_by_position(forest: Forest, inputs: int, positions: int) -> Iterator[Tree]:
    """Every tree of the forest, once for each range of positions in which it is the same.

    Args:
        forest: all its features are inputs, or the position.
        inputs: the number of inputs without the position.
        positions: the number of positions.
    """
    for root in forest.roots:
        cuts = {0, positions, *(cut for cut in _cuts(forest, root, inputs) if 0 < cut < positions)}
        for low, high in pairwise(sorted(cuts)):
            yield _at_position(forest, root, inputs, low, high)


def _cuts(forest: Forest, root: int, inputs: int) -> Iterator[int]:
    """The positions from which on a node that tests the position goes right."""
    open_nodes = [root]
    while open_nodes:
        node = open_nodes.pop()
        if forest.left[node] != node:
            open_nodes += (forest.left[node], forest.right[node])
            if forest.feature[node] == inputs and math.isfinite(forest.threshold[node]):
                yield math.floor(forest.threshold[node]) + 1


def _at_position(forest: Forest, root: int, inputs: int, low: int, high: int) -> Tree:
    nodes: list[_Node] = []
    values: list[float] = []
    depth = 0
    open_nodes = [(root, 0, -1, False)]  # node, depth, its parent in `nodes`, whether it is the right child
    while open_nodes:
        at, level, parent, is_right = open_nodes.pop()
        while forest.feature[at] == inputs and forest.left[at] != at:
            at = forest.right[at] if low > forest.threshold[at] else forest.left[at]
        here, leaf = len(nodes), forest.left[at] == at
        nodes.append(_Node(0, math.inf, here, here) if leaf else _Node(forest.feature[at], forest.threshold[at], 0, 0))
        values.append(forest.value[at])
        if parent >= 0:
            nodes[parent] = nodes[parent]._replace(**{"right" if is_right else "left": here})
        if not leaf:
            open_nodes += [(forest.right[at], level + 1, here, True), (forest.left[at], level + 1, here, False)]
        depth = max(depth, level)
    return Tree(low, high, nodes, values, depth)


def _resolved(nodes: Sequence[_Node], position_feature: int, position: int) -> list[tuple[int, int]]:
    """Left and right child of every node at one position. A node that tests the position passes straight through."""
    target = list(range(len(nodes)))
    for index in reversed(range(len(nodes))):  # children come after their parents
        node = nodes[index]
        if node.feature == position_feature and node.left != index:
            target[index] = target[node.right if position > node.threshold else node.left]
    return [
        (target[node.left], target[node.right]) if target[index] == index else (target[index], target[index])
        for index, node in enumerate(nodes)
    ]


def _depth(children: Sequence[tuple[int, int]]) -> int:
    """The number of steps after which every walk has reached a leaf."""
    steps = [0] * len(children)
    for node in reversed(range(len(children))):
        left, right = children[node]
        if left != node:
            steps[node] = 1 + max(steps[left], steps[right])
    return max(steps, default=0)
