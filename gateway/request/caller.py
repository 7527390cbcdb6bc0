"""Is the caller still connected? The server says so while the request is being served."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

CONNECTION = "laconic.connection"
"""Where the ASGI scope of a request has its `Connection`."""


class Connection(Protocol):
    """What the server knows of a request's connection (`gateway/process/cycle.py`)."""

    def on_left(self, call: Callable[[], None] | None) -> None: ...

    def whole_body(self) -> bytes | None: ...


class CallerLeftError(Exception):
    """The caller has hung up."""


class Caller:
    """The other end of a connection, after its request has been read."""

    def __init__(self, connection: Connection) -> None:
        self.left = False
        self._connection = connection
        self._working: asyncio.Task[object] | None = None
        connection.on_left(self._leave)

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
        self._connection.on_left(None)

    def _leave(self) -> None:
        self.left = True
        if self._working is not None:
            self._working.cancel()
