from pathlib import Path

import pytest

import models
from training.job import checkpoints
from training.measure import budget_forced
from training.rollouts.grade import Grader
from training.rollouts.params import SamplingParams
from training.tasks.outcome import BudgetForced, load_budget_forced, save_budget_forced
from training.tasks.prompts import prompts

BASE = Path(models.__file__).parent / "abacus" / "base"


@pytest.fixture(scope="module")
def base():
    return checkpoints.load_model(BASE), checkpoints.load_tokenizer(BASE)


def test_thinking_ends_early_at_the_budget_and_is_followed_by_an_answer(base):
    questions = prompts("validation", 0, 24)
    answers = budget_forced.measure(*base, questions, SamplingParams(320, 1.0, seed=0))
    assert {answer.prompt for answer in answers} == {question.prompt for question in questions}
    assert all(0 <= answer.budget < 320 for answer in answers)
    assert len({answer.budget for answer in answers}) > 8
    small = [answer.correct for answer in answers if answer.budget < 8]
    large = [answer.correct for answer in answers if answer.budget >= 30]
    assert sum(small) / len(small) < sum(large) / len(large)


def test_the_same_seed_gives_the_same_answers(base):
    one, same, other = (
        budget_forced.measure(*base, prompts("validation", 0, 8), SamplingParams(64, 1.0, seed=seed))
        for seed in (0, 0, 1)
    )
    assert one == same != other


def test_saved_answers_load_unchanged(tmp_path):
    answers = [BudgetForced("What is 1 + 2?", 0, True), BudgetForced("1 + 2", 30, False)]
    save_budget_forced(answers, tmp_path / "base.budget-forced.jsonl")
    assert load_budget_forced(tmp_path / "base.budget-forced.jsonl") == answers


def test_budget_forced_thinking_is_closed_where_the_budget_ends(tokenizer):
    completion = tokenizer.encode("\n2+2=4\n</think>\n\nThe answer is 4.<|im_end|>")
    forced = Grader(tokenizer).budget_forced(completion, 3)
    assert forced[:3] == completion[:3]
    assert tokenizer.decode(forced[3:]) == "</think>"
