"""Who samples what a run measures? A loaded model in this process, or a vLLM server that got its weights.

A server samples where training samples from one: with `family.engine: vllm`, without a GPU. Both draw from the same
probabilities, so what was measured by one stays valid where the other would be used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

from transformers import PreTrainedModel

from training.config import Recipe
from training.job import checkpoints
from training.job.trl_settings import LONGEST_PROMPT, samples_from_server
from training.rollouts.engine import Engine, settings_for, started
from training.rollouts.merge import plain_weights
from training.rollouts.params import SamplingParams

AT_ONCE = 128
"""Completions that the server samples at once."""


class Draw(Protocol):
    """Samples completions of prompts, as `training.rollouts.sample.sample` does from its model."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        eos: int,
        on_batch: Callable[[int], None] = ...,
        surprisals: list[list[float]] | None = ...,
    ) -> list[list[int]]: ...


class Draws:
    """Makes a `Draw` for each model that is measured. The server starts with the first one."""

    def __init__(self, recipe: Recipe, cleanup: ExitStack) -> None:
        self._recipe, self._cleanup = recipe, cleanup
        self._engine: Engine | None = None

    def of(self, model: PreTrainedModel) -> Draw | None:
        """What samples from a model of the recipe with merged adapters; None for this process.

        Raises:
            StageError: vLLM does not start, or refuses the weights.
        """
        if not samples_from_server(self._recipe.family):
            return None
        if self._engine is None:
            base, max_tokens = checkpoints.base_directory(self._recipe), self._recipe.family.max_tokens
            settings = settings_for(
                base,
                model.config.get_text_config(),
                max_tokens=max_tokens,
                sequences=AT_ONCE,
                at_temperature=False,
                prompt_tokens=LONGEST_PROMPT + max_tokens,  # a budget-forced answer follows up to so much thinking
            )
            self._engine = self._cleanup.enter_context(started(settings, self._recipe.run_dir / "measure"))
        self._engine.load(plain_weights(model))
        return partial(_draw, self._engine, [0])


@contextmanager
def draws(recipe: Recipe) -> Iterator[Draws]:
    """Who samples for a recipe's measurements, within the block."""
    with ExitStack() as cleanup:
        yield Draws(recipe, cleanup)


def _draw(
    engine: Engine,
    last_seed: list[int],
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    eos: int,
    on_batch: Callable[[int], None] = lambda _: None,
    surprisals: list[list[float]] | None = None,
) -> list[list[int]]:
    """A draw without a seed goes on from the last one's, as torch's generator does in this process.

    Behind thinking, an answer may have less room than `params.max_tokens` in the model's positions. It ends there.
    """
    last_seed[0] = last_seed[0] + 1 if params.seed is None else params.seed
    seeded = replace(params, seed=last_seed[0])
    completions = engine.sample(
        prompts, seeded, eos=eos, on_group=lambda done: on_batch(done * params.samples), may_truncate=True
    )
    if surprisals is not None:
        surprisals += [[-logprob for logprob in one.logprobs] for one in completions]
    return [one.ids for one in completions]
