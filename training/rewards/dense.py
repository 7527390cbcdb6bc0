"""What does a batch of rollouts earn per episode? Information gain and compression score, on the model as it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.config import DenseReward
from training.rewards.compression import Proxy, scores
from training.rewards.information_gain import Probe, success
from training.rollouts.batch import Rollouts
from training.rollouts.episodes import Episodes, Splitter

_MEMORY_GIB = (1 / 32, 1.0)
"""On a CPU and elsewhere."""


@dataclass(frozen=True)
class EpisodeValues:
    """Per rollout and episode, (B, K)."""

    episodes: Episodes
    success_BK1: Tensor
    """J_0 .. J_K, the probability of the gold answer if thinking stopped there; constant after the last episode."""
    cost_BK: Tensor
    """What it is charged for: C_k, Rao's score statistic squared (Thm 4.2), or its tokens; 0 where that is free."""


class EpisodeGrader:
    """Measures rollouts of one tokenizer; K is `max_episodes` always, so that processes agree on the shape."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: DenseReward) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self.split = Splitter(
            tokenizer, settings.split_by, max_episodes=settings.max_episodes, every=settings.tokens_per_episode
        )

    def memory_bytes(self, model: PreTrainedModel) -> int:
        """What one forward pass may take."""
        return int((self._settings.memory_gib or _MEMORY_GIB[model.device.type != "cpu"]) * 2**30)

    def probe(self, gold: str) -> Probe:
        """The stop and the answer as the model would write them: one text, cut where the answer begins."""
        before, after = self._settings.answer.split("{}")
        stop = self._tokenizer.encode(f"\n</think>\n\n{before}", add_special_tokens=False)
        whole = self._tokenizer.encode(f"\n</think>\n\n{before}{gold}{after}", add_special_tokens=False)
        shared = next((i for i, (a, b) in enumerate(zip(stop, whole, strict=False)) if a != b), len(stop))
        return Probe(tuple(whole[:shared]), tuple(whole[shared:]))

    def __call__(
        self,
        model: PreTrainedModel,
        rollouts: Rollouts,
        golds: Sequence[str],
        over_processes: Callable[[Tensor], Tensor] = lambda own: own,
        seen: Sequence[Tensor] | None = None,
    ) -> EpisodeValues:
        """Grader this process's rollouts, prompts padded on the left; `over_processes` sums over all processes.

        `seen` is what attention kept of them when they were sampled, which spares a pass over them, unless that pass is
        needed for the score.
        """
        settings = self._settings
        episodes = self.split(rollouts.completion_ids_BT, rollouts.completion_mask_BT)

        def measured(**how: Any) -> Tensor:
            return success(
                model,
                rollouts,
                episodes.ends_BK,
                [self.probe(gold) for gold in golds],
                reading=settings.reading,
                memory_bytes=self.memory_bytes(model),
                **how,
            )

        with _evaluating(model):
            if settings.charges_information:
                shape = *rollouts.completion_ids_BT.shape, settings.proxy_rank
                output_BTr, input_BTr = torch.zeros(2, *shape, device=episodes.index_BT.device)
                with Proxy(model, settings.proxy_rank) as proxy:

                    def keep(rows: Tensor, chunk: Rollouts) -> None:
                        found, width = proxy.gradients(chunk), chunk.completion_ids_BT.size(1)
                        output_BTr[rows, :width], input_BTr[rows, :width] = found.output_BTr, found.input_BTr

                    success_BK1 = measured(after_pass=keep)
                cost_BK = scores(
                    output_BTr, input_BTr, episodes.index_BT, settings.max_episodes, over_processes=over_processes
                ).square()
            else:
                success_BK1 = measured(seen=seen)
                cost_BK = episodes.tokens_BK * float(settings.charge == "tokens")
        missing = settings.max_episodes - cost_BK.size(1)
        at_BK1 = torch.arange(settings.max_episodes + 1, device=success_BK1.device).minimum(episodes.count_B[:, None])
        return EpisodeValues(episodes, success_BK1.gather(1, at_BK1), torch.nn.functional.pad(cost_BK, (0, missing)))


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
