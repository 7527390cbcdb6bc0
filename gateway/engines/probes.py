"""Which engines are up? About once a second each is asked for the models it serves, and to load adapters it lacks.

An engine may answer anything. What it answers is bounded and read as untrusted; whatever goes wrong, the engine is
marked and asked again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import aiohttp

from gateway.engines import listing, problem
from gateway.engines.adapters import Loader
from gateway.engines.problem import NO_API, OTHER_MODELS, TRIED, Problem
from gateway.engines.replica import Replica
from gateway.supervision import BackgroundTask, guard
from models import endpoint
from models.family import Family

log = logging.getLogger("laconic")

PROBE_SECONDS = 1.0
PROBE_TIMEOUT_SECONDS = 5.0
MAX_MISSED_PROBES = 3
MAX_LACKS = 3
NO_LIST = (404, 405, 500, 501)
"""Statuses of engines that have no list of models: `transformers serve` without a hub answers 500."""
TOO_MANY = 429


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
        self._family, self._checkpoints = family, family.by_engine_name()
        self._all = frozenset(checkpoint.name for checkpoint in family.checkpoints)
        self._served_elsewhere = frozenset(c.name for c in family.checkpoints if c.kind == "served")
        """What an engine is taken to serve if it has no list of models."""
        self._missing = frozenset[str]()
        """The checkpoints that no engine served when the log last said so."""
        self.loader = Loader(family, engine_directory)
        self._tasks: list[BackgroundTask] = []
        self._loading: dict[str, asyncio.Task[bool]] = {}
        """By engine URL, the running or last attempt to load missing adapters; loading one may take a minute."""

    async def start(self) -> None:
        """Probe every engine once, then keep probing. The engines need not be up yet."""
        # Created here because it belongs to the running loop. Only probes use it; requests use `gateway.engines.wire`.
        self._http = aiohttp.ClientSession(
            # A new connection for each probe, to see whether the engine accepts connections.
            # Names are looked up each time: an engine may move.
            connector=aiohttp.TCPConnector(force_close=True, use_dns_cache=False),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_seconds),
            headers={"accept-encoding": "identity"},
            auto_decompress=False,  # a megabyte of gzip may be a gigabyte
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        await self.probe_all()
        self._say_what_is_missing()
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
            self._say_what_is_missing()

    async def _probe(self, replica: Replica) -> None:
        """Ask an engine what it serves.

        A refused connection marks it down at once, and so does an answer that will not change by itself. Silence, a
        failed look-up of its name or a 5xx may pass, so only three such probes in a row mark it down.
        """
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                found = await self._list(replica)
        except Exception as error:  # noqa: BLE001  whatever an engine sends must not end its probes
            found = problem.of_error(error)
            if self._may_pass(replica, found):
                return
            replica.mark_unreachable(found, self._grace_seconds)
            self.loader.forget(replica.url)
            return
        if isinstance(found, Problem):
            if self._may_pass(replica, found):
                return
            replica.mark_down(found)
            self.loader.forget(replica.url)
            return
        replica.missed_probes = 0
        if found is None:
            replica.missed_lists += 1
            if replica.listed is not None and replica.missed_lists < MAX_MISSED_PROBES:
                return
            replica.mark_serving(self._served_elsewhere)
            return
        replica.missed_lists = 0
        self._mark_listed(replica, found)

    def _may_pass(self, replica: Replica, found: Problem) -> bool:
        """Whether an engine stays in service although this probe failed. Counts the failed probes in a row."""
        replica.missed_probes = replica.missed_probes + 1 if found.may_pass else 0
        # An engine that is not up yet is given no time, so that the log says what is wrong.
        return found.may_pass and bool(replica.serving) and replica.missed_probes < MAX_MISSED_PROBES

    def _mark_listed(self, replica: Replica, names: frozenset[str]) -> None:
        """Note which models an engine lists, and let it load the adapters that it lacks."""
        known = replica.problem
        if known is not None and known.kind == OTHER_MODELS and names == replica.listed:
            replica.mark_down(known)  # comparing names takes a while, so it is not done for each probe
            return
        serving = self._serving(names)
        if not serving:
            served = self._family.base is None
            replica.mark_down(problem.other_models(self._checkpoints, names, served=served))
            replica.listed = names
            self.loader.forget(replica.url)
            return
        if names != replica.listed:
            replica.lacks = self._lacks(replica, names, serving)
        replica.mark_serving(serving, names)
        loading = self._loading.get(replica.url)
        if (loading is None or loading.done()) and (wanted := self.loader.wanted(replica.url, serving)):
            load = self.loader.load(self._http, replica, wanted)
            self._loading[replica.url] = asyncio.create_task(guard("load adapters", load))

    async def _list(self, replica: Replica) -> frozenset[str] | Problem | None:
        """The names of the models that an engine lists, why it lists none, or None if it has no such list."""
        tls = replica.client.tls or True
        replica.credentials.refresh()
        headers = replica.credentials.headers(replica.url)
        url = f"{endpoint.api(replica.url)}{endpoint.MODELS}"
        async with self._http.get(url, allow_redirects=False, ssl=tls, headers=headers) as response:
            if response.status != 200:
                if response.status in NO_LIST and self._served_elsewhere:
                    return None
                if response.status == TOO_MANY and replica.serving:
                    return replica.listed
                source = replica.credentials.source(replica.url)
                return problem.of_status(response.status, response.headers.get("location"), source)
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > listing.MAX_LIST_BYTES:
                    response.close()
                    return Problem(
                        "its list of models is too long", f"{TRIED} sent over {listing.MAX_LIST_BYTES} bytes", NO_API
                    )
        models = listing.served_models(bytes(body))
        if models is None:
            return Problem("its list of models cannot be read", f"{TRIED} sent {len(body)} bytes", NO_API)
        replica.contexts = {name: size for name, size in models.items() if size is not None}
        return frozenset(models)

    def _serving(self, names: Iterable[str]) -> frozenset[str]:
        """The checkpoints of the family whose models are among these."""
        return frozenset[str]().union(*(self._checkpoints.get(name, ()) for name in names))

    def _lacks(self, replica: Replica, names: frozenset[str], serving: frozenset[str]) -> str | None:
        """What an engine lists too little, in a sentence."""
        models = self._checkpoints.keys() - names
        if not models:
            return None
        absent = [self._family.checkpoint(name) for model in models for name in self._checkpoints[model]]
        adapters = self._family.base in serving and all(checkpoint.kind == "lora" for checkpoint in absent)
        return problem.lacking(replica.url, models, names - self._checkpoints.keys(), adapters=adapters)

    def _say_what_is_missing(self) -> None:
        """Log which checkpoints no engine serves, once for each change."""
        if any(not loading.done() for loading in self._loading.values()):
            return
        missing = self._all - frozenset[str]().union(*(replica.serving for replica in self._replicas))
        if missing == self._missing:
            return
        if missing:
            lacks = [replica.lacks for replica in self._replicas if replica.serving and replica.lacks]
            why = f" ({'; '.join(lacks[:MAX_LACKS])})" if lacks else ""
            log.warning("no engine serves %s%s", ", ".join(sorted(missing)), why)
        elif self._missing:
            log.info("every checkpoint has an engine")
        self._missing = missing
