"""What may a caller's connection send, and for how long? The servers' HTTP protocol, with bounds on both.

- A request's head has at most `MAX_HEAD_BYTES` and arrives within `head_timeout_seconds`. The same bytes bound what
  surrounds the pieces of a chunked body: sizes, extensions and trailers.
- The endpoints bound the bodies that they read. What they leave unread must end within `UNREAD_SECONDS`.
- A caller that does not read what it was sent is disconnected.
- `gateway/process/connections.py` bounds how many connections are open.

A request that cannot be parsed is answered in OpenAI's error shape, after the requests before it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE
from uvicorn.server import ServerState

from gateway import errors
from gateway.config import Settings
from gateway.errors import ApiError
from gateway.process.connections import Connections, address_of, connections_allowed
from gateway.process.protocol import BatchingProtocol
from gateway.request.admission import request_id

log = logging.getLogger(__name__)

MAX_HEAD_BYTES = 32_768
MAX_HEADERS = 256
CHUNK_FRAMING = 64
"""Bytes around one piece of a chunked body that are not counted: its size and a short extension."""
MAX_PIPELINED = 16
UNREAD_SECONDS = 5.0
LINGER_BYTES = 262_144
"""How much of what still arrives then is read."""
LINGER_SECONDS = 2.0
"""How long a connection is read on after its last response, so that the caller gets it before the connection ends."""


@dataclass(frozen=True)
class Bounds:
    """What every connection of a process shares."""

    connections: Connections
    head_seconds: float
    stalled_seconds: float


def protocol(settings: Settings) -> type[asyncio.Protocol]:
    """The protocol for the connections of one server, as uvicorn's `http` option takes it."""
    most = connections_allowed(settings.max_connections, settings.max_concurrency)
    bounds = Bounds(
        connections=Connections(most, min(most, settings.max_connections_per_address)),
        head_seconds=settings.head_timeout_seconds,
        stalled_seconds=2 * settings.send_timeout_seconds,  # a stream's own timeout comes first
    )
    return cast("type[asyncio.Protocol]", partial(GuardedProtocol, bounds=bounds))


class GuardedProtocol(BatchingProtocol):
    """One connection of a caller."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        bounds: Bounds,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._bounds = bounds
        self._framing = 0
        """Bytes since the last message or piece of a body that belong to neither."""
        self._in_head = self._in_message = False
        self._upgraded = False
        """The head that has just been read asks for another protocol."""
        self._dropped = 0
        """Bytes that came after the refusal."""
        self._refusal: ApiError | None = None
        """Set once the connection's bytes cannot be parsed any further."""
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take the connection, or refuse it if there are too many."""
        super().connection_made(transport)
        if self._bounds.connections.open(self, address_of(self.client)):
            self._set_deadline(self._bounds.head_seconds, self._head_is_late)
        else:
            self._refusal = errors.too_many_connections()
            self._end_with(self._refusal)
            if not self._bounds.connections.linger(self):
                self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._bounds.connections.closed(self)
        self._cancel_deadline()
        self._unset_keepalive_if_required()  # uvicorn keeps its timer, and so this object, if the connection was reset
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def evict(self) -> None:
        """Close the connection, to make room for another one."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, at most `MAX_HEAD_BYTES` at a time so that an endless head is noticed."""
        if self._refusal is not None:
            self._dropped += len(data)
            if self._dropped > LINGER_BYTES and not self.transport.is_closing():
                self.flow.pause_reading()  # reading on only costs time
            return
        self._unset_keepalive_if_required()
        rest = data if len(data) <= MAX_HEAD_BYTES else memoryview(data)
        while len(rest):
            piece = rest[: MAX_HEAD_BYTES + 1 - self._framing]
            self._framing += len(piece)
            parsed = self._parse(piece)
            if self._refusal is not None or self.transport.is_closing():
                return
            rest = rest[parsed:]
        self._watch_head()

    def on_message_begin(self) -> None:
        """A request's first byte has arrived."""
        self._in_head = self._in_message = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A request's head is complete, and its endpoint starts or waits for its turn."""
        self._in_head = False
        self._framing = 0
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._upgraded = True
            return
        if len(self.headers) > MAX_HEADERS:
            raise errors.head_too_large(f"{MAX_HEADERS} lines")
        if len(self.pipeline) >= MAX_PIPELINED:
            raise errors.overloaded()
        super().on_headers_complete()
        self.headers = []  # trailers are no headers

    def on_chunk_header(self) -> None:
        """The size of a chunk has arrived."""
        self._framing = max(0, self._framing - CHUNK_FRAMING)

    def on_body(self, body: bytes) -> None:
        """A piece of a body has arrived."""
        self._framing = max(0, self._framing - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has arrived as a whole."""
        if self._upgraded:
            return
        self._in_message = False
        self._framing = 0
        if self.cycle.response_complete:  # nobody read the body, and its end is there
            self._cancel_deadline()
        else:
            self._bounds.connections.works(self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response has been sent."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        newest = self.cycle
        if newest.response_complete or newest.more_body:
            self._bounds.connections.waits(self)
        if self._refusal is not None:
            if self._current is not None and self._current.response_complete:  # the last request before the fault
                self._end_with(self._refusal)
        elif newest.response_complete and self._in_message and not self._in_head:
            self._set_deadline(UNREAD_SECONDS, self.transport.abort)
        elif self._in_head:
            self._watch_head()

    def pause_writing(self) -> None:
        """The caller does not read fast enough."""
        super().pause_writing()
        self._bounds.connections.stalls(self)
        if self._stalled is None:
            self._stalled = self.loop.call_later(self._bounds.stalled_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The caller has read what it was sent."""
        super().resume_writing()
        self._bounds.connections.flows(self)
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _parse(self, piece: bytes | memoryview) -> int:
        """Parse a piece, and return how much of it. All of it, unless a request in it asks for another protocol."""
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade()
            return int(upgrade.args[0])
        except httptools.HttpParserError as error:
            fault = error.__context__
            self._refuse(fault if isinstance(fault, ApiError) else errors.malformed(str(error)))
        else:
            if self._framing > MAX_HEAD_BYTES:
                self._refuse(errors.head_too_large(f"{MAX_HEAD_BYTES} bytes"))
        return len(piece)

    def _decline_upgrade(self) -> None:
        """Read the head again without its wish for another protocol: with it, the parser does not read the body."""
        self._upgraded = False
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        for name, value in self.headers:
            if name == b"connection":
                tokens = (token.strip() for token in value.lower().split(b","))
                lines.append(b"connection: " + b", ".join(set(tokens) & {b"close", b"keep-alive"}))
            elif name != b"upgrade":
                lines.append(b"%s: %s" % (name, value))
        self.parser = cast("Any", httptools.HttpRequestParser)(self)
        self._parse(b"\r\n".join([*lines, b"", b""]))

    def _watch_head(self) -> None:
        """Set a deadline if the connection waits for the rest of a head, and uvicorn's if it waits for another one."""
        newest = self.cycle
        if newest is not None and not newest.response_complete:  # pyright: ignore[reportUnnecessaryComparison]
            self._cancel_deadline()
        elif self._deadline is not None:  # a body that nobody reads has its own
            return
        elif self._framing or self._in_head:
            self._set_deadline(self._bounds.head_seconds, self._head_is_late)
        else:  # what arrived was the rest of an unread body
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def _head_is_late(self) -> None:
        self._deadline = None
        if self._framing or self._in_head:
            self._refuse(errors.head_too_slow())
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Parse nothing more. The error is sent after the responses to the requests before it."""
        self._refusal = error
        self._cancel_deadline()
        newest, current = self.cycle, self._current
        if newest is None or current is None:  # pyright: ignore[reportUnnecessaryComparison]
            self._end_with(error)
        elif not self._in_message or self._in_head:  # behind the newest request
            if newest.response_complete:
                self._end_with(error)
        elif newest is not current:  # in the body of a request that waits for its turn
            self.pipeline.popleft()
        elif newest.response_complete:
            self._end_with(None)
        elif newest.response_started:
            self.transport.abort()
        else:
            newest.disconnected = True
            newest.message_event.set()
            self._end_with(error)

    def _end_with(self, error: ApiError | None) -> None:
        """Send the error and nothing after it. What still arrives is dropped for a while."""
        if error is not None:
            self.transport.write(self._response(error))
        self._unset_keepalive_if_required()
        self.flow.resume_reading()
        self._set_deadline(LINGER_SECONDS, self.transport.abort)
        self.transport.write_eof()

    def _response(self, error: ApiError) -> bytes:
        """The error as the bytes of a response. No endpoint makes it, because there is no request."""
        new = request_id()
        log.debug("%s: refused with %d: %s", new, error.status, error.message)
        response = errors.response(error)
        headers = [
            *self.server_state.default_headers,
            *response.raw_headers,
            (b"x-request-id", new.encode()),
            (b"connection", b"close"),
        ]
        lines = b"".join(b"%s: %s\r\n" % header for header in headers)
        return b"%s%s\r\n%s" % (STATUS_LINE[error.status], lines, bytes(response.body))

    def _set_deadline(self, seconds: float, expired: Callable[[], None]) -> None:
        self._cancel_deadline()
        self._deadline = self.loop.call_later(seconds, expired)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
