"""How does uvicorn speak HTTP/1.1 here? What is written in one turn of the event loop goes out as one write.

uvicorn writes the headers, each piece of a body and its end on their own, and uvloop makes each a system call. Most of
them come together: headers with the first event, the last event with the end. As one write they cost one call here and
wake the caller once (docs/decisions/0024-hot-path.md).

A caller that has sent its next request already and leaves is noticed, too: uvicorn looks only after the newest request,
and stops reading for as long as that has to wait.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle


class BatchingProtocol(HttpToolsProtocol):
    """uvicorn's, on a transport that gathers."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The connection is there."""
        gathering = cast("asyncio.Transport", BatchingTransport(cast("asyncio.Transport", transport), self.loop))
        self._answering: RequestResponseCycle | None = None
        super().connection_made(gathering)

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has left."""
        self.pipeline.clear()
        if (answering := self._answering) is not None and not answering.response_complete:
            answering.disconnected = True
            answering.message_event.set()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """A request has come, perhaps while another is being answered."""
        super().on_headers_complete()
        if len(self.pipeline) == 1:  # one may wait; with more, reading stops
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)


class BatchingTransport:
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
