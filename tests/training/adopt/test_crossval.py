"""Is every prompt decided by a profile that has not seen it, and does the comparison keep prompts in pairs?"""

from __future__ import annotations

import numpy as np
import pytest

from training.adopt import crossval
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


def test_every_prompt_is_held_out_of_the_fit_that_decides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[set[str]] = []
    fit = crossval.fit.fit
    monkeypatch.setattr(
        crossval.fit,
        "fit",
        lambda outcomes, *rest: fitted.append({row.prompt for row in outcomes["max"]}) or fit(outcomes, *rest),
    )
    held_out: list[int] = []
    for fold in crossval.folds({"max": graded(0.9, 100), "brief": graded(0.9, 10)}, 0):
        here = {QUESTIONS[at].prompt for at in fold.prompts}
        assert [row.prompt for row in fold.outcomes["brief"]] == [QUESTIONS[at].prompt for at in fold.prompts]
        assert not here & fitted[-1]
        assert len(here | fitted[-1]) == COUNT
        held_out += fold.prompts
    assert sorted(held_out) == list(range(COUNT))


def test_a_level_that_is_as_good_at_a_tenth_of_the_tokens_is_chosen() -> None:
    outcomes = {"max": graded(1.0, 100), "brief": graded(1.0, 10)}
    accuracy, tokens = crossval.routed(outcomes, 0.005, "max", 0).mean(0)
    assert accuracy == 1
    assert tokens < 40  # a prompt with words that the others lack goes to the reference


def test_a_level_that_is_always_wrong_is_never_chosen() -> None:
    outcomes = {"max": graded(1.0, 100), "brief": graded(0.0, 10)}
    assert crossval.routed(outcomes, 0.005, "max", 0).mean(0).tolist() == [1, 100]


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
