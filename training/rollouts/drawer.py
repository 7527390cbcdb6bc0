"""How are one step's rollouts drawn? From the model as it is now, in this process or by an engine, and with forks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from training.recipe_dense import Forks
from training.rollouts import forks
from training.rollouts.engine import Completion, Engine
from training.rollouts.episodes import Splitter
from training.rollouts.merge import merged, plain_weights
from training.rollouts.params import SamplingParams
from training.rollouts.sample import caches_everything, sample


@dataclass(frozen=True)
class Drawn:
    """The rollouts of one step."""

    completions: list[Completion]
    natural: list[list[int]]
    """Their token ids as the policy ended them, before a fork thought on."""
    before_fork: list[int]
    """How many episodes each had thought before its fork; `forks.NEVER` without one."""

    @property
    def kv_caches(self) -> list[Tensor] | None:
        """The KV cache of each, if they were kept."""
        caches = [completion.kv_cache for completion in self.completions if completion.kv_cache is not None]
        return caches if len(caches) == len(self.completions) else None


class Drawer:
    """Draws the rollouts of one tokenizer's model.

    Args:
        tokenizer: the model's.
        max_tokens: longest completion.
        engine: samples the rollouts; None: this process does.
        forks: which rollouts think on where they had stopped; None: none.
        split: into episodes; needed for forks.
        keeps_caches: whether KV caches are used again. They are kept on a CPU only: on a GPU, memory is the bottleneck.
        log: receives figures.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_tokens: int,
        *,
        engine: Engine | None,
        forks: Forks | None,
        split: Splitter | None,
        keeps_caches: bool,
        log: Callable[[dict[str, float]], None],
    ) -> None:
        self._tokenizer, self._max_tokens, self._engine = tokenizer, max_tokens, engine
        self._forks, self._split, self._keeps_caches, self._log = forks, split, keeps_caches, log

    def __call__(self, model: Any, prompt_ids: list[list[int]], temperature: float, group_size: int) -> Drawn:
        """One completion per prompt; each is there `group_size` times in a row. An adapter is merged meanwhile."""
        with merged(model):
            if self._engine is not None:
                start = time.perf_counter()
                self._engine.load(plain_weights(model))
                self._log({"sampling/loading_seconds": time.perf_counter() - start})
            params = SamplingParams(self._max_tokens, temperature, group_size)
            completions = self.sample(model, prompt_ids, params)
            natural = [completion.ids for completion in completions]
            if self._forks is None:
                return Drawn(completions, natural, [forks.NEVER] * len(natural))
            assert self._split
            completions, before = forks.think_on(
                self._tokenizer,
                self._split,
                prompt_ids,
                completions,
                self._forks,
                sample=lambda prompts, room: self.sample(model, prompts, SamplingParams(room, temperature)),
                max_tokens=self._max_tokens,
            )
        return Drawn(completions, natural, before)

    def sample(self, model: Any, prompt_ids: list[list[int]], params: SamplingParams) -> list[Completion]:
        """One completion per prompt; each prompt is there `params.samples` times in a row.

        Log probabilities are those at temperature 1, or as the engine was started; none where nobody needs them.
        """
        eos = self._tokenizer.eos_token_id
        if self._engine is None:
            kept = self._keeps_caches and model.device.type == "cpu" and caches_everything(model)
            caches, nats = list[Tensor]() if kept else None, list[list[float]]() if self._forks is not None else None
            ids = sample(model, prompt_ids, replace(params, samples=1), eos=eos, kv_caches=caches, surprisals=nats)
            logprobs = [[-value for value in own] for own in nats] if nats is not None else [[]] * len(ids)
            return list(map(Completion, ids, logprobs, caches or [None] * len(ids)))
        start = time.perf_counter()
        params = replace(params, seed=int(torch.randint(2**31, ())))  # a resumed run draws the same
        completions = self._engine.sample(prompt_ids[:: params.samples], params, eos=eos)
        seconds, tokens = time.perf_counter() - start, sum(len(completion.ids) for completion in completions)
        self._log({"sampling/seconds": seconds, "sampling/tokens_per_second": tokens / seconds})
        return completions
