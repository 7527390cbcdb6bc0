"""Who computes overviews for this gateway? A child process, which lives while pages are open and ends with the gateway.

It is started at the first order and ends when it was idle for `IDLE_SECONDS`. Its input is a pipe, so it also ends if
the gateway is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from gateway.dashboard.worker import ORDER, UNREACHABLE, Order

IDLE_SECONDS = 60.0
MAX_OVERVIEW_BYTES = 64 * 2**20


class UnreachableError(Exception):
    """Redis does not answer, and why."""


class Calculator:
    """The child process of one gateway process."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._idle: asyncio.TimerHandle | None = None

    async def compute(self, order: Order) -> str:
        """The overview as JSON in one line. Await it before the next order.

        Raises:
            UnreachableError: Redis does not answer.
            RuntimeError: the process has ended; standard error says why.
        """
        if self._idle is not None:
            self._idle.cancel()
        try:
            line = await self._ask(ORDER.dump_json(order) + b"\n")
        except BaseException:
            await self._end()  # its next line would be the answer to this order
            raise
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._close_input)
        if line.startswith(UNREACHABLE):
            raise UnreachableError(line.removeprefix(UNREACHABLE).decode())
        return line.decode()

    async def aclose(self) -> None:
        """End the process, whatever it does."""
        if self._idle is not None:
            self._idle.cancel()
        await self._end()

    async def _ask(self, line: bytes) -> bytes:
        if self._process is None or self._process.returncode is not None or self._is_closing:
            await self._end()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "gateway.dashboard.worker"),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=MAX_OVERVIEW_BYTES,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(ConnectionError):  # it has ended, and so has its output
            process.stdin.write(line)
            await process.stdin.drain()
        answer = await process.stdout.readline()
        if not answer.endswith(b"\n"):
            raise RuntimeError("the process that computes overviews has ended")
        return answer.rstrip(b"\n")

    @property
    def _is_closing(self) -> bool:
        return self._process is not None and self._process.stdin is not None and self._process.stdin.is_closing()

    def _close_input(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()
