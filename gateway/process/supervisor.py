"""How are the programs that `laconic serve` starts kept running?

Each child process runs under a watchdog (`gateway.process.watchdog`), which stops it when this process ends. A child
process that exits after it was once ready is restarted, with growing pauses. If it exits before, starting fails.
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
STABLE_SECONDS = 60.0
"""After running for this long, a program that exits is restarted with the shortest pause again."""
LAST_LINES = 15


@dataclass(frozen=True)
class Program:
    """A program to run: its command, its log, how to tell that it is ready, and a hint for when it does not start."""

    name: str
    command: Sequence[str]
    log_path: Path
    is_ready: Callable[[], Awaitable[bool]]
    hint: str
    inherited_fds: Sequence[int] = ()
    """Open files that the program inherits, such as a listening socket."""
    grace_seconds: float = GRACE_SECONDS
    """How long it may take to end after SIGTERM before it is killed."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


class StartError(RuntimeError):
    """A program exited before it was ready. The message shows its last log lines and says what to do."""


class ChildProcess:
    """Runs one program, and restarts it when it exits."""

    def __init__(self, program: Program, lock: int | None = None) -> None:
        """`lock` is an open file that the watchdog inherits, so that it stays open for as long as the watchdog runs."""
        self.program = program
        self._inherit = (*program.inherited_fds, *(() if lock is None else (lock,)))
        self._task: asyncio.Task[None] | None = None
        self._was_ready = asyncio.Event()
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    @property
    def was_ready(self) -> bool:
        """Whether it has been ready at least once."""
        return self._was_ready.is_set()

    async def start(self) -> None:
        """Start the program, and return when it is ready.

        Raises:
            StartError: it exited before it was ready.
        """
        try:
            self.program.log_path.parent.mkdir(parents=True, exist_ok=True)
            if self.program.log_path.exists():
                self.program.log_path.replace(self.program.log_path.with_suffix(".previous.log"))
        except OSError as error:
            raise StartError(f"{self.program.name}: cannot write {self.program.log_path} ({error.strerror})") from None
        self._task = asyncio.create_task(self._keep_running(), name=self.program.name)
        ready = asyncio.create_task(self._wait_until_ready())
        try:
            await asyncio.wait((self._task, ready), return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                await self._task
        finally:
            ready.cancel()

    async def stop(self) -> None:
        """Stop the program and all its child processes, and return when they have ended."""
        self._stopping.set()
        self._close_pipe()
        if self._task is not None:
            with contextlib.suppress(StartError, asyncio.CancelledError):
                await self._task

    async def _wait_until_ready(self) -> None:
        while not await self.program.is_ready():
            await asyncio.sleep(0.1)
        self._was_ready.set()

    async def _keep_running(self) -> None:
        backoff = 1.0
        while not self._stopping.is_set():
            started = asyncio.get_running_loop().time()
            try:
                code = await self._run()
                ended = f"exited with code {code}"
            except OSError as error:  # such as too many open files
                code, ended = None, f"could not be started ({error.strerror})"
            if self._stopping.is_set():
                return
            if not self._was_ready.is_set():
                message = f"{self.program.name} {ended}" if code is None else self._start_error_message(code)
                raise StartError(message)
            if asyncio.get_running_loop().time() - started > STABLE_SECONDS:
                backoff = 1.0
            log.error(
                "%s %s; restarting it in %.0f s; see %s", self.program.name, ended, backoff, self.program.log_path
            )  # fmt: skip
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff)
            backoff = min(2 * backoff, LONGEST_PAUSE_SECONDS)

    async def _run(self) -> int:
        with self.program.log_path.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "gateway.process.watchdog", str(self.program.grace_seconds)),
                ",".join(map(str, self.program.inherited_fds)),
                *self.program.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.program.environment},
                start_new_session=True,  # Ctrl-C in a terminal reaches only this process, which stops them in order
                pass_fds=self._inherit,
            )
        if self._stopping.is_set():
            self._close_pipe()
        return await self._process.wait()

    def hang_up(self) -> None:
        """Send the program SIGHUP, once it has been ready. Its watchdog passes it on. One that is down has no need."""
        process = self._process
        if self.was_ready and process is not None and process.returncode is None and process.stdin is not None:
            with contextlib.suppress(OSError, RuntimeError):  # it has just ended; uvloop raises RuntimeError
                process.stdin.write(b"h")

    def _close_pipe(self) -> None:
        """Close the pipe that the watchdog reads, which makes it stop the program."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _start_error_message(self, code: int) -> str:
        lines = self.program.log_path.read_text(errors="replace").splitlines()[-LAST_LINES:]
        last = "\n".join(f"  {line}" for line in lines)
        return f"{self.program.name} did not start (exit code {code}). The end of its log:\n{last}\n{self.program.hint}"
