"""A reader's easiness is its intercept and what each part sees, and a profile's predictions follow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from models.features import FEATURES, features_of
from models.profile import Profile
from models.reader import Reader, StoredReader
from models.text import TEXT, ngrams_of
from tests.models.test_profile import stored

PROMPT = "What is 12 plus 34?"
COUNTS = features_of(PROMPT, ())


def reader(**changes: Any) -> Reader:
    return Reader(StoredReader(**{"name": "r", "intercept": 0.5, "forest": 0.0, "parts": (), "compared": {}} | changes))


def weighing(kind: str, at: int, width: int) -> dict[str, Any]:
    """A part that sees one input alone."""
    return {"kind": kind, "weights": [2.0 * (index == at) for index in range(width)]}


def test_a_constant_reads_nothing() -> None:
    assert reader()(PROMPT, COUNTS) == 0.5


def test_each_part_sees_its_own_inputs() -> None:
    plus, digits = FEATURES.index("plus"), FEATURES.index("digits")
    assert reader(parts=[weighing("length", 0, 1)])(PROMPT, COUNTS) == pytest.approx(0.5 + 2 * np.log1p(len(PROMPT)))
    assert reader(parts=[weighing("counts", plus, len(FEATURES))])(PROMPT, COUNTS) == 0.5
    counted = reader(parts=[weighing("counts", digits, len(FEATURES))])
    assert counted(PROMPT, COUNTS) == pytest.approx(0.5 + 2 * np.log1p(4))
    questions = weighing("text", TEXT.index("questions"), len(TEXT))
    assert reader(parts=[questions])(PROMPT, COUNTS) == pytest.approx(0.5 + 2 * np.log1p(1))
    bucket = int(ngrams_of("plus", 64)[0][0])
    hashed = reader(parts=[weighing("ngrams", bucket, 64)])
    assert hashed("plus", COUNTS) == pytest.approx(0.5 + 2)
    assert hashed("", COUNTS) == 0.5


def test_parts_add_up() -> None:
    length, questions = weighing("length", 0, 1), weighing("text", TEXT.index("questions"), len(TEXT))
    alone = [reader(parts=[part])(PROMPT, COUNTS) - 0.5 for part in (length, questions)]
    assert reader(parts=[length, questions])(PROMPT, COUNTS) == pytest.approx(0.5 + sum(alone))


@pytest.mark.parametrize(
    ("kind", "weights"), [("length", [1.0, 2.0]), ("counts", [1.0]), ("text", [0.0]), ("ngrams", [])]
)
def test_weights_that_do_not_fit_are_refused(kind: str, weights: list[float]) -> None:
    with pytest.raises(ValidationError, match="weights"):
        reader(parts=[{"kind": kind, "weights": weights}])


def easiness(profile: Profile, prompt: str) -> float:
    """The easiness behind the prediction for a checkpoint whose scale is 1 and 0."""
    p = profile.predict(prompt).choices["base"].p_correct
    return float(np.log(p / (1 - p)))


def test_a_profile_predicts_by_its_reader() -> None:
    forest = easiness(Profile.of(stored()), PROMPT)
    length = {"name": "length", "intercept": -3.0, "forest": 0.0, "parts": [weighing("length", 0, 1)], "compared": {}}
    assert easiness(Profile.of(stored(reader=length)), PROMPT) == pytest.approx(-3 + 2 * np.log1p(len(PROMPT)))
    half = length | {"forest": 0.5, "parts": []}
    assert easiness(Profile.of(stored(reader=half)), PROMPT) == pytest.approx(-3 + 0.5 * forest)


def test_a_profile_of_version_7_has_no_reader() -> None:
    assert easiness(Profile.of(stored(schema_version=7)), PROMPT) == easiness(Profile.of(stored()), PROMPT)
