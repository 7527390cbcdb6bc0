"""Is there anything wrong with a recipe's base, data or target? Looked for before anything is computed."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from models import family as manifest
from training import trainer
from training.config import PretrainedBase, Recipe
from training.errors import StageError
from training.job import checkpoints
from training.tasks.source import questions
from training.tasks.verify import is_correct

PROFILE_SEED_OFFSET = 100
"""Keeps the seeds of profile prompts apart from the gate's."""


def check(recipe: Recipe) -> None:
    """See that base and data are there and usable, before anything is computed.

    Raises:
        StageError: something is missing or malformed; names it.
    """
    for directory in (recipe.run_dir, *recipe.run_dir.parents):
        if directory.exists() and not directory.is_dir():
            raise StageError(f"run_dir: {directory} is a file")
    if isinstance(recipe.base, PretrainedBase):
        _check_base(checkpoints.base_directory(recipe), recipe.base)
    trainer.arguments(recipe.family, 0.0, recipe.seed, recipe.run_dir)
    _require_rank(recipe)
    asked = questions(recipe.data, "train", recipe.seed + 1, recipe.family.steps * recipe.family.prompts_per_step)
    dense = recipe.family.dense_reward
    for question in asked[:100] if dense else ():
        if not is_correct(written := dense.answer.replace("{}", question.answer), question.answer):
            raise StageError(
                f"dense.answer: {written!r} would not be judged right though the answer is {question.answer!r}"
            )
    questions(recipe.data, "heldout", recipe.seed, recipe.evaluate.prompts)
    if recipe.publish_to:
        questions(recipe.data, "test", recipe.seed + PROFILE_SEED_OFFSET, recipe.profile.prompts)


def _check_base(directory: Path, base: PretrainedBase) -> None:
    checkpoints.require_markers(directory, checkpoints.load_tokenizer(directory))
    for pattern in ("*.safetensors", "tokenizer.json"):
        if not any(directory.glob(pattern)):
            raise StageError(f"{directory}: there is no {pattern}, which the published family needs")
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


def _require_rank(recipe: Recipe) -> None:
    dense = recipe.family.dense_reward
    if not dense or not dense.charges_information:
        return
    sizes = checkpoints.architecture(recipe)
    most = min(sizes.hidden_size, sizes.intermediate_size)
    if dense.proxy_rank > most:
        raise StageError(f"family.dense.proxy_rank: {dense.proxy_rank} is more than the model's layers have, {most}")


def check_target(recipe: Recipe) -> Path:
    """Where the family is to be published; nothing is replaced there but an older family.

    Raises:
        StageError: `publish_to` is something else.
    """
    target = recipe.publish_to
    if target is None:
        raise StageError("publish_to: the recipe does not say where the family is to go")
    if target.exists() and not (
        target.is_dir() and (not any(target.iterdir()) or (target / manifest.MANIFEST).exists())
    ):
        raise StageError(f"publish_to: {target} is no family's directory, and publishing would replace it")
    return target
