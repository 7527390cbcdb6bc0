"""Can this recipe run at all, on any machine? What is found without loading torch, a model or a GPU's libraries.

`laconic-train plan` ends here within seconds, for every recipe that `run` would refuse for one of these reasons.
`training.checks` starts with the same and then looks at what needs torch and this machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from models import family as manifest
from training.config import Recipe
from training.errors import StageError
from training.job import base_files
from training.recipe_base import ColdStart, PretrainedBase
from training.tasks.question import Question
from training.tasks.source import questions
from training.tasks.verify import is_correct

PROFILE_SEED_OFFSET = 100
"""Added to the seed of profile prompts, because the gate draws from the same split."""
COLD_START_SEED_OFFSET = 200
"""Added to the recipe's seed, so that a cold start has the questions in another order than the family's training."""
LARGEST_RANK = 512
"""Of an adapter that vLLM serves."""
_HUB_MODEL = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*")
_JUDGED = 100
"""Questions whose answers are tried in the words that the model would answer in."""


def check_target(recipe: Recipe) -> Path:
    """The directory to publish to. It must be new, empty, or an older family, which publishing replaces.

    Raises:
        StageError: `publish_to` is missing from the recipe, contains something else, or cannot be written to.
    """
    target = recipe.publish_to
    if target is None:
        raise StageError("publish_to: missing from the recipe; name a directory for the family")
    if target.exists() and not (
        target.is_dir() and (not any(target.iterdir()) or (target / manifest.MANIFEST).exists())
    ):
        raise StageError(f"publish_to: {target} contains something other than a family; publishing would replace it")
    _require_writable("publish_to", target.parent)
    return target


def check(recipe: Recipe, processes: int = 1) -> None:
    """Raise unless the run directory, the base's files and the settings are usable by so many processes.

    A base on the Hugging Face Hub is not downloaded, and so not looked at.

    Raises:
        StageError: something is missing or malformed. Names it.
    """
    _require_writable("run_dir", recipe.run_dir)
    if isinstance(recipe.base, PretrainedBase):
        if (directory := Path(recipe.base.model)).is_dir():
            base_files.check(directory, recipe.base)
        elif not _HUB_MODEL.fullmatch(recipe.base.model):
            raise StageError(f"base.model: {recipe.base.model} is not a directory, nor a name on the Hugging Face Hub")
    require_shares(recipe, processes)
    _require_ranks(recipe)


def check_data(recipe: Recipe) -> Sequence[Question]:
    """The questions to train on; raises unless every split has enough, and each answer can be graded.

    Raises:
        StageError: a file is missing or malformed, or a recipe's wording of answers would be graded as wrong.
    """
    count = recipe.family.steps * recipe.family.prompts_per_step
    trained_on = questions(recipe.data, "train", recipe.seed + 1, count)
    if dense := recipe.family.stated_probe:
        _require_gradable("dense.answer", dense.answer, trained_on)
    if isinstance(recipe.base, PretrainedBase) and (cold := recipe.base.cold_start) is not None:
        _check_cold_start(recipe, cold)
    questions(recipe.data, "heldout", recipe.seed, recipe.evaluate.prompts, wanted_by="evaluate.prompts")
    if recipe.publish_to:
        seed, count = recipe.seed + PROFILE_SEED_OFFSET, recipe.profile.prompts
        questions(recipe.data, "validation", seed, count, wanted_by="profile.prompts")
    return trained_on


def require_shares(recipe: Recipe, processes: int) -> None:
    """Raise unless a step's rollouts divide evenly over the processes.

    Raises:
        StageError: they do not.
    """
    stage = recipe.family
    if stage.prompts_per_step * stage.rollouts % processes:
        raise StageError(
            f"family: {stage.prompts_per_step} prompts_per_step x {stage.rollouts} rollouts do not divide"
            f" over {processes} processes"
        )


def _check_cold_start(recipe: Recipe, stage: ColdStart) -> None:
    asked = questions(recipe.data, "train", recipe.seed + COLD_START_SEED_OFFSET, stage.questions)
    _require_gradable("base.cold_start.answer", stage.answer, asked)
    seed = recipe.seed + COLD_START_SEED_OFFSET
    questions(recipe.data, "validation", seed, stage.prompts, wanted_by="base.cold_start.prompts")


def _require_gradable(field: str, template: str, asked: Iterable[Question]) -> None:
    for question in list(asked)[:_JUDGED]:
        if not is_correct(answer := template.replace("{}", question.answer), question.answer):
            raise StageError(
                f"{field}: {answer!r} would be graded as wrong although the gold answer is {question.answer!r}"
            )


def _require_ranks(recipe: Recipe) -> None:
    stage, dense = recipe.family, recipe.family.dense_reward
    if stage.tune == "lora" and recipe.publish_to and stage.lora_rank > LARGEST_RANK:
        raise StageError(f"family.lora_rank: {stage.lora_rank} is more than vLLM serves, {LARGEST_RANK}")
    sizes = base_files.architecture(recipe)
    if not dense or not dense.charges_information or sizes is None:
        return
    most = min(sizes.hidden_size, sizes.intermediate_size)
    if dense.proxy_rank > most:
        raise StageError(f"family.dense.proxy_rank: {dense.proxy_rank} is more than the rank of the layers, {most}")


def _require_writable(field: str, wanted: Path) -> None:
    """Raise unless a directory can be made or written to."""
    for directory in (wanted, *wanted.absolute().parents):
        if directory.exists() and not directory.is_dir():
            raise StageError(f"{field}: {directory} is a file, not a directory")
        if directory.exists():
            if not os.access(directory, os.W_OK | os.X_OK):
                raise StageError(f"{field}: you may not write to {directory}")
            return
