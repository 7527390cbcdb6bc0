"""A prompt is as easy as those most like it were, and the prior decides where they say nothing."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from models.neighbours import NEAREST, PRIOR, TEMPERATURE, Neighbours, StoredNeighbours, packed, unpacked

RNG = np.random.default_rng(0)
TOPICS = RNG.normal(size=(2, 16))
TOPIC = np.repeat([0, 1], 100)
VECTORS = TOPICS[TOPIC] + 0.1 * RNG.normal(size=(200, 16))
SHARES = np.where(TOPIC == 0, 0.9, 0.2)


def test_a_prompt_is_as_easy_as_its_topic() -> None:
    neighbours = Neighbours.of(VECTORS, SHARES)
    easy, hard = neighbours(TOPICS)
    prior = (NEAREST * 0.9 + PRIOR * SHARES.mean()) / (NEAREST + PRIOR)
    assert 1 / (1 + np.exp(-easy)) == pytest.approx(prior, abs=0.01), "all neighbours weigh about the same"
    assert hard < -0.5 < 0.5 < easy


def test_values_are_weighted_means() -> None:
    few, shares = VECTORS[[0, 120, 140]], np.array([1.0, 0.0, 0.5])
    center = few.mean(0)
    units = unpacked(packed(_units(few - center)), 16)
    cosines = units @ _units(VECTORS[[7]] - center)[0]
    weights = np.exp(cosines / TEMPERATURE)
    expected = (weights @ shares + PRIOR * weights.mean() * 0.5) / (weights.sum() + PRIOR * weights.mean())
    assert Neighbours.of(few, shares)(VECTORS[[7]]) == pytest.approx(np.log(expected / (1 - expected)), abs=1e-4)


def _units(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_no_prompt_is_its_own_neighbour() -> None:
    shares = np.zeros(200)
    shares[3] = 1.0
    neighbours = Neighbours.of(VECTORS, shares)
    alone = neighbours.without_each()
    assert alone[3] < alone[4], "the only right one does not know of itself"
    assert neighbours(VECTORS[[3]])[0] > alone[3]


def test_what_is_stored_says_the_same() -> None:
    neighbours = Neighbours.of(VECTORS, SHARES)
    stored = StoredNeighbours.model_validate(neighbours.store(0.7))
    assert stored.weight == 0.7
    assert Neighbours.load(stored)(TOPICS) == pytest.approx(neighbours(TOPICS), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"vectors": "not base64"}, "vectors"),
        ({"vectors": "AAAA"}, "vectors"),
        ({"shares": [0.5] * 199 + [1.5]}, "shares"),
        ({"shares": []}, "shares"),
        ({"weight": float("nan")}, "weight"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        StoredNeighbours.model_validate(Neighbours.of(VECTORS, SHARES).store(1.0) | changes)
