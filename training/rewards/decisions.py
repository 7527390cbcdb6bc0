"""What is the decision to think on worth? The two-action advantage of the token that opens another episode.

After each episode the policy stops, or opens another one. What a stop is worth is known without a rollout: J_k, the
probability of the gold answer. So the token that opens an episode can be compared with it exactly, in the rollouts
that went on, by themselves or because they were forked (`training/rollouts/forks.py`).

With a policy gradient a decision that is hardly ever taken is hardly ever learned: its gradient is p (1 - p) times the
advantage. Dividing the advantage by 1 - p moves the logit by the advantage itself, however small p is (neural
replicator dynamics, arXiv 1906.00190); so does every forked rollout. Logits that are far enough are left alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

FURTHEST = 4.0
"""Largest |logit| of a decision that is still pushed outwards: p between 0.018 and 0.982."""
LARGEST_FACTOR = 10.0
"""Largest 1 / (1 - p)."""


def thinking_on(success_BK1: Tensor, price_BK: Tensor, count_B: Tensor) -> Tensor:
    """J_K - J_k - the prices of episodes k + 1 .. K: what thinking on after k episodes brought, for k = 0 .. K - 1.

    Column k belongs to the token that opens episode k + 1. It is the value of the thinking that followed, not of one
    episode: a check that contradicts the first result pays once a third has decided between them. (B, K), 0 after a
    rollout's last episode.

    Args:
        success_BK1: J_0 .. J_K, constant after a rollout's last episode.
        price_BK: what each episode costs, in units of the outcome.
        count_B: episodes of each rollout.
    """
    exists_BK = torch.arange(price_BK.size(1), device=price_BK.device) < count_B[:, None]
    later_BK = (price_BK * exists_BK).flip(1).cumsum(1).flip(1)
    return (success_BK1[:, -1:] - success_BK1[:, :-1] - later_BK) * exists_BK


def opening_tokens(index_BT: Tensor) -> Tensor:
    """True on the first token of every episode but the first, (B, T); `index_BT` is -1 on padding."""
    before_BT = torch.nn.functional.pad(index_BT[:, :-1], (1, 0), value=0)
    return (index_BT > before_BT) & (index_BT > 0)


def decision_advantages(worth_BT: Tensor, logp_BT: Tensor) -> Tensor:
    """The advantage that moves a decision's logit by `worth_BT`: worth / (1 - p), (B, T).

    0 where the logit is beyond `FURTHEST` and would be pushed further. 1 / (1 - p) is at most `LARGEST_FACTOR`.

    Args:
        worth_BT: what the decision brought, compared with the other action.
        logp_BT: log p of the tokens that were taken, at most 0.
    """
    p_BT = logp_BT.double().exp()
    rest_BT = (1 - p_BT).clamp(min=1 / LARGEST_FACTOR)
    logit_BT = torch.logit(p_BT, eps=1e-9)
    outwards_BT = (logit_BT.abs() > FURTHEST) & (logit_BT.sign() == worth_BT.sign())
    return (worth_BT / rest_BT).masked_fill(outwards_BT, 0.0).to(worth_BT.dtype)


def before_fork(before_B: Tensor, columns: int) -> Tensor:
    """Whether each column's episode or decision, from 0, came before its rollout's fork, (B, columns).

    Args:
        before_B: episodes before the fork; any number above `columns` without one.
        columns: K or K + 1.
    """
    return torch.arange(columns, device=before_B.device) < before_B[:, None]


def figures(
    worth_BK: Tensor, success_BK1: Tensor, logp_BT: Tensor, opens_BT: Tensor, before_B: Tensor
) -> dict[str, float]:
    """For the log: how often forks went on, what that brought, after right and wrong episodes, and P(thinking on).

    Args:
        worth_BK: `thinking_on`.
        success_BK1: J_0 .. J_K.
        logp_BT: log p of the tokens that were taken.
        opens_BT: `opening_tokens`.
        before_B: episodes before the fork; any number above K without one.
    """
    forked_B = before_B < worth_BK.size(1)
    result = {"fork/share": forked_B.float().mean().item()}
    if opens_BT.any():
        result["fork/probability"] = logp_BT[opens_BT].exp().mean().item()
    at_B1 = before_B.clamp(max=worth_BK.size(1) - 1)[:, None]
    worth_B, now_B = worth_BK.gather(1, at_B1).squeeze(1), success_BK1.gather(1, at_B1).squeeze(1)
    for name, chosen_B in (("right", now_B > 0.5), ("wrong", now_B <= 0.5)):
        if (rows_B := forked_B & chosen_B).any():
            result[f"fork/worth_after_{name}"] = worth_B[rows_B].mean().item()
    return result
