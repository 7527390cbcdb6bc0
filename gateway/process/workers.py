"""How do several worker processes serve one port?

    python -m gateway.process.workers N        runs worker N; `Workers` below starts it, never a person

The parent binds the port and passes the socket on; the next connection goes to whichever worker is free. Workers share
keys, limits and the ledger through Redis. They also share the state directory: each has its own spool there, and writes
its metrics to files, which any worker adds up for a scrape. A worker that dies is restarted like any child process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import prometheus_client.values
import uvloop

from gateway.config import ConfigError, Settings
from gateway.observe import logs
from gateway.observe.metrics import METRICS_DIRECTORY
from gateway.process.reload import ReadLevel
from gateway.process.server import Server
from gateway.process.supervisor import ChildProcess, Program
from models import family as families
from models.files import write_private

log = logging.getLogger(__name__)

_SETTINGS, _SOCKET = "LACONIC_WORKER_SETTINGS", "LACONIC_WORKER_SOCKET"
FLUSH_SECONDS = 10.0
CLOSED_SECONDS = 1.0


class Workers:
    """All workers, as seen by the parent. It has the same methods as `gateway.process.server.Server`."""

    def __init__(
        self, settings: Settings, listener: socket.socket, lock: int, read_level: ReadLevel | None = None
    ) -> None:
        """`listener` must listen before `start`.

        `lock` is the open lock file of the state directory, held for as long as any worker runs.
        """
        self._level_file = _level_file(settings)
        self._read_level = read_level or (lambda: settings.log_level)
        self._listener = listener
        directory = settings.state_dir / "workers"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        self._processes = [
            ChildProcess(_program(settings, number, listener), lock) for number in range(settings.workers)
        ]
        self._stopped = asyncio.Event()

    async def start(self) -> None:
        """Start all workers, and return when they are ready.

        Raises:
            StartError: a worker exited before it was ready.
        """
        try:
            await asyncio.gather(*(process.start() for process in self._processes))
        except BaseException:
            await self._stop_all()
            raise

    async def wait(self) -> None:
        """Return when `stop` was called and all workers have drained and ended."""
        await self._stopped.wait()
        stopping = asyncio.ensure_future(self._stop_all())
        # The workers close the port first. It is still open here and in the watchdogs, so new connections would wait.
        await asyncio.wait([stopping], timeout=CLOSED_SECONDS)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        await stopping

    def stop(self, starting: asyncio.Task[Any] | None = None) -> None:
        """Drain and stop. If called again, or before all workers are ready, cancel `starting`."""
        if starting is not None and (
            self._stopped.is_set() or not all(process.was_ready for process in self._processes)
        ):
            starting.cancel()
        self._stopped.set()

    def reload(self) -> None:
        """Let every worker reload what can be reloaded. They find the log level in a file."""
        try:
            level = self._read_level()
            write_private(self._level_file, level.encode())
            logs.set_level(level)
        except (ConfigError, OSError) as error:
            log.warning("the log level stays as it is: %s", error)
        for process in self._processes:
            process.hang_up()

    async def _stop_all(self) -> None:
        await asyncio.shield(asyncio.gather(*(process.stop() for process in self._processes)))


def _program(settings: Settings, number: int, listener: socket.socket) -> Program:
    directory = settings.state_dir / "workers"
    ready_file = _ready_file(settings, number)

    async def is_ready() -> bool:
        return ready_file.exists()

    return Program(
        name=f"worker {number}",
        command=[sys.executable, "-P", "-m", "gateway.process.workers", str(number)],
        log_path=settings.state_dir / "logs" / f"worker-{number}.log",
        is_ready=is_ready,
        hint=f"The full log is in {settings.state_dir / 'logs' / f'worker-{number}.log'}.",
        environment={
            _SETTINGS: settings.model_dump_json(),
            _SOCKET: str(listener.fileno()),
            METRICS_DIRECTORY: str(directory),
        },
        inherited_fds=(listener.fileno(),),
        grace_seconds=settings.drain_seconds + FLUSH_SECONDS,
    )


def _level_file(settings: Settings) -> Path:
    """Where workers find a log level that was changed while they ran."""
    return settings.state_dir / "workers" / "log_level"


def _ready_file(settings: Settings, number: int) -> Path:
    return settings.state_dir / "workers" / f"{number}.ready"


async def _run_worker(number: int) -> None:
    settings = Settings.model_validate_json(os.environ[_SETTINGS])
    logs.set_up(settings)
    # Metrics files are named by worker number, not process id, so that a restarted worker continues its counts.
    prometheus_client.values.ValueClass = prometheus_client.values.MultiProcessValue(  # pyright: ignore[reportUnknownMemberType]
        lambda: number
    )
    level_file = _level_file(settings)

    def read_level() -> str:
        return level_file.read_text() if level_file.exists() else settings.log_level

    logs.set_level(read_level())
    family = families.load(settings.family, verify=False)  # the parent has verified it
    with socket.socket(fileno=int(os.environ[_SOCKET])) as listener:
        server = Server(settings, family, listener, worker=number, read_level=read_level)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.reload)
        for stop in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(stop, server.stop, asyncio.current_task())
        await server.start()
        _ready_file(settings, number).touch()
        await server.wait()


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        uvloop.run(_run_worker(int(sys.argv[1])))
