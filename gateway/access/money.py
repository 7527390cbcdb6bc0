"""What may a request cost, and what did it cost? For keys and teams with a limit in money. Pure.

The most that it may cost is reserved before it runs: its longest prompt and answer, at the price of the dearest
checkpoint that may answer, or of both checkpoints of an escalation. What it did cost replaces that, and is never more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway.access.cost import Part, billionths, cost, most
from gateway.access.keys import Grant
from gateway.access.prices import MoneyLimits, PriceList
from gateway.request.question import Body, is_text

TEMPLATE_TOKENS = 1024
"""Room for what a chat template adds to the text of a request."""
NONE = MoneyLimits()


@dataclass(frozen=True)
class Charge:
    """What a request may cost, and whose limits it counts against. Amounts are billionths of the currency unit."""

    most: int
    currency: str
    key_limits: MoneyLimits
    team: str = ""
    """The key's team, if that has limits; else empty."""
    team_limits: MoneyLimits = NONE


@dataclass(frozen=True)
class Lengths:
    """The most tokens of a request."""

    prompt: int
    generated: int
    """Of all choices."""
    reasoning: int
    """Of those generated."""


def lengths(
    body: Body, size: int, *, context: int, max_tokens: int | None, budget: int | None, choices: int
) -> Lengths:
    """How long a request can be.

    Args:
        body: the chat request.
        size: its bytes. A token of text has at least one.
        context: the most tokens of prompt and answer.
        max_tokens: of one choice; None if the context is the only limit.
        budget: reasoning tokens of one choice; None without a limit.
        choices: how many answers.
    """
    # How many tokens an image has is the engine's to say.
    prompt = min(context, size + TEMPLATE_TOKENS) if is_text(body) else context
    longest = context if max_tokens is None else min(max_tokens, context)
    return Lengths(prompt, choices * longest, choices * (longest if budget is None else min(budget, longest)))


def charge_for(key: Grant, prices: PriceList, lengths: Lengths, routes: Iterable[tuple[str, ...]]) -> Charge:
    """What a request may cost.

    Args:
        key: the caller's, which has a limit in money, or whose team has one.
        prices: have a price for each checkpoint of the routes.
        lengths: of the request.
        routes: the checkpoints that may answer: each alone, or the two of an escalation.
    """
    dearest = max(
        most([prices.checkpoints[name] for name in route], lengths.prompt, lengths.generated, lengths.reasoning)
        for route in routes
    )
    limits = team_limits(key, prices)
    team = (key.team or "") if limits else ""
    return Charge(billionths(dearest), prices.currency, key.money, team, limits)


def has_money_limit(key: Grant, prices: PriceList | None) -> bool:
    """Whether the key has a limit in money, or its team has one in the prices file."""
    return bool(key.money) or (prices is not None and bool(team_limits(key, prices)))


def team_limits(key: Grant, prices: PriceList) -> MoneyLimits:
    """The limits of the key's team; none without a team, or if the prices file has none for it."""
    return NONE if key.team is None else prices.teams.get(key.team, NONE)


def billed(spent: Iterable[Part], prices: PriceList) -> int:
    """What a request did cost, in billionths of the currency unit, rounded up."""
    return billionths(sum(cost(price, part.spent) for part in spent if (price := prices.of(part.checkpoint))))
