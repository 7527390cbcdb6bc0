"""Which engines are up? About once a second each is asked for the models it serves, and to load adapters it lacks.

An engine may answer anything. What it answers is bounded and read as untrusted; whatever goes wrong, the engine is
marked and asked again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from pathlib import Path

import aiohttp

from gateway.engines import listing
from gateway.engines.adapters import Loader
from gateway.engines.credentials import ENGINE_KEY
from gateway.engines.replica import Problem, Replica
from gateway.supervision import BackgroundTask, guard, record_fault
from models.family import Family

PROBE_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 5.0
MAX_MISSED_PROBES = 3
TRIED = "GET /v1/models"
KEY_STATUSES = (401, 403)
KEY_SETTINGS = f"{ENGINE_KEY} or --engine-key-file"


class Probes:
    """Keeps asking every engine what it serves."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        family: Family,
        engine_directory: Path,
        *,
        connect_seconds: float,
        grace_seconds: float,
    ) -> None:
        """`grace_seconds` are left to the running requests of an engine that cannot be reached."""
        self._replicas, self._connect_seconds, self._grace_seconds = replicas, connect_seconds, grace_seconds
        self._checkpoints = family.by_engine_name()
        self.loader = Loader(family, engine_directory)
        self._tasks: list[BackgroundTask] = []
        self._loading: dict[str, asyncio.Task[bool]] = {}
        """By engine URL, the running or last attempt to load missing adapters; loading one may take a minute."""

    async def start(self) -> None:
        """Probe every engine once, then keep probing. The engines need not be up yet."""
        # Created here because it belongs to the running loop. Only probes use it; requests use `gateway.engines.wire`.
        self._http = aiohttp.ClientSession(
            # A new connection for each probe, to see whether the engine accepts connections.
            connector=aiohttp.TCPConnector(force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_seconds),
            headers={"accept-encoding": "identity"},
            auto_decompress=False,  # a megabyte of gzip may be a gigabyte
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        await self.probe_all()
        # One task for each: a slow engine must not delay the probes of the others.
        self._tasks = [
            BackgroundTask("probe", lambda replica=replica: self._keep_probing(replica), replica.url)
            for replica in self._replicas
        ]

    async def aclose(self) -> None:
        """Stop probing."""
        for task in self._tasks:
            await task.stop()
        for loading in self._loading.values():
            loading.cancel()
        if self._loading:
            await asyncio.wait(self._loading.values())
        await self._http.close()

    async def probe_all(self) -> None:
        """Probe every engine once."""
        await asyncio.gather(*(guard("probe", self._probe(replica)) for replica in self._replicas))

    async def _keep_probing(self, replica: Replica) -> None:
        while True:
            await asyncio.sleep(PROBE_SECONDS)
            await self._probe(replica)

    async def _probe(self, replica: Replica) -> None:
        """Ask an engine what it serves.

        A refused connection marks it down at once. A slow response may only mean that it is busy, so only three missed
        probes in a row mark it down.
        """
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                found = await self._list(replica)
        except Exception as error:  # noqa: BLE001  whatever an engine sends must not end its probes
            replica.missed_probes += 1
            problem = _problem(error)
            refused = isinstance(error, aiohttp.ClientConnectorError)
            # An engine that is not up yet is given no time, so that the log says what is wrong.
            if refused or not replica.serving or replica.missed_probes >= MAX_MISSED_PROBES:
                replica.mark_unreachable(problem, self._grace_seconds)
                self.loader.forget(replica.url)
            return
        replica.missed_probes = 0
        if isinstance(found, Problem):
            replica.mark_down(found)
            self.loader.forget(replica.url)
            return
        replica.mark_serving(found)
        if (loading := self._loading.get(replica.url)) is None or loading.done():
            load = self.loader.load(self._http, replica, found)
            self._loading[replica.url] = asyncio.create_task(guard("load adapters", load))

    async def _list(self, replica: Replica) -> frozenset[str] | Problem:
        """The checkpoints of the family that an engine lists, or why it lists none."""
        tls = replica.client.tls or True
        replica.credentials.refresh()
        headers = replica.credentials.headers(replica.url)
        url = f"{replica.url}/v1/models"
        async with self._http.get(url, allow_redirects=False, ssl=tls, headers=headers) as response:
            if response.status in KEY_STATUSES:
                return Problem(f"HTTP {response.status}", f"{TRIED}: it wants a key, or another one ({KEY_SETTINGS})")
            if response.status != 200:
                return Problem(f"HTTP {response.status}", f"{TRIED}")
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > listing.MAX_LIST_BYTES:
                    response.close()
                    return Problem(
                        "its list of models is too long", f"{TRIED} sent over {listing.MAX_LIST_BYTES} bytes"
                    )
        names = listing.served_models(bytes(body))
        if names is None:
            return Problem("its list of models cannot be read", f"{TRIED} sent {len(body)} bytes")
        serving = frozenset[str]().union(*(self._checkpoints.get(name, ()) for name in names))
        if serving:
            return serving
        wanted = listing.shown(self._checkpoints.keys())
        return Problem("it lists other models", f"{TRIED} lists {listing.shown(names)}, none of {wanted}")


def _problem(error: Exception) -> Problem:
    """Why a probe failed, in few words and without those of an engine."""
    if isinstance(error, TimeoutError):
        return Problem("timeout", TRIED)
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ConnectionRefusedError):
        return Problem("connection refused", TRIED)
    if isinstance(cause, ssl.SSLError) or isinstance(error, aiohttp.ClientSSLError):
        return Problem("TLS fails", TRIED)
    if isinstance(cause, OSError) and isinstance(error, aiohttp.ClientConnectorError):
        return Problem("cannot connect", f"{TRIED}: {cause.strerror or type(cause).__name__}")
    if isinstance(error, aiohttp.ClientError | OSError | ValueError):
        return Problem("no HTTP answer", f"{TRIED}: {type(error).__name__}")
    record_fault("probe", error)
    return Problem("its answer cannot be read", f"{TRIED}: {type(error).__name__}")
