"""How is a chat request answered? Its itinerary, from the first byte to the ledger entry.

    authenticate -> read -> parse -> budget -> admit -> reserve -> route -> open -> (escalate) -> relay -> settle

One `RequestContext` makes the journey; the endpoint holds no state of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gateway import dispatch, errors, intake
from gateway.answer.completion import completion
from gateway.answer.continuation import Source
from gateway.answer.relay import EndReason, Relay, RelayedStream, relayed
from gateway.context import RequestContext
from gateway.errors import CALLER_LEFT, ApiError
from gateway.events import GIVEN_UP
from gateway.request import question as questions
from gateway.request.budget import Budget
from gateway.request.caller import CONNECTION, Caller, CallerLeftError
from gateway.routing.explain import explain
from gateway.routing.headers import routing_headers
from gateway.routing.rule import NoCheckpointError
from gateway.services import Services
from gateway.settlement import abandon, settle
from gateway.shadows import Shadows
from gateway.surfaces.surface import CHAT, Surface

IGNORED = "x-laconic-ignored"
"""The header that names the fields of the request that have no effect."""


class ChatEndpoint:
    """`POST /v1/chat/completions` and `POST /v1/route`, or another API's endpoint for the same."""

    def __init__(self, services: Services, surface: Surface = CHAT, shadows: Shadows | None = None) -> None:
        """`surface` is the API that callers speak here; `shadows` compare answers, None if none are to be compared."""
        self._services, self._surface, self._shadows = services, surface, shadows

    async def complete(self, request: Request) -> Response:
        """Answer a chat request. A stream continues after this returns and is settled when it ends."""
        services = self._services
        context = RequestContext(request.state.request_id)
        context.trace = services.tracing.start_trace(request.headers)
        cleanup: list[Callable[[], None]] = []
        try:
            context.key = services.keyring.authenticate(request.headers)
            tenant = intake.tenant_of(services, context)
            await self._read(request, context)
            services.admission.enter(tenant, context.question.memory)
            cleanup.append(partial(services.admission.leave, tenant, context.question.memory))
            headers = await intake.reserve(services, context)
            await intake.recall(services, context)
            context.accepted = True
            caller = Caller(request.scope[CONNECTION])
            cleanup.append(caller.close)
            with caller.waiting():
                decision, answer = await dispatch.start_response(services, context)
                if decision.escalation is not None:
                    answer = await dispatch.with_escalation(services, context, decision.escalation, answer)
            cleanup.append(answer.close)
            headers |= routing_headers(
                services.family,
                decision,
                context.cap if decision.escalation is None else context.budget.tokens,
                escalated_to=context.escalated_to,
                debug=request.headers.get("x-laconic-debug", "").lower() == "true",
            )
            if context.question.stream:
                at_the_end, cleanup = cleanup, []
                return self._stream(context, answer, headers, caller, at_the_end)
            return self._respond(context, answer, headers)
        except ApiError as error:
            if hasattr(context, "question"):
                self._surface.name_fields(error, context.question.asked)
            settle(services, context, error.status, error=error.name)
            raise
        except (ClientDisconnect, CallerLeftError):
            abandon(services, context, CALLER_LEFT, EndReason.CALLER_LEFT.value)
            return Response(status_code=CALLER_LEFT)
        except asyncio.CancelledError:  # the server is stopping: nothing else cancels this task
            stopping = errors.stopping()
            abandon(services, context, stopping.status, EndReason.GATEWAY_STOPPED.value)
            raise stopping from None
        except BaseException as error:  # a bug: still record the cost
            settle(services, context, 500, error=type(error).__name__)
            raise
        finally:
            _run(cleanup)

    async def count_tokens(self, request: Request) -> Response:
        """About how many tokens messages and tools have: by the family's tokenizer, without its template."""
        context = RequestContext(request.state.request_id)
        context.key = self._services.keyring.authenticate(request.headers)
        await self._read(request, context)
        text = questions.prompt_of(context.question.body)
        return JSONResponse({"input_tokens": self._services.counter.count(text)})

    async def explain_route(self, request: Request) -> Response:
        """The decision about a chat request, without running it."""
        services = self._services
        context = RequestContext(request.state.request_id)
        context.key = services.keyring.authenticate_admin(request.headers)
        await self._read(request, context)
        await intake.recall(services, context)
        routing = await dispatch.routing_request(services, context)
        try:
            return JSONResponse(explain(services.family, routing, context.budget, context.question.dialogue))
        except NoCheckpointError as error:
            raise dispatch.no_engine(error) from None

    async def _read(self, request: Request, context: RequestContext) -> None:
        """Read the request: the question, who may answer it, and what it may spend."""
        await intake.read(self._services, request, context, self._surface.chat_body)
        intake.agree(self._services, request.headers, context)

    def _respond(self, context: RequestContext, answer: Source, headers: dict[str, str]) -> Response:
        """Return the non-streaming response, after recording it."""
        services, question = self._services, context.question
        done = completion(
            answer.first_bytes, dispatch.cost_terms(services, context), hides_reasoning=question.hides_reasoning
        )
        try:
            body = self._surface.whole(done.body, question.asked)  # before a record of it says that all went well
        except ApiError as failure:
            settle(services, context, failure.status, done.cost, done.finish_reason, error=failure.name)
            raise
        settle(services, context, 200, done.cost, done.finish_reason)
        if self._shadows is not None:
            self._shadows.consider(context, done.said, done.cost)
        if done.cost.budget_hit:
            headers["x-laconic-budget-hit"] = "true"
        ignored = services.abilities.learn_from_answer(context.answering, question.body, done.said)
        headers |= _ignored(context.budget, ignored)
        return Response(body, 200, headers, "application/json")

    def _stream(
        self,
        context: RequestContext,
        answer: Source,
        headers: dict[str, str],
        caller: Caller,
        cleanup: list[Callable[[], None]],
    ) -> Response:
        """Return the streaming response. It is recorded just before its last event is sent, or when it breaks off."""
        services, shadows, question = self._services, self._shadows, context.question
        relay = Relay(
            dispatch.cost_terms(services, context),
            wants_usage=question.wants_usage,
            hides_reasoning=question.hides_reasoning,
        )

        def settle_stream(reason: EndReason) -> None:
            cost = relay.cost
            if relay.failure is not None:
                error = "engine failed mid-stream"
                settle(services, context, relay.failure.status, cost, relay.finish_reason, error=error)
            elif self._surface.fails_if_given_up and relay.finish_reason in GIVEN_UP:
                failure = errors.gave_up()
                settle(services, context, failure.status, cost, relay.finish_reason, error=failure.name)
            elif relay.done or reason is EndReason.COMPLETE:
                services.abilities.learn_from_stream(context.answering, question.body, relay.finish_reason)
                settle(services, context, 200, cost, relay.finish_reason)
                if shadows is not None:
                    shadows.consider(context, relay.transcript, cost)
            else:
                status = errors.stopping().status if reason is EndReason.GATEWAY_STOPPED else CALLER_LEFT
                settle(services, context, status, cost, relay.finish_reason, error=reason.value)

        def ended(reason: EndReason) -> None:
            _run(cleanup)
            if not context.settled:
                settle_stream(reason)

        events = relayed(relay, answer, settle_stream)
        headers |= _ignored(context.budget, services.abilities.ignored(context.answering, question.body))
        translate = self._surface.stream(question.asked)
        return RelayedStream(
            events, headers, caller, services.settings.send_timeout_seconds, ended, translate=translate
        )


def _ignored(budget: Budget, by_engine: str | None) -> dict[str, str]:
    """The header that names what has no effect: a budget that the caller sent, and a field that the engine ignores."""
    sent = budget.source if budget.is_ignored and budget.source != "default_budget" else None
    names = [name for name in (sent, by_engine) if name is not None]
    return {IGNORED: ", ".join(names)} if names else {}


def _run(cleanup: list[Callable[[], None]]) -> None:
    """Call these, the last one first. Not an `ExitStack`, which takes a kilobyte and more of every silent stream."""
    if cleanup:
        try:
            cleanup.pop()()
        finally:
            _run(cleanup)
