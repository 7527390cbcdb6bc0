"""What is a whole rollout worth? Correctness less a price of its length, by the rule that a recipe chooses.

All rules are pure functions of groups: the rollouts of a prompt are adjacent. `length.py` has the rule of the family's
alpha; here are three that others published, and a penalty that adds to each. In all of them alpha in [0, 1) is how much
length matters, and alpha 0 rewards correctness alone, so that a family of checkpoints can be trained with any.
"""

from __future__ import annotations

from torch import Tensor

from training.config import OutcomeRule
from training.rewards.length import length_reward, require_groups


def outcome_reward(
    rule: OutcomeRule, correct_B: Tensor, tokens_B: Tensor, *, group_size: int, alpha: float, max_tokens: int
) -> Tensor:
    """The outcome reward of each rollout by the rule, float32, (B,).

    Args:
        rule: `alpha` is `length_reward`, `truncation` is `truncation_reward` at (1 - alpha) max_tokens, `solve_rate` is
            `solve_rate_reward`.
        correct_B: 1 where the response is correct, else 0; the members of a group are adjacent, (B,).
        tokens_B: sampled tokens of each response, (B,).
        group_size: responses to one prompt, G; divides B.
        alpha: efficiency level in [0, 1).
        max_tokens: the longest response, at least 1; `alpha` does not read it.

    Raises:
        ValueError: alpha or max_tokens is out of range, the shapes differ, or a group is incomplete.
    """
    if rule == "alpha":
        return length_reward(correct_B, tokens_B, group_size, alpha)
    if rule == "truncation":
        require_groups(correct_B, tokens_B, 1, alpha)
        _require_length(max_tokens)
        return truncation_reward(correct_B, tokens_B, round((1 - alpha) * max_tokens))
    return solve_rate_reward(correct_B, tokens_B, group_size, alpha, max_tokens=max_tokens)


def truncation_reward(correct_B: Tensor, tokens_B: Tensor, limit: int) -> Tensor:
    """r_i = 1{i correct and len_i <= limit}: what is longer counts as wrong (DLER, arXiv 2510.15110), float32, (B,).

    DLER's authors pair it with `training.rewards.credit.batch_normalised`: a tight limit makes rewards rare, and the
    standard deviation of a single group a poor scale.

    Args:
        correct_B: 1 where the response is correct, else 0, (B,).
        tokens_B: sampled tokens of each response, (B,).
        limit: the longest response that earns anything, in tokens.
    """
    return correct_B.float() * (tokens_B <= limit)


def solve_rate_reward(correct_B: Tensor, tokens_B: Tensor, group_size: int, alpha: float, *, max_tokens: int) -> Tensor:
    """r_i = 1{i correct} - alpha max(p, 1/G) len_i / max_tokens, p the group's solve rate (ALP, arXiv 2506.05256).

    Tokens cost more where the prompt is easy. Wrong responses pay, too, as in the paper; its beta / N is
    alpha / max_tokens here, so that a response of the full length to a prompt that is always solved pays alpha.

    Returns:
        Rewards in (-1, 1], float32, (B,).

    Raises:
        ValueError: alpha or max_tokens is out of range, the shapes differ, or a group is incomplete.
    """
    require_groups(correct_B, tokens_B, group_size, alpha)
    _require_length(max_tokens)
    solve_rate_B = correct_B.double().view(-1, group_size).mean(1).repeat_interleave(group_size)
    price_B = alpha * solve_rate_B.clamp(min=1 / group_size)
    return (correct_B.double() - price_B * tokens_B / max_tokens).float()


def overlong_penalty(tokens_B: Tensor, *, max_tokens: int, window: int) -> Tensor:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13): 0 up to max_tokens - window, then linearly to -1.

    It is added to a reward, so that a response near the limit is punished before it is truncated.

    Args:
        tokens_B: sampled tokens of each response, (B,).
        max_tokens: the longest response.
        window: over how many tokens the penalty grows; in 1 .. max_tokens.

    Returns:
        Penalties in [-1, 0], float32, (B,).

    Raises:
        ValueError: the window is out of range.
    """
    if not 1 <= window <= max_tokens:
        raise ValueError(f"window must be in 1 .. {max_tokens}, got {window}")
    return ((max_tokens - window - tokens_B) / window).clamp(-1, 0).float()


def no_thinking_reward(
    correct_B: Tensor, thinks_B: Tensor, reference_accuracy_B: Tensor, group_size: int, bonus: float
) -> Tensor:
    """r_i = 1{i does not think} bonus + 1{i correct} - the reference's accuracy on the prompt (AdaptThink, 2505.13417).

    The model learns to skip its thinking where that costs no accuracy. AdaptThink forces half of each group to start
    without thinking and weighs tokens by the ratio to that mixture. Our trainer does not, so no recipe has this reward;
    it is here for trainers that do.

    Args:
        correct_B: 1 where the response is correct, else 0; the members of a group are adjacent, (B,).
        thinks_B: True where the response thinks, (B,).
        reference_accuracy_B: accuracy of the untrained model on the prompt, in [0, 1], the same in a group, (B,).
        group_size: responses to one prompt, G; divides B.
        bonus: the paper's delta, 0.05 there; at least 0.

    Raises:
        ValueError: the bonus is negative, the shapes differ, or a group is incomplete.
    """
    if bonus < 0:
        raise ValueError(f"bonus must be at least 0, got {bonus}")
    require_groups(correct_B, thinks_B, group_size)
    return (bonus * ~thinks_B.bool() + correct_B - reference_accuracy_B).float()


def _require_length(max_tokens: int) -> None:
    if max_tokens < 1:
        raise ValueError(f"max_tokens must be at least 1, got {max_tokens}")
