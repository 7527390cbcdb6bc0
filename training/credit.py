"""Who deserves which reward? From rewards to advantages, as pure functions."""

from __future__ import annotations

from torch import Tensor


def leave_one_out(reward_B: Tensor, group_size: int) -> Tensor:
    """RLOO: A_i = r_i - mean of the group's other rewards = G / (G - 1) (r_i - mean r) (arXiv 2402.14740, eq. 7).

    Not divided by the group's standard deviation: with it an all-correct group would push its shortest answer equally
    hard whatever alpha is (arXiv 2502.04463, sec. 4.2).

    Args:
        reward_B: rewards of *all* processes, groups next to each other, (B,).
        group_size: G >= 2; divides B.

    Raises:
        ValueError: a group that is not whole or has one member.
    """
    if group_size < 2 or len(reward_B) % group_size:
        raise ValueError(f"{len(reward_B)} rewards are not whole groups of {group_size} >= 2")
    groups = reward_B.view(-1, group_size)
    return ((groups - groups.mean(1, keepdim=True)) * (group_size / (group_size - 1))).view(-1)
