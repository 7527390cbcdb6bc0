"""How does another router get our choice and our holdout? `POST /v1/decisions` makes a decision.

It is the journey of a chat request as far as the routing rule. Then the decision waits in Redis for the outcome that
the router reports (`gateway.outcomes`). The draw of the holdout is made here, and an outcome names nothing but the
decision, so a router can neither draw itself nor change what was decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field, ValidationError
from redis.exceptions import RedisError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gateway import dispatch, errors, intake
from gateway.answer.cost import Cost
from gateway.answer.usage import TokenUsage
from gateway.context import RequestContext
from gateway.errors import ApiError, BadRequestError
from gateway.feedback import SourceName
from gateway.ledger import decisions, outcome
from gateway.ledger.entry import UNREPORTED
from gateway.ledger.outcome import Decided
from gateway.request import engine_body as bodies
from gateway.request.question import ChatRequest
from gateway.routing import feasibility, rule
from gateway.routing.rule import Decision, NoCheckpointError
from gateway.services import Services
from gateway.settlement import entry_of, settle
from models.family import Checkpoint

Json = dict[str, Any]


class DecisionRequest(ChatRequest):
    """The body of `POST /v1/decisions`: a chat request's, with two fields of the router's own."""

    router: SourceName
    """What the ledger calls the router."""
    checkpoints: list[str] | None = Field(default=None, min_length=1)
    """Those that the router can reach; None for those that this gateway's engines serve."""


@dataclass
class _Asked:
    """The router's own fields, once they are taken out of the body."""

    router: str = ""
    checkpoints: frozenset[str] | None = None

    def chat_body(self, body: Json) -> Json:
        """The chat request that asks the same.

        Raises:
            BadRequestError: a field is missing or of a wrong type.
        """
        try:
            asked = DecisionRequest.model_validate(body)
        except ValidationError as error:
            raise errors.invalid(error.errors(include_url=False)) from None
        self.router = asked.router
        self.checkpoints = None if asked.checkpoints is None else frozenset(asked.checkpoints)
        return {name: value for name, value in body.items() if name not in ("router", "checkpoints")}


class DecisionsEndpoint:
    """`POST /v1/decisions`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def decide(self, request: Request) -> Response:
        """Decide about a chat request that another router runs."""
        services = self._services
        context = RequestContext(request.state.request_id)
        context.trace = services.tracing.start_trace(request.headers)
        try:
            response = await self._decide(request, context)
        except BaseException as error:
            status = error.status if isinstance(error, ApiError) else errors.INTERNAL
            status = errors.CALLER_LEFT if isinstance(error, ClientDisconnect) else status
            settle(services, context, status, error=type(error).__name__)  # frees what was reserved
            raise
        context.trace.end(200, context.id, None)
        return response

    async def _decide(self, request: Request, context: RequestContext) -> Response:
        services, asked = self._services, _Asked()
        context.key = services.keyring.authenticate(request.headers)
        tenant = intake.tenant_of(services, context)
        await intake.read(services, request, context, asked.chat_body)
        services.admission.enter(tenant, context.question.memory)
        try:
            _narrow(services, context, asked.checkpoints)
            intake.agree(services, request.headers, context)
            headers = await intake.reserve(services, context)
            await intake.recall(services, context)
            decision = await _choose(services, context, offered=asked.checkpoints is not None)
            decided = _decided(services, context, asked.router)
            await self._open(decided)
        finally:
            services.admission.leave(tenant, context.question.memory)
        if context.reservation is not None:
            services.limiter.hand_over(context.reservation)
        services.metrics.record_decision("issued")
        return JSONResponse(_answer(services, context, decision, decided), headers=headers)

    async def _open(self, decided: Decided) -> None:
        try:
            opened = await decisions.open_decision(self._services.ledger.redis, decided)
        except (RedisError, OSError):
            raise errors.unavailable(
                "Redis, which holds the decisions, does not answer. Try again in a moment.", "store_unavailable"
            ) from None
        if not opened:
            raise ApiError(
                429,
                f"{decisions.MAX_OPEN} decisions of this key wait for their outcomes, which is the most: report them.",
                kind="rate_limit_error",
                code="decisions_full",
                retry_after=60,
            )


def _narrow(services: Services, context: RequestContext, offered: frozenset[str] | None) -> None:
    """Leave only the checkpoints that the router can reach.

    Raises:
        ApiError: 400, the family has no such checkpoint, or the model is none of these; 403, the key allows none.
    """
    if offered is None:
        return
    family, model = services.family, context.question.model
    names = [checkpoint.name for checkpoint in family.checkpoints]
    if unknown := sorted(offered - set(names)):
        raise BadRequestError(f"checkpoints: {unknown[0][:100]!r} is not one of {', '.join(names)}", "checkpoints")
    if model in (family.served_name(name) for name in names if name not in offered):
        raise BadRequestError(f"model: {model} is not one of this request's checkpoints", "model")
    if not context.allowed & offered:
        allowed = ", ".join(name for name in names if name in context.allowed)
        raise errors.forbidden(f"checkpoints: this key allows only {allowed}.", "checkpoints")
    context.allowed &= offered


async def _choose(services: Services, context: RequestContext, *, offered: bool) -> Decision:
    """Decide as for a chat request, but without escalations, which happen inside an answer.

    Args:
        offered: the router says what it can reach, so the state of our engines does not matter.
    """
    available = context.allowed if offered else context.allowed & services.engines.available
    dispatch.draw(services, context, available)
    routing = await dispatch.routing_request(services, context, holdout=context.holdout)
    routing = replace(routing, available=available, may_escalate=False)
    if routing.prediction is not None:
        context.counts, context.easiness = routing.prediction.counts, routing.prediction.easiness
    feasibility.require_feasible(routing, context.budget, context.question.max_tokens_field)
    try:
        context.decision = decision = rule.decide(services.family, routing)
    except NoCheckpointError as error:
        raise dispatch.no_engine(error) from None
    checkpoint = services.family.checkpoint(decision.checkpoint)
    cap = bodies.cap_of(context.question, context.budget, checkpoint)
    context.cap = None if checkpoint.cap == "none" else cap
    return decision


def _decided(services: Services, context: RequestContext, router: str) -> Decided:
    """What is stored of the decision."""
    most, reservation = dispatch.cost_terms(services, context).most_generated, context.reservation
    nothing = Cost({}, TokenUsage(), "counted", answered=False)
    entry = entry_of(services, context, UNREPORTED, nothing, finish_reason="", error="", assumed=True)
    return Decided(
        entry=outcome.unreported(entry, router, most),
        expires=context.arrived_at + decisions.OPEN_SECONDS,
        cap=context.cap,
        most_tokens=most,
        reserved=None if reservation is None else reservation.tokens,
        money=0 if reservation is None else reservation.money,
        team="" if reservation is None else reservation.team,
        conversation=context.conversation,
        seconds=context.elapsed(),
    )


def _answer(services: Services, context: RequestContext, decision: Decision, decided: Decided) -> Json:
    """The decision as JSON, with what the router has to change in its request."""
    checkpoint = services.family.checkpoint(decision.checkpoint)
    model = services.engines.model_of(checkpoint.name)
    forecast = decision.forecasts.get(checkpoint.name)
    return {
        "id": decided.entry.id,
        "object": "decision",
        "expires": int(decided.expires),
        "checkpoint": checkpoint.name,
        "model": model,
        "alpha": checkpoint.alpha,
        "decision": decision.kind,
        "holdout": decided.entry.holdout,
        "choice": decision.choice,
        "reason": decision.reason,
        "difficulty": None if decision.difficulty is None else round(decision.difficulty, 3),
        "conversation": decision.move,
        "cap": context.cap,
        "expected_tokens": None if forecast is None else round(forecast.tokens, 1),
        "predicted_success": None if forecast is None else round(forecast.success, 4),
        **_changes(context, bodies.engine_body(context.question, checkpoint, model, context.cap), checkpoint),
    }


def _changes(context: RequestContext, body: Json, checkpoint: Checkpoint) -> Json:
    """Which fields of its request the router has to `set` and to `drop`, to ask its engine what we would ask ours.

    Args:
        body: for an engine of ours, but for the cap.
    """
    if context.cap is not None:
        body, _ = bodies.capped(body, checkpoint, context.cap)
    asked: Mapping[str, Any] = context.question.body
    changed = {name: value for name, value in body.items() if name not in asked or asked[name] != value}
    changed.pop("include_reasoning", None)  # whether the thinking is shown is the router's business
    return {"set": changed, "drop": [name for name in asked if name not in body]}
