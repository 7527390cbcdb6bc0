"""How did the prompts that are most like this one do? A weighted average of their outcomes.

Prompts are compared by the cosine of what the sentence encoder makes of them (`models.encoder`), from which the mean
over the fitting prompts is taken away. The vectors are stored in whole numbers of seven bits. They are not text, but
they say what a prompt is about: a profile with them is as confidential as a list of topics.
"""

from __future__ import annotations

import base64
import binascii
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Array = NDArray[np.float64]
Unit = NDArray[np.float32]

NEAREST = 50
TEMPERATURE = 0.1
"""A neighbour whose cosine is lower by this weighs e times less."""
PRIOR = 10.0
"""The mean over all prompts weighs as much as this many neighbours of average weight."""
MOST = 5000
"""Most prompts that are kept: comparing with so many takes half a millisecond."""
_LARGEST = 127


class StoredNeighbours(BaseModel):
    """The fitting prompts, as they are stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    weight: float
    """Of what the neighbours say, in easiness."""
    center: tuple[float, ...] = Field(min_length=1, max_length=4096)
    vectors: str
    """Base64 of (prompts, width) signed bytes."""
    shares: tuple[float, ...] = Field(min_length=1, max_length=MOST)
    """Of right samples, by prompt."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            size = len(base64.b64decode(self.vectors, validate=True))
        except (binascii.Error, ValueError):
            raise ValueError("vectors: not base64") from None
        if size != len(self.shares) * len(self.center):
            raise ValueError(f"vectors: {size} bytes, not {len(self.shares)} x {len(self.center)}")
        if not all(0.0 <= share <= 1.0 for share in self.shares):
            raise ValueError("shares: must be from 0 to 1")
        return self


class Neighbours:
    """Prompts whose outcomes are known, ready to be compared with others. Pure."""

    def __init__(self, center: Array, units: Unit, shares: Array) -> None:
        """
        Args:
            center: taken away from every vector, (width,).
            units: the prompts' vectors, of length 1, (prompts, width).
            shares: of right samples, in [0, 1], (prompts,).
        """
        self._center, self._units, self._shares = center, units, shares

    @classmethod
    def of(cls, vectors: Array, shares: Array) -> Self:
        """From the encoder's vectors of the fitting prompts, (prompts, width)."""
        center = vectors.mean(0)
        return cls(center, unpacked(packed(units_of(vectors, center)), vectors.shape[1]), shares)

    @classmethod
    def load(cls, stored: StoredNeighbours) -> Self:
        """From what a profile stores."""
        return cls(np.array(stored.center), unpacked(stored.vectors, len(stored.center)), np.array(stored.shares))

    def store(self, weight: float) -> dict[str, object]:
        """As `StoredNeighbours` reads it."""
        return {
            "weight": weight,
            "center": self._center.tolist(),
            "vectors": packed(self._units),
            "shares": self._shares.tolist(),
        }

    def __call__(self, vectors: Array) -> Array:
        """Easiness of prompts, in logits, (n,), from the encoder's vectors, (n, width)."""
        return self._values(units_of(vectors, self._center) @ self._units.T)

    def without_each(self) -> Array:
        """Easiness of the own prompts, each from all the others, in logits, (prompts,)."""
        cosines = self._units @ self._units.T
        np.fill_diagonal(cosines, -np.inf)
        return self._values(cosines)

    def _values(self, cosines: Unit) -> Array:
        nearest = min(NEAREST, cosines.shape[1])
        which = np.argpartition(-cosines, nearest - 1, axis=1)[:, :nearest]
        near = np.take_along_axis(cosines, which, axis=1).astype(np.float64)
        weights = np.exp((near - near.max(1, keepdims=True)) / TEMPERATURE)
        prior = PRIOR * weights.mean(1)
        share = (np.einsum("ij,ij->i", weights, self._shares[which]) + prior * self._shares.mean()) / (
            weights.sum(1) + prior
        )
        share = np.clip(share, 0.001, 0.999)
        return np.log(share / (1.0 - share))


def units_of(vectors: Array, center: Array) -> Unit:
    """The vectors without the center, scaled to length 1, (n, width)."""
    moved = vectors - center
    return (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)).astype(np.float32)


def packed(units: Unit) -> str:
    """Vectors of length 1 as base64 of signed bytes; the largest component of each has all of the range."""
    largest = np.maximum(np.abs(units).max(1, keepdims=True), 1e-12)
    return base64.b64encode(np.rint(units / largest * _LARGEST, dtype=np.float32).astype(np.int8).tobytes()).decode()


def unpacked(text: str, width: int) -> Unit:
    """The vectors again, of length 1, (n, width)."""
    whole = np.frombuffer(base64.b64decode(text), dtype=np.int8).reshape(-1, width).astype(np.float32)
    return whole / np.maximum(np.linalg.norm(whole, axis=1, keepdims=True), 1e-12)
