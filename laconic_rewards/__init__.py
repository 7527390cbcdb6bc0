"""Which rewards can other trainers use? Laconic's, as pure functions, without its trainer.

    advantages(rollouts, Settings(alpha=0.2))     groups by name, in any order, of any size
    laconic_rewards.verl                          the same for verl: a scorer and an advantage estimator
    python -m laconic_rewards.server              the same over HTTP

The functions on tensors below take rollouts whose groups are adjacent and of one size, (B,), as ours uses them.
"""

from laconic_rewards.groups import Rollout, Settings, advantages, rewards
from training.rewards.credit import batch_normalised, leave_one_out
from training.rewards.length import length_reward
from training.rewards.outcome import (
    no_thinking_reward,
    outcome_reward,
    overlong_penalty,
    solve_rate_reward,
    truncation_reward,
)
from training.tasks.verify import final_answer, is_correct, is_verifiable

__all__ = [
    "Rollout",
    "Settings",
    "advantages",
    "batch_normalised",
    "final_answer",
    "is_correct",
    "is_verifiable",
    "leave_one_out",
    "length_reward",
    "no_thinking_reward",
    "outcome_reward",
    "overlong_penalty",
    "rewards",
    "solve_rate_reward",
    "truncation_reward",
]
