"""Who samples for the cold start? The model in this process, or vLLM, as the recipe's `family.engine` says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from training.coldstart.samples import Sampler
from training.config import Recipe
from training.job import checkpoints
from training.job.precision import autocast_bf16
from training.job.vllm_server import ServerSettings
from training.rollouts import engine
from training.rollouts.params import SamplingParams, cached_values
from training.rollouts.sample import sample

AT_ONCE = 128
"""Completions that vLLM samples at once."""
LONGEST_PROMPT = 2048


@contextmanager
def sampler(recipe: Recipe, directory: Path) -> Iterator[Sampler]:
    """Sample from the model in a directory within the block.

    Raises:
        StageError: the model cannot be loaded, or vLLM does not start.
    """
    tokenizer = checkpoints.load_tokenizer(directory)
    eos: int = tokenizer.eos_token_id
    if recipe.family.engine == "vllm":
        with engine.started(_settings(recipe, directory), recipe.run_dir / "base") as started:
            yield lambda prompts, params: [one.ids for one in started.sample(prompts, params, eos=eos)]
        return
    model = checkpoints.load_model(directory, checkpoints.dtype(recipe))

    def in_process(prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[list[int]]:
        return sample(model, prompts, params, eos=eos)

    yield in_process


def _settings(recipe: Recipe, directory: Path) -> ServerSettings:
    config = checkpoints.config(directory).get_text_config()
    dtype = torch.bfloat16 if autocast_bf16() else torch.float32
    return ServerSettings(
        model=directory,
        context_tokens=min(config.max_position_embeddings, recipe.family.max_tokens + LONGEST_PROMPT),
        dtype=str(dtype).removeprefix("torch."),
        sequences=AT_ONCE,
        kv_bytes_per_token=cached_values(config) * dtype.itemsize,
    )
