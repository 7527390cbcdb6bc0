"""Which engines are up, and which one gets this request? vLLM replicas over pooled connections.

About once a second each engine is probed for the models it serves, and told to load the adapters that it lacks. A
request goes to the least busy replica that serves the checkpoint. If that replica fails before its response begins, or
responds with an error that another replica might not (a 429 or 500, say), the next one is tried. A replica that refuses
connections is skipped until it answers a probe again. A checkpoint that keeps failing on a replica is skipped there for
a pause (`gateway.engines.breaker`). Because of this skipping, requests fail at once, without a timeout, while every
engine is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gateway import errors
from gateway.engines import wire
from gateway.engines.adapters import Loader
from gateway.engines.breaker import Breaker
from gateway.errors import ApiError
from gateway.events import EVENT_END, objects, parse_object
from models.family import Family

log = logging.getLogger("laconic")

PROBE_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 5.0
MAX_MISSED_PROBES = 3
REQUEST_ERRORS = frozenset({400, 413, 415, 422})
"""Statuses that mean the request itself is wrong: every replica would reject it."""
UNAVAILABLE = frozenset({502, 503, 504})
"""Statuses sent by a proxy or a starting engine. 500 is not one: one request may cause it, and others must go on."""


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for an engine, in seconds."""

    connect: float
    first_token: float
    """For the first byte of a stream."""
    idle: float
    """For each further byte of a stream."""


class NoEngineError(Exception):
    """No replica served this checkpoint; the message says what the last one did."""


class _UnavailableError(OSError):
    """A proxy or a starting engine responded, and the engine is not available."""


class Replica:
    """One engine."""

    def __init__(self, url: str, connect_seconds: float) -> None:
        self.url = url
        self.client = wire.Client(url, connect_seconds)
        self.serving: frozenset[str] = frozenset()
        """The checkpoints it lists; empty while it is down."""
        self._breakers: dict[str, Breaker] = {}
        """By checkpoint, for those that failed since their last success."""
        self.in_flight = 0
        """Requests in flight, including those that wait for a first byte."""
        self.missed_probes = 0

    @property
    def available(self) -> frozenset[str]:
        """The checkpoints that requests may be sent for now: served, and not held back by a breaker."""
        if not self._breakers:
            return self.serving
        return frozenset(name for name in self.serving if self.allows(name))

    def allows(self, checkpoint: str) -> bool:
        """Whether the breaker lets a request for this checkpoint through now."""
        breaker = self._breakers.get(checkpoint)
        return breaker is None or breaker.allows(time.monotonic())

    def begin(self, checkpoint: str) -> None:
        """Note that a request is being sent."""
        if breaker := self._breakers.get(checkpoint):
            breaker.begin(time.monotonic())

    def record_response(self, checkpoint: str) -> None:
        """Note that a response has begun."""
        self._breakers.pop(checkpoint, None)

    def cancel(self, checkpoint: str) -> None:
        """Note that the caller left before the outcome was known."""
        if breaker := self._breakers.get(checkpoint):
            breaker.cancel()

    def record_failure(self, checkpoint: str, reason: object) -> None:
        """Note that no response began for this checkpoint."""
        if self._breakers.setdefault(checkpoint, Breaker()).record_failure(time.monotonic()):
            log.warning("engine %s gets no more requests for %s for a while: %s", self.url, checkpoint, reason)

    def mark_down(self, reason: object) -> None:
        """Skip this replica until it answers a probe again."""
        if self.serving:
            log.warning("engine %s is down: %s", self.url, reason)
        self.serving = frozenset()

    def mark_unreachable(self, reason: object, grace_seconds: float) -> None:
        """Mark it down, and give its running requests `grace_seconds`.

        An engine that is shutting down may still finish them; one that hangs never will.
        """
        self.mark_down(reason)
        self.client.set_read_timeout(grace_seconds)


class Upstream:
    """An engine's response that has begun. `first_bytes` are all of it if it is not a stream."""

    def __init__(self, replica: Replica, response: wire.Response, first_bytes: bytes) -> None:
        self._replica, self._response = replica, response
        self._open = True
        self.first_bytes = first_bytes
        self.relayed = False
        """Set once the caller has received everything: only the end of the last chunk is still to come."""

    async def read(self) -> bytes:
        """Return the next bytes, waiting for at least one; b"" at the end.

        Raises:
            TimeoutError, OSError: the engine sent nothing for too long, or died.
        """
        return await self._response.read_some()

    def close(self) -> None:
        """Release the connection. An engine that is still generating sees it close and stops."""
        if self._open:
            self._open = False
            self._replica.in_flight -= 1
            self._response.close(ending=self.relayed)


class Engines:
    """All replicas that serve a family."""

    def __init__(self, urls: Sequence[str], family: Family, engine_directory: Path, timeouts: Timeouts) -> None:
        """`engine_directory` is the family's directory as the engines see it, for loading missing adapters."""
        self._replicas = [Replica(url, timeouts.connect) for url in urls]
        self._checkpoints = {family.served_name(c.name): c.name for c in family.checkpoints}
        self._names = {checkpoint: name for name, checkpoint in self._checkpoints.items()}
        self._timeouts = timeouts
        self._loader = Loader(family, engine_directory)
        self._loading: dict[str, asyncio.Task[None]] = {}
        """By engine URL, the running or last attempt to load missing adapters; loading one may take a minute."""

    async def start(self) -> None:
        """Probe every engine once, then keep probing. The engines need not be up yet."""
        # Created here because it belongs to the running loop. Only probes use it; requests use `gateway.engines.wire`.
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                force_close=True
            ),  # a new connection for each probe, to see whether the engine accepts connections
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
        )
        await self._probe_all()
        # One task for each: a slow engine must not delay the probes of the others.
        self._probing = [
            asyncio.create_task(self._keep_probing(replica), name=f"probe {replica.url}") for replica in self._replicas
        ]

    async def aclose(self) -> None:
        """Stop probing and close every connection."""
        for task in (*self._probing, *self._loading.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._http.close()
        for replica in self._replicas:
            replica.client.close()

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

    def served_name(self, checkpoint: str) -> str:
        """The name under which engines serve a checkpoint."""
        return self._names[checkpoint]

    async def open(self, checkpoint: str, body: bytes, headers: Mapping[str, str], *, stream: bool) -> Upstream:
        """Send a request and return the first response that begins. The engine gets `headers`.

        Raises:
            ApiError: an engine rejected the request, or every replica that was tried is busy (429).
            NoEngineError: no replica served it, and at least one failed for another reason than being busy.
        """
        failures: list[ApiError | OSError] = []
        for replica in sorted((r for r in self._replicas if checkpoint in r.available), key=lambda r: r.in_flight):
            if not replica.allows(checkpoint):  # half-open: another request is the trial
                continue
            replica.begin(checkpoint)
            try:
                upstream = await self._send(replica, body, headers, stream)
            except ApiError as refusal:
                replica.record_response(checkpoint)
                if refusal.status in REQUEST_ERRORS:
                    raise
                failures.append(refusal)
            except OSError as error:  # a timeout included
                replica.record_failure(checkpoint, repr(error))
                if isinstance(error, ConnectionRefusedError):
                    replica.mark_unreachable(error, self._timeouts.first_token)
                failures.append(error)
            except BaseException:  # the caller left
                replica.cancel(checkpoint)
                raise
            else:
                replica.record_response(checkpoint)
                return upstream
            log.warning("engine %s did not serve a request: %s", replica.url, _describe(failures[-1]))
        raise _unserved(failures)

    async def _send(self, replica: Replica, body: bytes, headers: Mapping[str, str], stream: bool) -> Upstream:
        try:
            return await self._post(replica, body, headers, stream)
        except wire.StaleError:
            return await self._post(replica, body, headers, stream, fresh=True)

    async def _post(
        self, replica: Replica, body: bytes, headers: Mapping[str, str], stream: bool, *, fresh: bool = False
    ) -> Upstream:
        # A non-streaming response arrives when it is finished. How long to wait for it is up to the caller.
        read_timeout = self._timeouts.first_token if stream else None
        headers = {"content-type": "application/json", **headers}
        response: wire.Response | None = None
        replica.in_flight += 1
        try:
            response = await replica.client.post("/v1/chat/completions", body, headers, read_timeout, fresh=fresh)
            if response.status in UNAVAILABLE:
                raise _UnavailableError(f"HTTP {response.status}")
            if response.status != 200:
                raise errors.from_engine(response.status, parse_object(await response.read()))
            first_bytes = await (response.read_some() if stream else response.read())
            if not first_bytes:
                raise wire.BrokenError("an empty response")
            if stream and (refusal := leading_error(first_bytes)) is not None:
                raise refusal
        except BaseException:  # including cancellation: the caller left, so the engine must stop, too
            replica.in_flight -= 1
            if response is not None:
                response.close()
            raise
        if stream:  # otherwise the response is complete
            response.set_read_timeout(self._timeouts.idle)
        return Upstream(replica, response, first_bytes)

    async def _keep_probing(self, replica: Replica) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._probe(replica)

    async def _probe_all(self) -> None:
        await asyncio.gather(*(self._probe(replica) for replica in self._replicas))

    async def _probe(self, replica: Replica) -> None:
        """Ask an engine what it serves.

        A refused connection marks it down at once. A slow response may only mean that it is busy, so only three missed
        probes in a row mark it down.
        """
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                async with self._http.get(f"{replica.url}/v1/models") as response:
                    listed = parse_object(await response.read()) if response.status == 200 else None
        except aiohttp.ClientConnectorError as error:
            replica.mark_unreachable(error, self._timeouts.first_token)
            self._loader.forget(replica.url)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            replica.missed_probes += 1
            if replica.missed_probes >= MAX_MISSED_PROBES:
                replica.mark_unreachable(repr(error), self._timeouts.first_token)
                self._loader.forget(replica.url)
        else:
            replica.missed_probes = 0
            names = {model.get("id") for model in objects(listed.get("data"))} if listed else set[object]()
            serving = frozenset(checkpoint for name, checkpoint in self._checkpoints.items() if name in names)
            if serving - replica.serving:
                log.info("engine %s serves %s", replica.url, ", ".join(sorted(serving)))
            replica.serving = serving
            if (loading := self._loading.get(replica.url)) is None or loading.done():
                self._loading[replica.url] = asyncio.create_task(self._loader.load(self._http, replica.url, serving))


def _unserved(failures: Sequence[ApiError | OSError]) -> ApiError | NoEngineError:
    """The error when no replica served a request: 429 if each one tried answered 429, otherwise `NoEngineError`."""
    busy = [failure for failure in failures if isinstance(failure, ApiError) and failure.status == 429]
    if failures and len(busy) == len(failures):
        return errors.busy(busy[-1])
    return NoEngineError(_describe(failures[-1]) if failures else "no engine serves it")


def _describe(failure: ApiError | OSError) -> str:
    """A failure for the log: an engine's message is left out, because it may quote the prompt."""
    return f"HTTP {failure.status}" if isinstance(failure, ApiError) else repr(failure)


def leading_error(first_bytes: bytes) -> ApiError | None:
    """The error in a stream's first event, if it holds one: some engines send 200 before they reject a request."""
    event = first_bytes.lstrip()
    if not event.startswith(b"data:") or b'"error"' not in event:
        return None
    parsed = parse_object(EVENT_END.split(event, 1)[0][5:])
    return errors.from_event(parsed) if parsed is not None and parsed.get("error") else None
