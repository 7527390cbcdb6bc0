"""How easy does a prompt look? The reader that the profile's fit chose for this family's prompts.

Easiness, in logits of a right answer, is a sum of what some parts see: the forest over the counts of `models.features`,
and linear parts over the length, the counts, the text (`models.text`) or hashed words. Most readers have one part; the
stack has several. A profile without a reader (version 7) has the forest alone.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.features import FEATURES
from models.text import TEXT, ngrams_of, text_of

Vector = NDArray[np.float64]
Kind = Literal["length", "counts", "text", "ngrams"]
MAX_BUCKETS = 2**16
WIDTHS: dict[Kind, int] = {"length": 1, "counts": len(FEATURES), "text": len(TEXT)}
"""How many inputs each kind of part has; the n-grams' are chosen when they are fitted."""


class Part(BaseModel):
    """A linear function of what one kind of part sees."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    kind: Kind
    weights: tuple[float, ...] = Field(min_length=1, max_length=MAX_BUCKETS)

    @model_validator(mode="after")
    def _fits(self) -> Part:
        if len(self.weights) != WIDTHS.get(self.kind, len(self.weights)):
            raise ValueError(f"weights: {self.kind} has {WIDTHS[self.kind]} inputs, not {len(self.weights)}")
        return self


class StoredReader(BaseModel):
    """A reader, as it is stored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: str
    intercept: float
    forest: float
    """Weight of the forest's value; 0 where it is not read."""
    parts: tuple[Part, ...]
    compared: dict[str, dict[str, float]]
    """Cross-validated figures of every reader that was weighed up, for people to read."""


class Reader:
    """A reader, ready to read. Pure."""

    def __init__(self, stored: StoredReader) -> None:
        self._intercept, self.forest = stored.intercept, stored.forest
        self._parts: list[tuple[Kind, Vector]] = [(part.kind, np.array(part.weights)) for part in stored.parts]

    def __call__(self, prompt: str, counts: Vector) -> float:
        """Easiness without the forest's share, in logits.

        Args:
            prompt: the text.
            counts: what `models.features.features_of` makes of it.
        """
        return self._intercept + sum(_value(kind, weights, prompt, counts) for kind, weights in self._parts)


def _value(kind: Kind, weights: Vector, prompt: str, counts: Vector) -> float:
    if kind == "length":
        return float(weights[0]) * math.log1p(len(prompt))
    if kind == "counts":
        return float(weights @ counts)
    if kind == "text":
        return float(weights @ text_of(prompt))
    buckets, values = ngrams_of(prompt, len(weights))
    return float(weights.take(buckets) @ values)
