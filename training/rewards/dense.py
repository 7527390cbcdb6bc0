"""What does a batch of rollouts earn per episode? Information gain and compression score, on the model as it stands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.batch import Rollouts
from training.config import DenseReward
from training.episodes import Episodes, Splitter
from training.rewards.compression import scores, token_gradients
from training.rewards.information_gain import Probe, gains, success


@dataclass(frozen=True)
class EpisodeValues:
    """Per rollout and episode, (B, K); 0 after a rollout's last episode."""

    episodes: Episodes
    gain_BK: Tensor
    score_BK: Tensor
    """Rao's score statistic; all 0 where compression costs nothing."""


class EpisodeJudge:
    """Measures rollouts of one tokenizer; K is `max_episodes` always, so that processes agree on the shape."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, settings: DenseReward) -> None:
        self._tokenizer, self._settings = tokenizer, settings
        self._split = Splitter(
            tokenizer, settings.split_by, max_episodes=settings.max_episodes, every=settings.tokens_per_episode
        )

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
    ) -> EpisodeValues:
        """Judge this process's rollouts, prompts padded on the left; `over_processes` sums over all processes."""
        settings = self._settings
        episodes = self._split(rollouts.completion_ids_BT, rollouts.completion_mask_BT)
        was_training = model.training
        model.eval()
        try:
            success_BK1 = success(
                model,
                rollouts,
                episodes.ends_BK,
                [self.probe(gold) for gold in golds],
                reading=settings.reading,
                memory_bytes=int(settings.memory_gib * 2**30),
            )
            gain_BK = _wide(gains(success_BK1), settings.max_episodes)
            there_BK = torch.arange(settings.max_episodes, device=gain_BK.device) < episodes.count_B[:, None]
            gain_BK = gain_BK * there_BK  # what a row repeats is the same but for rounding
            score_BK = torch.zeros_like(gain_BK)
            if settings.compression_weight:
                parts = token_gradients(model, rollouts, rank=settings.proxy_rank)
                score_BK = scores(
                    parts.output_BTr,
                    parts.input_BTr,
                    episodes.index_BT,
                    settings.max_episodes,
                    over_processes=over_processes,
                )
        finally:
            model.train(was_training)
        return EpisodeValues(episodes, gain_BK, score_BK)


def _wide(values_BK: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(values_BK, (0, width - values_BK.size(1)))
