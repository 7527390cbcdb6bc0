"""What is learned from what was tried? Where opening another episode was worth its price, and checks that end right.

Pure. Opening an episode is worth what the best later stop gains, less the price of the tokens up to it:

    worth_k = max over m > k of (J_m - price x tokens of episodes k + 1 .. m) - J_k

with J_m, P(right answer) after episode m. A stop in the middle counts, because a later decision can take it: what the
base thought beyond it says nothing about this decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from training.deciding.tried import Attempt, Tried


@dataclass(frozen=True)
class Lesson:
    """A sequence and what is learned of each token, as lists of one length."""

    ids: list[int]
    kept: list[float]
    """1 for a token of the pass, whose distribution is to stay as it was, else 0."""
    learned: list[float]
    """1 for a token that is imitated, else 0."""
    worth: list[float]
    """Of the decision that the token is, in units of the mean first decision; 0 for all other tokens."""


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


def first_worth(tried: Tried, price: float) -> float:
    """What opening a second episode was worth, the mean over what was tried.

    From a right pass nothing is gained: it is minus the price of a check as long as the pass.
    """
    if tried.right:
        return -price * tried.tokens
    return fmean(_worths(tried, attempt, price)[0] for attempt in tried.attempts)


def lessons(tried: Sequence[Tried], price: float) -> list[Lesson]:
    """Of each question its pass, and what came of thinking on.

    The pass has the decision to open a second episode, and is to stay as it is. It is a lesson of its own, so that
    right and wrong passes are as long as each other: batches hold lessons of similar length, and a batch of only wrong
    ones would teach to think on always. What was tried first is the second lesson: its decisions, and its tokens if it
    ended right. If it did not, but another attempt did, that one is imitated, too.

    Args:
        tried: at least one.
        price: of a token, in P(right answer).
    """
    unit = fmean(abs(first_worth(one, price)) for one in tried)
    found: list[Lesson] = []
    for one in tried:
        found.append(_pass(one, first_worth(one, price) / unit))
        if one.attempts:
            decided = [worth / unit for worth in _worths(one, one.attempts[0], price)[1:]]
            found.append(_onward(one, one.attempts[0], decided))
        mended = [attempt for attempt in one.attempts if _ends_right(attempt)]
        if mended and not _ends_right(one.attempts[0]):
            found.append(_onward(one, mended[0], None))
    return found


def _pass(tried: Tried, worth: float) -> Lesson:
    ids = tried.prompt + tried.ids[: tried.opened + 1]
    kept = [0.0] * len(tried.prompt) + [1.0] * tried.opened + [0.0]
    return Lesson(ids, kept, [0.0] * len(ids), [0.0] * (len(ids) - 1) + [worth])


def _onward(tried: Tried, attempt: Attempt, decided: Sequence[float] | None) -> Lesson:
    """`decided` are the worths of the attempt's own decisions; None: they are not learned."""
    before = len(tried.prompt) + len(tried.ids)
    learned = [0.0] * before + [float(_ends_right(attempt))] * len(attempt.ids)
    worth = [0.0] * len(learned)
    for at, value in zip(attempt.opens, decided or (), strict=decided is not None):
        learned[len(tried.prompt) + at], worth[len(tried.prompt) + at] = 0.0, value
    return Lesson(tried.prompt + tried.ids + attempt.ids, [0.0] * len(worth), learned, worth)


def _worths(tried: Tried, attempt: Attempt, price: float) -> list[float]:
    return worths([tried.success, *attempt.success], [tried.tokens, *attempt.tokens], price)


def _ends_right(attempt: Attempt) -> bool:
    return attempt.success[-1] > 0.5


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
