"""How do pieces of an answer get onto a connection? Those of one turn of the event loop as one write.

uvicorn writes the headers, each piece of a body and its end on their own, and uvloop makes each a system call. Most of
them come together: headers with the first event, the last event with the end. As one write they cost one call here and
wake the caller once (docs/decisions/0024-hot-path.md).
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class GatheringProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 on a transport that gathers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The connection is there."""
        gathering = cast("asyncio.Transport", Gathering(cast("asyncio.Transport", transport), self.loop))
        super().connection_made(gathering)


class Gathering:
    """A transport that passes on what was written at the end of the loop's turn; all else at once."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it before anything that comes next turn."""
        if not self._pieces:
            self._loop.call_soon(self._pass_on)
        self._pieces.append(data)

    def close(self) -> None:
        """Once everything is sent."""
        self._pass_on()
        self._transport.close()

    def _pass_on(self) -> None:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            if not self._transport.is_closing():  # else the caller has left, and nobody reads it
                self._transport.write(b"".join(pieces) if len(pieces) > 1 else pieces[0])
