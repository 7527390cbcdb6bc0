"""How do bytes get to an engine and back? A minimal HTTP/1.1 client for the hot path, on httptools' parser.

All requests to engines look alike: a POST with a body, and a response that is chunked or has a length. A general client
costs twice as much per request (docs/decisions/0024-hot-path.md), so only this path has its own; everything else here
that speaks HTTP uses aiohttp. Neither vLLM nor the proxies in front of it need redirects, compression, trailers,
cookies, proxy settings, or responses that end with their connection, so none of these is supported.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import cast
from urllib.parse import urlsplit

import httptools

KEEP_ALIVE_SECONDS = 4.0
"""Less than the 5 s after which vLLM closes an idle connection, so that no request is sent on a dying connection."""
END_SECONDS = 1.0
"""How long a closed response may take to receive its final bytes before its connection is aborted."""
READ_BYTES = 65_536
"""How far to read ahead of a slow caller. Beyond this, reading from the engine's socket is paused."""


class BrokenError(ConnectionError):
    """The connection ended before the response did, or the response is not HTTP."""


class StaleError(BrokenError):
    """A reused connection was closed by the engine before any byte of the response arrived. Retrying is safe."""


class Client:
    """Sends requests to one engine over a pool of keep-alive connections."""

    def __init__(self, url: str, connect_seconds: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = (parts.hostname, parts.port or (443 if self._tls else 80))
        self._path = parts.path
        self._head = f" HTTP/1.1\r\nhost: {parts.netloc}\r\naccept-encoding: identity\r\n"
        self._connect_seconds = connect_seconds
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()

    async def post(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        read_timeout: float | None = None,
        *,
        fresh: bool = False,
    ) -> Response:
        """Send a request and return the response once its headers have arrived; its body is still to be read.

        Args:
            read_timeout: how many seconds may pass without a byte from the engine; None for no limit.
            fresh: whether to open a new connection instead of reusing an idle one.

        Raises:
            TimeoutError, OSError: connecting failed, or the connection ended before the response began.
        """
        connection = (None if fresh else self._take_idle()) or await self._connect()
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {self._path}{path}{self._head}{lines}content-length: {len(body)}\r\n\r\n"
        connection.set_read_timeout(read_timeout)
        self._busy.add(connection)
        try:
            await connection.send(head.encode("latin-1") + body)
        except BaseException:  # including cancellation: nobody waits for the response any more
            self.remove(connection)
            connection.abort()
            raise
        return Response(self, connection)

    def set_read_timeout(self, seconds: float) -> None:
        """Limit every running request that has no read timeout yet."""
        for connection in self._busy:
            if connection.read_timeout is None:
                connection.set_read_timeout(seconds)

    def remove(self, connection: _Connection) -> None:
        """Take a connection off the list of busy ones: nobody waits for it."""
        self._busy.discard(connection)
        connection.set_read_timeout(None)

    def release(self, connection: _Connection) -> None:
        """Return a connection to the pool: its response is complete, so it can be reused."""
        self._idle.append(connection)

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop().abort()

    def _take_idle(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()  # the most recently used, so that the others can expire
            if connection.alive and now - connection.idle_since < KEEP_ALIVE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connect(self) -> _Connection:
        host, port = self._address
        async with asyncio.timeout(self._connect_seconds):
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, host, port, ssl=self._tls)
        return connection


class Response:
    """An engine's response while it arrives. Always `close` it."""

    def __init__(self, client: Client, connection: _Connection) -> None:
        self._client, self._connection = client, connection
        self.status = connection.status

    def set_read_timeout(self, seconds: float) -> None:
        """Set how long `read_some` waits from now on."""
        self._connection.set_read_timeout(seconds)

    async def read_some(self) -> bytes:
        """Return the bytes received since the last call, waiting for at least one; b"" at the end.

        Raises:
            BrokenError: the connection ended before the response did.
            TimeoutError: nothing arrived within the read timeout.
        """
        return await self._connection.read_some()

    async def read(self) -> bytes:
        """Return the whole body."""
        pieces: list[bytes] = []
        while piece := await self.read_some():
            pieces.append(piece)
        return b"".join(pieces)

    def close(self, *, ending: bool = False) -> None:
        """Release or abort the connection. An engine that is still generating sees the connection close.

        Args:
            ending: only the last chunk's terminator is outstanding and will arrive at once. The connection is then
                kept for reuse, unless the terminator takes longer than `END_SECONDS`.
        """
        connection = self._connection
        self._client.remove(connection)
        if not (connection.alive and connection.reusable):
            connection.abort()
        elif connection.complete:
            self._client.release(connection)
        elif ending:
            connection.when_complete = lambda: self._client.release(connection)
            asyncio.get_running_loop().call_later(END_SECONDS, connection.abort_if_incomplete, connection.requests_sent)
        else:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self) -> None:
        self.alive = False
        self.idle_since = 0.0
        """When its last response was complete."""
        self.status = 0
        self.complete = self.reusable = False
        self.when_complete: Callable[[], None] | None = None
        self.requests_sent = 0
        self._response_began = False
        self._broken: Exception | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since = 0.0
        self.read_timeout: float | None = None
        """How many seconds may pass without a byte from the engine; None for no limit."""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser

    async def send(self, request: bytes) -> None:
        """Send a request, and return when the response's headers have arrived."""
        self.requests_sent += 1
        self.status, self.complete, self._response_began, self.when_complete = 0, False, False, None
        self._body.clear()
        self._resume_reading()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        while not self.status:
            await self._wait_for_data()

    async def read_some(self) -> bytes:
        while not self._body:
            if self.complete:
                return b""
            await self._wait_for_data()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._resume_reading()
        return body

    def _resume_reading(self) -> None:
        """Read from the socket again: the buffer was consumed or discarded."""
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def set_read_timeout(self, seconds: float | None) -> None:
        """Apply a read timeout from now on; None removes it."""
        self.read_timeout = seconds
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._waiting_since = asyncio.get_running_loop().time()
            self._check_timeout()

    def _check_timeout(self) -> None:
        """Abort if the read timeout has passed, else check again when it could have. One timer, not one per read."""
        assert self.read_timeout is not None
        loop = asyncio.get_running_loop()
        due = (loop.time() if self._waiter is None else self._waiting_since) + self.read_timeout
        if due > loop.time():
            self._timer = loop.call_at(due, self._check_timeout)
        else:
            self._broken = TimeoutError("the engine sent nothing for too long")
            self.abort()
            self._wake()

    def abort(self) -> None:
        """Close the connection at once."""
        self.alive = False
        self._transport.abort()

    def abort_if_incomplete(self, request: int) -> None:
        """Close the connection if it still waits for the end of this request's response."""
        if self.requests_sent == request and not self.complete:
            self.abort()

    async def _wait_for_data(self) -> None:
        if self._broken is not None:
            raise self._broken
        loop = asyncio.get_running_loop()
        self._waiter, self._waiting_since = loop.create_future(), loop.time()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # Callbacks of asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport does not subclass asyncio.Transport
        self.alive = True

    def data_received(self, data: bytes) -> None:
        if not self.requests_sent or self.complete:  # no request is waiting for these bytes
            self.abort()
            return
        self._response_began = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._broken = BrokenError(f"not HTTP: {error}")
            self.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if not self.complete and self._broken is None:
            stale = self.requests_sent > 1 and not self._response_began
            self._broken = (StaleError if stale else BrokenError)(str(exc or "the engine closed the connection"))
        self._wake()

    # Callbacks of httptools' parser

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.reusable = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._size += len(body)
        if self._size > READ_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self.complete = True
        self.idle_since = asyncio.get_running_loop().time()
        if self.when_complete is not None:
            self.when_complete()
