"""How does a stream get from the engine to the caller? Its bytes pass through; its usage is read from them.

Bytes are split at the ends of events and otherwise passed on unchanged. A search for a few words finds the events that
the gateway must see (usage, finish reason, error, the end), and only those are parsed. Because bytes are split at
events, a keep-alive comment, or an error event when the engine dies, never lands inside another event, and no UTF-8
character is split.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from typing import cast

from sse_starlette import ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import errors
from gateway.answer.cascade import Answer
from gateway.answer.usage import Transcript, hide_reasoning, index_of, sum_choices
from gateway.errors import ApiError
from gateway.events import EVENT_END, MAX_EVENT_BYTES, Json, data_of, encode_event, objects, parse_object, split_events
from gateway.request.caller import Caller, CallerLeftError

PING_SECONDS = 15.0
_COMMENT = ServerSentEvent(comment="keep-alive", sep="\n").encode()
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would buffer the events
)

# Quotes inside a JSON string are escaped, so generated text cannot look like one of these fields.
_SIGNIFICANT = re.compile(rb'"usage"\s*:\s*\{|"finish_reason" ?: ?"|"error"\s*:\s*[{"]|^data:\s*\[DONE\]', re.MULTILINE)
_HINTS = (b'"usage"', b'"finish_reason":"', b'"finish_reason": "', b'"finish_reason" :', b'"error"', b"[DONE]")
"""An event without one of these is not significant. Searching for them is many times faster than the expression."""


class EndReason(StrEnum):
    """Why a stream ended. All but `COMPLETE` are what the ledger's field `error` says."""

    COMPLETE = ""
    CALLER_LEFT = "caller left"
    CALLER_TOO_SLOW = "caller too slow"
    GATEWAY_STOPPED = "gateway stopped"


class Relay:
    """Passes one stream's bytes through, and keeps what they say about usage, finish reason and failure."""

    def __init__(
        self,
        wants_usage: bool,
        complete: Callable[[Json | None, Transcript], Json],
        *,
        choices: int = 1,
        hides_reasoning: bool = False,
    ) -> None:
        """
        Args:
            wants_usage: the caller asked for the usage event.
            complete: fills in what the engine's usage leaves out; gets None if the engine reported none.
            choices: how many choices the stream has side by side (`n`); it has ended when each of them has.
            hides_reasoning: the caller does not want the reasoning. The engine still sends it, because otherwise the
                cost of a stream that breaks off would be unknown.
        """
        self._wants_usage, self._hides_reasoning = wants_usage, hides_reasoning
        self._complete, self._choices = complete, choices
        self._incomplete = b""
        """The start of an event whose end has not come yet."""
        self._last_event: Json = {}
        self._usage_sent = False
        self.transcript = Transcript()
        self._final_usage: Json | None = None
        self._usage_so_far: dict[int, Json] = {}
        """By choice, if the engine reports usage as it generates."""
        self.finish_reason = ""
        """Of the choice that ended last."""
        self._ended_choices: set[int] = set()
        self.failure: ApiError | None = None
        """Why the stream broke off, if it did."""
        self.done = False
        """The stream is over: the engine has sent its end, or it has failed."""

    @property
    def usage(self) -> Json | None:
        """What the engine has reported, completed if the stream has ended; None if it has reported nothing."""
        return self._final_usage or (sum_choices(list(self._usage_so_far.values())) if self._usage_so_far else None)

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes from the engine. Returns complete events for the caller, perhaps none."""
        if self.done:
            return b""
        data = self._incomplete + chunk if self._incomplete else chunk
        end = len(data) if data.endswith(b"\n\n") else _end_of_last(data, 0, len(data))
        events, self._incomplete = data[:end], data[end:]
        if len(self._incomplete) > MAX_EVENT_BYTES:
            return self.fail(errors.interrupted("The engine sent an event that is too large."))
        if not events:
            return b""
        out: list[bytes] = []
        at = 0
        while not self.done and (hint := _first_hint(events, at)) >= 0:
            start = max(at, _end_of_last(events, at, hint))
            ends = EVENT_END.search(events, hint)
            assert ends is not None  # these events are complete
            event = events[start : ends.end()]
            out += (self._through(events[at:start]), self._inspect(event))
            at = ends.end()
        if not self.done:
            out.append(self._through(events[at:] if at else events))
        return b"".join(out)

    def end(self) -> bytes:
        """The engine has closed the connection. Returns the caller's last events."""
        tail = self.feed(b"\n\n") if self._incomplete and self.finish_reason else b""
        if self.done:
            return tail
        if len(self._ended_choices) < self._choices:
            return tail + self.fail(errors.interrupted())
        return tail + self._inspect(b"data: [DONE]\n\n")

    def fail(self, failure: ApiError) -> bytes:
        """Break the stream off. Returns its last event, the error."""
        self.failure, self.done = failure, True
        return failure.event()

    def _through(self, events: bytes) -> bytes:
        if events:
            self.transcript.add_events(events)
        if not self._hides_reasoning:
            return events
        return b"".join(map(_without_reasoning, split_events(events)[0]))

    def _inspect(self, event: bytes) -> bytes:
        """Read one event that may be significant. Returns what the caller gets in its place."""
        if not _SIGNIFICANT.search(event):
            return self._through(event)
        data = data_of(event)
        if data == b"[DONE]":
            self.done = True
            return self._usage_event(self.usage) + event
        parsed = parse_object(data)
        if parsed is None:
            return event
        if parsed.get("error"):
            return self.fail(errors.from_event(parsed))
        self._last_event = parsed
        self.transcript.add_events(event)
        choices, usage = objects(parsed.get("choices")), parsed.get("usage")
        for choice in choices:
            if reason := choice.get("finish_reason"):
                self.finish_reason = str(reason)
                self._ended_choices.add(index_of(choice))
        if isinstance(usage, dict):
            if not choices:
                return self._usage_event(cast("Json", usage))
            # A running total; the last one is final if no usage event follows.
            self._usage_so_far |= {index_of(choice): cast("Json", usage) for choice in choices}
        return _without_reasoning(event) if self._hides_reasoning else event

    def _usage_event(self, reported: Json | None) -> bytes:
        """The usage event, once and only for a caller that asked for it; before the end if the engine sent none."""
        if self._usage_sent:
            return b""
        self._final_usage = self._complete(reported, self.transcript)
        if not self._wants_usage:
            return b""
        self._usage_sent = True
        envelope = {name: value for name, value in self._last_event.items() if name not in ("choices", "usage")}
        return encode_event({**envelope, "choices": [], "usage": self._final_usage})


async def relayed(relay: Relay, answer: Answer, settle: Callable[[EndReason], None]) -> AsyncGenerator[bytes]:
    """Yield the caller's bytes. Settle before the last of them, so that a caller that has the end is in the ledger.

    Args:
        settle: called once with `COMPLETE` when the stream is complete or has failed; not if the caller leaves.
    """

    def settled(events: bytes) -> bytes:
        if relay.done:
            answer.relayed = relay.failure is None
            settle(EndReason.COMPLETE)
        return events

    try:
        chunk = answer.first_bytes or await answer.read()
        while chunk:
            if events := settled(relay.feed(chunk)):
                yield events
            if relay.done:
                return
            chunk = await answer.read()
    except (TimeoutError, OSError):
        yield settled(relay.fail(errors.interrupted()))
    else:
        if events := settled(relay.end()):
            yield events


def _first_hint(events: bytes, start: int) -> int:
    """The position of the next hint from `start` on; -1 if there is none."""
    first = -1
    for hint in _HINTS:
        at = events.find(hint, start, None if first < 0 else first + len(hint) - 1)
        if at >= 0:
            first = at
    return first


def _without_reasoning(event: bytes) -> bytes:
    """The event with its reasoning removed; nothing if it has only reasoning."""
    parsed = parse_object(data_of(event)) if b'"reasoning' in event else None
    if parsed is None:
        return event
    choices = objects(parsed.get("choices"))
    had_reasoning = hide_reasoning(parsed, "delta")
    deltas = [delta for choice in choices for delta in objects([choice.get("delta")])]
    has_more = any(any(delta.values()) for delta in deltas) or any(choice.get("finish_reason") for choice in choices)
    return b"" if had_reasoning and not has_more else encode_event(parsed)


def _end_of_last(events: bytes, start: int, end: int) -> int:
    """The end of the last event that ends between these positions; 0 if none does."""
    newline, crlf = events.rfind(b"\n\n", start, end), events.rfind(b"\r\n\r\n", start, end)
    return max(newline + 2 if newline >= 0 else 0, crlf + 4 if crlf >= 0 else 0)


class RelayedStream(Response):
    """Sends a stream of events to a caller that may leave or be slow, in one task.

    sse-starlette's response does the same with four tasks and their cancel scopes, which cost as much as the rest of
    a stream (docs/decisions/0024-hot-path.md); only its encoding of comments is used. However the stream ends,
    `ended` is called. A generator could not promise that: if the caller leaves before the first byte, it never runs.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        headers: dict[str, str],
        caller: Caller,
        send_timeout: float,
        ended: Callable[[EndReason], None],
    ) -> None:
        """`ended` gets the reason; it is `COMPLETE` if the stream was sent in full."""
        self.status_code = 200
        self.raw_headers = [*_HEADERS, *((name.encode(), value.encode()) for name, value in headers.items())]
        self._events, self._caller, self._send_timeout, self._ended = events, caller, send_timeout, ended
        self._sending_since: float | None = None
        """When the events now being sent were handed to the server; None while the caller has taken everything."""
        self._last_sent = 0.0
        """When the caller last took something."""
        self._now: Callable[[], float]
        self._too_slow = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = EndReason.GATEWAY_STOPPED
        try:
            with self._caller.waiting() as task, self._watch(task, send):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for events in self._events:
                    await self._send(send, events, more=True)
                await self._send(send, b"", more=False)
            reason = EndReason.COMPLETE
        except CallerLeftError:
            reason = EndReason.CALLER_LEFT
        except TimeoutError:
            reason = EndReason.CALLER_TOO_SLOW
        except asyncio.CancelledError:  # the server is stopping: nothing else cancels this task
            if self._sending_since is None:  # otherwise the caller would first have to take what it was sent
                await self._send(send, errors.stopping().event(), more=False)
            else:
                raise
        finally:
            await self._events.aclose()
            self._ended(reason)

    async def _send(self, send: Send, events: bytes, more: bool) -> None:
        self._sending_since = self._now()
        await send({"type": "http.response.body", "body": events, "more_body": more})
        self._last_sent, self._sending_since = self._now(), None

    @contextmanager
    def _watch(self, task: asyncio.Task[object], send: Send) -> Generator[None]:
        """Cancel the task if the caller does not take what it is sent, and send a comment after a long silence."""
        loop = asyncio.get_running_loop()
        self._now, self._last_sent = loop.time, loop.time()
        comments = set[asyncio.Task[None]]()

        def check() -> None:
            nonlocal timer
            now = loop.time()
            if self._sending_since is not None and now - self._sending_since >= self._send_timeout:
                self._too_slow = True
                task.cancel()
                return
            if self._sending_since is None and now - self._last_sent >= PING_SECONDS:
                comments.add(comment := loop.create_task(self._send(send, _COMMENT, more=True)))
                comment.add_done_callback(comments.discard)
            timer = loop.call_later(min(self._send_timeout, PING_SECONDS), check)

        timer = loop.call_later(min(self._send_timeout, PING_SECONDS), check)
        try:
            yield
        except asyncio.CancelledError:
            if self._too_slow and not task.uncancel():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
            for comment in comments:
                comment.cancel()
