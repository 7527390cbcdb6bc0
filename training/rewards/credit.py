"""Which tokens deserve which reward? From the rewards of whole groups to one advantage per token, as pure functions.

One function per scheme returns this process's advantages, (B, T): `outcome_advantages` without a dense reward, and
`episode_advantages`, `counterfactual_advantages` or `paper_advantages` with one. A group may span processes, so
rewards, costs and counts are those of *all* processes, with the members of a group next to each other; `own` selects
this process's rows. Tensors named `*_BT` hold this process's rows only.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

KEEP_SHARE = 0.95
"""Share of a rollout's token rewards that its truncated mean keeps (arXiv 2505.10425, app. C)."""
FLOOR = 0.1
"""Smallest |m_i| that a token reward is divided by, as a share of 1 / T_i: m_i is a mean over T_i tokens."""
RATIO = 5.0
"""Largest |r_it / m_i|."""


def outcome_advantages(
    outcome_B: Tensor, mask_BT: Tensor, *, own: slice, group_size: int, normalise: bool = False
) -> Tensor:
    """`leave_one_out` for every token of a rollout, 0 on padding, (B, T).

    Args:
        outcome_B: outcome rewards of all processes.
        mask_BT: 1 where there is a completion token.
        own: this process's rows of `outcome_B`.
        group_size: G >= 2; divides the number of rollouts.
        normalise: by `batch_normalised`.

    Raises:
        ValueError: an incomplete group, or a group of one.
    """
    advantage_B = leave_one_out(outcome_B, group_size)
    return (batch_normalised(advantage_B) if normalise else advantage_B)[own][:, None] * mask_BT


def episode_advantages(
    outcome_B: Tensor,
    episode_BK: Tensor,
    count_B: Tensor,
    *,
    index_BT: Tensor,
    own: slice,
    group_size: int,
    progress_weight: float,
) -> Tensor:
    """`episode_credit` of the episode that each token belongs to, 0 on padding, (B, T).

    Args:
        outcome_B: outcome rewards of all processes.
        episode_BK: dense rewards of all processes; read up to each row's count.
        count_B: episodes of each rollout of all processes, at least 1.
        index_BT: each token's episode from 0, -1 on padding.
        own: this process's rows.
        group_size: G >= 2; divides the number of rollouts.
        progress_weight: weight of the dense reward.

    Raises:
        ValueError: an incomplete group, or a group of one.
    """
    return _per_token(episode_credit(outcome_B, episode_BK, count_B, group_size, progress_weight)[own], index_BT)


def counterfactual_advantages(
    outcome_B: Tensor,
    success_BK1: Tensor,
    episode_BK: Tensor,
    count_B: Tensor,
    *,
    index_BT: Tensor,
    stopped_BT: Tensor,
    own: slice,
    group_size: int,
    progress_weight: float,
    outcome_alpha: float,
) -> Tensor:
    """`counterfactual_credit` of the decision that each token belongs to, 0 on padding, (B, T).

    Stopping after k episodes is worth J_k (1 - outcome_alpha / 2): the outcome reward of a correct rollout of its
    group's mean length, times the probability of being correct.

    Args:
        outcome_B: outcome rewards of all processes, (B,), or of each rollout's decisions, (B, K + 1).
        success_BK1: J_0 .. J_K of all processes, the probability of the gold answer after 0 .. K episodes.
        episode_BK: dense rewards of all processes; read up to each row's count.
        count_B: episodes of each rollout of all processes, at least 1.
        index_BT: each token's episode from 0, -1 on padding.
        stopped_BT: True on the tokens that end the thinking and on the answer (`Episodes.stopped_BT`).
        own: this process's rows.
        group_size: G >= 2; divides the number of rollouts.
        progress_weight: weight of the dense reward.
        outcome_alpha: alpha of the outcome reward.

    Raises:
        ValueError: an incomplete group, or a group of one.
    """
    worth_BK1 = success_BK1 * (1 - outcome_alpha / 2)
    credit_BK1 = counterfactual_credit(
        outcome_B, worth_BK1, episode_BK, count_B, group_size=group_size, progress_weight=progress_weight
    )
    return _per_token(credit_BK1[own], index_BT + stopped_BT)


def dense_rewards(
    gain_BK: Tensor,
    cost_BK: Tensor,
    *,
    charge: Literal["information", "tokens"],
    compression_weight: float,
    alpha: float,
    group_size: int,
    own_BK: Tensor | None = None,
    scale: float | None = None,
    price: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """r_ik = gain_ik - compression_weight cost_ik (arXiv 2505.10425, Def. 4.1 and Thm 4.2), and the costs.

    Information costs are normalised over the whole batch, token costs over the prompt's group and multiplied by alpha.

    Args:
        gain_BK: information gain of each episode.
        cost_BK: what each episode is charged for, before normalisation.
        charge: what `cost_BK` measures.
        compression_weight: weight of the costs, relative to the gain.
        alpha: efficiency level.
        group_size: G >= 2; divides B.
        own_BK: the episodes that the policy thought by itself; only they set the scale. Default: all.
        scale: what information costs are divided by in place of the batch's mean total per rollout.
        price: what the normalised costs are multiplied by, (B, K) or (B, 1).

    Returns:
        r_ik and cost_ik as charged, both (B, K).

    Raises:
        ValueError: an incomplete group, or a group of one.
    """
    if charge == "tokens":
        cost_BK = alpha * normalised_costs(cost_BK, group_size, own_BK)
    elif scale is None:
        cost_BK = normalised_costs(cost_BK, len(cost_BK))
    else:
        cost_BK = cost_BK / max(scale, torch.finfo(cost_BK.dtype).tiny)
    if price is not None:
        cost_BK = cost_BK * price
    return gain_BK - compression_weight * cost_BK, cost_BK


def leave_one_out(reward_B: Tensor, group_size: int) -> Tensor:
    """RLOO: A_i = r_i - mean of the group's other rewards = G / (G - 1) (r_i - mean r) (arXiv 2402.14740, eq. 7), (B,).

    It is not divided by the group's standard deviation. With the division, a group whose answers are all correct would
    push its shortest answer equally hard at every alpha (arXiv 2502.04463, sec. 4.2).

    Args:
        reward_B: rewards, (B,).
        group_size: G >= 2; divides B.

    Raises:
        ValueError: an incomplete group, or a group of one.
    """
    groups = _groups(reward_B, group_size)
    return ((groups - groups.mean(1, keepdim=True)) * (group_size / (group_size - 1))).view(-1)


def batch_normalised(advantage_B: Tensor, epsilon: float = 1e-6) -> Tensor:
    """A_i / (std of the batch's A + epsilon), (B,): DLER's normalisation (arXiv 2510.15110).

    Groups whose rewards are all equal contribute 0 before and after it, so the others are not drowned when rewards are
    rare. The mean of leave-one-out advantages is 0 in every group and need not be subtracted again. The standard
    deviation is the population's.
    """
    return advantage_B / (advantage_B.std(correction=0) + epsilon)


def normalised_costs(cost_BK: Tensor, group_size: int, own_BK: Tensor | None = None) -> Tensor:
    """Costs divided by the group's mean total per rollout, (B, K); all 0 if every cost of the group is 0.

    With a prompt's rollouts as the group, each prompt has its own scale, as in the length penalty: a check as long as
    the rest of the thinking costs the same on an easy prompt and on a hard one. With the whole batch as the group,
    there is one scale.

    Args:
        cost_BK: what each episode is charged for, at least 0, and 0 after a rollout's last episode.
        group_size: G >= 2; divides B.
        own_BK: the episodes that the policy thought by itself; only they count in the mean. Default: all.

    Raises:
        ValueError: an incomplete group, or a group of one.
    """
    groups = _groups(cost_BK, group_size)
    counted = groups if own_BK is None else _groups(cost_BK * own_BK, group_size)
    mean = counted.sum(2).mean(1).clamp(min=torch.finfo(groups.dtype).tiny)
    return (groups / mean[:, None, None]).view(cost_BK.shape)


def episode_credit(
    outcome_B: Tensor, episode_BK: Tensor, count_B: Tensor, group_size: int, progress_weight: float
) -> Tensor:
    """A_ik = [r_out_i - mean of the others'] + progress_weight [r_ik - mean of the others' episodes], (B, K).

    Every token of episode k gets A_ik. There is no division, neither by a standard deviation nor by a length: an
    episode that gains as much as the others of its group gets no advantage from it, however long it is.

    Args:
        outcome_B: outcome rewards.
        episode_BK: dense rewards r_ik; read up to each row's count.
        count_B: episodes of each rollout, at least 1.
        group_size: G >= 2; divides B.
        progress_weight: weight of the dense reward.

    Raises:
        ValueError: an incomplete group, or a group of one.
    """
    exists_BK = torch.arange(episode_BK.size(1), device=episode_BK.device) < count_B[:, None]
    dense_BK = episode_BK * exists_BK
    sums, counts = _groups(dense_BK.sum(1), group_size), _groups(count_B.to(dense_BK.dtype), group_size)
    others = (sums.sum(1, keepdim=True) - sums) / (counts.sum(1, keepdim=True) - counts)
    dense_BK = (dense_BK - others.view(-1, 1)) * exists_BK
    return leave_one_out(outcome_B, group_size)[:, None] * exists_BK + progress_weight * dense_BK


def counterfactual_credit(
    outcome_B: Tensor,
    worth_BK1: Tensor,
    episode_BK: Tensor,
    count_B: Tensor,
    *,
    group_size: int,
    progress_weight: float,
) -> Tensor:
    """What an episode brings beyond what stopping in its place would have brought, (B, K + 1).

    A_i0 = [r_out_i - mean of the others'] + progress_weight [r_i1 - mean of the others' r_j1],
    A_ik = [r_out_i - worth_ik] + progress_weight r_i,k+1    for k = 1 .. K_i, with r_i,K+1 = 0.

    Column 0: the first decision, baselined by the other rollouts, which started from the same prompt. Column k: the
    decision after episode k, baselined by the probe's value of stopping there. The tokens of episode k + 1 get column
    k, and the stop and the answer get the column after the last episode. A rollout that stops without thinking has
    column 0 on all its tokens.

    So a check that finds a slip earns what it gained, a check that finds nothing pays for itself, and a stop earns
    nothing, because it is compared with itself. The baseline depends only on the tokens before it, so the expected
    gradient does not change. Unlike a group's mean, it knows whether the previous episode was right. It is a difference
    reward with stopping as the default action (Wolpert and Tumer 2001; Foerster et al., arXiv 1705.08926, sec. 4).

    Args:
        outcome_B: outcome rewards, (B,), or of each decision, (B, K + 1): the decisions before a fork led to another
            outcome than those after it.
        worth_BK1: expected outcome reward of stopping after 0 .. K episodes; read up to each row's count.
        episode_BK: dense rewards r_ik; read up to each row's count.
        count_B: episodes of each rollout, at least 1.
        group_size: G >= 2; divides B.
        progress_weight: weight of the dense reward.

    Raises:
        ValueError: an incomplete group, or a group of one.
    """
    reached_BK1 = torch.arange(worth_BK1.size(1), device=worth_BK1.device) <= count_B[:, None]
    next_BK1 = torch.nn.functional.pad(episode_BK * reached_BK1[:, 1:], (0, 1))
    outcome_BK1 = outcome_B if outcome_B.ndim > 1 else outcome_B[:, None]
    brought_BK1 = outcome_BK1 + progress_weight * next_BK1
    first_B1 = leave_one_out(brought_BK1[:, 0], group_size)[:, None]
    return torch.cat([first_B1, (brought_BK1 - worth_BK1)[:, 1:]], 1) * reached_BK1


class TokenRewards(NamedTuple):
    """`reward_BT` is 0 on padding; `mean_B` is its truncated mean over a rollout's `tokens_B` tokens."""

    reward_BT: Tensor
    mean_B: Tensor
    tokens_B: Tensor


def token_rewards(
    outcome_B: Tensor, episode_BK: Tensor, logp_BT: Tensor, index_BT: Tensor, progress_weight: float
) -> TokenRewards:
    """The paper's r_it = w_it R_ik with R_ik = r_out_i / K_i + progress_weight r_ik (arXiv 2505.10425, eq. 5, alg. 1).

    w_it is the token's surprisal, -log pi_old(z_it), as a share of its episode's total; equal shares if the total is 0.
    A rollout's rewards do not depend on other rollouts, so each process computes its own.

    Args:
        outcome_B: outcome rewards.
        episode_BK: dense rewards r_ik; read up to each row's last episode.
        logp_BT: log pi_old(z_it), at most 0.
        index_BT: each token's episode, -1 on padding.
        progress_weight: weight of the dense reward.
    """
    mask_BT = index_BT >= 0
    at_BT = index_BT.clamp(min=0)
    count_B1 = (index_BT.amax(1, keepdim=True) + 1).clamp(min=1)
    reward_BK = outcome_B[:, None] / count_B1 + progress_weight * episode_BK

    surprisal_BT = (-logp_BT).clamp(min=0) * mask_BT

    def per_episode(values_BT: Tensor) -> Tensor:
        total_BK = torch.zeros_like(reward_BK).scatter_add_(1, at_BT, values_BT.to(reward_BK.dtype))
        return total_BK.gather(1, at_BT)

    total_BT, tokens_BT = per_episode(surprisal_BT), per_episode(mask_BT.float())
    share_BT = torch.where(total_BT > 0, surprisal_BT / total_BT, 1 / tokens_BT)
    reward_BT = share_BT * reward_BK.gather(1, at_BT) * mask_BT
    means = [truncated_mean(row[mask]) for row, mask in zip(reward_BT, mask_BT, strict=True)]
    return TokenRewards(reward_BT, torch.stack(means) if means else reward_BT.sum(1), mask_BT.sum(1))


def truncated_mean(values_N: Tensor, share: float = KEEP_SHARE) -> Tensor:
    """Mean of the middle `share` of the values, with equally many left out at either end; 0 if there are no values."""
    ends = int(len(values_N) * (1 - share) / 2)
    middle = values_N.sort().values[ends : len(values_N) - ends]
    return middle.mean() if len(middle) else values_N.new_zeros(())


class PaperAdvantages(NamedTuple):
    """`advantage_BT` is 0 on padding. The shares are of rollouts whose mean was floored, and of tokens clipped."""

    advantage_BT: Tensor
    floored_share: float
    clipped_share: float


def paper_advantages(token: TokenRewards, mean_all_B: Tensor, group_size: int, own: slice) -> PaperAdvantages:
    """The paper's A_it = A_i r_it / m_i, A_i = (m_i - mean_group m) / std_group m (arXiv 2505.10425, alg. 1), (B, T).

    This is Algorithm 1, with a floor under |m_i| and a clip of the ratio for stability, because near m_i = 0 the ratio
    explodes. Two other hazards are left in. m_i is a mean per token, so a short rollout wins whatever its episodes
    gained. With A_i < 0 < m_i, a token of negative reward gets a positive advantage.

    Args:
        token: this process's rewards.
        mean_all_B: `mean_B` of all processes.
        group_size: G >= 2; divides the number of rollouts of all processes.
        own: this process's rows of `mean_all_B`.

    Raises:
        ValueError: an incomplete group, or a group of one.
    """
    groups = _groups(mean_all_B, group_size)
    standard = (groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-6)
    mean_B = token.mean_B
    floor_B = FLOOR / token.tokens_B.clamp(min=1)
    floored_B = mean_B.abs() < floor_B
    safe_B = torch.where(floored_B, torch.where(mean_B < 0, -floor_B, floor_B), mean_B)
    ratio_BT = token.reward_BT / safe_B[:, None]
    clipped_BT = ratio_BT.abs() > RATIO
    advantage_BT = standard.view(-1)[own][:, None] * ratio_BT.clamp(-RATIO, RATIO)
    return PaperAdvantages(
        advantage_BT, floored_B.float().mean().item(), (clipped_BT.sum() / (ratio_BT != 0).sum().clamp(min=1)).item()
    )


def _per_token(credit_BK: Tensor, index_BT: Tensor) -> Tensor:
    """Each token's column of its row's credit, 0 where the index is -1."""
    return credit_BK.gather(1, index_BT.clamp(min=0)) * (index_BT >= 0)


def _groups(values_B: Tensor, group_size: int) -> Tensor:
    if group_size < 2 or len(values_B) % group_size:
        raise ValueError(f"{len(values_B)} rollouts are not whole groups of {group_size} >= 2")
    return values_B.view(-1, group_size, *values_B.shape[1:])
