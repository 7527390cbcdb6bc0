"""Which questions does each stage use? Training, evaluation and profile each have a split and a seed of their own."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from training import stages
from training.config import EvaluateStage, FamilyStage, ProfileStage, Recipe
from training.measure import outcomes
from training.precheck import PROFILE_SEED_OFFSET
from training.rollouts.params import SamplingParams
from training.tasks.question import Question
from training.tasks.source import questions


class Stopped(Exception):
    """Ends a stage once it has its questions."""


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    return Recipe(
        name="mine",
        description="d",
        seed=3,
        run_dir=tmp_path / "run",
        family=FamilyStage(steps=3, prompts_per_step=5, alphas=(0.0, 0.2)),
        evaluate=EvaluateStage(prompts=8, samples=2, temperature=0.7),
        profile=ProfileStage(prompts=9, samples=3, budget_forced_prompts=6),
    )


@pytest.fixture
def measured(monkeypatch) -> dict[str, tuple[Sequence[Question], SamplingParams]]:
    """The questions and the sampling of everything that a stage measures, by file name."""
    calls: dict[str, tuple[Sequence[Question], SamplingParams]] = {}

    def measure(_recipe: Recipe, _name: str, prompts: Sequence[Question], path: Path, params, **_: object) -> None:
        calls[path.name] = (prompts, params)

    def measure_budget_forced(
        _recipe: Recipe, _name: str, prompts: Sequence[Question], path: Path, **_: object
    ) -> None:
        calls[path.name] = (prompts, None)

    monkeypatch.setattr(stages, "_require_family", lambda _recipe: None)
    monkeypatch.setattr(outcomes, "measure", measure)
    monkeypatch.setattr(outcomes, "measure_budget_forced", measure_budget_forced)
    return calls


def test_a_checkpoint_is_trained_on_the_training_split(recipe, monkeypatch):
    trained_on: list[Question] = []

    def train(
        _model: object, _tokenizer: object, _stage: FamilyStage, prompts: Sequence[Question], **_: object
    ) -> None:
        trained_on.extend(prompts)
        raise Stopped

    monkeypatch.setattr(stages.checkpoints, "load_base", lambda _recipe: (None, None))
    monkeypatch.setattr(stages.trainer, "train", train)
    with pytest.raises(Stopped):
        stages._reinforce(recipe, 0.2, None, recipe.run_dir / "family" / "alpha-0.2" / "adapter")
    assert trained_on == list(questions(recipe.data, "train", recipe.seed + 1, 3 * 5))
    for split in ("heldout", "validation"):
        assert trained_on != list(questions(recipe.data, split, recipe.seed + 1, 3 * 5))


def test_every_checkpoint_is_evaluated_on_the_heldout_split(recipe, measured):
    stages.evaluate(recipe)
    assert set(measured) == {"base.jsonl", "alpha-0.jsonl", "alpha-0.2.jsonl"}
    heldout = list(questions(recipe.data, "heldout", recipe.seed, 8))
    for prompts, params in measured.values():
        assert list(prompts) == heldout
        assert params == SamplingParams(recipe.family.max_tokens, 0.7, samples=2, seed=3)


def test_the_profile_is_fitted_on_the_validation_split_with_a_seed_of_its_own(recipe, measured, monkeypatch):
    def stop(*_: object, **__: object) -> None:
        raise Stopped

    monkeypatch.setattr(stages, "_profile_record", stop)
    with pytest.raises(Stopped):
        stages.fit_profile(recipe)
    validation = list(questions(recipe.data, "validation", recipe.seed + PROFILE_SEED_OFFSET, 9))
    for name in ("base", "alpha-0", "alpha-0.2"):
        prompts, params = measured[f"{name}.jsonl"]
        assert list(prompts) == validation
        assert params == SamplingParams(recipe.family.max_tokens, 0.7, samples=3, seed=3)
        budget_forced, _ = measured[f"{name}.budget-forced.jsonl"]
        assert list(budget_forced) == validation[:6]
    assert PROFILE_SEED_OFFSET > 1, "the gate has the validation questions of the recipe's own seed"
