"""What does a boosted forest say of some inputs? Regression trees in plain arrays, several forests in one pass.

A forest's value is `intercept` plus the sum of one leaf of each tree. Trees stand one after the other in the same
arrays: node i goes to `left[i]` where input `feature[i]` is at most `threshold[i]`, else to `right[i]`, and to itself
at a leaf. Children come after their parents, so every walk ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

Matrix = NDArray[np.float64]


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

    @property
    def depth(self) -> int:
        """Steps that reach a leaf from any root."""
        steps = [0] * len(self.value)
        for node in reversed(range(len(steps))):
            if self.left[node] != node:
                steps[node] = 1 + max(steps[self.left[node]], steps[self.right[node]])
        return max(steps, default=0)


class Forests:
    """Several forests, ready to predict."""

    def __init__(self, forests: Sequence[Forest], inputs: int) -> None:
        """
        Raises:
            ValueError: a forest looks at an input beyond the first `inputs`.
        """
        self._depth = max(forest.depth for forest in forests)
        self._intercept = np.array([forest.intercept for forest in forests])
        feature: list[int] = []
        threshold: list[float] = []
        left: list[int] = []
        right: list[int] = []
        value: list[float] = []
        roots: list[int] = []
        owner: list[int] = []
        for which, forest in enumerate(forests):
            if any(not 0 <= at < inputs for at in forest.feature):
                raise ValueError(f"a feature is not one of the {inputs} inputs")
            offset = len(value)
            feature += forest.feature
            threshold += forest.threshold
            value += forest.value
            left += (offset + node for node in forest.left)
            right += (offset + node for node in forest.right)
            roots += (offset + node for node in forest.roots)
            owner += [which] * len(forest.roots)
        self._feature, self._threshold = np.array(feature, dtype=np.intp), np.array(threshold)
        self._left, self._right = np.array(left, dtype=np.intp), np.array(right, dtype=np.intp)
        self._value, self._roots = np.array(value), np.array(roots, dtype=np.intp)
        self._owner = np.eye(len(forests))[owner]

    def __call__(self, inputs: Matrix) -> Matrix:
        """(rows, inputs) to (rows, forests)."""
        rows = np.arange(len(inputs))[:, None]
        nodes = np.broadcast_to(self._roots, (len(inputs), len(self._roots)))
        for _ in range(self._depth):
            goes_left = inputs[rows, self._feature[nodes]] <= self._threshold[nodes]
            nodes = np.where(goes_left, self._left[nodes], self._right[nodes])
        return self._intercept + self._value[nodes] @ self._owner
