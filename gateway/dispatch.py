"""Who answers a request? Route it, open a response, fall back to another checkpoint, or escalate to one."""

from __future__ import annotations

import logging
import random
from dataclasses import replace

from gateway import errors
from gateway.answer.cascade import Answer, EscalatingStream, SurprisalMeter, escalated_response
from gateway.context import RequestContext
from gateway.engines.pool import NoEngineError, RefusedCapError
from gateway.engines.replica import Upstream
from gateway.errors import ApiError
from gateway.request.engine_body import capped_by_length, engine_body, shortened
from gateway.request.question import Body, encode
from gateway.routing import feasibility, rule
from gateway.routing.rule import Decision, NoCheckpointError, RoutingRequest
from gateway.services import Services
from models.profile import Escalation

log = logging.getLogger("laconic")


def routing_request(
    services: Services, context: RequestContext, *, pressure: float = 0.0, holdout: bool = False
) -> RoutingRequest:
    """What the routing rule needs to know about a request that has been read."""
    prompt = context.question.prompt
    return RoutingRequest(
        prediction=None if prompt is None else services.profile.predict(prompt),
        limit=context.limit,
        pinned=context.pinned,
        tolerance=services.settings.quality_tolerance + pressure,
        pressure=pressure,
        holdout=holdout,
        may_escalate=context.question.may_escalate,
        allowed=context.allowed,
        available=context.allowed & services.engines.available,
    )


async def start_response(services: Services, context: RequestContext) -> tuple[Decision, Upstream]:
    """Choose a checkpoint and open its response. If none of its engines can serve it, choose again without it.

    Raises:
        ApiError: the budget is too small under the policy `reject`, an engine refuses the request, or none answers.
    """
    # Draw before contacting an engine, so this request's own failure cannot influence the draw.
    if services.family.reference in context.allowed & services.engines.available:
        context.holdout_fraction = services.settings.holdout_fraction
        context.holdout = random.random() < context.holdout_fraction
    pressure = services.settings.overload_tolerance * services.admission.pressure
    routing = routing_request(services, context, pressure=pressure, holdout=context.holdout)
    feasibility.require_feasible(routing, context.budget, context.question.max_tokens_field)
    failures: list[NoEngineError] = []
    while True:
        try:
            context.decision = decision = rule.decide(services.family, routing)
        except NoCheckpointError as error:
            try:
                raise _unanswered(error, failures) from None
            finally:  # each of them has this frame in its traceback: a cycle would keep the request
                failures.clear()
        body = engine_body(
            context.question,
            services.family.checkpoint(decision.checkpoint),
            services.engines.model_of(decision.checkpoint),
            context.budget,
            logprobs=decision.escalation is not None,
        )
        context.sending()
        try:
            upstream = await _open_upstream(services, context, decision.checkpoint, body)
        except NoEngineError as failure:
            failures.append(failure)
            routing = replace(routing, available=routing.available - {decision.checkpoint})
            continue
        except ApiError as refusal:
            refusal.param = refusal.param or errors.field_at_fault(refusal.message, context.question.body)
            raise
        if context.question.stream:
            context.first_token_seconds = context.elapsed()
        return decision, upstream


async def with_escalation(
    services: Services, context: RequestContext, escalation: Escalation, upstream: Upstream
) -> Answer:
    """The response, or the second checkpoint's if the first was not confident enough.

    A non-streaming response is complete, so the decision is made here. A stream is only wrapped: it decides for itself
    when its reasoning ends.
    """

    async def escalate(meter: SurprisalMeter) -> Upstream | None:
        remaining = shortened(context.question, context.budget, meter.reasoning_tokens, meter.tokens)
        if remaining is None:
            return None
        question, budget = remaining
        checkpoint, model = services.family.checkpoint(escalation.second), services.engines.model_of(escalation.second)
        body = engine_body(question, checkpoint, model, budget)
        try:
            second = await _open_upstream(services, context, escalation.second, body)
        except (NoEngineError, ApiError) as error:
            log.warning("not escalated to %s: %s", escalation.second, type(error).__name__)
            return None
        context.escalated_to = escalation.second
        context.discarded_tokens = meter.tokens - meter.reasoning_tokens
        return second

    assert services.family.reasoning is not None, "without marks there are no escalations"
    end = services.family.reasoning.end
    if context.question.stream:
        return EscalatingStream(upstream, end=end, surprisal=escalation.surprisal, escalate=escalate)
    try:
        return await escalated_response(upstream, end=end, surprisal=escalation.surprisal, escalate=escalate)
    except BaseException:  # a cancellation included: the caller has left
        upstream.close()
        raise


def no_engine(error: NoCheckpointError) -> ApiError:
    """503: no engine serves the checkpoint that the request needs."""
    return errors.unavailable(f"No engine serves checkpoint {error} now. Try again in a moment.")


def _unanswered(missing: NoCheckpointError, failures: list[NoEngineError]) -> ApiError:
    """The error when no checkpoint answered: what engines said instead of an answer, or 503."""
    if said := next((failure.error for failure in failures if failure.error is not None), None):
        return said
    error = no_engine(missing)
    waits = [failure.retry_after for failure in failures if failure.retry_after is not None]
    error.retry_after = min(waits, default=error.retry_after)
    return error


async def _open_upstream(services: Services, context: RequestContext, checkpoint: str, body: Body) -> Upstream:
    with context.trace.engine_span(services.engines.model_of(checkpoint)) as headers:
        headers["x-request-id"] = context.id
        try:
            upstream = await services.engines.open(checkpoint, encode(body), headers, stream=context.question.stream)
        except RefusedCapError:
            limited = encode(capped_by_length(body))
            upstream = await services.engines.open(checkpoint, limited, headers, stream=context.question.stream)
    context.engine = upstream.engine
    return upstream
