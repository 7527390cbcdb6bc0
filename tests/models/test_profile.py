from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import profile as profiles
from models.profile import COUNTS, LEVELS, Prediction, Profile, ProfileError

WORDS = ["what", "is", "plus", "times"]
WIDTH = len(COUNTS) + len(WORDS)


def stored(**changes: Any) -> dict[str, Any]:
    """A profile in which more digits mean harder and longer, and the adapter suffers from it more than the base."""

    def model(slope: float, length: float) -> dict[str, Any]:
        weights = [slope if name == "digits" else 0.0 for name in COUNTS] + [0.0] * len(WORDS)
        return {
            "correct_weights": [-weight for weight in weights], "correct_bias": 4.0,
            "tokens_weights": weights, "tokens_bias": length,
            "residuals": list(np.linspace(-0.5, 0.5, len(LEVELS))),
        }  # fmt: skip

    return {
        "schema_version": profiles.SCHEMA_VERSION, "vocabulary": WORDS, "mean": [0.0] * WIDTH, "scale": [1.0] * WIDTH,
        "upper": [10.0] * len(COUNTS), "difficulties": [0.02, 0.1, 0.3, 0.6], "report": {},
        "checkpoints": {"base": model(0.5, 3.0), "alpha-0.4": model(1.5, 1.0)},
    } | changes  # fmt: skip


def loaded(directory: Path, content: object) -> Profile:
    (directory / "profile.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return profiles.load(directory / "profile.json")


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Profile:
    return loaded(tmp_path_factory.mktemp("profile"), stored())


@given(st.text())
def test_any_text_is_read(profile: Profile, prompt: str) -> None:
    reading = profile.read(prompt)
    assert 0.0 <= reading.difficulty <= 1.0
    assert set(reading.predictions) == {"base", "alpha-0.4"}
    for prediction in reading.predictions.values():
        assert 0.0 <= prediction.p_correct <= 1.0
        assert np.all(np.isfinite(prediction.tokens))
        assert np.all(np.diff(prediction.tokens) >= 0)


@pytest.mark.parametrize("text", ["1" * 1_000_000, "1 " * 500_000, "x" * 1_000_000, "multiply " * 100_000])
def test_reading_takes_no_longer_than_the_prompt_is_long(profile: Profile, text: str) -> None:
    """Quadratic time over a million characters would be hours: this would not end."""
    assert not profile.read(text).familiar


def test_factors_are_found_however_a_product_is_written() -> None:
    at = COUNTS.index("digits_to_multiply")
    for text in (
        "12*34",
        "12 * 34",
        "12 x 34",
        "12×34",  # noqa: RUF001
        "12 times 34",
        "the product of 12 and 34",
        "Multiply 12 by 34.",
    ):
        assert np.expm1(profiles.features(text, {}))[at] == pytest.approx(4), text
    for text in ("12 + 34", "Find x: x + 12 = 34", "12 and 34", "12 by 34"):
        assert profiles.features(text, {})[at] == 0, text


def test_more_digits_read_as_harder_and_longer(profile: Profile) -> None:
    easy, hard = profile.read("What is 1 plus 2?"), profile.read("What is 123456 times 654321?")
    assert easy.difficulty < hard.difficulty
    for name in easy.predictions:
        assert easy.predictions[name].p_correct > hard.predictions[name].p_correct
        assert easy.predictions[name].expected_tokens() < hard.predictions[name].expected_tokens()


def test_what_is_not_like_the_fitting_prompts_is_unfamiliar(profile: Profile) -> None:
    assert profile.read("What is 1 plus 2?").familiar
    assert not profile.read("Who wrote Hamlet?").familiar, "no number"
    assert not profile.read("Paint 3 elephants on yonder castle").familiar, "unknown words"
    assert not profile.read("1 plus " * 20_000).familiar, "longer than anything seen"
    assert not profile.read("").familiar


predictions = st.builds(
    lambda p, tokens: Prediction(p, np.sort(np.array(tokens))),
    st.floats(0, 1),
    st.lists(st.floats(0, 1e6), min_size=len(LEVELS), max_size=len(LEVELS)),
)
budgets = st.none() | st.integers(0, 2_000_000)


@given(predictions, budgets, budgets)
def test_a_larger_budget_never_makes_success_less_likely_nor_thinking_shorter(
    prediction: Prediction, one: int | None, other: int | None
) -> None:
    small, large = sorted((one, other), key=lambda budget: float("inf") if budget is None else budget)
    assert prediction.success(small) <= prediction.success(large) <= prediction.p_correct
    assert prediction.expected_tokens(small) <= prediction.expected_tokens(large) * (1 + 1e-12)
    assert small is None or prediction.expected_tokens(small) <= small * (1 + 1e-12)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "not JSON"),
        ([], "version"),
        (stored(schema_version=1), "version"),
        (stored(mean=[0.0]), "mean"),
        (stored(scale=[0.0] * WIDTH), "scale"),
        (stored(upper=[]), "upper"),
        (stored(checkpoints={}), "checkpoints"),
        (stored(vocabulary=[*WORDS, "more"]), "values"),
        (stored(difficulties="hard"), "difficulties"),
        (stored(surprise=1), "surprise"),
    ],
)
def test_a_profile_that_cannot_be_used_is_refused_in_one_line(content: object, named: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as refused:
        loaded(tmp_path, content)
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="cannot be read"):
        profiles.load(tmp_path / "none.json")
