"""How is an episode's charge kept from being noise, and where is thinking redundant? Pure functions on all episodes.

The paper's charge, Rao's score squared over the batch's mean, has a heavy tail: a few episodes hold much of it, so it
adds more variance than price. Four settings of a recipe tame it, in this order: the score in place of its square, per
token (both `information_cost`), at most a quantile (`winsorised`), on a scale that remembers earlier steps
(`RunningMean`). A charge for tokens can be limited to thinking that is redundant (`prices`).

A group may span processes, so costs, counts and probabilities are those of *all* processes, except in
`information_cost`. All processes then have the same scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

DECAY = 0.9
"""Weight of the earlier steps in a running mean, which so reaches back about ten steps."""


def information_cost(
    score_BK: Tensor, index_BT: Tensor, *, score: Literal["squared", "rao"], per: Literal["episode", "token"]
) -> Tensor:
    """What the information charge charges each episode for, before normalisation, (B, K).

    Args:
        score_BK: Rao's score statistic of each episode, at least 0.
        index_BT: each token's episode from 0, -1 on padding.
        score: `squared` as in the paper (arXiv 2505.10425, Thm 4.2), or `rao`, the statistic itself.
        per: `token` divides by the tokens that the score is a sum over: those of the episode, and in the last one also
            those of the answer.
    """
    cost_BK = score_BK.square() if score == "squared" else score_BK
    if per == "episode":
        return cost_BK
    tokens_BK = torch.zeros_like(cost_BK).scatter_add_(1, index_BT.clamp(min=0), (index_BT >= 0).to(cost_BK.dtype))
    return cost_BK / tokens_BK.clamp(min=1)


def winsorised(cost_BK: Tensor, count_B: Tensor, quantile: float) -> Tensor:
    """Costs of at most the batch's quantile, (B, K): larger ones are replaced by it.

    The quantile is that of the episodes that exist, interpolated linearly between two of them.

    Args:
        cost_BK: what each episode is charged for.
        count_B: episodes of each rollout.
        quantile: between 0 and 1.
    """
    exists_BK = torch.arange(cost_BK.size(1), device=cost_BK.device) < count_B[:, None]
    if not exists_BK.any():
        return cost_BK
    return cost_BK.clamp(max=cost_BK[exists_BK].double().quantile(quantile).item())


def mean_rollout(cost_BK: Tensor) -> float:
    """The batch's mean cost of a rollout, which is the sum over its episodes."""
    return cost_BK.double().sum(1).mean().item()


@dataclass(frozen=True)
class RunningMean:
    """An exponential mean over steps whose weights add up to 1 from the first step on (Adam's bias correction)."""

    total: float = 0.0
    weight: float = 0.0

    def after(self, value: float) -> RunningMean:
        """The mean after one more step."""
        return RunningMean(DECAY * self.total + (1 - DECAY) * value, DECAY * self.weight + (1 - DECAY))

    @property
    def value(self) -> float:
        """The mean; 0 before the first step."""
        return self.total / self.weight if self.weight else 0.0


def prices(
    redundancy: Literal["none", "certainty", "solve_rate"], success_BK1: Tensor, correct_B: Tensor, group_size: int
) -> Tensor | None:
    """What each episode's token charge is multiplied by, from 0 to 1; None if it is the same everywhere.

    Args:
        redundancy: `certainty`: J_k-1, the probability of the gold answer before the episode, (B, K). So only thinking
            on is charged, and only where the answer is already certain. `solve_rate`: the share of the prompt's
            rollouts that are correct, (B, 1).
        success_BK1: J_0 .. J_K.
        correct_B: 1 for each correct rollout, otherwise 0; members of a group are adjacent.
        group_size: rollouts of a prompt; divides B.
    """
    if redundancy == "certainty":
        return success_BK1[:, :-1]
    if redundancy == "solve_rate":
        return correct_B.view(-1, group_size).mean(1).repeat_interleave(group_size)[:, None]
    return None
