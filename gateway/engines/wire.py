"""How do bytes get to an engine and back? HTTP/1.1 as the hot path needs it, on httptools' parser.

Requests to engines are all alike: a POST with a body, and an answer with a length or in chunks. A general client costs
twice as much for each (docs/decisions/0024-hot-path.md), and everything else here that speaks HTTP uses one. Not
supported, because vLLM and what stands before it need none of it: redirects, compression, trailers, cookies, proxies,
answers that end with their connection.
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
"""Below the 5 s after which vLLM's server closes an idle connection: else a request may go out on a dying one."""
END_SECONDS = 1.0
READ_BYTES = 65_536
"""Read ahead of a slow caller; the engine's socket is paused beyond it."""


class BrokenError(ConnectionError):
    """The connection ended before the answer did, or what came is not HTTP."""


class StaleError(BrokenError):
    """A kept connection had been closed in the moment it was taken: nothing of an answer came."""


class Client:
    """The connections to one engine, kept for as long as they may be."""

    def __init__(self, url: str, connect_seconds: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._place = (parts.hostname, parts.port or (443 if self._tls else 80))
        self._path = parts.path
        self._head = f" HTTP/1.1\r\nhost: {parts.netloc}\r\naccept-encoding: identity\r\n"
        self._connect_seconds = connect_seconds
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()

    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], silence: float | None = None, *, fresh: bool = False
    ) -> Response:
        """Send a request; the answer has its status, its body is still to come.

        Args:
            silence: how many seconds the engine may say nothing; none: as many as it takes.
            fresh: on a new connection.

        Raises:
            TimeoutError, OSError: no connection, or none that lasted until an answer began.
        """
        connection = (None if fresh else self._kept()) or await self._connected()
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"POST {self._path}{path}{self._head}{lines}content-length: {len(body)}\r\n\r\n"
        connection.limit_silence(silence)
        self._busy.add(connection)
        try:
            await connection.ask(head.encode("latin-1") + body)
        except BaseException:  # a cancellation included: nobody waits for the answer any more
            self.done(connection)
            connection.abort()
            raise
        return Response(self, connection)

    def limit_silence(self, seconds: float) -> None:
        """Also of what was to take as long as it takes."""
        for connection in self._busy:
            if connection.silence is None:
                connection.limit_silence(seconds)

    def done(self, connection: _Connection) -> None:
        """Nobody waits for anything on it."""
        self._busy.discard(connection)
        connection.limit_silence(None)

    def keep(self, connection: _Connection) -> None:
        """The connection's answer is complete, and it may be used again."""
        self._idle.append(connection)

    def close(self) -> None:
        """Close what is kept."""
        while self._idle:
            self._idle.pop().abort()

    def _kept(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()  # the one used last: the others may grow old
            if connection.alive and now - connection.since < KEEP_ALIVE_SECONDS:
                return connection
            connection.abort()
        return None

    async def _connected(self) -> _Connection:
        host, port = self._place
        async with asyncio.timeout(self._connect_seconds):
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, host, port, ssl=self._tls)
        return connection


class Response:
    """What an engine answers, as it comes. `close` it in any case."""

    def __init__(self, engine: Client, connection: _Connection) -> None:
        self._engine, self._connection = engine, connection
        self.status = connection.status

    def limit_silence(self, seconds: float) -> None:
        """From now on `read_some` waits no longer than that."""
        self._connection.limit_silence(seconds)

    async def read_some(self) -> bytes:
        """What has come since the last time, waiting for something; nothing at the end.

        Raises:
            BrokenError: the connection ended first.
            TimeoutError: nothing came for longer than it may take.
        """
        return await self._connection.read_some()

    async def read(self) -> bytes:
        """All of it."""
        pieces: list[bytes] = []
        while piece := await self.read_some():
            pieces.append(piece)
        return b"".join(pieces)

    def close(self, *, ending: bool = False) -> None:
        """Be done with it; an engine that is still answering sees its caller leave.

        Args:
            ending: nothing that matters is still to come, and what is will be here at once: the end of the last chunk.
        """
        connection = self._connection
        self._engine.done(connection)
        if not (connection.alive and connection.reusable):
            connection.abort()
        elif connection.complete:
            self._engine.keep(connection)
        elif ending:
            connection.when_complete = lambda: self._engine.keep(connection)
            asyncio.get_running_loop().call_later(END_SECONDS, connection.abort_unless_past, connection.asked)
        else:
            connection.abort()


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.alive = False
        self.since = 0.0
        """When its last answer was complete."""
        self.status = 0
        self.complete = self.reusable = False
        self.when_complete: Callable[[], None] | None = None
        self.asked = 0
        """Requests so far."""
        self._began = False
        self._broken: Exception | None = None
        self._body: list[bytes] = []
        self._size = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since = 0.0
        self.silence: float | None = None
        """Seconds for which the engine may say nothing; none: as many as it takes."""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser

    async def ask(self, request: bytes) -> None:
        """Send a request, and wait until the answer's headers are here."""
        self.asked += 1
        self.status, self.complete, self._began, self.when_complete = 0, False, False, None
        self._body.clear()
        self._read_on()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        while not self.status:
            await self._more()

    async def read_some(self) -> bytes:
        while not self._body:
            if self.complete:
                return b""
            await self._more()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._read_on()
        return body

    def _read_on(self) -> None:
        """What was read ahead has been taken, or nobody wants it."""
        self._size = 0
        if self._paused:
            self._paused = False
            self._transport.resume_reading()

    def limit_silence(self, seconds: float | None) -> None:
        """From now on."""
        self.silence = seconds
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._waiting_since = asyncio.get_running_loop().time()
            self._look()

    def _look(self) -> None:
        """One timer that looks again when it could be due, instead of one for every read."""
        assert self.silence is not None
        loop = asyncio.get_running_loop()
        due = (loop.time() if self._waiter is None else self._waiting_since) + self.silence
        if due > loop.time():
            self._timer = loop.call_at(due, self._look)
        else:
            self._broken = TimeoutError("the engine is silent")
            self.abort()
            self._wake()

    def abort(self) -> None:
        """Close it at once."""
        self.alive = False
        self._transport.abort()

    def abort_unless_past(self, request: int) -> None:
        """The answer to this request was to be complete by now."""
        if self.asked == request and not self.complete:
            self.abort()

    async def _more(self) -> None:
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

    # asyncio's protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self.alive = True

    def data_received(self, data: bytes) -> None:
        if not self.asked or self.complete:  # nobody has asked for this
            self.abort()
            return
        self._began = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._broken = BrokenError(f"not HTTP: {error}")
            self.abort()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if not self.complete and self._broken is None:
            stale = self.asked > 1 and not self._began
            self._broken = (StaleError if stale else BrokenError)(str(exc or "the engine closed the connection"))
        self._wake()

    # httptools' parser

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
        self.since = asyncio.get_running_loop().time()
        if self.when_complete is not None:
            self.when_complete()
