"""How is a chat request answered? The one path: admit -> budget -> route -> relay -> settle."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack
from typing import TypeVar, cast

import aiohttp
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from gateway import budget as budgets
from gateway import errors, routing, usage
from gateway import question as questions
from gateway.admission import Admission, read_body
from gateway.budget import Budget
from gateway.config import Settings
from gateway.counting import Counter
from gateway.engines import Engines, NoEngineError, Upstream
from gateway.errors import ApiError, BadRequestError
from gateway.explain import explain, smallest_feasible
from gateway.ledger import Ledger
from gateway.question import Question
from gateway.relay import Relay, RelayedStream
from gateway.routing import Decision
from gateway.settlement import CALLER_LEFT, Account
from gateway.telemetry import Telemetry
from models.family import Family
from models.profile import Profile, Reading

T = TypeVar("T")


class Chat:
    """Answers chat requests for one family."""

    def __init__(
        self,
        settings: Settings,
        family: Family,
        profile: Profile,
        *,
        engines: Engines,
        ledger: Ledger,
        telemetry: Telemetry,
        counter: Counter,
    ) -> None:
        self._settings, self._family, self._profile, self._engines = settings, family, profile, engines
        self._ledger, self._telemetry, self._counter = ledger, telemetry, counter
        self._admission = Admission(settings.max_concurrency)

    async def answer(self, request: Request) -> Response:
        """One request from its first byte to its entry in the ledger; a stream goes on after this returns."""
        account = Account(request.state.request_id, self._family, self._ledger, self._telemetry)
        with ExitStack() as closing:
            try:
                self._admission.enter()
                closing.callback(self._admission.leave)
                question = questions.parse(await read_body(request, self._settings.max_body_bytes))
                budget = budgets.parse(request.headers, question.body, self._settings.default_budget, self._family)
                pinned = self._pinned(question.model)
                account.budget, account.choices = budget, question.choices
                opening = self._open(question, budget, pinned, account)
                upstream, decision = await _unless_caller_leaves(request, opening)
                closing.callback(upstream.close)
                headers = self._headers(request, decision, budget)
                if question.stream:
                    return self._stream(question, account, upstream, headers, closing.pop_all())
                return self._whole(question, account, upstream, headers)
            except ApiError as error:
                account.settle(error.status, error=error.code or error.kind)
                raise
            except (ClientDisconnect, _CallerLeftError):
                account.settle(CALLER_LEFT, error="caller left")
                return Response(status_code=CALLER_LEFT)
            except BaseException as error:  # a bug, or the server's end: the books are kept all the same
                account.settle(500, error=type(error).__name__)
                raise

    async def explain(self, request: Request) -> Response:
        """The decision about a chat request, without running it."""
        try:
            question = questions.parse(await read_body(request, self._settings.max_body_bytes))
        except ClientDisconnect:
            return Response(status_code=CALLER_LEFT)
        budget = budgets.parse(request.headers, question.body, self._settings.default_budget, self._family)
        try:
            explained = explain(
                self._family,
                self._reading(question),
                budget,
                limit=_limit(question, budget),
                pinned=self._pinned(question.model),
                tolerance=self._settings.quality_tolerance,
                available=self._engines.available,
            )
        except routing.NoCheckpointError as error:
            raise errors.unavailable(f"No engine answers for checkpoint {error} now.") from None
        return JSONResponse(explained)

    def _reading(self, question: Question) -> Reading | None:
        return None if question.prompt is None else self._profile.read(question.prompt)

    async def _open(
        self, question: Question, budget: Budget, pinned: str | None, account: Account
    ) -> tuple[Upstream, Decision]:
        """Decide, and get the answer begun; where engines do not answer, by a neighbouring checkpoint."""
        reading = self._reading(question)
        if budget.policy == "reject" and (smallest := smallest_feasible(reading, pinned, budget)) is not None:
            raise BadRequestError(
                f"No checkpoint is predicted to answer within {budget.tokens} reasoning tokens; the smallest feasible"
                f" budget is {smallest}.",
                budget.source,
                "budget_infeasible",
            )
        available = self._engines.available
        # Who is drawn is settled here, whatever fails later: a draw that depends on failures is none.
        if self._family.reference in available:
            account.holdout_fraction = self._settings.holdout_fraction
            account.holdout = random.random() < account.holdout_fraction
        while True:
            try:
                account.decision = decision = routing.decide(
                    self._family,
                    reading,
                    _limit(question, budget),
                    pinned=pinned,
                    tolerance=self._settings.quality_tolerance,
                    holdout=account.holdout,
                    available=available,
                )
            except routing.NoCheckpointError as error:
                raise errors.unavailable(f"No engine answers for checkpoint {error} now.") from None
            body = questions.encode(upstream_body(question, self._engines.served_name(decision.checkpoint), budget))
            account.sent()
            try:
                upstream = await self._engines.open(decision.checkpoint, body, account.id, stream=question.stream)
            except NoEngineError:
                available -= {decision.checkpoint}
                continue
            except ApiError as refusal:
                refusal.param = refusal.param or errors.field_at_fault(refusal.message, question.body)
                raise
            if question.stream:
                account.first_token()
            return upstream, decision

    def _whole(self, question: Question, account: Account, upstream: Upstream, headers: dict[str, str]) -> Response:
        body = upstream.first
        answer = usage.parse_object(body)
        if answer is None:
            raise errors.interrupted("The engine's answer is not JSON.")
        transcript = usage.Transcript()
        transcript.add_answer(answer)
        reported = answer.get("usage")
        completed = self._complete(question, reported, transcript)
        if completed is not reported:
            body = json.dumps({**answer, "usage": completed}).encode()
        reasons = [str(choice.get("finish_reason") or "") for choice in usage.objects(answer.get("choices"))]
        account.settle(200, usage.spent(completed), reasons[-1] if reasons else "")
        return Response(body, 200, headers, "application/json")

    def _stream(
        self, question: Question, account: Account, upstream: Upstream, headers: dict[str, str], closing: ExitStack
    ) -> Response:
        relay = Relay(question.wants_usage, lambda said, text: self._complete(question, said, text))

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
            _relayed(relay, upstream, settle),
            headers,
            self._settings.send_timeout_seconds,
            self._settings.drain_seconds,
            ended,
        )

    def _complete(self, question: Question, reported: object, transcript: usage.Transcript) -> usage.Json:
        known = cast("usage.Json", reported) if isinstance(reported, dict) else None
        marks = self._family.reasoning
        return usage.complete(known, transcript, self._counter, marks, lambda: questions.text_of(question.body))

    def _pinned(self, model: str) -> str | None:
        """The checkpoint that a model's name pins; None for the family's name, which lets the gateway choose."""
        if model == self._family.name:
            return None
        for checkpoint in self._family.checkpoints:
            if model == self._family.served_name(checkpoint.name):
                return checkpoint.name
        raise errors.unknown_model(model)

    def _headers(self, request: Request, decision: Decision, budget: Budget) -> dict[str, str]:
        alpha = self._family.checkpoint(decision.checkpoint).alpha
        headers = {
            "x-laconic-checkpoint": decision.checkpoint,
            "x-laconic-alpha": "none" if alpha is None else f"{alpha:g}",
            "x-laconic-budget": str(budget),
            "x-laconic-decision": decision.kind,
        }
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
    if question.stream:
        body["stream_options"] = (body.get("stream_options") or {}) | {"include_usage": True}
    return body


async def _relayed(relay: Relay, upstream: Upstream, settle: Callable[[str], None]) -> AsyncIterator[bytes]:
    """The stream for the caller. It is in the books before its last bytes leave: who has its end has been settled."""

    def settled(events: bytes) -> bytes:
        if relay.done:
            settle("")
        return events

    if events := settled(relay.feed(upstream.first)):
        yield events
    try:
        async for chunk in upstream.rest():
            if events := settled(relay.feed(chunk)):
                yield events
            if relay.done:
                return
    except (aiohttp.ClientError, TimeoutError, OSError):
        yield settled(relay.fail(errors.interrupted()))
    else:
        if events := settled(relay.end()):
            yield events


class _CallerLeftError(Exception):
    """Nobody waits for this answer any more."""


async def _unless_caller_leaves(request: Request, work: Coroutine[None, None, T]) -> T:
    """Do the work, but not for nobody: it is cancelled when the caller hangs up."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise _CallerLeftError
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _limit(question: Question, budget: Budget) -> int | None:
    """No checkpoint can think longer than the whole completion may be."""
    return min((n for n in (budget.tokens, question.max_tokens) if n is not None), default=None)


def _debug(decision: Decision) -> dict[str, str]:
    forecasts = {name: {"success": f.success, "tokens": f.tokens} for name, f in decision.forecasts.items()}
    return {"x-laconic-reason": decision.reason, "x-laconic-predictions": json.dumps(forecasts)}
