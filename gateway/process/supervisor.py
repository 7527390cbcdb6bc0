"""How are the programs that `laconic serve` brings kept running?

Each child process runs under a watchdog (`gateway.process.watchdog`) that stops it when this process ends. A child that
exits after it was once ready is restarted, with growing pauses. One that was never ready ends the start with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

GRACE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 30.0
SETTLED_SECONDS = 60.0
LAST_LINES = 15


@dataclass(frozen=True)
class Program:
    """What to run, where its output goes, how one sees that it answers, and what to do when it does not start."""

    name: str
    command: Sequence[str]
    log: Path
    is_ready: Callable[[], Awaitable[bool]]
    hint: str
    descriptors: Sequence[int] = ()
    """Open files that it gets, a listening socket for one."""
    grace_seconds: float = GRACE_SECONDS
    """From being asked to end to being killed."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


class StartError(RuntimeError):
    """A child that ended before it answered; the message shows its last lines and says what to do."""


class ChildProcess:
    """One program, running, and running again."""

    def __init__(self, program: Program, lock: int | None = None) -> None:
        """`lock` is an open file that stays open in its keeper, for as long as that runs."""
        self.program = program
        self._inherit = (*program.descriptors, *(() if lock is None else (lock,)))
        self._task: asyncio.Task[None] | None = None
        self._was_ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def was_ready(self) -> bool:
        """It has answered at least once."""
        return self._was_ready.is_set()

    async def start(self) -> None:
        """Start it and return when it answers.

        Raises:
            StartError: it ended before it did.
        """
        self.program.log.parent.mkdir(parents=True, exist_ok=True)
        if self.program.log.exists():
            self.program.log.replace(self.program.log.with_suffix(".previous.log"))
        self._task = asyncio.create_task(self._keep_running(), name=self.program.name)
        answered = asyncio.create_task(self._wait_for_answer())
        try:
            await asyncio.wait((self._task, answered), return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                await self._task
        finally:
            answered.cancel()

    async def stop(self) -> None:
        """Take it down, and all its children; returns when they are gone."""
        self._stopping.set()
        self._let_go()
        if self._task is not None:
            with contextlib.suppress(StartError, asyncio.CancelledError):
                await self._task

    async def _wait_for_answer(self) -> None:
        while not await self.program.is_ready():
            await asyncio.sleep(0.1)
        self._was_ready.set()

    async def _keep_running(self) -> None:
        pause = 1.0
        while not self._stopping.is_set():
            started = asyncio.get_running_loop().time()
            code = await self._run()
            if self._stopping.is_set():
                return
            if not self._was_ready.is_set():
                raise StartError(self._why(code))
            if asyncio.get_running_loop().time() - started > SETTLED_SECONDS:
                pause = 1.0
            log.error(
                "%s ended with %d, and is started again in %.0f s: %s", self.program.name, code, pause, self.program.log
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _run(self) -> int:
        with self.program.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway.process.watchdog", str(self.program.grace_seconds)),
                ",".join(map(str, self.program.descriptors)),
                *self.program.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.program.environment},
                start_new_session=True,  # Ctrl-C in a terminal is for this process alone, which ends them in order
                pass_fds=self._inherit,
            )
        if self._stopping.is_set():
            self._let_go()
        return await self._process.wait()

    def _let_go(self) -> None:
        """Close the pipe that the keeper watches."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _why(self, code: int) -> str:
        lines = self.program.log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        last = "\n".join(f"  {line}" for line in lines)
        return f"{self.program.name} did not start (it ended with {code}). Its last lines:\n{last}\n{self.program.hint}"
