"""How is a chat request answered? The one path: admit -> budget -> route -> relay -> settle."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gateway import errors
from gateway.access import limits
from gateway.access.keyring import Keyring
from gateway.access.keys import Key
from gateway.access.limits import Limiter
from gateway.answer import usage
from gateway.answer.cascade import EscalatingStream, Thinking, escalated
from gateway.answer.counting import TokenCounter
from gateway.answer.relay import Relay, RelayedStream
from gateway.config import Settings
from gateway.engines.pool import Engines, NoEngineError, Upstream
from gateway.errors import ApiError, BadRequestError
from gateway.events import Json, objects, parse_object
from gateway.ledger.ledger import Ledger
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracing
from gateway.request import budget as budgets
from gateway.request import question as questions
from gateway.request.admission import Admission, read_body
from gateway.request.budget import Budget
from gateway.request.caller import Caller, CallerLeftError
from gateway.request.question import Question
from gateway.routing import rule
from gateway.routing.explain import explain, smallest_feasible
from gateway.routing.rule import Decision
from gateway.settlement import CALLER_LEFT, Account
from models.family import Family
from models.profile import Escalation, Prediction, Profile

log = logging.getLogger("laconic")

Answering = Upstream | EscalatingStream


class Chat:
    """Answers chat requests for one family."""

    def __init__(
        self,
        settings: Settings,
        family: Family,
        profile: Profile,
        *,
        engines: Engines,
        keyring: Keyring,
        limiter: Limiter,
        ledger: Ledger,
        metrics: Metrics,
        tracing: Tracing,
        counter: TokenCounter,
    ) -> None:
        self._settings, self._family, self._profile, self._engines = settings, family, profile, engines
        self._keyring, self._limiter, self._ledger = keyring, limiter, ledger
        self._metrics, self._tracing, self._counter = metrics, tracing, counter
        self._admission = Admission(settings.max_concurrency)

    async def answer(self, request: Request) -> Response:
        """One request from its first byte to its entry in the ledger; a stream goes on after this returns."""
        account = Account(
            request.state.request_id,
            self._family,
            ledger=self._ledger,
            limiter=self._limiter,
            metrics=self._metrics,
            trace=self._tracing.start_trace(request.headers),
        )
        with ExitStack() as closing:
            try:
                account.key = key = self._keyring.authenticate(request.headers)
                self._admission.enter()
                closing.callback(self._admission.leave)
                question = questions.parse(await self._body(request))
                pinned = self._pinned(question.model, key)
                budget, tokens = self._hold(self._budget(request, question, key), question, key)
                rate_limits = await self._reserve(key, tokens, account)
                account.budget, account.choices, account.whole = budget, question.choices, not question.stream
                caller = Caller(request.receive)
                closing.callback(caller.close)
                with caller.waiting():
                    upstream, decision = await self._open(question, budget, pinned, key, account)
                    if (escalation := decision.escalation) is not None:
                        upstream = await self._escalated(upstream, escalation, question, budget, account)
                closing.callback(upstream.close)
                headers = self._headers(request, decision, budget, account) | rate_limits
                if question.stream:
                    return self._stream(question, account, upstream, headers, caller=caller, closing=closing.pop_all())
                return self._whole(question, account, upstream, headers)
            except ApiError as error:
                account.settle(error.status, error=error.code or error.kind)
                raise
            except (ClientDisconnect, CallerLeftError):
                account.abandon(CALLER_LEFT, "caller left")
                return Response(status_code=CALLER_LEFT)
            except asyncio.CancelledError:  # the server's end: nobody else cancels
                stopping = errors.stopping()
                account.abandon(stopping.status, "gateway stopped")
                raise stopping from None
            except BaseException as error:  # a bug: the books are kept all the same
                account.settle(500, error=type(error).__name__)
                raise

    async def explain(self, request: Request) -> Response:
        """The decision about a chat request, without running it."""
        key = self._keyring.authenticate_admin(request.headers)
        try:
            question = questions.parse(await self._body(request))
        except ClientDisconnect:
            return Response(status_code=CALLER_LEFT)
        budget, _ = self._hold(self._budget(request, question, key), question, key)
        allowed = self._allowed(key)
        try:
            explained = explain(
                self._family,
                self._reading(question),
                budget,
                limit=_limit(question, budget),
                pinned=self._pinned(question.model, key),
                tolerance=self._settings.quality_tolerance,
                may_escalate=question.may_escalate,
                allowed=allowed,
                available=allowed & self._engines.available,
            )
        except rule.NoCheckpointError as error:
            raise errors.unavailable(f"No engine answers for checkpoint {error} now.") from None
        return JSONResponse(explained)

    async def _body(self, request: Request) -> bytes:
        return await read_body(request, self._settings.max_body_bytes, self._settings.send_timeout_seconds)

    def _budget(self, request: Request, question: Question, key: Key) -> Budget:
        default = key.default_budget or self._settings.default_budget
        return budgets.parse(request.headers, question.body, default, self._family)

    def _hold(self, budget: Budget, question: Question, key: Key) -> tuple[Budget, int]:
        return limits.apply_key_limits(
            key,
            budget,
            max_tokens=question.max_tokens,
            context_tokens=self._family.context_tokens,
            choices=question.choices,
        )

    async def _reserve(self, key: Key, tokens: int, account: Account) -> dict[str, str]:
        """Count the request against its key's limits; what comes back are the headers that say where it stands."""
        if not key.has_limits:
            return {}
        account.reservation, state = await self._limiter.reserve(key, account.id, tokens)
        if state is not None:
            return limits.rate_limit_headers(key, state)
        if self._settings.limits_when_store_is_down == "closed":
            raise errors.unavailable("The limits of this key cannot be counted now.", code="limits_unavailable")
        return {}

    def _allowed(self, key: Key) -> frozenset[str]:
        return frozenset(key.checkpoints or (checkpoint.name for checkpoint in self._family.checkpoints))

    def _reading(self, question: Question) -> Prediction | None:
        return None if question.prompt is None else self._profile.predict(question.prompt)

    async def _open(
        self, question: Question, budget: Budget, pinned: str | None, key: Key, account: Account
    ) -> tuple[Upstream, Decision]:
        """Decide, and get the answer begun; where engines do not answer, by a neighbouring checkpoint."""
        reading = self._reading(question)
        allowed = self._allowed(key)
        if budget.policy == "reject" and (smallest := smallest_feasible(reading, pinned, allowed, budget)) is not None:
            who = "No checkpoint is" if pinned is None else f"{pinned} is not"
            raise BadRequestError(
                f"{who} predicted to answer within {budget.tokens} reasoning tokens; the smallest feasible budget is"
                f" {smallest}.",
                budget.param,
                "budget_infeasible",
            )
        available = allowed & self._engines.available
        # Who is drawn is settled here, whatever fails later: a draw that depends on failures is none.
        if self._family.reference in available:
            account.holdout_fraction = self._settings.holdout_fraction
            account.holdout = random.random() < account.holdout_fraction
        pressure = self._settings.overload_tolerance * self._admission.pressure
        while True:
            try:
                account.decision = decision = rule.decide(
                    self._family,
                    reading,
                    _limit(question, budget),
                    pinned=pinned,
                    tolerance=self._settings.quality_tolerance + pressure,
                    pressure=pressure,
                    holdout=account.holdout,
                    may_escalate=question.may_escalate,
                    allowed=allowed,
                    available=available,
                )
            except rule.NoCheckpointError as error:
                raise errors.unavailable(f"No engine answers for checkpoint {error} now.") from None
            body = upstream_body(question, self._engines.served_name(decision.checkpoint), budget)
            if decision.escalation:
                body["logprobs"] = True
            account.sent()
            try:
                upstream = await self._ask(decision.checkpoint, body, question, account)
            except NoEngineError:
                available -= {decision.checkpoint}
                continue
            except ApiError as refusal:
                refusal.param = refusal.param or errors.field_at_fault(refusal.message, question.body)
                raise
            if question.stream:
                account.first_token()
            return upstream, decision

    async def _ask(self, checkpoint: str, body: questions.Body, question: Question, account: Account) -> Upstream:
        with account.trace.engine_span(self._engines.served_name(checkpoint)) as headers:
            headers["x-request-id"] = account.id
            return await self._engines.open(checkpoint, questions.encode(body), headers, stream=question.stream)

    async def _escalated(
        self, upstream: Upstream, escalation: Escalation, question: Question, budget: Budget, account: Account
    ) -> Answering:
        """The answer, which may give way to another checkpoint's: a stream on its way out, a whole one here."""

        async def escalate(thinking: Thinking) -> Upstream | None:
            left = None if budget.tokens is None else budget.tokens - thinking.reasoning_tokens
            most = None if question.max_tokens is None else question.max_tokens - thinking.tokens
            if any(tokens is not None and tokens <= 0 for tokens in (left, most)):
                return None
            body = upstream_body(question, self._engines.served_name(escalation.second), replace(budget, tokens=left))
            body |= {name: most for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None}
            try:
                second = await self._ask(escalation.second, body, question, account)
            except (NoEngineError, ApiError) as error:
                log.warning("not escalated to %s: %s", escalation.second, type(error).__name__)
                return None
            account.answers = escalation.second
            return second

        end = self._family.reasoning.end
        if question.stream:
            return EscalatingStream(upstream, end=end, surprisal=escalation.surprisal, escalate=escalate)
        try:
            return await escalated(upstream, end=end, surprisal=escalation.surprisal, escalate=escalate)
        except BaseException:  # a cancellation included: the caller has left
            upstream.close()
            raise

    def _whole(
        self, question: Question, account: Account, upstream: Upstream | EscalatingStream, headers: dict[str, str]
    ) -> Response:
        body = upstream.first
        answer = parse_object(body)
        if answer is None:
            raise errors.interrupted("The engine's answer is not JSON.")
        transcript = usage.Transcript()
        transcript.add_answer(answer)
        reported = answer.get("usage")
        completed = self._complete(question, reported, transcript)
        hidden = _hides_reasoning(question) and usage.hide_reasoning(answer, "message")
        if completed is not reported or hidden:
            body = json.dumps({**answer, "usage": completed}).encode()
        reasons = [str(choice.get("finish_reason") or "") for choice in objects(answer.get("choices"))]
        account.settle(200, usage.spent(completed), reasons[-1] if reasons else "")
        return Response(body, 200, headers, "application/json")

    def _stream(
        self,
        question: Question,
        account: Account,
        upstream: Answering,
        headers: dict[str, str],
        *,
        caller: Caller,
        closing: ExitStack,
    ) -> Response:
        relay = Relay(
            question.wants_usage,
            lambda said, text: self._complete(question, said, text),
            choices=question.choices,
            hides_reasoning=_hides_reasoning(question),
        )

        def settle(why: str) -> None:
            spent = usage.spent(self._complete(question, relay.usage, relay.transcript))
            if relay.failure is not None:
                account.settle(relay.failure.status, spent, relay.finish_reason, "engine failed mid-stream")
            elif relay.done or not why:
                account.settle(200, spent, relay.finish_reason)
            else:
                account.settle(503 if why == "gateway stopped" else CALLER_LEFT, spent, relay.finish_reason, why)

        def ended(why: str) -> None:
            closing.close()
            if not relay.done:
                settle(why)

        return RelayedStream(
            _relayed(relay, upstream, settle), headers, caller, self._settings.send_timeout_seconds, ended
        )

    def _complete(self, question: Question, reported: object, transcript: usage.Transcript) -> Json:
        known = cast("Json", reported) if isinstance(reported, dict) else None
        marks = self._family.reasoning
        return usage.complete(known, transcript, self._counter, marks, lambda: questions.text_of(question.body))

    def _pinned(self, model: str, key: Key) -> str | None:
        """The checkpoint that a model's name pins; None for the family's name, which lets the gateway choose."""
        if model == self._family.name:
            return None
        for checkpoint in self._family.checkpoints:
            if model == self._family.served_name(checkpoint.name):
                if key.checkpoints is not None and checkpoint.name not in key.checkpoints:
                    raise errors.forbidden(f"This key is for {', '.join(key.checkpoints)}, not {model}.", "model")
                return checkpoint.name
        raise errors.unknown_model(model)

    def _headers(self, request: Request, decision: Decision, budget: Budget, account: Account) -> dict[str, str]:
        checkpoint = account.answers or decision.checkpoint
        alpha = self._family.checkpoint(checkpoint).alpha
        headers = {
            "x-laconic-checkpoint": checkpoint,
            "x-laconic-alpha": "none" if alpha is None else f"{alpha:g}",
            "x-laconic-budget": str(budget),
            "x-laconic-decision": decision.kind,
        }
        if decision.escalation is not None:
            headers["x-laconic-escalation"] = decision.escalation.second
        if decision.difficulty is not None:
            headers["x-laconic-difficulty"] = f"{decision.difficulty:.3f}"
        if request.headers.get("x-laconic-debug", "").lower() == "true":
            headers |= _debug(decision)
        return headers


def upstream_body(question: Question, model: str, budget: Budget) -> questions.Body:
    """The caller's body as the engine gets it: its own name for the checkpoint, and one cap in place of all budgets."""
    body = {name: value for name, value in question.body.items() if name not in budgets.CONSUMED}
    body["model"] = model
    if budget.tokens is not None:
        body["thinking_token_budget"] = budget.tokens
    if budget.tokens == 0:
        # The cap alone needs the model to open its thinking first; the template's empty thinking does not.
        body["chat_template_kwargs"] = {"enable_thinking": False} | (body.get("chat_template_kwargs") or {})
    elif budgets.forbids_thinking(body):  # a budget of 0, overruled by a budget of a higher level
        kwargs = {name: value for name, value in body["chat_template_kwargs"].items() if name != "enable_thinking"}
        body["chat_template_kwargs"] = kwargs
    if question.stream:
        body["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
    if body.get("include_reasoning") is False:  # it must be seen to be counted, and is left out on the way back
        body["include_reasoning"] = True
    return body


async def _relayed(relay: Relay, upstream: Answering, settle: Callable[[str], None]) -> AsyncGenerator[bytes]:
    """The stream for the caller. It is in the books before its last bytes leave: who has its end has been settled."""

    def settled(events: bytes) -> bytes:
        if relay.done:
            upstream.relayed = relay.failure is None
            settle("")
        return events

    try:
        chunk = upstream.first or await upstream.more()
        while chunk:
            if events := settled(relay.feed(chunk)):
                yield events
            if relay.done:
                return
            chunk = await upstream.more()
    except (TimeoutError, OSError):
        yield settled(relay.fail(errors.interrupted()))
    else:
        if events := settled(relay.end()):
            yield events


def _hides_reasoning(question: Question) -> bool:
    return question.body.get("include_reasoning") is False


def _limit(question: Question, budget: Budget) -> int | None:
    """No checkpoint can think longer than the whole completion may be."""
    return min((n for n in (budget.tokens, question.max_tokens) if n is not None), default=None)


def _debug(decision: Decision) -> dict[str, str]:
    forecasts = {name: {"success": f.success, "tokens": f.tokens} for name, f in decision.forecasts.items()}
    return {"x-laconic-reason": decision.reason, "x-laconic-predictions": json.dumps(forecasts)}
