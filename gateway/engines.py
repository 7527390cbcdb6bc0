"""Which engines are there, and who answers this request? vLLM replicas over pooled connections.

Each URL is asked for its models about once a second; what it lists is what it serves. A request goes to the least busy
replica that serves the checkpoint, and on to the next one while nothing of an answer has come. A replica that cannot
be reached is left out until it answers again, so that with every engine down the refusal is immediate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

import aiohttp

from gateway import errors
from gateway.config import Settings
from gateway.errors import ApiError
from gateway.relay import leading_error
from gateway.usage import objects, parse_object
from models.family import Family

log = logging.getLogger("laconic")

PROBE_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 5.0
PROBES_TO_GIVE_UP = 3
KEEP_ALIVE_SECONDS = 4.0
"""Below the 5 s after which vLLM's server closes an idle connection: else a request may go out on a dying one."""
READ_BYTES = 65_536
"""Read ahead of a slow caller; the engine's socket is paused beyond it."""
CALLER_FAULTS = frozenset({400, 413, 415, 422})
"""What an engine answers to a request that no replica would take."""


class NoEngineError(Exception):
    """No replica answered for this checkpoint; the message says what the last one did."""


class Replica:
    """One engine."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.serves: frozenset[str] = frozenset()
        """Checkpoints it answers for; none while it is down."""
        self.running = 0
        """Requests sent and not over, those that wait for a first byte included."""
        self.missed = 0

    def down(self, why: object) -> None:
        """Leave it out until it answers a probe again."""
        if self.serves:
            log.warning("engine %s is down: %s", self.url, why)
        self.serves = frozenset()


class Upstream:
    """An engine's answer that has begun: its first bytes (all of it, where it is no stream), and the rest."""

    def __init__(self, replica: Replica, response: aiohttp.ClientResponse, first: bytes, idle_seconds: float) -> None:
        self._replica, self._response, self._idle_seconds = replica, response, idle_seconds
        self._open = True
        self.first = first

    async def rest(self) -> AsyncIterator[bytes]:
        """What comes after the first bytes, as it comes.

        Raises:
            aiohttp.ClientError, TimeoutError: the engine died, or has been silent for too long.
        """
        while True:
            async with asyncio.timeout(self._idle_seconds):
                chunk = await self._response.content.readany()
            if not chunk:
                return
            yield chunk

    def close(self) -> None:
        """Be done with it; an engine that is still generating sees its caller leave and stops."""
        if self._open:
            self._open = False
            self._replica.running -= 1
            self._response.close()


class Engines:
    """All replicas of a family."""

    def __init__(self, urls: Sequence[str], family: Family, settings: Settings) -> None:
        self._replicas = [Replica(url) for url in urls]
        self._checkpoints = {family.served_name(c.name): c.name for c in family.checkpoints}
        self._names = {checkpoint: name for name, checkpoint in self._checkpoints.items()}
        self._settings = settings

    async def start(self) -> None:
        """Ask every engine once what it serves, and keep asking; they need not be up yet."""
        self._http = aiohttp.ClientSession(  # here, for it belongs to the running loop
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout_seconds),
            headers={"accept-encoding": "identity"},
            read_bufsize=READ_BYTES,
        )
        await self._probe_all()
        self._probing = asyncio.create_task(self._keep_probing(), name="probe engines")

    async def aclose(self) -> None:
        """Stop asking and close every connection."""
        self._probing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._probing
        await self._http.close()

    @property
    def available(self) -> frozenset[str]:
        """The checkpoints that some engine answers for now."""
        return frozenset[str]().union(*(replica.serves for replica in self._replicas))

    @property
    def missing(self) -> list[str]:
        """The checkpoints that no engine answers for now."""
        return sorted(self._names.keys() - self.available)

    def served_name(self, checkpoint: str) -> str:
        """What engines call a checkpoint."""
        return self._names[checkpoint]

    async def open(self, checkpoint: str, body: bytes, request_id: str, *, stream: bool) -> Upstream:
        """Get an answer begun by some replica.

        Raises:
            ApiError: the engine says that the request is wrong, or every replica says that it is busy.
            NoEngineError: no replica answered.
        """
        busy: ApiError | None = None
        last: object = "no engine serves it"
        for replica in sorted((r for r in self._replicas if checkpoint in r.serves), key=lambda r: r.running):
            try:
                return await self._ask(replica, body, request_id, stream)
            except ApiError as refusal:
                if refusal.status in CALLER_FAULTS:
                    raise
                busy = refusal if refusal.status == 429 else busy
                last = refusal
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                replica.down(repr(error))
                last = repr(error)
            log.warning("%s: engine %s did not answer: %s", request_id, replica.url, last)
        if busy is not None:
            busy.retry_after = 1
            raise busy
        raise NoEngineError(str(last))

    async def _ask(self, replica: Replica, body: bytes, request_id: str, stream: bool) -> Upstream:
        try:
            return await self._post(replica, body, request_id, stream)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # A pooled connection may have been closed in the moment it was taken: once more, on a new one.
            return await self._post(replica, body, request_id, stream)

    async def _post(self, replica: Replica, body: bytes, request_id: str, stream: bool) -> Upstream:
        # A whole answer comes when it is finished, and how long that takes is the caller's to bear.
        wait = self._settings.first_token_timeout_seconds if stream else None
        headers = {"content-type": "application/json", "x-request-id": request_id}
        response: aiohttp.ClientResponse | None = None
        replica.running += 1
        try:
            async with asyncio.timeout(wait):
                response = await self._http.post(f"{replica.url}/v1/chat/completions", data=body, headers=headers)
                if response.status != 200:
                    raise errors.from_engine(response.status, parse_object(await response.read()))
                first = await (response.content.readany() if stream else response.read())
            if not first:
                raise aiohttp.ServerDisconnectedError("an empty answer")
            if stream and (refusal := leading_error(first)) is not None:
                raise refusal
        except BaseException:  # a cancellation included: the caller has left, so must the request
            replica.running -= 1
            if response is not None:
                response.close()
            raise
        return Upstream(replica, response, first, self._settings.idle_timeout_seconds)

    async def _keep_probing(self) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._probe_all()

    async def _probe_all(self) -> None:
        await asyncio.gather(*(self._probe(replica) for replica in self._replicas))

    async def _probe(self, replica: Replica) -> None:
        """Ask what it serves. A connection refused is down at once; one slow answer is only a busy engine."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                async with self._http.get(f"{replica.url}/v1/models") as response:
                    listed = parse_object(await response.read()) if response.status == 200 else None
        except aiohttp.ClientConnectorError as error:
            replica.down(error)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            replica.missed += 1
            if replica.missed >= PROBES_TO_GIVE_UP:
                replica.down(repr(error))
        else:
            replica.missed = 0
            names = {model.get("id") for model in objects(listed.get("data"))} if listed else set[object]()
            serves = frozenset(checkpoint for name, checkpoint in self._checkpoints.items() if name in names)
            if serves - replica.serves:
                log.info("engine %s serves %s", replica.url, ", ".join(sorted(serves)))
            replica.serves = serves
