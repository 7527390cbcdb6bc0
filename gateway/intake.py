"""What does a request ask, and may its key spend that? The steps that a chat and another router's decision share."""

from __future__ import annotations

from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.requests import Request

from gateway import errors
from gateway.access import limits
from gateway.access.money import Charge, charge_for, has_money_limit, lengths
from gateway.access.state import rate_limit_headers, require_below_limits
from gateway.context import RequestContext
from gateway.events import Json
from gateway.request import budget as budgets
from gateway.request import question as questions
from gateway.request.admission import Tenant
from gateway.request.conversation import identify
from gateway.services import Services


def tenant_of(services: Services, context: RequestContext) -> Tenant:
    """Whose share of the gateway the request takes."""
    key = context.key
    return Tenant(key.name, services.keyring.is_shared, key.max_concurrency)


async def read(
    services: Services, request: Request, context: RequestContext, chat_body: Callable[[Json], Json]
) -> None:
    """Read the request's body: the question, the conversation, and the checkpoints that the key allows.

    Args:
        chat_body: translates the body to that of a chat request.

    Raises:
        ApiError: 400, the body is no such request; 403, the family has none of the checkpoints that the key allows; and
            what reading the body raises.
    """
    settings, family, key = services.settings, services.family, context.key
    body = await services.admission.read_body(request, tenant_of(services, context), settings.send_timeout_seconds)
    context.question = question = questions.parse(body, settings.allow_field, chat_body)
    if settings.conversations:
        context.conversation = identify(request.headers, question.asked, question.body["messages"], key.sha256)
    context.allowed = names = frozenset(checkpoint.name for checkpoint in family.checkpoints)
    if key.checkpoints is not None:
        context.allowed = names.intersection(key.checkpoints)
        if not context.allowed:
            raise errors.forbidden(
                f"This key allows only {', '.join(key.checkpoints)}, and {family.name} has only"
                f" {', '.join(one.name for one in family.checkpoints)}. Use another key.",
                "model",
            )


def agree(services: Services, headers: Headers, context: RequestContext) -> None:
    """Find out which checkpoint is pinned, if any, and how much the allowed checkpoints may think."""
    family, key, question = services.family, context.key, context.question
    context.pinned = questions.pinned_checkpoint(question.model, family, context.allowed)
    default = key.default_budget or services.settings.default_budget
    names = {context.pinned} if context.pinned else context.allowed
    budget = budgets.agree(headers, question.body, default, family, names=names, max_tokens=question.max_tokens)
    capped, context.max_reasoning_tokens = limits.apply_key_limits(
        key,
        budget,
        max_tokens=question.max_tokens,
        context_tokens=family.context_tokens,
        choices=question.choices,
    )
    if family.capped(names):
        budget = budgets.leave_room(capped, question.max_tokens, budget.answer_tokens)
    context.budget = budget


async def recall(services: Services, context: RequestContext) -> None:
    """Find out which checkpoint answered the conversation's last turn, if that matters."""
    if context.conversation is not None and context.pinned is None:
        context.last_turn = await services.memory.recall(context.conversation)


async def reserve(services: Services, context: RequestContext) -> dict[str, str]:
    """Count the request against its key's limits. Returns the headers that say how much of them is left."""
    if services.settings.when_books_cannot_be_kept == "refuse" and not services.ledger.safe:
        raise errors.books_unavailable()
    key = context.key
    asked = _charge(services, context) if key.may_cost else None
    if asked is None and not key.has_limits:
        return {}
    reserved = await services.limiter.reserve(key, context.id, context.max_reasoning_tokens, asked)
    context.reservation, state = reserved
    if state is not None:
        return rate_limit_headers(key, state)
    if services.settings.limits_when_store_is_down == "closed":
        raise errors.unavailable(
            "Redis does not answer, so this key's limits cannot be counted. Try again in a moment.",
            code="limits_unavailable",
        )
    return {}


def _charge(services: Services, context: RequestContext) -> Charge | None:
    """What the request may cost; None if neither its key nor the key's team has a limit in money."""
    key, question, prices = context.key, context.question, services.prices.current
    if not has_money_limit(key, prices):
        return None
    if prices is None:
        raise errors.prices_missing(key.name)
    longest = lengths(
        question.body,
        len(questions.encode(question.body)),
        context=services.family.context_tokens,
        max_tokens=question.max_tokens,
        budget=context.budget.tokens,
        choices=question.choices,
    )
    alone = [(name,) for name in ((context.pinned,) if context.pinned else context.allowed)]
    escalations = services.profile.escalations.values() if question.may_escalate and not context.pinned else ()
    pairs = [(one.first, one.second) for one in escalations if context.allowed.issuperset((one.first, one.second))]
    asked = charge_for(key, prices, longest, [*alone, *pairs])
    require_below_limits(asked, question.max_tokens_field)
    return asked
