"""How do several processes answer on one port?

    python -m gateway.process.workers N        one of them; started by the other half of this file, never by hand

The parent has taken the port and hands it on; whoever of the workers is free accepts the next connection. They share
keys, limits and the ledger through Redis, and the state directory: each has a spool of its own there, and metrics in
files that any of them adds up when it is asked. A worker that dies is started again like any other child.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import prometheus_client.values
import uvloop

from gateway.config import Settings
from gateway.observe import logs
from gateway.observe.metrics import METRICS_DIRECTORY
from gateway.process.server import Server
from gateway.process.supervisor import ChildProcess, Program
from models import family as families

_SETTINGS, _SOCKET = "LACONIC_WORKER_SETTINGS", "LACONIC_WORKER_SOCKET"
FLUSH_SECONDS = 10.0
CLOSED_SECONDS = 1.0


class Workers:
    """All of them, from the parent: as `gateway.process.server.Server` is one."""

    def __init__(self, settings: Settings, listener: socket.socket, lock: int) -> None:
        """`lock` is the state directory's, which is in use for as long as any of them runs."""
        listener.listen(2048)
        self._listener = listener
        directory = settings.state_dir / "workers"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        self._children = [
            ChildProcess(_program(settings, number, listener), lock) for number in range(settings.workers)
        ]
        self._stopped = asyncio.Event()

    async def start(self) -> None:
        """Returns when all answer.

        Raises:
            StartError: one ended before it did.
        """
        try:
            await asyncio.gather(*(child.start() for child in self._children))
        except BaseException:
            await self._take_down()
            raise

    async def wait(self) -> None:
        """Returns when it was told to stop and all have drained and ended."""
        await self._stopped.wait()
        down = asyncio.ensure_future(self._take_down())
        # The workers have closed the port by now, but it is open here and in their keepers: who connects would wait.
        await asyncio.wait([down], timeout=CLOSED_SECONDS)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        await down

    def stop(self, starting: asyncio.Task[Any] | None = None) -> None:
        """Drain; a second time: do not."""
        if starting is not None and (self._stopped.is_set() or not all(child.was_ready for child in self._children)):
            starting.cancel()
        self._stopped.set()

    async def _take_down(self) -> None:
        await asyncio.shield(asyncio.gather(*(child.stop() for child in self._children)))


def _program(settings: Settings, number: int, listener: socket.socket) -> Program:
    directory = settings.state_dir / "workers"
    ready = _ready(settings, number)

    async def is_ready() -> bool:
        return ready.exists()

    return Program(
        name=f"worker {number}",
        command=[sys.executable, "-P", "-m", "gateway.process.workers", str(number)],
        log=settings.state_dir / "logs" / f"worker-{number}.log",
        is_ready=is_ready,
        hint=f"The whole log is in {settings.state_dir / 'logs' / f'worker-{number}.log'}.",
        environment={
            _SETTINGS: settings.model_dump_json(),
            _SOCKET: str(listener.fileno()),
            METRICS_DIRECTORY: str(directory),
        },
        descriptors=(listener.fileno(),),
        grace_seconds=settings.drain_seconds + FLUSH_SECONDS,
    )


def _ready(settings: Settings, number: int) -> Path:
    return settings.state_dir / "workers" / f"{number}.ready"


async def _work(number: int) -> None:
    settings = Settings.model_validate_json(os.environ[_SETTINGS])
    logs.set_up(settings)
    # By the worker's number, not by its process: one that is started again goes on counting where it was.
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(  # pyright: ignore[reportUnknownMemberType]
        lambda: number
    )
    family = families.load(settings.family, verify=False)  # the parent has
    with socket.socket(fileno=int(os.environ[_SOCKET])) as listener:
        server = Server(settings, family, listener, worker=number)
        for stop in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(stop, server.stop, asyncio.current_task())
        await server.start()
        _ready(settings, number).touch()
        await server.wait()


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(_work(int(sys.argv[1])))
