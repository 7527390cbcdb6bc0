from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.live import Answer
from benchmarks.live_drift import WAYS, compared, counted, verdict
from gateway.config import shipped_family
from models import profile as profiles
from training.tasks.question import Question

PROFILE = profiles.load(shipped_family() / "profile.json")
QUESTIONS = [Question(f"What is {n} + 5?", str(n + 5), "sum", "easy") for n in range(40)]


def answers(prefix: str, *, tokens: int, correct: int) -> list[Answer]:
    """The first `correct` of them are right."""
    return [Answer(n, f"{prefix}_{n}", "routed", correct=n < correct, tokens=tokens, seconds=0.1) for n in range(40)]


def entries(rows: list[Answer], choice: str) -> dict[str, dict[str, Any]]:
    return {one.id: {"choice": choice} for one in rows}


def result(old: list[Answer], new: list[Answer]) -> dict[str, Any]:
    recorded = {"old": entries(old, "alpha-0.4"), "new": entries(new, "alpha-0.2")}
    return compared(QUESTIONS, {"old": old, "new": new}, recorded, {"old": PROFILE, "new": PROFILE}, 0.005)


def test_both_gateways_are_compared_question_by_question() -> None:
    found = result(answers("a", tokens=50, correct=36), answers("b", tokens=30, correct=38))
    assert found["routed by both"] == 40
    assert found["tokens saved by the new profile"] == {"mean": 20.0, "low": 20.0, "high": 20.0}
    assert found["quality gained by the new profile"]["mean"] == pytest.approx(2 / 40)
    assert found["choices"] == {"old": {"alpha-0.4": 40}, "new": {"alpha-0.2": 40}}
    assert found["verdict"] == "no worse answers, fewer tokens"  # no resample has fewer right answers
    # Of wrong answers, the one that was expected to be right is the worse prediction.
    assert found["Brier"]["old"]["mean"] > found["Brier"]["new"]["mean"]
    assert found["Brier improvement"]["mean"] > 0
    # The same profile reads the same choices alike.
    assert found["Brier improvement on the answers of the old choices"]["mean"] == 0


def test_fewer_tokens_at_less_quality_are_no_gain() -> None:
    found = result(answers("a", tokens=50, correct=40), answers("b", tokens=30, correct=10))
    assert found["tokens saved by the new profile"]["low"] > 0
    assert found["verdict"] == "worse answers"


@pytest.mark.parametrize(
    ("quality", "saved", "said"),
    [
        ((0.01, 0.05), (-30, -20), "better answers"),
        ((0.01, 0.05), (-3, 2), "better answers for no more tokens"),
        ((-0.003, 0.05), (5, 9), "no worse answers, fewer tokens"),
        ((-0.003, 0.05), (-9, -5), "no worse answers, more tokens"),
        ((-0.02, 0.01), (-1, 1), "answers not shown to be worse, as many tokens"),
        ((-0.02, -0.004), (5, 9), "answers not shown to be worse, fewer tokens"),
        ((-0.03, -0.01), (5, 9), "worse answers"),
    ],
)
def test_quality_beyond_the_tolerance_comes_before_tokens(
    quality: tuple[float, float], saved: tuple[float, float], said: str
) -> None:
    one, other = ({"low": low, "high": high} for low, high in (quality, saved))
    assert verdict(one, other, 0.005) == said


def test_what_one_gateway_abstained_from_is_left_out() -> None:
    old = answers("a", tokens=50, correct=40)
    new = [replace(old[0], id="b_0", decision="abstained"), *answers("b", tokens=30, correct=40)[1:]]
    assert result(old, new)["routed by both"] == 39


def test_choices_are_counted_the_most_frequent_first() -> None:
    assert list(counted(["a", "b", "b"]).items()) == [("b", 2), ("a", 1)]


def test_a_wording_keeps_the_question_and_some_are_unfamiliar() -> None:
    for word in WAYS.values():
        assert "What is 3 + 5?" in word("What is 3 + 5?")
    assert PROFILE.predict(WAYS["polite"]("What is 3 + 5?")).familiar
    assert not PROFILE.predict(WAYS["in lines"]("What is 3 + 5?")).familiar
