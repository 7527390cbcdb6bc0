"""First passes are cut and continued by the base, valued after each episode, and survive a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import DenseReward
from training.deciding import tried
from training.deciding.tried import TRIES, Trial, Tried
from training.job import checkpoints
from training.rewards.dense import EpisodeGrader
from training.tasks.prompts import prompts

BASE = Path(__file__).parents[3] / "models" / "abacus" / "base"
QUESTIONS = prompts("train", 0, 40, hard_share=0.5)


@pytest.fixture(scope="module")
def trial() -> Trial:
    base, tokenizer = checkpoints.load_model(BASE), checkpoints.load_tokenizer(BASE)
    return Trial(base, base, tokenizer, EpisodeGrader(tokenizer, DenseReward()), 320)


@pytest.fixture(scope="module")
def drawn(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> list[Tried]:
    return trial.draw(QUESTIONS, tmp_path_factory.mktemp("tried") / "tried.jsonl", seed=3)


def test_every_wrong_pass_is_continued_behind_a_blank_line(trial: Trial, drawn: list[Tried]) -> None:
    assert len(drawn) > 35
    wrong = [one for one in drawn if not one.right]
    assert len(wrong) > 3
    assert all(1 <= len(one.attempts) <= TRIES for one in wrong)
    assert sum(bool(one.attempts) for one in drawn if one.right) < 6
    for one in drawn:
        assert trial.tokenizer.decode([one.ids[one.opened]]) == "\n\n"
        for attempt in one.attempts:
            whole = one.ids + attempt.ids
            assert len(attempt.success) == len(attempt.tokens) == len(attempt.opens) + 1
            assert all(trial.tokenizer.decode([whole[at]]) == "\n\n" for at in attempt.opens)
            assert whole[-1] == trial.tokenizer.eos_token_id


def test_attempts_of_one_pass_differ(drawn: list[Tried]) -> None:
    assert any(len({tuple(attempt.ids) for attempt in one.attempts}) > 1 for one in drawn)


def test_the_values_are_those_of_the_text(trial: Trial, drawn: list[Tried]) -> None:
    answers = {question.prompt: question.answer for question in QUESTIONS}
    for one in drawn:
        [answer] = [a for prompt, a in answers.items() if prompt in trial.tokenizer.decode(one.prompt)]
        assert one.right == trial.tokenizer.decode(one.ids[: one.opened]).endswith(f"so {answer}")


def test_a_kill_loses_a_block_at_most_and_nothing_changes(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tried, "BLOCK", 8)
    path, seen = tmp_path / "tried.jsonl", list[int]()
    whole = trial.draw(QUESTIONS[:20], path, seed=0)
    lines = path.read_text().splitlines()
    path.write_text(lines[0] + "\n" + lines[1][:100])
    assert trial.draw(QUESTIONS[:20], path, seed=0, on_block=seen.append) == whole
    assert seen == [8, 16, 20]


def test_a_pass_that_leaves_no_room_is_left_out(trial: Trial, tmp_path: Path) -> None:
    short = Trial(trial.checkpoint, trial.base, trial.tokenizer, trial.grader, 24)
    assert short.draw(QUESTIONS[:8], tmp_path / "tried.jsonl", seed=0) == []
