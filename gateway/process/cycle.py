"""How is one request of a connection read, and its response written? uvicorn's cycle, with less of what is not needed.

Differences from uvicorn's:

- Whoever serves the request is called when its caller leaves (`on_left`), where uvicorn wants a task that listens.
- A body that has arrived with its head is there without waiting (`whole_body`).
- A head's names and values are checked all at once. Nothing is logged of a request.
- A response of unknown length to an HTTP/1.0 request ends with the connection; uvicorn would send chunks, which such a
  caller cannot read.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from typing import Any, cast

from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent, HTTPRequestEvent, HTTPScope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from gateway.request.caller import CONNECTION

log = logging.getLogger("uvicorn.error")

_NOT_IN_A_NAME = re.compile(rb"[\x00-\x1f\x7f()<>@,;:\[\]={} \t\\\"]")
_NOT_IN_A_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_WITHOUT_BODY = frozenset({204, 304})


class Cycle(RequestResponseCycle):
    """One request and its response. uvicorn's protocol and `GuardedProtocol` read and set its state."""

    def __init__(
        self,
        scope: HTTPScope,
        transport: asyncio.Transport,
        flow: FlowControl,
        *,
        default_headers: list[tuple[bytes, bytes]],
        expect_100_continue: bool,
        keep_alive: bool,
        on_response: Callable[[], None],
    ) -> None:
        """`on_response` is called when the response is complete."""
        cast("dict[str, Any]", scope)[CONNECTION] = self
        self.scope, self.transport, self.flow, self.logger = scope, transport, flow, log
        self.default_headers, self.on_response = default_headers, on_response
        self.waiting_for_100_continue, self.keep_alive = expect_100_continue, keep_alive
        self.disconnected = False
        self.body = bytearray()
        self.more_body = True
        self.response_started = self.response_complete = False
        self.chunked_encoding: bool | None = None
        self.expected_content_length = 0
        self._until_closed = False
        """The response's end is the connection's."""
        self._has_news = False
        self._waiter: asyncio.Future[None] | None = None
        self._on_left: Callable[[], None] | None = None

    async def run_asgi(self, app: ASGI3Application) -> None:
        """Let the application answer."""
        await super().run_asgi(app)
        # Otherwise both keep each other, and all of the request, until garbage is collected.
        cast("dict[str, Any]", self.scope).pop(CONNECTION, None)

    @property
    def message_event(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What uvicorn sets when something has changed: this cycle itself."""
        return self

    def set(self) -> None:
        """Part of the body has arrived, the response is complete, or the caller has left."""
        self._has_news = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self.disconnected and self._on_left is not None:
            call, self._on_left = self._on_left, None
            call()

    def on_left(self, call: Callable[[], None] | None) -> None:
        """Call this once when the caller leaves, at once if it has left; with None, nothing is called any more."""
        self._on_left = call
        if call is not None and self.disconnected:
            self.set()

    def whole_body(self) -> bytes | None:
        """The request's body, if all of it has arrived."""
        if self.more_body or self.disconnected or self.response_complete:
            return None
        self.flow.resume_reading()
        body, self.body, self._has_news = bytes(self.body), bytearray(), False
        return body

    async def receive(self) -> ASGIReceiveEvent:
        """The next part of the body, or that the caller has left."""
        if self.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.waiting_for_100_continue = False
        if not self.disconnected and not self.response_complete:
            self.flow.resume_reading()
            while not self._has_news:
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            self._has_news = False
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        message: HTTPRequestEvent = {"type": "http.request", "body": bytes(self.body), "more_body": self.more_body}
        self.body = bytearray()
        return message

    async def send(self, message: ASGISendEvent) -> None:
        """Write the head or a part of the response's body. Waits while the caller does not read."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_complete or (message["type"] == "http.response.start") == self.response_started:
            raise RuntimeError(f"unexpected ASGI message {message['type']}")
        if message["type"] == "http.response.start":
            self._write_head(message["status"], [*self.default_headers, *message.get("headers", [])])
        else:
            body = cast("dict[str, Any]", message)
            self._write_body(body.get("body", b""), more=body.get("more_body", False))

    def _write_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if _NOT_IN_A_NAME.search(b"".join([name for name, _ in headers])):
            raise RuntimeError("a header's name is not valid")
        if _NOT_IN_A_VALUE.search(b"".join([value for _, value in headers])):
            raise RuntimeError("a header's value is not valid")
        self.response_started, self.waiting_for_100_continue = True, False
        lines = [STATUS_LINE[status]]
        says_close = False
        for mixed, value in headers:
            name = mixed.lower()
            if name == b"content-length":
                self.expected_content_length, self.chunked_encoding = int(value), False
            elif name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
                self.keep_alive, says_close = False, True
            lines += (name, b": ", value, b"\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _WITHOUT_BODY:
            self._until_closed = self.scope["http_version"] == "1.0"
            self.chunked_encoding = not self._until_closed
            if self.chunked_encoding:
                lines.append(b"transfer-encoding: chunked\r\n")
        if not self.keep_alive and not says_close:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self.transport.write(b"".join(lines))

    def _write_body(self, body: bytes, *, more: bool) -> None:
        if self.scope["method"] == "HEAD":
            self.expected_content_length = 0
        elif self.chunked_encoding:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            self.transport.write(chunk if more else chunk + b"0\r\n\r\n")
        else:
            if not self._until_closed:
                self.expected_content_length -= len(body)
                if self.expected_content_length < 0:
                    raise RuntimeError("the response is longer than its content-length")
            self.transport.write(body)
        if more:
            return
        if self.expected_content_length:
            raise RuntimeError("the response is shorter than its content-length")
        self.response_complete = True
        self.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
