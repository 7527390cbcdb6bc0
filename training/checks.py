"""Are a recipe's base, data and target usable? Problems are found here, before anything expensive starts."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedConfig
from transformers.cache_utils import (
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionCacheLayerMixin,
)

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
        _require_layers(recipe, checkpoints.config(directory))
    trl_settings.grpo_config(recipe.family, 0.0, recipe.seed, recipe.run_dir)
    _require_known_architecture(recipe)
    if recipe.family.deciding and (count := processes().num_processes) > 1:
        raise StageError(
            f"family.deciding: runs in one process, not in {count}; start laconic-train without accelerate, or leave it"
            " out"
        )
    precheck.check_data(recipe)


def require_probes(recipe: Recipe, field: str, config: PreTrainedConfig | None = None) -> None:
    """Raise unless P(answer) after each episode can be measured on the base.

    All probes of a rollout are in one sequence, behind a mask that only full attention obeys: a window would begin
    elsewhere, and a recurrent state would hold the other probes.

    Args:
        recipe: the recipe.
        field: what needs the probes, such as `family.deciding`.
        config: of the base; None reads it.

    Raises:
        StageError: a layer is recurrent, or has a window that is smaller than the context. Names the field.
    """
    base = recipe.base
    if not isinstance(base, PretrainedBase):
        return
    for layer in DynamicCache(config=config or checkpoints.config(checkpoints.source_directory(base))).layers:
        window = getattr(layer, "sliding_window", None)
        if type(layer) is DynamicLayer or (type(layer) is DynamicSlidingWindowLayer and window >= base.context_tokens):
            continue
        kind = "recurrent ones" if window is None else f"some with a window of {window}"
        raise StageError(
            f"{field}: needs a base whose layers all attend to the whole context, base.context_tokens"
            f" ({base.context_tokens}), and {base.model} has {kind}"
        )


def _require_layers(recipe: Recipe, config: PreTrainedConfig) -> None:
    """Raise unless what the recipe does with the base works with all its layers."""
    stage = recipe.family
    if stage.dense_reward:
        require_probes(recipe, f"family.reward: {stage.reward}", config)
    if stage.deciding:
        require_probes(recipe, "family.deciding", config)
    recurrent = any(isinstance(layer, LinearAttentionCacheLayerMixin) for layer in DynamicCache(config=config).layers)
    if recurrent and not trl_settings.samples_from_server(stage):
        where = (
            "transformers samples" if stage.engine == "transformers" else "vllm on a GPU leaves measuring to sampling"
        )
        raise StageError(
            f"family.engine: {where} in this process, which cannot sample from recurrent layers, and"
            f" {getattr(recipe.base, 'model', 'the base')} has some"
        )


def _require_known_architecture(recipe: Recipe) -> None:
    """Raise unless the sizes are known that the charge for information needs."""
    dense = recipe.family.dense_reward
    if dense and dense.charges_information:
        checkpoints.architecture(recipe)
