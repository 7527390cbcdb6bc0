"""What do tokens cost? Sums of whole trillionths of the currency unit, so that parts add up exactly. Pure.

    cost = (prompt - cached) price.prompt + cached price.cached + reasoning price.reasoning + answer price.answer

Costs are linear in tokens, so the cost of a sum is the sum of the costs, whatever it is grouped by.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

TRILLIONTHS = 10**12
"""Of a currency unit: in these a token's price is a whole number."""
BILLIONTHS = 10**9
"""Of a currency unit: in these limits count, so that nine million units fit into a double of Redis' scripts."""


class Price(NamedTuple):
    """What one token of each kind costs, in trillionths of the currency unit, at least 0."""

    prompt: int
    cached: int
    """A prompt token that the engine found in its prefix cache."""
    reasoning: int
    answer: int


class Spent(NamedTuple):
    """Tokens of one checkpoint, summed over the choices of a request, or over requests."""

    prompt: int = 0
    cached: int = 0
    """Of the prompt tokens."""
    reasoning: int = 0
    answer: int = 0


class Part(NamedTuple):
    """What one checkpoint had to do with a request."""

    checkpoint: str
    spent: Spent
    repeats: bool = False
    """It read the same prompt as another checkpoint, which the usage counts there."""


def cost(price: Price, spent: Spent) -> int:
    """What these tokens cost, in trillionths of the currency unit."""
    return (
        (spent.prompt - spent.cached) * price.prompt
        + spent.cached * price.cached
        + spent.reasoning * price.reasoning
        + spent.answer * price.answer
    )


def parts(
    checkpoint: str, spent: Spent, first: str = "", first_reasoning: int = 0, first_answer: int = 0
) -> list[Part]:
    """Which checkpoint spent what.

    Args:
        checkpoint: the one whose answer the caller got.
        spent: the whole request's tokens, with the prompt once.
        first: the escalation's first checkpoint, which read the same prompt before; "" if it was not escalated.
        first_reasoning, first_answer: its tokens, as they are in `spent`. Nobody got to read its answer.
    """
    if not first:
        return [Part(checkpoint, spent)]
    thought, discarded = min(first_reasoning, spent.reasoning), min(first_answer, spent.answer)
    own = spent._replace(reasoning=spent.reasoning - thought, answer=spent.answer - discarded)
    # Whether it had the prompt in its cache is not known: a stream's first checkpoint reports no usage.
    return [Part(checkpoint, own), Part(first, Spent(spent.prompt, 0, thought, discarded), repeats=True)]


def most(prices: Iterable[Price], prompt: int, generated: int, reasoning: int) -> int:
    """The most that a request may cost at these checkpoints, each of which may do all of it.

    Args:
        prices: of the checkpoints.
        prompt: the most prompt tokens.
        generated: the most tokens of all choices.
        reasoning: the most of them that may be reasoning.
    """
    return sum(
        prompt * max(price.prompt, price.cached)
        + generated * price.answer
        + reasoning * max(0, price.reasoning - price.answer)
        for price in prices
    )


def billionths(trillionths: int) -> int:
    """The same amount in billionths, rounded up: a limit must not be passed by what was rounded off."""
    return -(-trillionths * BILLIONTHS // TRILLIONTHS)
