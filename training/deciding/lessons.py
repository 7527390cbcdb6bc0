"""What is learned from what was tried? Where opening another episode was worth its price, and right thinking.

Pure. Opening an episode is worth what the best later stop gains, less the price of the tokens up to it:

    worth_k = max over m > k of (J_m - price x tokens of episodes k + 1 .. m) - J_k

with J_m, P(right answer) after episode m. A stop in the middle counts, because a later decision can take it: what the
base thought beyond it says nothing about this decision.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.deciding.tried import Tried

KEPT = 0.1
"""Share of the right first passes of which what follows is learned, too. It mostly repeats them."""


@dataclass(frozen=True)
class Lesson:
    """A sequence and what is learned of each token, as lists of one length."""

    ids: list[int]
    learned: list[float]
    """1 for a token that is imitated, else 0."""
    worth: list[float]
    """Of the decision that the token is, 0 for all other tokens."""


def worths(success: Sequence[float], tokens: Sequence[int], price: float) -> list[float]:
    """What opening each episode but the first was worth, in P(right answer).

    Args:
        success: P(right answer) after each episode.
        tokens: of each episode.
        price: of a token, in P(right answer).
    """
    found: list[float] = []
    onward = float("-inf")
    for k in range(len(success) - 1, 0, -1):
        onward = max(success[k], onward) - price * tokens[k]
        found.append(onward - success[k - 1])
    return found[::-1]


def lessons(tried: Sequence[Tried], price: float, seed: int) -> list[Lesson]:
    """One lesson for each rollout.

    Every decision is learned, right first passes are imitated, and what follows where it ends right. What follows a
    right first pass is left out but for a share `KEPT` of them, and so are its decisions.
    """
    rng = random.Random(f"deciding/{seed}")
    return [_lesson(one, price, whole=rng.random() < KEPT or one.success[0] <= 0.5) for one in tried]


def _lesson(tried: Tried, price: float, *, whole: bool) -> Lesson:
    ids = tried.ids if whole else tried.ids[: tried.opens[0] + 1]
    first, after = float(tried.success[0] > 0.5), float(tried.success[-1] > 0.5)
    learned = [first if i < tried.opens[0] else after for i in range(len(ids))]
    worth = [0.0] * len(ids)
    for at, value in zip(tried.opens, worths(tried.success, tried.tokens, price), strict=True):
        if at < len(ids):
            learned[at], worth[at] = 0.0, value
    before = [0.0] * len(tried.prompt)
    return Lesson(tried.prompt + ids, before + learned, before + worth)


def decision_loss(logp_N: Tensor, worth_N: Tensor, sharp: float) -> Tensor:
    """The loss of each decision, (N,).

    At first, the cross-entropy of 1{worth > 0}, weighted by |worth|: it moves a decision that is hardly ever taken, and
    ends at a probability between 0 and 1 where worths differ. At last, minus the expected worth: it ends at 0 or 1.

    Args:
        logp_N: log p of the token that opens the episode, at most 0.
        worth_N: of opening it.
        sharp: how far from the one to the other, from 0 to 1.
    """
    logp_N = logp_N.clamp(max=-1e-6)
    entropy_N = -worth_N.abs() * torch.where(worth_N > 0, logp_N, torch.log1p(-logp_N.exp()))
    return (1 - sharp) * entropy_N - sharp * SHARP_WEIGHT * worth_N * logp_N.exp()


SHARP_WEIGHT = 4.0
"""Weight of the expected worth, whose gradient is p (1 - p), at most a quarter of the cross-entropy's."""
