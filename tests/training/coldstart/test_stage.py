"""A model of another kind, without marks, gets them, and becomes the base of a family."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from tests.training.coldstart.conftest import marks_thinking
from training import checks, stages
from training.coldstart import samples, stage
from training.coldstart.report import BUDGETS
from training.config import Recipe
from training.errors import StageError
from training.job import checkpoints
from training.job.resume import last_checkpoint
from training.recipe_base import ColdStart
from training.tasks.question import Question


def cold(recipe: Recipe, **change: object) -> Recipe:
    own = recipe.base.cold_start.model_copy(update=change)  # type: ignore[union-attr]
    return recipe.model_copy(update={"base": recipe.base.model_copy(update={"cold_start": own})})


def test_the_cold_started_model_thinks_between_marks_and_answers(finished: Recipe) -> None:
    model, tokenizer = checkpoints.load_base(finished)
    assert marks_thinking(tokenizer)
    assert model.get_input_embeddings().weight.size(0) >= len(tokenizer)
    report = json.loads((finished.run_dir / "base" / "cold-start.json").read_text())
    assert report["closed"] == 1
    assert report["before"]["accuracy"]["mean"] == 1
    assert report["after"]["accuracy"]["mean"] == 1
    assert report["after"]["reasoning_tokens"]["mean"] > 0
    assert report["budgets"]["0"]["answered"] == 1
    thought = report["after"]["reasoning_tokens"]["high"]
    beyond = [report["budgets"][str(budget)] for budget in BUDGETS if budget >= thought]
    assert beyond == [{"answered": 1, "correct": 1}] * len(beyond) != [], "such a budget changes nothing"


def test_a_finished_cold_start_is_not_made_again(finished: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "load_model", None)
    stage.run(finished)
    stage.require(finished)
    with pytest.raises(StageError, match="temperature changed"):
        stage.run(cold(finished, temperature=0.5))


def test_a_model_that_was_removed_is_made_anew_with_other_settings(
    copied: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, faster = copied.run_dir / "base", cold(copied, lr=2e-2)
    with pytest.raises(StageError, match=r"model: lr changed from 0\.01 to 0\.02 .*; remove \S*base/model to make"):
        stage.run(faster)
    shutil.rmtree(directory / "model")
    works: list[Path] = []

    def tune(*_: object, work: Path, **__: object) -> None:
        works.append(work)
        raise StageError("stopped")

    monkeypatch.setattr(stage.tune, "tune", tune)
    for recipe in (faster, faster, copied):
        with pytest.raises(StageError, match="stopped"):
            stage.run(recipe)
    again, resumed, before = works
    assert again == resumed
    assert last_checkpoint(again) is None, "with another lr, nothing is learned yet"
    assert last_checkpoint(before) is not None
    assert not (directory / "cold-start.json").exists(), "it was of the removed model"


def test_sampling_goes_on_behind_the_last_whole_block(copied: Recipe) -> None:
    path = copied.run_dir / "base" / "samples.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:36]) + lines[36][:10])  # a kill in the second block
    stage.run(copied)
    assert path.read_bytes() == whole
    assert len(samples.read(path)) == 40


def test_a_family_needs_its_cold_start(recipe: Recipe) -> None:
    checks.check(recipe)
    with pytest.raises(StageError, match="run `laconic-train cold-start` first"):
        stages.family(recipe)


def test_the_family_is_trained_from_the_cold_started_base(copied: Recipe) -> None:
    stages.family(copied)
    assert (checkpoints.trained_path(copied, "alpha-0.1") / "adapter_config.json").exists()


def test_a_family_may_draw_only_questions_that_the_cold_start_solved(copied: Recipe) -> None:
    path = copied.run_dir / "base" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    solved = {row["question"] for row in rows[::4]}
    for row in rows:
        row["correct"] = int(row["question"] in solved)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    drawn = stage.solved(copied, 3 * len(solved))
    assert {question.prompt for question in drawn} == solved
    assert Counter(question.prompt for question in drawn) == dict.fromkeys(solved, 3)
    first, second = drawn[: len(solved)], drawn[len(solved) : 2 * len(solved)]
    assert first != second, "in another order each time"
    assert drawn == stage.solved(copied, 3 * len(solved))
    path.write_text("".join(f"{json.dumps({**row, 'correct': 0})}\n" for row in rows))
    with pytest.raises(StageError, match=r"family\.questions: the cold start solved none of its \d+ questions"):
        stage.solved(copied, 3)


def test_solved_questions_are_what_is_trained_on(copied: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_on: list[list[Question]] = []

    def train(_model: object, _tokenizer: object, _stage: object, questions: list[Question], **_: object) -> None:
        trained_on.append(questions)
        raise StageError("stopped")

    monkeypatch.setattr(stages.trainer, "train", train)
    family = copied.family.model_copy(update={"questions": "solved"})
    with pytest.raises(StageError, match="stopped"):
        stages.family(copied.model_copy(update={"family": family}))
    assert trained_on == [stage.solved(copied, copied.family.steps * copied.family.prompts_per_step)]


def test_answers_that_are_all_wrong_cannot_be_learned(recipe: Recipe) -> None:
    data = recipe.data.path
    assert data is not None
    data.write_text(data.read_text().replace('"answer": "2"', '"answer": "3"'))
    with pytest.raises(StageError, match="0 of 80 answers can be learned"):
        stage.run(recipe)


def test_a_recipe_without_a_cold_start_has_none_to_make(recipe: Recipe) -> None:
    plain = recipe.model_copy(update={"base": recipe.base.model_copy(update={"cold_start": None})})
    with pytest.raises(StageError, match=r"base\.cold_start: missing"):
        stage.run(plain)
    with pytest.raises(StageError, match="</think>"):
        checks.check(plain)


def test_an_answer_that_would_be_graded_as_wrong_is_refused(recipe: Recipe) -> None:
    with pytest.raises(StageError, match=r"base\.cold_start\.answer: '2 or 3'"):
        checks.check(cold(recipe, answer="{} or 3"))


def test_an_answer_has_one_place() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        ColdStart(answer="The answer.")
