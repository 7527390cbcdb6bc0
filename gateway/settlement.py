"""What is recorded when a request is over? One ledger entry and its metrics, exactly once, however it ended."""

from __future__ import annotations

import math

from gateway.access.cost import Spent, parts
from gateway.access.money import billed
from gateway.answer.cost import Cost, exceeds_cap
from gateway.answer.usage import TokenUsage
from gateway.context import RequestContext
from gateway.ledger.entry import Entry
from gateway.observe.genai import Asked
from gateway.request.conversation import Conversation
from gateway.request.question import is_text, prompt_of
from gateway.routing.conversation import LastTurn
from gateway.services import Services
from models.family import Family

NEAR_SHARE = 0.9
"""A trial shows that a cap holds if the thinking went so far."""


def settle(
    services: Services,
    context: RequestContext,
    status: int,
    cost: Cost | None = None,
    finish_reason: str = "",
    *,
    error: str = "",
    assumed: bool = False,
) -> None:
    """Record the end. Later calls for the same request do nothing, so the first end that is noticed counts."""
    if context.settled:
        return
    context.settled = True
    if context.reservation is not None:
        # Never more than was reserved: what an engine thinks beyond its cap is not charged to the key.
        spent = min(cost.tokens.reasoning if cost else 0, context.reservation.tokens)
        services.limiter.settle(context.reservation, spent, _bill(services, context, cost, assumed=assumed))
    if not context.accepted:
        services.metrics.record_refusal(status)
        context.trace.end(status, context.id, None)
        return
    cost = cost or Cost({}, TokenUsage(), "counted", answered=False)
    entry = entry_of(services, context, status, cost, finish_reason=finish_reason, error=error, assumed=assumed)
    services.ledger.put(entry)
    remember(services, context.conversation, entry, strained=cost.budget_hit)
    services.metrics.record(entry, context.sent_seconds or entry.total_seconds)
    if context.engine is not None:
        _judge_engine(services, context, context.engine, entry)
    if context.trace.is_exported:
        context.trace.describe(_asked(context))
    context.trace.end(status, context.id, entry)


def _first_of(context: RequestContext) -> tuple[str, int, int]:
    """An escalation's first checkpoint with its reasoning and answer tokens; "" if the request was not escalated."""
    if context.escalated_to is None or context.decision is None:
        return "", 0, 0
    return context.decision.checkpoint, context.first_reasoning_tokens, context.discarded_tokens


def _bill(services: Services, context: RequestContext, cost: Cost | None, *, assumed: bool) -> int:
    """What the request did cost, in billionths of the currency unit, and never more than was reserved."""
    prices, reservation = services.prices.current, context.reservation
    if cost is None or prices is None or reservation is None or not reservation.money:
        return 0
    used = cost.tokens
    # What is predicted of a request that was given up has no prompt, and yet the engine has read it.
    prompt = services.counter.count(prompt_of(context.question.body)) if assumed else used.prompt
    spent = Spent(prompt, used.cached or 0, used.reasoning, used.answer)
    return min(billed(parts(context.answering, spent, *_first_of(context)), prices), reservation.money)


def abandon(services: Services, context: RequestContext, status: int, error: str) -> None:
    """Settle a request that nobody waits for any more.

    A non-streaming response reports its usage only when it is complete. If it was given up halfway, the tokens
    predicted for its checkpoint are recorded instead, marked as assumed.
    """
    assumed = context.decision is not None and context.sent_seconds is not None and not context.question.stream
    predicted = Cost({}, _predicted(services.family, context), "counted", answered=False) if assumed else None
    settle(services, context, status, predicted, error=error, assumed=assumed)


def _asked(context: RequestContext) -> Asked:
    """What the request's span says of it."""
    question, conversation = context.question, context.conversation
    asked = question.asked
    is_completion = "prompt" in asked and "messages" not in asked and "input" not in asked
    sampling = {name: value for name in ("temperature", "top_p") if (value := question.body.get(name)) is not None}
    return Asked(
        model=question.model,
        operation="text_completion" if is_completion else "chat",
        stream=question.stream,
        choices=question.choices,
        max_tokens=question.max_tokens,
        is_text=is_text(question.body),
        sampling={name: float(value) for name, value in sampling.items() if isinstance(value, int | float)},
        conversation=conversation.id if conversation is not None and conversation.is_named else None,
    )


def remember(services: Services, conversation: Conversation | None, entry: Entry, *, strained: bool) -> None:
    """Note which checkpoint the conversation has, if the rule chose it; `strained`: the cap ended its thinking.

    A holdout leaves no trace: the turns after it must be routed as if it had not been drawn. Nor do failures,
    fallbacks and pinned turns.
    """
    if conversation is None or entry.decision != "routed" or not entry.succeeded:
        return
    # An engine that had its chance and found nothing does not cache.
    has_no_cache = entry.conversation == "kept" and entry.cached_tokens == 0
    turn = LastTurn(entry.checkpoint, 0 if has_no_cache else entry.prompt_tokens, strained)
    services.memory.remember(conversation, turn)


def _judge_engine(services: Services, context: RequestContext, engine: str, entry: Entry) -> None:
    """Note whether the engine kept the cap that it was asked to keep, and whether the gateway had to."""
    if context.is_cut:
        services.metrics.record_forced(engine)
    if entry.over_cap:
        services.metrics.record_over_cap(engine, entry, context.cap)
    if not context.engine_caps:
        return
    if entry.over_cap:
        services.engines.record_cap(engine, kept=False)
    elif context.is_trial:
        reached = context.cap is not None and entry.reasoning_tokens >= NEAR_SHARE * context.cap > 0
        services.engines.record_cap(engine, kept=True if reached and not entry.assumed else None)


def entry_of(
    services: Services,
    context: RequestContext,
    status: int,
    cost: Cost,
    *,
    finish_reason: str,
    error: str,
    assumed: bool,
) -> Entry:
    """The ledger's entry of a request that ends now. Its arguments are those of `settle`."""
    decision, choices, usage = context.decision, context.question.choices, cost.tokens

    def for_all_choices(tokens: float | None) -> float | None:
        return None if tokens is None else tokens * choices

    checkpoint = (context.escalated_to or decision.checkpoint) if decision else "none"
    first, first_reasoning, first_answer = _first_of(context)
    forecast = decision.forecasts.get(services.family.reference) if decision else None
    return Entry(
        id=context.id,
        time=context.arrived_at,
        key=context.key.name,
        checkpoint=checkpoint,
        alpha=services.family.checkpoint(checkpoint).alpha if decision else None,
        decision=decision.kind if decision else "none",
        choice=decision.choice if decision else "none",
        holdout_fraction=context.holdout_fraction if decision and decision.routed else None,
        holdout=bool(decision and decision.routed and context.holdout),
        difficulty=decision.difficulty if decision else None,
        budget=context.budget.tokens,
        choices=choices,
        prompt_tokens=usage.prompt,
        reasoning_tokens=usage.reasoning,
        answer_tokens=usage.answer,
        predicted_tokens=for_all_choices(decision.predicted_tokens if decision else None),
        reference_tokens=for_all_choices(decision.reference_tokens if decision else None),
        forecasts=dict(decision.forecasts) if decision else {},
        finish_reason=finish_reason,
        status=status,
        error=error,
        first_token_seconds=context.first_token_seconds,
        total_seconds=context.elapsed(),
        assumed=assumed,
        answered=cost.answered,
        counting=cost.counting,
        over_cap=(context.is_trial and context.is_cut)
        or (not assumed and exceeds_cap(usage.reasoning, context.cap, choices)),
        cached_tokens=usage.cached,
        conversation=decision.move if decision else "none",
        abstention=decision.abstention if decision else "none",
        counts=context.counts,
        easiness=round(context.easiness, 4),
        team=context.key.team or "",
        first_checkpoint=first,
        first_reasoning_tokens=min(first_reasoning, usage.reasoning),
        first_answer_tokens=min(first_answer, usage.answer),
        reference_answer_tokens=for_all_choices(forecast.answer_tokens if forecast else None) or None,
    )


def _predicted(family: Family, context: RequestContext) -> TokenUsage:
    """The usage that was expected of the chosen checkpoint, never more than was reserved."""
    assert context.decision is not None
    tokens = context.decision.predicted_tokens
    if tokens is None:  # no prediction for this prompt: the checkpoint's measured mean has to do
        mean = family.checkpoint(context.decision.checkpoint).frontier.overall.reasoning_tokens.mean
        limit = context.budget.tokens
        tokens = mean if limit is None else min(mean, limit)
    reasoning = math.ceil(tokens * context.question.choices)
    if context.reservation is not None and context.reservation.key.max_tokens_per_request is not None:
        reasoning = min(reasoning, context.reservation.tokens)
    return TokenUsage(0, reasoning)
