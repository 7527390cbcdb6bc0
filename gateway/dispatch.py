"""Who answers a request? Route it, open a response, fall back to another checkpoint, or escalate to one."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import replace

from gateway import errors
from gateway.answer.assembly import Whole, assembled
from gateway.answer.cascade import EscalatingStream, SurprisalMeter, escalated_response
from gateway.answer.continuation import Source
from gateway.answer.cost import Terms, overshoot
from gateway.answer.forced import Cut, ForcedStream
from gateway.answer.thinking import Thinking
from gateway.context import RequestContext
from gateway.engines.failing import MAX_ANSWER_BYTES, NoEngineError, RefusedCapError
from gateway.engines.pool import REQUEST_ERRORS
from gateway.engines.replica import Upstream
from gateway.errors import ApiError, BadRequestError
from gateway.request import engine_body as bodies
from gateway.request.budget import HEADER, Budget, forbids_thinking
from gateway.request.question import Body, Question, encode, prompt_of, text_of
from gateway.routing import feasibility, rule
from gateway.routing.conversation import predict
from gateway.routing.rule import Decision, NoCheckpointError, RoutingRequest
from gateway.services import Services
from models.family import Checkpoint, Reasoning
from models.prediction import Escalation

log = logging.getLogger("laconic")


async def routing_request(
    services: Services, context: RequestContext, *, pressure: float = 0.0, holdout: bool = False
) -> RoutingRequest:
    """What the routing rule needs to know about a request that has been read."""
    asked = services.profile, context.question.prompt, context.question.dialogue.context
    # An encoder takes milliseconds, and streams must not wait for it.
    prediction = await asyncio.to_thread(predict, *asked) if services.profile.encodes else predict(*asked)
    return RoutingRequest(
        prediction=prediction,
        limit=context.limit,
        pinned=context.pinned,
        tolerance=services.settings.quality_tolerance + pressure,
        floor=services.floor,
        pressure=pressure,
        holdout=holdout,
        may_escalate=context.question.may_escalate,
        allowed=context.allowed,
        available=context.allowed & services.engines.available,
        in_conversation=context.conversation is not None,
        last=context.last_turn,
    )


async def start_response(services: Services, context: RequestContext) -> tuple[Decision, Source]:
    """Choose a checkpoint and open its response. If none of its engines can serve it, choose again without it.

    Raises:
        ApiError: the budget is too small under the policy `reject`, an engine refuses the request, or none answers.
    """
    # Draw before contacting an engine, so this request's own failure cannot influence the draw.
    draw(services, context, context.allowed & services.engines.available)
    pressure = services.settings.overload_tolerance * services.admission.pressure
    routing = await routing_request(services, context, pressure=pressure, holdout=context.holdout)
    if routing.prediction is not None:
        context.counts, context.easiness = routing.prediction.counts, routing.prediction.easiness
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
        context.sending()
        opening = _Opening(services, context, decision.checkpoint, context.question, context.budget)
        context.cap, context.is_cut = opening.limit, False
        try:
            upstream = await opening.open(logprobs=decision.escalation is not None)
        except NoEngineError as failure:
            failures.append(failure)
            routing = replace(routing, available=routing.available - {decision.checkpoint})
            continue
        except ApiError as refusal:
            services.abilities.learn_from_refusal(decision.checkpoint, context.question.body, refusal)
            refusal.param = refusal.param or errors.field_at_fault(refusal.message, context.question.body)
            raise
        if context.question.stream:
            context.first_token_seconds = context.elapsed()
        return decision, upstream


def draw(services: Services, context: RequestContext, available: frozenset[str]) -> None:
    """Decide by chance whether the request is a holdout. It cannot be one if the reference is not available."""
    if services.family.reference in available:
        context.holdout_fraction = services.settings.holdout_fraction
        context.holdout = random.random() < context.holdout_fraction


async def with_escalation(
    services: Services, context: RequestContext, escalation: Escalation, upstream: Source
) -> Source:
    """The response, or the second checkpoint's if the first was not confident enough.

    A non-streaming response is complete, so the decision is made here. A stream is only wrapped: it decides for itself
    when its reasoning ends.
    """

    async def escalate(meter: SurprisalMeter) -> Source | None:
        answer_tokens = services.family.checkpoint(escalation.second).answer_tokens
        thought, generated = meter.reasoning_tokens, meter.tokens
        remaining = bodies.shortened(context.question, context.budget, thought, generated, answer_tokens)
        if remaining is None:
            return None
        opening = _Opening(services, context, escalation.second, *remaining)
        try:
            second = await opening.open()
        except (NoEngineError, ApiError) as error:
            log.warning("not escalated to %s: %s", escalation.second, type(error).__name__)
            return None
        context.cap = None if opening.limit is None else thought + opening.limit
        context.escalated_to = escalation.second
        context.first_reasoning_tokens = meter.reasoning_tokens
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


async def ask_reference(services: Services, context: RequestContext) -> Source:
    """The reference's response to a question that does not stream, under the request's budget; it is complete.

    Raises:
        ApiError: an engine refuses the request.
        NoEngineError: no engine answered.
    """
    opening = _Opening(services, context, services.family.reference, context.question, context.budget)
    context.cap = opening.limit
    return await opening.open()


def cost_terms(services: Services, context: RequestContext) -> Terms:
    """What the cost of a response is decided by, besides the response."""
    question = context.question
    return Terms(
        counter=services.counter,
        marks=services.family.reasoning or Reasoning(),
        unmarked=services.family.reasoning is None,
        prompt=lambda: prompt_of(question.body),
        context_tokens=services.family.context_tokens,
        max_tokens=question.max_tokens,
        choices=question.choices,
        thinks=context.cap != 0,
        cap=lambda: context.engine_cap,
        cut=lambda: context.is_cut,
        discarded=lambda: context.discarded_tokens,
    )


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


class _Opening:
    """How one checkpoint's response is opened: with the engine's cap if that holds, else with the gateway's own."""

    def __init__(
        self, services: Services, context: RequestContext, checkpoint: str, question: Question, budget: Budget
    ) -> None:
        """`question` and `budget` are what is left of the request's own after an escalation."""
        self._services, self._context, self._question = services, context, question
        self._checkpoint: Checkpoint = services.family.checkpoint(checkpoint)
        self._marks = services.family.reasoning or Reasoning()
        self._cap = bodies.cap_of(question, budget, self._checkpoint)

    @property
    def limit(self) -> int | None:
        """The most tokens that each choice may think; None if nothing limits it."""
        return None if self._checkpoint.cap == "none" else self._cap

    async def open(self, *, logprobs: bool = False) -> Source:
        """The response that has begun. Without a stream it is complete.

        Raises:
            ApiError: an engine refuses the request, or a cap could only be kept inside a tool call.
            NoEngineError: no engine answered.
        """
        engines, question, cap = self._services.engines, self._question, self.limit
        model = engines.model_of(self._checkpoint.name)
        body = bodies.engine_body(question, self._checkpoint, model, self._cap, logprobs=logprobs)
        if cap is None:
            return await self._send(body, stream=question.stream)
        with_cap, field = bodies.capped(body, self._checkpoint, cap)
        continuable = bodies.can_be_continued(question)
        if field is not None:
            try:
                if continuable and engines.owes_trial(self._checkpoint.name):
                    return await self._forced(body, cap, with_cap, field)
                return await self._send(with_cap, stream=question.stream, cap=field)
            except RefusedCapError:
                pass
        if continuable:
            return await self._forced(body, cap, body)
        if bodies.offers_tools(question) and cap:
            raise BadRequestError(
                "No engine caps the thinking of such a request, and a limit on its length might cut off a tool call:"
                f" ask for one choice (n: 1) without prompt_logprobs and token ids, or send {HEADER}: max.",
                "n" if question.choices > 1 else HEADER,
            )
        return await self._send(bodies.capped_by_length(body, cap), stream=question.stream)

    async def _send(
        self, body: Body, *, stream: bool, cap: str | None = None, trial: bool = False, prefer: str | None = None
    ) -> Upstream:
        """Send a body and note which engine responds, and whether it is to cap the thinking."""
        services, context, name = self._services, self._context, self._checkpoint.name
        with context.trace.engine_span(services.engines.model_of(name), name) as headers:
            headers["x-request-id"] = context.id
            upstream = await services.engines.open(
                name,
                encode(body),
                headers,
                stream=stream,
                cap=cap,
                trial=trial,
                prefer=prefer,
                conversation=context.conversation and context.conversation.id,
            )
        context.trace.answered_by(upstream.engine, stream=stream)
        context.engine = upstream.engine
        context.engine_caps, context.is_trial = cap is not None, upstream.is_trial
        return upstream

    async def _forced(self, body: Body, cap: int, first: Body, field: str | None = None) -> Source:
        """A response whose thinking the gateway ends at the cap, unless the engine does.

        Args:
            body: continues the message, without a cap.
            cap: in tokens.
            first: begins it. With a cap in `field` this is a trial of the engine's own.
        """
        for is_last in (False, True):
            stream = await self._forced_stream(bodies.streamed(body), cap, bodies.streamed(first), field)
            if self._question.stream:
                return stream
            try:
                most_sent = cost_terms(self._services, self._context).most_sent
                return Whole(await assembled(stream, MAX_ANSWER_BYTES, most_sent))
            except OSError as error:  # nothing has been sent to the caller: another engine may do better
                log.warning("engine %s did not finish an answer: %r", self._context.engine, error)
                if is_last:
                    raise NoEngineError(repr(error), errors.interrupted()) from None
            finally:
                stream.close()
        raise AssertionError

    async def _forced_stream(self, body: Body, cap: int, first: Body, field: str | None) -> ForcedStream:
        engines, counter, marks, name = (
            self._services.engines,
            self._services.counter,
            self._marks,
            self._checkpoint.name,
        )
        self._context.is_cut = False
        upstream = await self._send(first, stream=True, cap=field, trial=True)
        engine = upstream.engine
        may_open = not (forbids_thinking(first) or bodies.is_structured(first))
        opened = may_open and engines.opens_thinking.get((engine, name), True)
        return ForcedStream(
            upstream,
            Thinking(counter, marks, cap, opened=opened, tolerance=overshoot(cap) if field else 0),
            marks,
            count=counter.count,
            proceed=lambda cut: self._proceed(cut, body, engine),
            restarted=None if marks.end in text_of(body) else lambda: engines.record_not_continued(engine),
            learned=lambda opens: engines.opens_thinking.update({(engine, name): opens}),
        )

    async def _proceed(self, cut: Cut, body: Body, engine: str) -> Source | None:
        """Continue the message behind its thinking, on the same engine if possible; None if that cannot be done."""
        engines, context = self._services.engines, self._context
        context.is_cut = True
        if not engines.continues(engine):
            return None
        asked = context.engine_caps, context.is_trial
        try:
            further = bodies.continued(body, cut.thinking, cut.tokens, self._marks)
            return await self._send(further, stream=True, prefer=engine)
        except NoEngineError as failure:
            raise ConnectionError(f"no engine continues a message: {failure}") from None
        except ApiError as refusal:
            if refusal.status not in REQUEST_ERRORS:
                raise ConnectionError(f"no engine continues a message: HTTP {refusal.status}") from None
            if refusal.code != "context_length_exceeded":
                engines.record_not_continued(engine)
            return None
        finally:  # what the first engine did is what is judged
            context.engine, (context.engine_caps, context.is_trial) = engine, asked
