"""What does each episode of a batch of rollouts earn? Its information gain and cost, measured on the current model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.config import DenseReward
from training.job.checkpoints import THINK_CLOSED
from training.rewards.charge import information_cost
from training.rewards.compression import Proxy, scores
from training.rewards.information_gain import Probe, answer_probabilities
from training.rollouts.batch import Rollouts
from training.rollouts.episodes import Episodes, Splitter

_MEMORY_GIB = (1 / 32, 1.0)
"""Default limit of one forward pass: on a CPU, whose caches are small, and elsewhere."""


@dataclass(frozen=True)
class EpisodeValues:
    """What the episodes of some rollouts are worth and cost."""

    episodes: Episodes
    success_BK1: Tensor
    """J_0 .. J_K, the probability of the gold answer if thinking stopped after k episodes; constant after the last."""
    cost_BK: Tensor
    """What an episode is charged for: C_k, Rao's score statistic squared (Thm 4.2) or as the settings tame it, or its
    tokens; 0 if not charged."""


class EpisodeGrader:
    """Measures rollouts of one tokenizer. K is always `max_episodes`, so that processes agree on the shape."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: DenseReward) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self.split = Splitter(
            tokenizer, settings.split_by, max_episodes=settings.max_episodes, every=settings.tokens_per_episode
        )

    def memory_bytes(self, model: PreTrainedModel) -> int:
        """Memory that one forward pass may use."""
        return int((self._settings.memory_gib or _MEMORY_GIB[model.device.type != "cpu"]) * 2**30)

    def probe(self, gold: str) -> Probe:
        """The stop and the answer as the model would write them: tokenized as one text, split where the answer begins.

        A token that holds the end of the stop and the start of the answer belongs to the answer.
        """
        before, after = self._settings.answer.split("{}")
        stop = self._tokenizer.encode(f"{THINK_CLOSED}{before}", add_special_tokens=False)
        whole = self._tokenizer.encode(f"{THINK_CLOSED}{before}{gold}{after}", add_special_tokens=False)
        shared = next((i for i, (a, b) in enumerate(zip(stop, whole, strict=False)) if a != b), len(stop))
        newline = self._tokenizer.encode("\n", add_special_tokens=False)
        has_newline = len(stop[:shared]) > len(newline) and whole[: len(newline)] == newline
        return Probe(tuple(whole[:shared]), tuple(whole[shared:]), len(newline) if has_newline else 0)

    def __call__(
        self,
        model: PreTrainedModel,
        rollouts: Rollouts,
        golds: Sequence[str],
        sum_over_processes: Callable[[Tensor], Tensor] = lambda local: local,
        kv_caches: Sequence[Tensor] | None = None,
    ) -> EpisodeValues:
        """Measure this process's rollouts, whose prompts are padded on the left.

        Args:
            model: the model that sampled the rollouts.
            rollouts: B of them.
            golds: their gold answers.
            sum_over_processes: sums a tensor over all processes.
            kv_caches: the rollouts' KV caches from sampling. They replace a forward pass over the rollouts, unless the
                compression score needs that pass.
        """
        settings = self._settings
        episodes = self.split(rollouts.completion_ids_BT, rollouts.completion_mask_BT)
        probes = [self.probe(gold) for gold in golds]

        def measure_answer_probabilities(**how: Any) -> Tensor:
            return answer_probabilities(
                model,
                rollouts,
                episodes.ends_BK,
                probes,
                answer_probability=settings.reading,
                memory_bytes=self.memory_bytes(model),
                closed_BK=episodes.closed_BK,
                **how,
            )

        with _evaluating(model):
            if settings.charges_information:
                shape = *rollouts.completion_ids_BT.shape, settings.proxy_rank
                output_BTr, input_BTr = torch.zeros(2, *shape, device=episodes.index_BT.device)
                with Proxy(model, settings.proxy_rank) as proxy:

                    def store_gradients(rows: Tensor, chunk: Rollouts) -> None:
                        gradients, width = proxy.gradients(chunk), chunk.completion_ids_BT.size(1)
                        output_BTr[rows, :width], input_BTr[rows, :width] = gradients.output_BTr, gradients.input_BTr

                    success_BK1 = measure_answer_probabilities(after_pass=store_gradients)
                score_BK = scores(
                    output_BTr,
                    input_BTr,
                    episodes.index_BT,
                    settings.max_episodes,
                    sum_over_processes=sum_over_processes,
                )
                cost_BK = information_cost(score_BK, episodes.index_BT, score=settings.score, per=settings.per)
            else:
                success_BK1 = measure_answer_probabilities(kv_caches=kv_caches)
                cost_BK = episodes.tokens_BK * float(settings.charge == "tokens")
        missing = settings.max_episodes - cost_BK.size(1)
        last_BK1 = torch.arange(settings.max_episodes + 1, device=success_BK1.device).minimum(episodes.count_B[:, None])
        return EpisodeValues(episodes, success_BK1.gather(1, last_BK1), torch.nn.functional.pad(cost_BK, (0, missing)))


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """The model in evaluation mode; its mode is restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
