"""Are a recipe's base, data and target usable? Problems are found here, before anything expensive starts."""

from __future__ import annotations

from pathlib import Path

from training import precheck
from training.coldstart import marks
from training.config import Recipe
from training.errors import StageError
from training.job import base_files, checkpoints, trl_settings
from training.job.resume import processes
from training.recipe_base import PretrainedBase


def check(recipe: Recipe) -> None:
    """Raise unless base, data and settings are usable on this machine.

    Raises:
        StageError: something is missing or malformed. Names it.
    """
    precheck.check(recipe)
    base = recipe.base
    if isinstance(base, PretrainedBase):
        directory = checkpoints.source_directory(base)
        if directory != Path(base.model):  # it came from the hub, so `precheck` has not looked at it
            base_files.check(directory, base)
        tokenizer = checkpoints.load_tokenizer(directory)
        if base.cold_start is not None:
            marks.add_marks(tokenizer)
        checkpoints.require_markers(directory, tokenizer)
        checkpoints.config(directory)
    trl_settings.grpo_config(recipe.family, 0.0, recipe.seed, recipe.run_dir)
    _require_known_architecture(recipe)
    if recipe.family.deciding and (count := processes().num_processes) > 1:
        raise StageError(
            f"family.deciding: runs in one process, not in {count}; start laconic-train without accelerate, or leave it"
            " out"
        )
    precheck.check_data(recipe)


def _require_known_architecture(recipe: Recipe) -> None:
    """Raise unless the sizes are known that the charge for information needs."""
    dense = recipe.family.dense_reward
    if dense and dense.charges_information:
        checkpoints.architecture(recipe)
