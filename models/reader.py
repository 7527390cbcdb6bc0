"""How easy does a prompt look? The reader that the profile's fit chose for this family's prompts.

Easiness, in logits of a right answer, is a sum of what some parts see: the forest over the counts of `models.features`,
linear parts over the length, the counts, the text (`models.text`), hashed words or what a sentence encoder makes of it
(`models.encoder`), and the outcomes of the most similar fitting prompts. Most readers have one part; stacks have
several. A profile without a reader (version 7) has the forest alone.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.encoder import Encoder
from models.features import FEATURES
from models.neighbours import Neighbours, StoredNeighbours
from models.text import TEXT, ngrams_of, text_of

Vector = NDArray[np.float64]
Kind = Literal["length", "counts", "text", "ngrams", "encoder"]
MAX_BUCKETS = 2**16
WIDTHS: dict[Kind, int] = {"length": 1, "counts": len(FEATURES), "text": len(TEXT)}
"""How many inputs each kind of part has; n-grams and encoders have several sizes."""


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
    neighbours: StoredNeighbours | None = None
    compared: dict[str, dict[str, float]]
    """Cross-validated figures of every reader that was weighed up, for people to read."""

    @property
    def encoder_width(self) -> int | None:
        """How wide the encoder's vectors must be; None if it needs no encoder."""
        widths = [len(part.weights) for part in self.parts if part.kind == "encoder"]
        widths += [len(self.neighbours.center)] if self.neighbours else []
        return widths[0] if widths else None

    @model_validator(mode="after")
    def _one_encoder(self) -> StoredReader:
        for part in self.parts:
            if part.kind == "encoder" and len(part.weights) != self.encoder_width:
                raise ValueError("parts: encoder vectors of different widths")
        if self.neighbours and len(self.neighbours.center) != self.encoder_width:
            raise ValueError("neighbours: other encoder vectors than those of parts")
        return self


class Reader:
    """A reader, ready to read. Pure."""

    def __init__(self, stored: StoredReader, encoder: Encoder | None = None) -> None:
        """`encoder` is needed if the reader has an `encoder_width`, which is then its width."""
        self._intercept, self.forest = stored.intercept, stored.forest
        self._parts: list[tuple[Kind, Vector]] = [
            (part.kind, np.array(part.weights)) for part in stored.parts if part.kind != "encoder"
        ]
        self._encoder = encoder if stored.encoder_width is not None else None
        self._weights = next((np.array(part.weights) for part in stored.parts if part.kind == "encoder"), None)
        self._neighbours = stored.neighbours and Neighbours.load(stored.neighbours)
        self._weight = stored.neighbours.weight if stored.neighbours else 0.0

    def __call__(self, prompt: str, counts: Vector) -> float:
        """Easiness without the forest's share, in logits.

        Args:
            prompt: the text.
            counts: what `models.features.features_of` makes of it.
        """
        value = self._intercept + sum(_value(kind, weights, prompt, counts) for kind, weights in self._parts)
        return value if self._encoder is None else value + self._encoded(self._encoder(prompt))

    def _encoded(self, vector: Vector) -> float:
        """What the encoder's vector adds."""
        value = 0.0 if self._weights is None else float(self._weights @ vector)
        if self._neighbours is not None:
            value += self._weight * float(self._neighbours(vector[None])[0])
        return value


def _value(kind: Kind, weights: Vector, prompt: str, counts: Vector) -> float:
    if kind == "length":
        return float(weights[0]) * math.log1p(len(prompt))
    if kind == "counts":
        return float(weights @ counts)
    if kind == "text":
        return float(weights @ text_of(prompt))
    buckets, values = ngrams_of(prompt, len(weights))
    return float(weights.take(buckets) @ values)
