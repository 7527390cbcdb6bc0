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


def test_thinking_is_stopped_before_it_would_have_ended_and_answered(base):
    asked = prompts("test", 0, 24)
    found = budget_forced.measure(*base, asked, SamplingParams(320, 1.0, seed=0))
    assert {cut.prompt for cut in found} == {question.prompt for question in asked}
    assert all(0 <= cut.budget < 320 for cut in found)
    assert len({cut.budget for cut in found}) > 8
    small = [cut.correct for cut in found if cut.budget < 8]
    large = [cut.correct for cut in found if cut.budget >= 30]
    assert sum(small) / len(small) < sum(large) / len(large)


def test_the_same_seed_gives_the_same_cuts(base):
    one, same, other = (
        budget_forced.measure(*base, prompts("test", 0, 8), SamplingParams(64, 1.0, seed=seed)) for seed in (0, 0, 1)
    )
    assert one == same != other


def test_what_is_saved_is_loaded(tmp_path):
    found = [BudgetForced("What is 1 + 2?", 0, True), BudgetForced("1 + 2", 30, False)]
    save_budget_forced(found, tmp_path / "base.budget-forced.jsonl")
    assert load_budget_forced(tmp_path / "base.budget-forced.jsonl") == found


def test_stopped_thinking_is_closed_where_the_budget_ends(tokenizer):
    completion = tokenizer.encode("\n2+2=4\n</think>\n\nThe answer is 4.<|im_end|>")
    stopped = Grader(tokenizer).stopped(completion, 3)
    assert stopped[:3] == completion[:3]
    assert tokenizer.decode(stopped[3:]) == "</think>"
