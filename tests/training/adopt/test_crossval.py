"""What would routing have done, and does the comparison keep prompts in pairs?"""

from __future__ import annotations

import numpy as np
import pytest

from training.adopt import crossval
from training.profile import crossfit
from training.tasks.outcome import Graded, Outcome
from training.tasks.prompts import prompts

COUNT = 200
QUESTIONS = prompts("validation", 3, COUNT)


def graded(right: float, tokens: int, seed: int = 0) -> list[Graded]:
    rng = np.random.default_rng(seed)
    return [
        Graded(q.prompt, q.task, q.difficulty, (Outcome(bool(rng.random() < right), tokens, tokens, 1, True),))
        for q in QUESTIONS
    ]


def test_a_level_that_is_as_good_at_a_tenth_of_the_tokens_is_chosen() -> None:
    outcomes = {"max": graded(1.0, 100), "brief": graded(1.0, 10)}
    accuracy, tokens = crossval.routed(list(crossfit.folds(outcomes, 0)), 0.005, "max").mean(0)
    assert accuracy == 1
    assert tokens < 40  # a prompt with words that the others lack goes to the reference


def test_a_level_that_is_always_wrong_is_never_chosen() -> None:
    outcomes = {"max": graded(1.0, 100), "brief": graded(0.0, 10)}
    assert crossval.routed(list(crossfit.folds(outcomes, 0)), 0.005, "max").mean(0).tolist() == [1, 100]


def test_without_a_tolerance_the_reference_serves() -> None:
    outcomes = {"max": graded(0.9, 100), "brief": graded(1.0, 10)}
    decided = crossval.routed(list(crossfit.folds(outcomes, 0)), None, "max")
    assert decided.tolist() == [[row.accuracy, 100] for row in outcomes["max"]]


def test_differences_are_paired_by_prompt() -> None:
    level = graded(0.5, 100)
    decided = np.array([[row.accuracy, 50.0] for row in level])
    compared = crossval.compare(decided, level, 0)
    difference, share = compared.accuracy_difference, compared.tokens_share
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)
    assert (share.mean, share.low, share.high) == (0.5, 0.5, 0.5)
    assert compared.accuracy.low < compared.accuracy.mean < compared.accuracy.high


def test_an_accuracy_without_a_wrong_answer_is_not_taken_for_certain() -> None:
    decided = np.array([[1.0, 50.0]] * 60)
    compared = crossval.compare(decided, graded(1.0, 100)[:60], 0)
    assert compared.accuracy.high == 1
    assert compared.accuracy.low == pytest.approx(0.94, abs=0.005)  # the exact binomial limit, 0.025 ** (1 / 60)
