"""What is an answer of this length worth? The length penalty of Arora and Zanette (arXiv 2502.04463, eq. 4, 5)."""

from __future__ import annotations

import torch
from torch import Tensor


def length_reward(correct_B: Tensor, tokens_B: Tensor, group_size: int, alpha: float) -> Tensor:
    """r_i = 1{i correct} (1 - alpha sigmoid((len_i - mean len) / (std len + 1e-7))).

    Mean and population std are taken over the *correct* responses to the same prompt. If only one response is correct,
    or all correct ones have the same length, then r = 1 - alpha / 2. If none is correct, every reward is 0.

    Args:
        correct_B: 1 where the response is correct, else 0; the members of a group are adjacent, (B,).
        tokens_B: sampled tokens of each response, (B,).
        group_size: responses to one prompt, G; divides B.
        alpha: efficiency level in [0, 1); 0 rewards correctness alone.

    Returns:
        Rewards in [0, 1], float32, (B,).

    Raises:
        ValueError: alpha is out of range, the shapes differ, or a group is incomplete.
    """
    require_groups(correct_B, tokens_B, group_size, alpha)
    correct = correct_B.double().view(-1, group_size)
    tokens = tokens_B.double().view(-1, group_size)
    count = correct.sum(1, keepdim=True).clamp(min=1)
    mean = (tokens * correct).sum(1, keepdim=True) / count
    variance = ((tokens - mean) ** 2 * correct).sum(1, keepdim=True) / count
    penalty = torch.sigmoid((tokens - mean) / (variance.sqrt() + 1e-7))
    return (correct * (1 - alpha * penalty)).view(-1).float()


def require_groups(correct_B: Tensor, tokens_B: Tensor, group_size: int, alpha: float = 0.0) -> None:
    """Raise ValueError unless alpha is in [0, 1), both are (B,), and they are whole groups."""
    if not 0 <= alpha < 1:
        raise ValueError(f"alpha must be in [0, 1), got {alpha}")
    if correct_B.shape != tokens_B.shape or correct_B.ndim != 1:
        raise ValueError(
            f"correct and tokens must both be (B,), got {tuple(correct_B.shape)} and {tuple(tokens_B.shape)}"
        )
    if group_size < 1 or len(correct_B) % group_size:
        raise ValueError(f"{len(correct_B)} responses are not whole groups of {group_size}")
