"""Can this recipe run? Checks its base, data and target before anything is computed."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from models import family as manifest
from training.coldstart import marks
from training.coldstart.stage import SEED_OFFSET
from training.config import ColdStart, PretrainedBase, Recipe
from training.errors import StageError
from training.job import checkpoints, trl_settings
from training.tasks.source import questions
from training.tasks.verify import is_correct

PROFILE_SEED_OFFSET = 100
"""Added to the seed of profile prompts, because the gate draws from the same split."""


def check(recipe: Recipe) -> None:
    """Raise unless base and data exist and are usable.

    Raises:
        StageError: something is missing or malformed. Names it.
    """
    for directory in (recipe.run_dir, *recipe.run_dir.parents):
        if directory.exists() and not directory.is_dir():
            raise StageError(f"run_dir: {directory} is a file, not a directory")
    if isinstance(recipe.base, PretrainedBase):
        _check_base(checkpoints.source_directory(recipe.base), recipe.base)
    trl_settings.grpo_config(recipe.family, 0.0, recipe.seed, recipe.run_dir)
    _require_rank(recipe)
    count = recipe.family.steps * recipe.family.prompts_per_step
    trained_on = questions(recipe.data, "train", recipe.seed + 1, count)
    dense = recipe.family.dense_reward
    for question in trained_on[:100] if dense else ():
        if not is_correct(answer := dense.answer.replace("{}", question.answer), question.answer):
            raise StageError(
                f"dense.answer: {answer!r} would be graded as wrong although the gold answer is {question.answer!r}"
            )
    if isinstance(recipe.base, PretrainedBase) and (cold := recipe.base.cold_start) is not None:
        _check_cold_start(recipe, cold)
    questions(recipe.data, "heldout", recipe.seed, recipe.evaluate.prompts)
    if recipe.publish_to:
        questions(recipe.data, "validation", recipe.seed + PROFILE_SEED_OFFSET, recipe.profile.prompts)


def _check_base(directory: Path, base: PretrainedBase) -> None:
    tokenizer = checkpoints.load_tokenizer(directory)
    if base.cold_start is not None:
        marks.add_marks(tokenizer)
    checkpoints.require_markers(directory, tokenizer)
    for pattern in ("*.safetensors", "tokenizer.json"):
        if not any(directory.glob(pattern)):
            raise StageError(f"{directory}: {pattern} is missing, and the published family needs it")
    for weights in directory.glob("*.safetensors"):
        try:
            with safe_open(weights, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise StageError(f"{weights}: cannot be read as safetensors ({error})") from None
    positions = getattr(checkpoints.config(directory), "max_position_embeddings", None)
    if positions is not None and base.context_tokens > positions:
        raise StageError(
            f"base.context_tokens: {base.context_tokens} is more than the {positions} positions of {base.model}"
        )


def _check_cold_start(recipe: Recipe, stage: ColdStart) -> None:
    asked = questions(recipe.data, "train", recipe.seed + SEED_OFFSET, stage.questions)
    for question in asked[:100]:
        if not is_correct(answer := stage.answer.replace("{}", question.answer), question.answer):
            raise StageError(
                f"base.cold_start.answer: {answer!r} would be graded as wrong although the gold answer is"
                f" {question.answer!r}"
            )
    questions(recipe.data, "validation", recipe.seed + SEED_OFFSET, stage.prompts)


def _require_rank(recipe: Recipe) -> None:
    dense = recipe.family.dense_reward
    if not dense or not dense.charges_information:
        return
    sizes = checkpoints.architecture(recipe)
    most = min(sizes.hidden_size, sizes.intermediate_size)
    if dense.proxy_rank > most:
        raise StageError(f"family.dense.proxy_rank: {dense.proxy_rank} is more than the rank of the layers, {most}")


def check_target(recipe: Recipe) -> Path:
    """The directory to publish to. It must be new, empty, or an older family, which publishing replaces.

    Raises:
        StageError: `publish_to` is missing from the recipe, or contains something else.
    """
    target = recipe.publish_to
    if target is None:
        raise StageError("publish_to: missing from the recipe; name a directory for the family")
    if target.exists() and not (
        target.is_dir() and (not any(target.iterdir()) or (target / manifest.MANIFEST).exists())
    ):
        raise StageError(f"publish_to: {target} contains something other than a family; publishing would replace it")
    return target
