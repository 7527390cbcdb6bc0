"""Which engine gets this request, and what if it fails? vLLM replicas over pooled connections.

A request goes to the least busy replica that serves the checkpoint; equally busy ones take turns at random. If that
replica fails before an answer begins, or responds with an error that another replica might not (a 429 or 500, say), the
next one is tried. A replica that refuses connections is skipped until it answers a probe again
(`gateway.engines.probes`). A checkpoint that keeps failing on a replica is skipped there for a pause
(`gateway.engines.breaker`). Because of this skipping, requests fail at once, without a timeout, while every engine is
down.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway import errors
from gateway.engines import problem, verdict, wire
from gateway.engines.connection import BrokenError, StaleError
from gateway.engines.credentials import Credentials
from gateway.engines.probes import Probes
from gateway.engines.problem import RUNNING, TRIED, Problem
from gateway.engines.replica import EngineState, Replica, Upstream
from gateway.engines.verdict import FirstEvent
from gateway.errors import ApiError
from models import endpoint
from models.family import Family

log = logging.getLogger("laconic")

REQUEST_ERRORS = frozenset({400, 413, 415, 422})
"""Statuses that mean the request itself is wrong: every replica would reject it."""
UNAVAILABLE = frozenset({502, 503, 504})
"""Statuses sent by a proxy or a starting engine. 500 is not one: one request may cause it, and others must go on."""
ASKS_TO_WAIT = frozenset({429, 503})
"""Statuses whose `Retry-After` the caller gets."""
BUSY_SECONDS, UNAVAILABLE_SECONDS = 1, 2
"""When to try again if an engine does not say."""
MAX_ANSWER_BYTES = 8 * 2**20
"""Of a non-streaming response, which is parsed as a whole. 32,768 tokens with log probabilities have about 5 MiB."""
MAX_ERROR_BYTES = 65_536


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for an engine, in seconds."""

    connect: float
    first_token: float
    """For the first byte of a stream, and for anything else that has to arrive in one go."""
    idle: float
    """For each further byte of a stream."""


class NoEngineError(Exception):
    """No replica served this checkpoint; the message says what the last one did."""

    def __init__(self, reason: str, error: ApiError | None = None, retry_after: int | None = None) -> None:
        """
        Args:
            error: what the caller gets if no other checkpoint answers either; None for 503.
            retry_after: in how many seconds to try again; None if no replica was tried.
        """
        super().__init__(reason)
        self.error, self.retry_after = error, retry_after


class RefusedCapError(NoEngineError):
    """No replica served this checkpoint, and at least one refused the field that caps the thinking."""


class _CapError(Exception):
    """An engine refused the field that caps the thinking."""


class _UnavailableError(OSError):
    """A proxy or a starting engine responded, and the engine is not available."""

    def __init__(self, status: int, retry_after: int | None) -> None:
        super().__init__(f"HTTP {status}")
        self.retry_after = retry_after


class _NoAnswerError(ApiError):
    """An engine responded with status 200, and what it sent is no answer."""

    def __init__(self, failure: ApiError) -> None:
        super().__init__(failure.status, failure.message, kind=failure.kind, param=failure.param, code=failure.code)


class _TooLargeError(ApiError):
    """An answer is larger than the gateway takes. Another replica's would be as large."""

    def __init__(self) -> None:
        message = (
            f"The engine's answer has more than {MAX_ANSWER_BYTES // 2**20} MiB: stream it, or ask for fewer choices or"
            " log probabilities."
        )
        super().__init__(502, message, kind="api_error", code="engine_failed")


_Failure = ApiError | OSError | _CapError
"""Why one replica did not serve a request."""


class Engines:
    """All replicas that serve a family."""

    def __init__(
        self,
        urls: Sequence[str],
        family: Family,
        engine_directory: Path,
        timeouts: Timeouts,
        credentials: Credentials | None = None,
    ) -> None:
        """`engine_directory` is the family's directory as the engines see it, for loading missing adapters."""
        self._replicas = [Replica(url, timeouts.connect, credentials) for url in urls]
        self._names = {c.name: family.engine_name(c.name) for c in family.checkpoints}
        self._timeouts = timeouts
        self._probes = Probes(
            self._replicas,
            family,
            engine_directory,
            connect_seconds=timeouts.connect,
            grace_seconds=timeouts.first_token,
        )

    async def start(self) -> None:
        """Probe every engine once, then keep probing. The engines need not be up yet."""
        await self._probes.start()

    async def aclose(self) -> None:
        """Stop probing and close every connection."""
        await self._probes.aclose()
        for replica in self._replicas:
            replica.client.close()

    def reload_tls(self) -> None:
        """Read the certificate authorities again, for new connections."""
        for replica in self._replicas:
            replica.client.reload_tls()

    @property
    def available(self) -> frozenset[str]:
        """The checkpoints that at least one engine can serve now."""
        return frozenset[str]().union(*(replica.available for replica in self._replicas))

    @property
    def checkpoints(self) -> list[str]:
        """All checkpoints of the family, available or not."""
        return sorted(self._names)

    @property
    def missing(self) -> list[str]:
        """The checkpoints that no engine can serve now."""
        return sorted(self._names.keys() - self.available)

    @property
    def in_flight(self) -> dict[str, int]:
        """Requests in flight, by engine URL."""
        return {replica.url: replica.in_flight for replica in self._replicas}

    @property
    def up(self) -> dict[str, bool]:
        """Whether an engine serves any checkpoint, by engine URL."""
        return {replica.url: bool(replica.serving) for replica in self._replicas}

    @property
    def states(self) -> list[EngineState]:
        """What each engine serves, or what is wrong with it, in the order in which they are configured."""
        return [replica.state for replica in self._replicas]

    @property
    def report(self) -> list[str]:
        """What keeps checkpoints from being served, with what to do: a line for each engine that is at fault."""
        lines = [f"{one.url}: {one.details}" for one in self.states if one.details]
        lines += [one.lacks for one in self.states if one.lacks and self.missing]
        assumed = [one.url for one in self.states if one.assumed]
        return lines + [f"{url}: it has no list of models, so its models are not known to be there" for url in assumed]

    async def probe(self) -> None:
        """Ask every engine once more what it serves."""
        await self._probes.probe_all()

    @property
    def refused_caps(self) -> dict[str, int]:
        """How many requests each engine refused because it cannot cap the thinking, by URL; without those of none."""
        return {replica.url: replica.refused_caps for replica in self._replicas if replica.refused_caps}

    def model_of(self, checkpoint: str) -> str:
        """The model name that engines have for a checkpoint."""
        return self._names[checkpoint]

    async def open(self, checkpoint: str, body: bytes, headers: Mapping[str, str], *, stream: bool) -> Upstream:
        """Send a request and return the first response that begins. The engine gets `headers`.

        Raises:
            ApiError: an engine rejected the request or its answer is too large, or every replica that was tried is
                busy (429).
            NoEngineError: no replica served it, and at least one failed for another reason than being busy. It is a
                `RefusedCapError` if that reason was the cap on the thinking.
        """
        failures: list[_Failure] = []
        for replica in self._in_order(checkpoint, body):
            if not replica.allows(checkpoint):  # half-open: another request is the trial
                continue
            replica.begin(checkpoint)
            try:
                upstream = await self._send(replica, body, headers, stream)
            except ApiError as refusal:
                source = replica.credentials.source(replica.url)
                if denied := problem.of_refusal(refusal, self._names[checkpoint], source):
                    replica.record_refusal(checkpoint, denied)
                else:
                    replica.record_response(checkpoint)
                if verdict.refuses_cap(refusal, body):
                    replica.record_refused_cap()
                    failures.append(_CapError("it cannot cap the thinking"))
                elif (refusal.status in REQUEST_ERRORS and not denied) or isinstance(refusal, _TooLargeError):
                    raise
                else:
                    failures.append(refusal)
            except OSError as error:  # a timeout included
                self._note(replica, checkpoint, error)
                failures.append(error)
            except BaseException:  # the caller left
                replica.cancel(checkpoint)
                raise
            else:
                replica.record_response(checkpoint)
                return upstream
            log.warning("engine %s did not serve a request: %s", replica.url, _describe(failures[-1]))
        try:
            raise _unserved(failures)
        finally:  # each of them has this frame in its traceback: a cycle would keep the body
            failures.clear()

    def _note(self, replica: Replica, checkpoint: str, error: OSError) -> None:
        """Note that no answer began. If the engine did respond, the request may be at fault, as with a 500."""
        if isinstance(error, verdict.NoAnswerError):
            replica.record_response(checkpoint)
            return
        replica.record_failure(checkpoint, repr(error))
        if isinstance(error, ConnectionRefusedError):
            replica.mark_unreachable(Problem("connection refused", TRIED, RUNNING), self._timeouts.first_token)

    def _in_order(self, checkpoint: str, body: bytes) -> list[Replica]:
        """The replicas to try, the best first."""
        available = [replica for replica in self._replicas if checkpoint in replica.available]
        if len(available) < 2:
            return available
        random.shuffle(available)  # or all that are equally busy would leave their work to the first
        available.sort(key=lambda replica: replica.in_flight)
        if any(replica.may_refuse_caps for replica in available) and verdict.CAP_FIELD in body:
            available.sort(key=lambda replica: replica.may_refuse_caps)
        return available

    async def _send(self, replica: Replica, body: bytes, headers: Mapping[str, str], stream: bool) -> Upstream:
        try:
            return await self._post(replica, body, headers, stream)
        except StaleError:
            return await self._post(replica, body, headers, stream, fresh=True)

    async def _post(
        self, replica: Replica, body: bytes, headers: Mapping[str, str], stream: bool, *, fresh: bool = False
    ) -> Upstream:
        patience = self._timeouts.first_token
        headers = {"content-type": "application/json", **headers}
        response: wire.Response | None = None
        replica.in_flight += 1
        try:
            # A non-streaming response arrives when it is finished. How long to wait for it is up to the caller.
            response = await replica.client.post(
                endpoint.CHAT, body, headers, patience if stream else None, head_seconds=patience, fresh=fresh
            )
            if response.status != 200:
                raise await self._refusal(response)
            first_bytes = await (_begun(response) if stream else self._whole(response))
        except BaseException:  # including cancellation: the caller left, so the engine must stop, too
            replica.in_flight -= 1
            if response is not None:
                response.close()
            raise
        if stream:  # otherwise the response is complete
            response.set_read_timeout(self._timeouts.idle)
        return Upstream(replica, response, first_bytes)

    async def _whole(self, response: wire.Response) -> bytes:
        """A non-streaming answer."""
        try:
            body = await response.read(MAX_ANSWER_BYTES, self._timeouts.first_token)
        except wire.TooLargeError:
            raise _TooLargeError from None
        if not body:
            raise BrokenError("an empty response")
        if (failure := verdict.failure_in_body(body)) is not None:
            raise _NoAnswerError(failure)
        return body

    async def _refusal(self, response: wire.Response) -> ApiError | OSError:
        """The error that a response is whose status is not 200."""
        retry_after = response.retry_after if response.status in ASKS_TO_WAIT else None
        if response.status in UNAVAILABLE:
            return _UnavailableError(response.status, retry_after)
        response.set_deadline(self._timeouts.first_token)
        try:
            payload = verdict.parsed(await response.read(MAX_ERROR_BYTES, self._timeouts.first_token))
        except wire.TooLargeError:
            payload = None
        refusal = errors.from_engine(response.status, payload)
        refusal.retry_after = retry_after
        return refusal


async def _begun(response: wire.Response) -> bytes:
    """The first bytes of a stream, with at least one event of an answer."""
    first = FirstEvent()
    try:
        while piece := await response.read_some():
            if (begun := first.feed(piece)) is not None:
                return begun
        return first.end()
    except ApiError as failure:
        raise _NoAnswerError(failure) from None


def _unserved(failures: Sequence[_Failure]) -> ApiError | NoEngineError:
    """The error when no replica served a request: 429 if each one tried answered 429, otherwise `NoEngineError`."""
    if not failures:
        return NoEngineError("no engine serves it")
    busy = [failure for failure in failures if isinstance(failure, ApiError) and failure.status == 429]
    if len(busy) == len(failures):
        return errors.busy(busy[-1], min(failure.retry_after or BUSY_SECONDS for failure in busy))
    if any(isinstance(failure, _CapError) for failure in failures):
        return RefusedCapError("it cannot cap the thinking")
    engine_failed = [failure for failure in failures if isinstance(failure, _NoAnswerError) and failure.status >= 500]
    retry_after = min(_retry_after(failure) or UNAVAILABLE_SECONDS for failure in failures)
    return NoEngineError(_describe(failures[-1]), engine_failed[-1] if engine_failed else None, retry_after)


def _retry_after(failure: _Failure) -> int | None:
    return failure.retry_after if isinstance(failure, ApiError | _UnavailableError) else None


def _describe(failure: _Failure) -> str:
    """A failure for the log: an engine's message is left out, because it may quote the prompt."""
    if isinstance(failure, _NoAnswerError):
        return f"HTTP 200 with an error of status {failure.status} instead of an answer"
    if isinstance(failure, _CapError):
        return str(failure)
    return f"HTTP {failure.status}" if isinstance(failure, ApiError) else repr(failure)
