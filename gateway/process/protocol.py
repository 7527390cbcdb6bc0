"""How does uvicorn write HTTP/1.1 responses here? All writes of one event-loop iteration become one write.

uvicorn writes the headers, each chunk of the body and the terminator separately, and uvloop makes a system call for
each. Most of them are written together: the headers with the first event, the last event with the terminator. As one
write they cost one system call, and wake the caller once (docs/decisions/0024-hot-path.md).

This protocol also notices when a caller leaves after pipelining its next request. uvicorn tracks only the newest
request of a connection, and stops reading while that request waits.
"""

from __future__ import annotations

import asyncio
import urllib.parse
from typing import Any, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from gateway.process.cycle import Cycle

CLOSE_SECONDS = 10.0


class BatchingProtocol(HttpToolsProtocol):
    """uvicorn's protocol on a `BatchingTransport`, with disconnects noticed behind a pipelined request."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Wrap the transport of the new connection."""
        batching = cast("asyncio.Transport", BatchingTransport(cast("asyncio.Transport", transport), self.loop))
        self._current: RequestResponseCycle | None = None
        super().connection_made(batching)
        self.flow = Flow(batching)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the request that is being served that its caller left."""
        self.pipeline.clear()
        if (current := self._current) is not None and not current.response_complete:
            current.disconnected = True
            current.message_event.set()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """A request has arrived, perhaps while another one is being served."""
        parser: httptools.HttpRequestParser = self.parser  # pyright: ignore[reportAssignmentType]  None when closed
        version = parser.get_http_version()
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope["method"] = parser.get_method().decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""
        app = cast("ASGI3Application", self.app)  # pyright: ignore[reportUnknownMemberType]
        before = self.cycle
        self.cycle = cycle = Cycle(
            self.scope,
            self.transport,
            self.flow,
            default_headers=self.server_state.default_headers,
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if before is None or before.response_complete:  # pyright: ignore[reportUnnecessaryComparison]
            self._start_asgi_task(cycle, app)
        else:
            self.pipeline.appendleft((cycle, app))
            if len(self.pipeline) > 1:  # keep reading while one request waits; stop with more
                self.flow.pause_reading()
            else:
                self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._current = cycle
        super()._start_asgi_task(cycle, app)


class Flow(FlowControl):
    """uvicorn's, without an event while nobody waits: that takes most of a kilobyte of each connection."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False
        self._writable: asyncio.Event | None = None

    async def drain(self) -> None:
        """Return when the caller has read what it was sent."""
        if self.write_paused:
            self._writable = self._writable or asyncio.Event()
            await self._writable.wait()

    def pause_writing(self) -> None:
        """The caller does not read fast enough."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """The caller has read what it was sent."""
        self.write_paused = False
        if self._writable is not None:
            self._writable.set()
            self._writable = None


class BatchingTransport:
    """A transport that joins the writes of one event-loop iteration. All other calls go straight through."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Buffer data, to be sent at the start of the next iteration."""
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def write_eof(self) -> None:
        """Send what is buffered, then end this side of the connection."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Send what is buffered, then close; without it after `CLOSE_SECONDS`, if the caller does not read it."""
        self._flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self._loop.call_later(CLOSE_SECONDS, self._transport.abort)

    def _flush(self) -> None:
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            if not self._transport.is_closing():  # otherwise the caller left
                self._transport.write(b"".join(pieces) if len(pieces) > 1 else pieces[0])
