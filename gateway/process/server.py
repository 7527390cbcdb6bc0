"""How does one process serve the port? The gateway's application in a uvicorn server."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import socket
from collections.abc import Generator
from typing import Any

import psutil
import uvicorn
from starlette.types import ASGIApp

from gateway.app import create_app
from gateway.config import Settings
from gateway.process import guarded
from gateway.process.connections import raise_descriptor_limit
from gateway.process.reload import ReadLevel, Reloader
from gateway.services import Services
from models import profile as profiles
from models.family import Family

M_MMAP_THRESHOLD = -3
"""glibc's name for the size from which a block is mapped by itself."""

log = logging.getLogger("laconic")

LAST_SECONDS = 5.0
"""For requests to end that were cancelled."""
KEEP_ALIVE_SECONDS = 75
"""After which an idle connection is closed. Callers and proxies keep theirs for 5 (httpx) to 60 seconds (nginx, load
balancers); with a shorter time than theirs, a request sent on a closing connection is lost."""
TRIM_SECONDS = 30
GROWTH = 1.1


def collect_rarely() -> None:
    """Collect garbage seldom, and only of what is created from now on: that saves 10 % of CPU time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class Server:
    """One serving process. Call `start`, then `wait`; call `stop` from a signal handler."""

    def __init__(
        self,
        settings: Settings,
        family: Family,
        listener: socket.socket,
        worker: int = 0,
        read_level: ReadLevel | None = None,
    ) -> None:
        """`settings` must name the engines and the Redis. `read_level` reads the log level again when reloading."""
        raise_descriptor_limit(settings.max_connections, settings.max_concurrency)
        profile = profiles.load(settings.family / family.profile, settings.encoder)
        services = Services.create(settings, family, profile, worker)
        app = create_app(services)
        self.engines = services.engines
        self._stopping = services.stopping
        self._reloader = Reloader(services, read_level or (lambda: settings.log_level))
        self._server = _Uvicorn(_config(app, settings))
        self._drain_seconds = settings.drain_seconds
        self._listener = listener
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start, and return once the server is serving or has given up. The log then says why, and `wait` returns."""
        gc.collect()  # before there are requests that wait for it
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
        while not self._server.started and not self._serving.done():
            await asyncio.sleep(0.02)
        collect_rarely()

    async def wait(self) -> None:
        """Return when the last stream has ended and the ledger is flushed."""
        assert self._serving is not None
        self._reloader.start()
        try:
            await self._serving
        finally:
            await self._reloader.aclose()

    def reload(self) -> None:
        """Reload what can be reloaded, without disturbing a request."""
        self._reloader.ask()

    def stop(self, starting: asyncio.Task[Any] | None = None) -> None:
        """Drain and stop. If called again, stop without draining; before the server has started, cancel `starting`."""
        if not self._server.should_exit and (requests := len(self._server.server_state.tasks)):
            log.info(
                "stopping: %d request%s in flight may go on for up to %.0f s; a second signal ends them at once",
                requests,
                "s" if requests > 1 else "",
                self._drain_seconds,
            )
        self._stopping.set()
        self._server.force_exit = self._server.should_exit
        self._server.should_exit = True
        if not self._server.started and starting is not None:
            starting.cancel()


class _Memory:
    """Gives the memory of a burst of large bodies back to the system. By default, glibc would keep it for good."""

    def __init__(self) -> None:
        """From now on, each large block goes back when it is freed."""
        self._process = psutil.Process()
        self._resident = 0
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 131_072)

    async def trim(self) -> None:
        """Give back what is free between small blocks. It takes some milliseconds, so only after memory has grown."""
        if self._process.memory_info().rss > GROWTH * self._resident:
            with contextlib.suppress(OSError, AttributeError):
                ctypes.CDLL(None).malloc_trim(0)
            self._resident = self._process.memory_info().rss


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, which would end this process before its child processes have stopped."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop. After a second signal, uvicorn would leave requests and the application as they are.

        Their end is awaited here: their callers are told, their cost is recorded, and the ledger is flushed, before the
        engine and Redis stop.
        """
        await super().shutdown(sockets)
        if self.force_exit:
            if tasks := [*self.server_state.tasks]:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=LAST_SECONDS)
            await self.lifespan.shutdown()


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=guarded.protocol(settings),
        ws="none",
        log_config=None,
        log_level="warning" if settings.log_level == "info" else settings.log_level,
        access_log=False,
        callback_notify=_Memory().trim,
        timeout_notify=TRIM_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=max(1, round(settings.drain_seconds)),
    )
