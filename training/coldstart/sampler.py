"""Who samples for the cold start? The model in this process, or vLLM, as the recipe's `family.engine` says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from training.coldstart.samples import Sampler
from training.config import Recipe
from training.job import checkpoints
from training.rollouts import engine
from training.rollouts.params import SamplingParams
from training.rollouts.sample import sample

AT_ONCE = 128
"""Completions that vLLM samples at once."""


@contextmanager
def sampler(recipe: Recipe, directory: Path) -> Iterator[Sampler]:
    """Sample from the model in a directory within the block.

    Raises:
        StageError: the model cannot be loaded, or vLLM does not start.
    """
    tokenizer = checkpoints.load_tokenizer(directory)
    eos: int = tokenizer.eos_token_id
    if recipe.family.engine == "vllm":
        config = checkpoints.config(directory).get_text_config()
        settings = engine.settings_for(directory, config, max_tokens=recipe.family.max_tokens, sequences=AT_ONCE)
        with engine.started(settings, recipe.run_dir / "base") as started:
            yield lambda prompts, params: [one.ids for one in started.sample(prompts, params, eos=eos)]
        return
    model = checkpoints.load_model(directory, checkpoints.dtype(recipe))

    def in_process(prompts: Sequence[Sequence[int]], params: SamplingParams) -> list[list[int]]:
        return sample(model, prompts, params, eos=eos)

    yield in_process
