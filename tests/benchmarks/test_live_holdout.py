from __future__ import annotations

import random
from typing import Any

import pytest

from benchmarks.live import Answer
from benchmarks.live_holdout import SOURCES, compared, redrawn, saved, truth
from training.tasks.prompts import prompts

TRUE = {"mean": -0.02, "low": -0.03, "high": -0.01}


def answer(number: int, *, correct: bool, tokens: int = 10) -> Answer:
    return Answer(number, f"req_{number}", "routed", correct=correct, tokens=tokens, seconds=0.1)


def report(low: float | None, high: float | None) -> dict[str, Any]:
    arm = {"scores": 40, "requests": 60}
    return {"difference": -0.01, "low": low, "high": high, "routed": arm, "holdout": arm, "uneven": False}


def test_the_truth_is_the_difference_by_question() -> None:
    reference = [answer(n, correct=n % 2 == 0, tokens=100) for n in range(100)]
    routed = [answer(n, correct=n % 4 == 0, tokens=40) for n in range(100)]
    found = truth(reference, routed)
    assert found["difference"]["mean"] == pytest.approx(-0.25)
    assert found["difference"]["low"] < -0.25 < found["difference"]["high"] < 0
    assert found["tokens saved per request"] == {"mean": 60.0, "low": 60.0, "high": 60.0}


@pytest.mark.parametrize(
    ("low", "high", "contains", "overlaps"),
    [
        (-0.1, 0.1, True, True),
        (-0.015, 0.1, False, True),
        (-0.005, 0.1, False, False),
        (-0.1, -0.025, False, True),
        (-0.1, -0.035, False, False),
        (None, None, False, False),
    ],
)
def test_an_estimate_contains_the_truth_or_not(
    low: float | None, high: float | None, contains: bool, overlaps: bool
) -> None:
    found = compared(report(low, high), TRUE)
    assert found["contains the truth"] is contains
    assert found["overlaps the truth's interval"] is overlaps
    assert (found["estimate"] is None) is (low is None)


def test_the_measured_saving_is_compared_by_request() -> None:
    measured = {"saved_tokens": 6000.0, "low": 5000.0, "high": 7000.0, "requests": 100}
    total = {"measured": measured, "holdout": 10, "failed": 0, "saved_tokens": 5500.0, "estimated": 110}
    found = saved(total, {"mean": 55.0, "low": 50.0, "high": 60.0})
    assert found["measured"] == {"mean": 60.0, "low": 50.0, "high": 70.0}
    assert found["estimate"] == 50.0
    assert found["contains the truth"] is True
    assert saved(total, {"mean": 49.0, "low": 40.0, "high": 60.0})["contains the truth"] is False
    assert saved({"measured": None}, TRUE) == {"measured": None}


def test_other_draws_among_the_same_answers_mostly_contain_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.live_holdout.REDRAWS", 60)
    rng = random.Random(0)
    questions = prompts("heldout", 3, 900)
    likely = {"easy": 0.95, "medium": 0.85, "hard": 0.6}
    reference, routed = (
        [answer(n, correct=rng.random() < likely[one.difficulty] - loss) for n, one in enumerate(questions)]
        for loss in (0.0, 0.1)
    )
    found = redrawn(questions, reference, routed, 0.2, seed=0)
    assert found["truth"] == pytest.approx(-0.1, abs=0.05)
    for source in SOURCES:
        assert found["sources"][source]["measured"] == 1.0
        assert found["sources"][source]["contains the truth"] >= 0.9
        assert 0.05 < found["sources"][source]["width"] < 0.4


def test_both_sources_score_six_answers_in_ten() -> None:
    for shares in SOURCES.values():
        assert sum(shares.values()) / 3 == pytest.approx(0.6)
    assert SOURCES["verifier-difficulty"]["hard"] < SOURCES["verifier-difficulty"]["easy"]
