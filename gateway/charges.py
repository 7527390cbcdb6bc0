"""What may a request cost its key and team, and what did it? Nothing is computed where nobody has a limit in money."""

from __future__ import annotations

from gateway import errors
from gateway.access.money import Charge, billed, charge_for, lengths, team_limits
from gateway.access.state import amount, least_limit
from gateway.answer.cost import Cost
from gateway.context import RequestContext
from gateway.errors import BadRequestError
from gateway.pricing.cost import Spent, parts
from gateway.request.question import encode, text_of
from gateway.services import Services


def charge(services: Services, context: RequestContext) -> Charge | None:
    """What the request may cost; None if neither its key nor its key's team has a limit in money.

    Raises:
        ApiError: 503, the key has a limit in money, and this gateway has no prices.
        BadRequestError: the request alone could cost more than may be spent in a whole window.
    """
    key, prices = context.key, services.prices.current
    if prices is None:
        if key.money:
            raise errors.prices_missing(key.name)
        return None
    if not key.money and not team_limits(key, prices):
        return None
    question, budget = context.question, context.budget.tokens
    longest = lengths(
        question.body,
        len(encode(question.body)),
        context=services.family.context_tokens,
        max_tokens=question.max_tokens,
        budget=budget,
        choices=question.choices,
    )
    asked = charge_for(key, prices, longest, _routes(services, context))
    if (passed := least_limit(asked)) is not None:
        name, limit = passed
        field = question.max_tokens_field
        raise BadRequestError(
            f"This request could cost {amount(asked.most)} {prices.currency}, and {name} is {amount(limit)}: set a"
            f" smaller {field}, or ask for fewer choices.",
            field,
            "budget_over_limit",
        )
    return asked


def bill(services: Services, context: RequestContext, cost: Cost | None, *, assumed: bool) -> int:
    """What the request did cost, in billionths of the currency unit, and never more than was reserved."""
    prices, reservation = services.prices.current, context.reservation
    if cost is None or prices is None or reservation is None or not reservation.money:
        return 0
    used = cost.tokens
    # What is predicted of a request that was given up has no prompt, and yet the engine has read it.
    prompt = services.counter.count(text_of(context.question.body)) if assumed else used.prompt
    spent = Spent(prompt, used.cached or 0, used.reasoning, used.answer)
    return min(billed(parts(context.answering, spent, *first_of(context)), prices), reservation.money)


def first_of(context: RequestContext) -> tuple[str, int, int]:
    """An escalation's first checkpoint with its reasoning and answer tokens; "" if the request was not escalated."""
    if context.escalated_to is None or context.decision is None:
        return "", 0, 0
    return context.decision.checkpoint, context.first_reasoning_tokens, context.discarded_tokens


def _routes(services: Services, context: RequestContext) -> list[tuple[str, ...]]:
    """Which checkpoints may answer: each that is allowed, and both of each escalation that is."""
    if context.pinned is not None:
        return [(context.pinned,)]
    alone = [(name,) for name in context.allowed]
    if not context.question.may_escalate:
        return alone
    pairs = [(one.first, one.second) for one in services.profile.escalations.values()]
    return [*alone, *(pair for pair in pairs if context.allowed.issuperset(pair))]
