"""How does a stream get from the engine to the caller? Bytes through, as they come; usage out of them.

Bytes are cut at the ends of events and otherwise handed on untouched: one search by a regular expression tells whether
a piece has anything in it that the gateway must see (usage, finish reason, error, the end), and only such events are
parsed. Cutting at events means that a keep-alive comment, or an error event when the engine dies, never lands in the
middle of one, and that a character is never torn.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from typing import cast

from sse_starlette import EventSourceResponse
from sse_starlette.sse import SendTimeoutError
from starlette.types import Message, Receive, Scope, Send

from gateway import errors
from gateway.errors import ApiError
from gateway.usage import Json, Transcript, objects, parse_object

# At debug level it logs every chunk, and chunks are the callers' answers.
logging.getLogger("sse_starlette").setLevel(logging.INFO)

MAX_EVENT_BYTES = 8 * 2**20

# Quotes inside a JSON string are escaped, so generated text cannot look like one of these fields.
_INTERESTING = re.compile(
    rb'"usage"\s*:\s*\{|"finish_reason"\s*:\s*"|"error"\s*:\s*[{"]|^data:\s*\[DONE\]', re.MULTILINE
)
_BLANK_LINES = (b"\n\n", b"\r\n\r\n")
_EVENT_END = re.compile(rb"(?<=\n\n)|(?<=\r\n\r\n)")


class Relay:
    """One stream's bytes on their way through, and what was learned from them."""

    def __init__(self, wants_usage: bool, complete: Callable[[Json | None, Transcript], Json]) -> None:
        """
        Args:
            wants_usage: the caller asked for the usage event.
            complete: fills in what the engine's usage leaves out; given None where the engine reported none.
        """
        self._wants_usage = wants_usage
        self._complete = complete
        self._rest = b""
        self._last: Json = {}
        self._usage_sent = False
        self.transcript = Transcript()
        self.usage: Json | None = None
        """Completed; None until the engine has reported it or the stream has ended."""
        self.finish_reason = ""
        self.failure: ApiError | None = None
        """Why the stream broke off, where it did."""
        self.done = False
        """The engine has said that this is all."""

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes from the engine; what comes back is for the caller, whole events only and perhaps nothing."""
        if self.done:
            return b""
        data = self._rest + chunk if self._rest else chunk
        end = max((at + len(blank) for blank in _BLANK_LINES if (at := data.rfind(blank)) >= 0), default=0)
        events, self._rest = data[:end], data[end:]
        if len(self._rest) > MAX_EVENT_BYTES:
            return self.fail(errors.interrupted("The engine sent an event that does not end."))
        if not events:
            return b""
        if not _INTERESTING.search(events):
            self.transcript.add_events(events)
            return events
        return b"".join(self._look(event) for event in _EVENT_END.split(events) if event)

    def end(self) -> bytes:
        """The engine has closed the connection; what comes back is the last the caller gets."""
        tail = self.feed(b"\n\n") if self._rest and self.finish_reason else b""
        if self.done:
            return tail
        if not self.finish_reason:
            return tail + self.fail(errors.interrupted())
        return tail + self._look(b"data: [DONE]\n\n")

    def fail(self, failure: ApiError) -> bytes:
        """Break the stream off; what comes back is its last event."""
        self.failure, self.done = failure, True
        return failure.event()

    def _look(self, event: bytes) -> bytes:
        """One event that may matter; what comes back takes its place."""
        if self.done:
            return b""
        data = b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        if data == b"[DONE]":
            self.done = True
            return self._usage_event(self.usage) + event
        parsed = parse_object(data)
        if parsed is None:
            return event
        if parsed.get("error"):
            return self.fail(failure(parsed))
        self._last = parsed
        self.transcript.add_events(event)
        choices, usage = objects(parsed.get("choices")), parsed.get("usage")
        for choice in choices:
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
        if isinstance(usage, dict):
            if not choices:
                return self._usage_event(cast("Json", usage))
            self.usage = usage  # a running total, of which the last is final where no event of its own follows
        return event

    def _usage_event(self, reported: Json | None) -> bytes:
        """The usage event, once and only for a caller that asked; where an engine sent none, before the end."""
        if self._usage_sent:
            return b""
        self.usage = self._complete(reported, self.transcript)
        if not self._wants_usage:
            return b""
        self._usage_sent = True
        same = {name: value for name, value in self._last.items() if name not in ("choices", "usage")}
        return _event({**same, "choices": [], "usage": self.usage})


def failure(parsed: Json) -> ApiError:
    """An error event of an engine, as ours; the status is the one it names, 500 where it names none."""
    error = parsed["error"]
    code = cast("Json", error).get("code") if isinstance(error, dict) else None
    return errors.from_engine(code if isinstance(code, int) and 400 <= code < 600 else 500, parsed)


def leading_error(first: bytes) -> ApiError | None:
    """The error that a stream consists of, where an engine refuses only after it has said 200."""
    event = first.lstrip()
    if not event.startswith(b"data:") or b'"error"' not in event:
        return None
    parsed = parse_object(_EVENT_END.split(event)[0][5:])
    return failure(parsed) if parsed is not None and parsed.get("error") else None


class RelayedStream(EventSourceResponse):
    """sse-starlette's response (disconnects, keep-alive comments, send timeout, drain) over bytes that are events.

    It departs from the norm in two ways. Its end is told to `ended`, whatever the end was: the generator cannot do
    that, for a caller that leaves before the first byte means that it never runs. And a caller too slow to take what
    was sent is an end like another, not an exception for the server's log.
    """

    def __init__(
        self,
        events: AsyncIterator[bytes],
        headers: dict[str, str],
        send_timeout: float,
        drain_seconds: float,
        ended: Callable[[str], None],
    ) -> None:
        """`ended` gets `caller left`, `caller too slow` or `gateway stopped`, and "" for a stream sent whole."""
        super().__init__(  # pyright: ignore[reportUnknownMemberType]
            events,
            headers=headers,
            send_timeout=send_timeout,
            shutdown_grace_period=drain_seconds,
            client_close_handler_callable=self._caller_left,
        )
        self._ended = ended
        self._why = "gateway stopped"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except SendTimeoutError:
            self._why = "caller too slow"
        finally:
            self._ended(self._why)

    async def _stream_response(self, send: Send) -> None:
        await super()._stream_response(send)
        self._why = ""

    async def _caller_left(self, _: Message) -> None:
        if self._why:  # a caller that hangs up on the last byte has had everything
            self._why = "caller left"


def _event(data: Json) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
