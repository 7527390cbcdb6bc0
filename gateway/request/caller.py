"""Is the caller still connected? One listener from the request's arrival to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager

from starlette.types import Receive


class CallerLeftError(Exception):
    """The caller has hung up."""


class Caller:
    """The other end of a connection, after its request has been read."""

    def __init__(self, receive: Receive) -> None:
        self.left = False
        self._receive = receive
        self._working: asyncio.Task[object] | None = None
        self._listening = asyncio.create_task(self._listen())

    @contextmanager
    def waiting(self) -> Generator[asyncio.Task[object]]:
        """A block of work that is cancelled when the caller hangs up.

        Raises:
            CallerLeftError: the caller has hung up, before the block or during it.
        """
        if self.left:
            raise CallerLeftError
        task = self._working = asyncio.current_task()
        assert task is not None
        try:
            yield task
        except asyncio.CancelledError:
            if self.left and not task.uncancel():
                raise CallerLeftError from None
            raise
        finally:
            self._working = None

    def close(self) -> None:
        """Stop listening."""
        self._listening.cancel()

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left = True
        if self._working is not None:
            self._working.cancel()
