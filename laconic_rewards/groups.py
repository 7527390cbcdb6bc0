"""What are rollouts worth whose groups are named, not adjacent? That is how other trainers hold them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from training.config import OutcomeRule
from training.rewards.credit import batch_normalised, leave_one_out
from training.rewards.outcome import outcome_reward, overlong_penalty


@dataclass(frozen=True)
class Settings:
    """How length reduces the reward of a right answer.

    Raises:
        ValueError: names the field that is out of range.
    """

    rule: OutcomeRule = "alpha"
    """`alpha` (arXiv 2502.04463), `truncation` (DLER, 2510.15110) or `solve_rate` (ALP, 2506.05256)."""
    alpha: float = 0.0
    """The efficiency level, in [0, 1). 0 rewards correctness alone."""
    max_tokens: int = 0
    """The longest response. `truncation`, `solve_rate` and `overlong_window` need it."""
    overlong_window: int = 0
    """Add DAPO's soft overlong punishment (2503.14476) over the last so many tokens; 0 adds none."""
    normalise: bool = False
    """Divide the advantages by their standard deviation over the batch, as DLER does."""

    def __post_init__(self) -> None:
        if self.rule not in get_args(OutcomeRule):
            raise ValueError(f"rule must be one of {', '.join(get_args(OutcomeRule))}, got {self.rule!r}")
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha must be in [0, 1), got {self.alpha}")
        if self.max_tokens < 0 or (self.max_tokens == 0 and (self.rule != "alpha" or self.overlong_window)):
            raise ValueError(f"max_tokens must be the longest response, got {self.max_tokens}")
        if not 0 <= self.overlong_window <= self.max_tokens:
            raise ValueError(f"overlong_window must be in 0 .. {self.max_tokens}, got {self.overlong_window}")


@dataclass(frozen=True)
class Rollout:
    """One response to a prompt."""

    group: Hashable
    """Names the prompt: the same for all responses to it."""
    correct: bool
    tokens: int
    """Sampled tokens, thinking and answer."""


def rewards(rollouts: Sequence[Rollout], settings: Settings) -> Tensor:
    """The reward of each rollout, float32, (B,). A group may have any size and order.

    Raises:
        ValueError: a rollout has a negative number of tokens.
    """
    result_B = torch.zeros(len(rollouts))
    for rows in _rows_of_groups(rollouts):
        correct_G = torch.tensor([float(rollouts[row].correct) for row in rows])
        tokens_G = torch.tensor([rollouts[row].tokens for row in rows])
        reward_G = outcome_reward(
            settings.rule,
            correct_G,
            tokens_G,
            group_size=len(rows),
            alpha=settings.alpha,
            max_tokens=settings.max_tokens,
        )
        if settings.overlong_window:
            reward_G = reward_G + overlong_penalty(
                tokens_G, max_tokens=settings.max_tokens, window=settings.overlong_window
            )
        result_B[rows] = reward_G
    return result_B


def advantages(rollouts: Sequence[Rollout], settings: Settings) -> Tensor:
    """The leave-one-out advantage of each rollout, float32, (B,). A rollout that is alone in its group has 0.

    Raises:
        ValueError: a rollout has a negative number of tokens.
    """
    reward_B = rewards(rollouts, settings)
    result_B = torch.zeros(len(rollouts))
    for rows in _rows_of_groups(rollouts):
        if len(rows) > 1:
            result_B[rows] = leave_one_out(reward_B[rows], len(rows))
    return batch_normalised(result_B) if settings.normalise else result_B


def _rows_of_groups(rollouts: Sequence[Rollout]) -> list[list[int]]:
    rows: dict[Hashable, list[int]] = defaultdict(list)
    for row, rollout in enumerate(rollouts):
        if rollout.tokens < 0:
            raise ValueError(f"tokens must be at least 0, got {rollout.tokens} in rollout {row}")
        rows[rollout.group].append(row)
    return list(rows.values())
