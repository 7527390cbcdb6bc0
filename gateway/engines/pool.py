"""Which engines are there, and who answers this request? vLLM replicas over pooled connections.

Each URL is asked for its models about once a second; what it lists is what it serves, and adapters it lacks it is asked
to load. A request goes to the least busy replica that serves the checkpoint, and on to the next one while nothing of
an answer has come. A replica that refuses connections is left out until it answers again, and a checkpoint on it that
fails again and again for a pause (`gateway.engines.breaker`), so that with every engine down the refusal is immediate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import aiohttp

from gateway import errors
from gateway.engines import wire
from gateway.engines.adapters import Loader
from gateway.engines.breaker import Breaker
from gateway.errors import ApiError
from gateway.events import EVENT_END, objects, parse_object
from models.family import Family

if TYPE_CHECKING:
    from gateway.config import Settings

log = logging.getLogger("laconic")

PROBE_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 5.0
PROBES_TO_GIVE_UP = 3
CALLER_FAULTS = frozenset({400, 413, 415, 422})
"""What an engine answers to a request that no replica would take."""
AWAY = frozenset({502, 503, 504})
"""What a proxy, or an engine that is starting, answers. A 500 may be one request's fault and must not stop others'."""


class NoEngineError(Exception):
    """No replica answered for this checkpoint; the message says what the last one did."""


class _AwayError(OSError):
    """Something answered in an engine's place."""


class Replica:
    """One engine."""

    def __init__(self, url: str, connect_seconds: float) -> None:
        self.url = url
        self.client = wire.Client(url, connect_seconds)
        self.serving: frozenset[str] = frozenset()
        """Checkpoints it lists; none while it is down."""
        self._breakers: dict[str, Breaker] = {}
        """By checkpoint, of those that have failed since they last succeeded."""
        self.running = 0
        """Requests sent and not over, those that wait for a first byte included."""
        self.missed = 0

    @property
    def available(self) -> frozenset[str]:
        """Checkpoints it may be asked for now."""
        if not self._breakers:
            return self.serving
        return frozenset(name for name in self.serving if self.allows(name))

    def allows(self, checkpoint: str) -> bool:
        """Whether it may be asked for this checkpoint now."""
        breaker = self._breakers.get(checkpoint)
        return breaker is None or breaker.allows(time.monotonic())

    def begin(self, checkpoint: str) -> None:
        """A request is sent."""
        if breaker := self._breakers.get(checkpoint):
            breaker.begin(time.monotonic())

    def succeeded(self, checkpoint: str) -> None:
        """An answer has begun."""
        self._breakers.pop(checkpoint, None)

    def left(self, checkpoint: str) -> None:
        """The caller left before it was known."""
        if breaker := self._breakers.get(checkpoint):
            breaker.left()

    def failed(self, checkpoint: str, why: object) -> None:
        """An answer for this checkpoint did not begin."""
        if self._breakers.setdefault(checkpoint, Breaker()).failed(time.monotonic()):
            log.warning("engine %s is not asked for %s for a while: %s", self.url, checkpoint, why)

    def down(self, why: object) -> None:
        """Leave it out until it answers a probe again."""
        if self.serving:
            log.warning("engine %s is down: %s", self.url, why)
        self.serving = frozenset()

    def gone(self, why: object, grace_seconds: float) -> None:
        """It takes no more. One that is stopping may still answer what it has; one that hangs never will."""
        self.down(why)
        self.client.limit_silence(grace_seconds)


class Upstream:
    """An engine's answer that has begun: its first bytes (all of it, where it is no stream), and the rest."""

    def __init__(self, replica: Replica, answer: wire.Response, first: bytes) -> None:
        self._replica, self._answer = replica, answer
        self._open = True
        self.first = first
        self.relayed = False
        """The caller has had all that matters of it."""

    async def more(self) -> bytes:
        """What has come after that, waiting for something; nothing at the end.

        Raises:
            TimeoutError, OSError: the engine has been silent for too long, or died.
        """
        return await self._answer.read_some()

    def close(self) -> None:
        """Be done with it; an engine that is still generating sees its caller leave and stops."""
        if self._open:
            self._open = False
            self._replica.running -= 1
            self._answer.close(ending=self.relayed)


class Engines:
    """All replicas of a family."""

    def __init__(self, urls: Sequence[str], family: Family, settings: Settings) -> None:
        self._replicas = [Replica(url, settings.connect_timeout_seconds) for url in urls]
        self._checkpoints = {family.served_name(c.name): c.name for c in family.checkpoints}
        self._names = {checkpoint: name for name, checkpoint in self._checkpoints.items()}
        self._settings = settings
        self._loader = Loader(family, settings.engine_family or settings.family)
        self._loading: dict[str, asyncio.Task[None]] = {}
        """The last look for adapters that an engine lacks, by its URL: an adapter may take a minute."""

    async def start(self) -> None:
        """Ask every engine once what it serves, and keep asking; they need not be up yet."""
        # Here, for it belongs to the running loop. It asks what engines serve; requests go over `gateway.engines.wire`.
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(force_close=True),  # a new connection each: so will requests need
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout_seconds),
        )
        await self._probe_all()
        # Each by itself: one that answers slowly must not make the others' news old.
        self._probing = [
            asyncio.create_task(self._keep_probing(replica), name=f"probe {replica.url}") for replica in self._replicas
        ]

    async def aclose(self) -> None:
        """Stop asking and close every connection."""
        for task in (*self._probing, *self._loading.values()):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._http.close()
        for replica in self._replicas:
            replica.client.close()

    @property
    def available(self) -> frozenset[str]:
        """The checkpoints that some engine answers for now."""
        return frozenset[str]().union(*(replica.available for replica in self._replicas))

    @property
    def names(self) -> list[str]:
        """All checkpoints, answered for or not."""
        return sorted(self._names)

    @property
    def missing(self) -> list[str]:
        """The checkpoints that no engine answers for now."""
        return sorted(self._names.keys() - self.available)

    @property
    def running(self) -> dict[str, int]:
        """Requests sent and not over, by the engine's URL."""
        return {replica.url: replica.running for replica in self._replicas}

    @property
    def up(self) -> dict[str, bool]:
        """Whether an engine answers for anything, by its URL."""
        return {replica.url: bool(replica.serving) for replica in self._replicas}

    def served_name(self, checkpoint: str) -> str:
        """What engines call a checkpoint."""
        return self._names[checkpoint]

    async def open(self, checkpoint: str, body: bytes, headers: Mapping[str, str], *, stream: bool) -> Upstream:
        """Get an answer begun by some replica, which gets these headers, `x-request-id` among them.

        Raises:
            ApiError: the engine says that the request is wrong, or every replica says that it is busy.
            NoEngineError: no replica answered.
        """
        busy: ApiError | None = None
        last: object = "no engine serves it"
        for replica in sorted((r for r in self._replicas if checkpoint in r.available), key=lambda r: r.running):
            if not replica.allows(checkpoint):  # another request tries it meanwhile
                continue
            replica.begin(checkpoint)
            try:
                upstream = await self._ask(replica, body, headers, stream)
            except ApiError as refusal:
                replica.succeeded(checkpoint)
                if refusal.status in CALLER_FAULTS:
                    raise
                busy = errors.busy(refusal) if refusal.status == 429 else busy
                last = f"it answered {refusal.status}"  # not its words, which may be the caller's
            except (TimeoutError, OSError) as error:
                replica.failed(checkpoint, repr(error))
                if isinstance(error, ConnectionRefusedError):
                    replica.gone(error, self._settings.first_token_timeout_seconds)
                last = repr(error)
            except BaseException:  # the caller has left
                replica.left(checkpoint)
                raise
            else:
                replica.succeeded(checkpoint)
                return upstream
            log.warning("engine %s did not answer: %s", replica.url, last)
        if busy is not None:
            raise busy
        raise NoEngineError(str(last))

    async def _ask(self, replica: Replica, body: bytes, headers: Mapping[str, str], stream: bool) -> Upstream:
        try:
            return await self._post(replica, body, headers, stream)
        except wire.StaleError:
            return await self._post(replica, body, headers, stream, fresh=True)

    async def _post(
        self, replica: Replica, body: bytes, headers: Mapping[str, str], stream: bool, *, fresh: bool = False
    ) -> Upstream:
        # A whole answer comes when it is finished, and how long that takes is the caller's to bear.
        silence = self._settings.first_token_timeout_seconds if stream else None
        headers = {"content-type": "application/json", **headers}
        answer: wire.Response | None = None
        replica.running += 1
        try:
            answer = await replica.client.post("/v1/chat/completions", body, headers, silence, fresh=fresh)
            if answer.status in AWAY:
                raise _AwayError(f"it answered {answer.status}")
            if answer.status != 200:
                raise errors.from_engine(answer.status, parse_object(await answer.read()))
            first = await (answer.read_some() if stream else answer.read())
            if not first:
                raise wire.BrokenError("an empty answer")
            if stream and (refusal := leading_error(first)) is not None:
                raise refusal
        except BaseException:  # a cancellation included: the caller has left, so must the request
            replica.running -= 1
            if answer is not None:
                answer.close()
            raise
        if stream:  # a whole answer is complete
            answer.limit_silence(self._settings.idle_timeout_seconds)
        return Upstream(replica, answer, first)

    async def _keep_probing(self, replica: Replica) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._probe(replica)

    async def _probe_all(self) -> None:
        await asyncio.gather(*(self._probe(replica) for replica in self._replicas))

    async def _probe(self, replica: Replica) -> None:
        """Ask what it serves. A connection refused is down at once; one slow answer is only a busy engine."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                async with self._http.get(f"{replica.url}/v1/models") as response:
                    listed = parse_object(await response.read()) if response.status == 200 else None
        except aiohttp.ClientConnectorError as error:
            replica.gone(error, self._settings.first_token_timeout_seconds)
            self._loader.forget(replica.url)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            replica.missed += 1
            if replica.missed >= PROBES_TO_GIVE_UP:
                replica.gone(repr(error), self._settings.first_token_timeout_seconds)
                self._loader.forget(replica.url)
        else:
            replica.missed = 0
            names = {model.get("id") for model in objects(listed.get("data"))} if listed else set[object]()
            serves = frozenset(checkpoint for name, checkpoint in self._checkpoints.items() if name in names)
            if serves - replica.serving:
                log.info("engine %s serves %s", replica.url, ", ".join(sorted(serves)))
            replica.serving = serves
            if (loading := self._loading.get(replica.url)) is None or loading.done():
                self._loading[replica.url] = asyncio.create_task(self._loader.load(self._http, replica.url, serves))


def leading_error(first: bytes) -> ApiError | None:
    """The error of a stream whose first event is one: some engines say 200 before they refuse."""
    event = first.lstrip()
    if not event.startswith(b"data:") or b'"error"' not in event:
        return None
    parsed = parse_object(EVENT_END.split(event, 1)[0][5:])
    return errors.from_event(parsed) if parsed is not None and parsed.get("error") else None
