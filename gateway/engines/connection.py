"""What does one connection to an engine do? It sends a request, and takes the response apart as it arrives.

An engine may send anything, at any pace. The headers are bounded in size and time, reading pauses when nobody takes
what was read, and interim responses (1xx) are skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast

import aiohappyeyeballs
import httptools

READ_BYTES = 65_536
"""How far to read ahead of a slow caller. Beyond this, reading from the engine's socket is paused."""
MAX_HEAD_BYTES = 65_536
"""Of a response's status and headers, with those of the interim responses (1xx) before it."""
NEXT_ADDRESS_SECONDS = 0.25
"""How long to wait for a host's first address before its next one is tried beside it (RFC 8305)."""

_KEEPIDLE = socket.TCP_KEEPALIVE if sys.platform == "darwin" else socket.TCP_KEEPIDLE
KEEP_ALIVE = {_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""After an outage, an end that is gone is noticed in 40 seconds."""


class BrokenError(ConnectionError):
    """The connection ended before the response did, or the response is not HTTP."""


class StaleError(BrokenError):
    """A reused connection was closed by the engine before any byte of the response arrived. Retrying is safe."""


async def connect(host: str, port: int, tls: ssl.SSLContext | None) -> Connection:
    """Open a connection. A host's addresses are tried side by side, slightly staggered.

    Raises:
        OSError: no address can be connected to.
    """
    loop = asyncio.get_running_loop()
    if _is_address(host):
        return (await loop.create_connection(Connection, host, port, ssl=tls))[1]
    # By hand, because uvloop would try a name's addresses one after the other.
    try:
        addresses = await _addresses(host, port)
        connected = await aiohappyeyeballs.start_connection(  # pyright: ignore[reportUnknownMemberType]
            addresses, happy_eyeballs_delay=NEXT_ADDRESS_SECONDS, loop=loop
        )
    except (UnicodeError, RuntimeError, ValueError) as error:  # no host can have that name, or uvloop's own errors
        raise OSError(f"cannot connect to {host!r}: {error}") from error
    server_hostname = host if tls else None
    return (await loop.create_connection(Connection, sock=connected, ssl=tls, server_hostname=server_hostname))[1]


class Connection(asyncio.Protocol):
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
        self._head: list[bytes] = []
        """What has arrived until the response's headers were complete."""
        self._head_size = 0
        self._head_seconds: float | None = None
        self._in_head = self._interim = False
        self.limited = False
        """Whether a time limit applies: a deadline or a read timeout, but not that of an outage."""
        self._outage = False
        """Whether the time limit of an outage applies, which ends when the engine is up again."""
        self._limits_head = False
        """Whether that limit ends with the headers."""
        self._limit_seconds = 0.0
        self._counts_silence = False
        self._waiting_since = 0.0
        """When the limit began to count."""
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport
        self._parser: httptools.HttpResponseParser

    @property
    def head(self) -> bytes:
        """What arrived until the response's headers were complete; empty if its status is 200."""
        return b"".join(self._head)

    async def send(self, request: bytes, head_seconds: float | None) -> None:
        """Send a request, and return when the response's headers have arrived."""
        self.requests_sent += 1
        self.status, self.complete, self._response_began, self.when_complete = 0, False, False, None
        self._in_head, self._head_size, self._head_seconds = False, 0, head_seconds
        self._head.clear()
        self._body.clear()
        self._resume_reading()
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        while not self.status:
            await self._wait_for_data()

    async def read_some(self) -> bytes:
        if not self._body and self._counts_silence:
            # Not for each wait: what is no body, such as a chunk's length, does not end the silence.
            self._waiting_since = asyncio.get_running_loop().time()
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

    def set_read_timeout(self, seconds: float) -> None:
        """From now on the engine may be silent for so long while somebody waits for the body."""
        self._limit(seconds, counts_silence=True)

    def set_deadline(self, seconds: float | None) -> None:
        """From now on everything must arrive in so many seconds; None for no limit."""
        self._limit(seconds, counts_silence=False)

    def begin_outage(self, seconds: float) -> None:
        """The engine cannot be reached: without another limit, everything must arrive in so many seconds."""
        if self.alive and not (self.complete or self.limited or self._outage):
            self.set_deadline(seconds)
            self.limited, self._outage = False, True

    def end_outage(self) -> None:
        """The engine can be reached again: it has as long as before."""
        if self._outage:
            self.set_deadline(None)
            self._keep_alive()

    def _keep_alive(self) -> None:
        """Let the system notice if the other end is gone: what can be reached again may be another engine."""
        connected = self._transport.get_extra_info("socket")
        if connected is None:  # uvloop says so of a connection that has ended
            return
        with contextlib.suppress(OSError):  # it has just ended
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in KEEP_ALIVE.items():
                connected.setsockopt(socket.IPPROTO_TCP, option, value)

    def _limit(self, seconds: float | None, counts_silence: bool) -> None:
        self.limited, self._counts_silence, self._limits_head = seconds is not None, counts_silence, False
        self._outage = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._limit_seconds = seconds
            self._waiting_since = asyncio.get_running_loop().time()
            self._check_limit()

    def _check_limit(self) -> None:
        """Abort if the time is over, else check again when it could be. One timer, not one per read."""
        loop = asyncio.get_running_loop()
        nobody_waits = self._counts_silence and self._waiter is None
        due = (loop.time() if nobody_waits else self._waiting_since) + self._limit_seconds
        if due > loop.time():
            self._timer = loop.call_at(due, self._check_limit)
        else:
            late = "sent nothing for too long" if self._counts_silence else "did not send its response in time"
            self._broken = TimeoutError(f"the engine {late}")
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
        self._waiter = asyncio.get_running_loop().create_future()
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
        if not self.status:
            self._head.append(data)
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("it switches protocols")
        except httptools.HttpParserError as error:
            self._fail(f"not HTTP: {error}")
        if not self.status:
            self._bound_head()
        self._wake()

    def _bound_head(self) -> None:
        """The headers are not complete yet: limit their size, and the time that they take."""
        if self._head_size > MAX_HEAD_BYTES:
            self._fail("its headers are too large")
        elif self._in_head and self._head_seconds is not None and not self.limited:
            self.set_deadline(self._head_seconds)
            self._limits_head = True

    def _fail(self, reason: str) -> None:
        if self._broken is None:
            self._broken = BrokenError(reason)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        if not self.complete and self._broken is None:
            stale = self.requests_sent > 1 and not self._response_began
            self._broken = (StaleError if stale else BrokenError)(str(exc or "the engine closed the connection"))
        self._wake()

    # Callbacks of httptools' parser

    def on_message_begin(self) -> None:
        if self.complete:
            raise BrokenError("a second response to one request")
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._limits_head:
            self.set_deadline(None)
        status = self._parser.get_status_code()
        self._interim = status < 200
        if self._interim:  # such as 100 or 103: the response is still to come
            return
        self.status = status
        self.reusable = self._parser.should_keep_alive()
        if status == 200:
            self._head.clear()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)
        self._size += len(body)
        if self._size > READ_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._interim:
            return
        self.complete = True
        self.idle_since = asyncio.get_running_loop().time()
        if self.when_complete is not None:
            self.when_complete()


async def _addresses(host: str, port: int) -> Sequence[Any]:
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
