"""How does a stream get from the engine to the caller? Bytes through, as they come; usage out of them.

Bytes are cut at the ends of events and otherwise handed on untouched: a search for a few words tells whether a piece
has anything in it that the gateway must see (usage, finish reason, error, the end), and only such events are parsed.
Cutting at events means that a keep-alive comment, or an error event when the engine dies, never lands in the middle of
one, and that a character is never torn.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from typing import cast

from sse_starlette import ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import errors
from gateway.answer.cascade import Answer
from gateway.answer.usage import Transcript, hide_reasoning, index_of, totalled
from gateway.errors import ApiError
from gateway.events import EVENT_END, MAX_EVENT_BYTES, Json, data_of, encode_event, objects, parse_object, split_events
from gateway.request.caller import Caller, CallerLeftError

PING_SECONDS = 15.0
_COMMENT = ServerSentEvent(comment="the answer goes on", sep="\n").encode()
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events
)

# Quotes inside a JSON string are escaped, so generated text cannot look like one of these fields.
_INTERESTING = re.compile(rb'"usage"\s*:\s*\{|"finish_reason" ?: ?"|"error"\s*:\s*[{"]|^data:\s*\[DONE\]', re.MULTILINE)
_HINTS = (b'"usage"', b'"finish_reason":"', b'"finish_reason": "', b'"finish_reason" :', b'"error"', b"[DONE]")
"""Without one of these there is nothing of interest, and looking for them is many times as fast."""


class Relay:
    """One stream's bytes on their way through, and what was learned from them."""

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
            complete: fills in what the engine's usage leaves out; given None where the engine reported none.
            choices: how many answers the stream has side by side (`n`); it has ended when each of them has.
            hides_reasoning: the caller does not want to see the thinking. The engine sends it all the same, or nobody
                would know what a stream that breaks off has spent.
        """
        self._wants_usage, self._hides_reasoning = wants_usage, hides_reasoning
        self._complete, self._choices = complete, choices
        self._rest = b""
        self._last: Json = {}
        self._usage_sent = False
        self.transcript = Transcript()
        self._final: Json | None = None
        self._running: dict[int, Json] = {}
        """By choice, where the engine reports as it goes."""
        self.finish_reason = ""
        """Of the choice that ended last."""
        self._ended: set[int] = set()
        """The choices that have."""
        self.failure: ApiError | None = None
        """Why the stream broke off, where it did."""
        self.done = False
        """The engine has said that this is all."""

    @property
    def usage(self) -> Json | None:
        """What the engine has reported, completed where the stream has ended; None where it has reported nothing."""
        return self._final or (totalled(list(self._running.values())) if self._running else None)

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes from the engine; what comes back is for the caller, whole events only and perhaps nothing."""
        if self.done:
            return b""
        data = self._rest + chunk if self._rest else chunk
        end = len(data) if data.endswith(b"\n\n") else _end_of_last(data, 0, len(data))
        events, self._rest = data[:end], data[end:]
        if len(self._rest) > MAX_EVENT_BYTES:
            return self.fail(errors.interrupted("The engine sent an event that does not end."))
        if not events:
            return b""
        out: list[bytes] = []
        at = 0
        while not self.done and (hint := _first_hint(events, at)) >= 0:
            start = max(at, _end_of_last(events, at, hint))
            ends = EVENT_END.search(events, hint)
            assert ends is not None  # these are whole events
            event = events[start : ends.end()]
            out += (self._through(events[at:start]), self._look(event))
            at = ends.end()
        if not self.done:
            out.append(self._through(events[at:] if at else events))
        return b"".join(out)

    def end(self) -> bytes:
        """The engine has closed the connection; what comes back is the last the caller gets."""
        tail = self.feed(b"\n\n") if self._rest and self.finish_reason else b""
        if self.done:
            return tail
        if len(self._ended) < self._choices:
            return tail + self.fail(errors.interrupted())
        return tail + self._look(b"data: [DONE]\n\n")

    def fail(self, failure: ApiError) -> bytes:
        """Break the stream off; what comes back is its last event."""
        self.failure, self.done = failure, True
        return failure.event()

    def _through(self, events: bytes) -> bytes:
        if events:
            self.transcript.add_events(events)
        return self._shown(events) if self._hides_reasoning else events

    def _shown(self, events: bytes) -> bytes:
        return b"".join(map(_without_reasoning, split_events(events)[0]))

    def _look(self, event: bytes) -> bytes:
        """One event that may matter; what comes back takes its place."""
        if not _INTERESTING.search(event):
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
        self._last = parsed
        self.transcript.add_events(event)
        choices, usage = objects(parsed.get("choices")), parsed.get("usage")
        for choice in choices:
            if reason := choice.get("finish_reason"):
                self.finish_reason = str(reason)
                self._ended.add(index_of(choice))
        if isinstance(usage, dict):
            if not choices:
                return self._usage_event(cast("Json", usage))
            # A running total, of which the last is final where no event of its own follows.
            self._running |= {index_of(choice): cast("Json", usage) for choice in choices}
        return _without_reasoning(event) if self._hides_reasoning else event

    def _usage_event(self, reported: Json | None) -> bytes:
        """The usage event, once and only for a caller that asked; where an engine sent none, before the end."""
        if self._usage_sent:
            return b""
        self._final = self._complete(reported, self.transcript)
        if not self._wants_usage:
            return b""
        self._usage_sent = True
        same = {name: value for name, value in self._last.items() if name not in ("choices", "usage")}
        return encode_event({**same, "choices": [], "usage": self._final})


async def relayed(relay: Relay, answer: Answer, settle: Callable[[str], None]) -> AsyncGenerator[bytes]:
    """The stream for the caller. It is settled before its last bytes leave: a caller that has the end is in the ledger.

    Args:
        settle: called once with "" when the stream is complete or has failed; not if the caller leaves.
    """

    def settled(events: bytes) -> bytes:
        if relay.done:
            answer.relayed = relay.failure is None
            settle("")
        return events

    try:
        chunk = answer.first or await answer.more()
        while chunk:
            if events := settled(relay.feed(chunk)):
                yield events
            if relay.done:
                return
            chunk = await answer.more()
    except (TimeoutError, OSError):
        yield settled(relay.fail(errors.interrupted()))
    else:
        if events := settled(relay.end()):
            yield events


def _first_hint(events: bytes, start: int) -> int:
    """Where the next thing stands that may be of interest; -1 where nothing does."""
    first = -1
    for hint in _HINTS:
        at = events.find(hint, start, None if first < 0 else first + len(hint) - 1)
        if at >= 0:
            first = at
    return first


def _without_reasoning(event: bytes) -> bytes:
    """The event as it is without the thinking in it; nothing where that is all there is."""
    parsed = parse_object(data_of(event)) if b'"reasoning' in event else None
    if parsed is None:
        return event
    choices = objects(parsed.get("choices"))
    thought = hide_reasoning(parsed, "delta")
    deltas = [delta for choice in choices for delta in objects([choice.get("delta")])]
    told = any(any(delta.values()) for delta in deltas) or any(choice.get("finish_reason") for choice in choices)
    return b"" if thought and not told else encode_event(parsed)


def _end_of_last(events: bytes, start: int, end: int) -> int:
    """Where the last event that ends within these places ends; 0 where none does."""
    newline, crlf = events.rfind(b"\n\n", start, end), events.rfind(b"\r\n\r\n", start, end)
    return max(newline + 2 if newline >= 0 else 0, crlf + 4 if crlf >= 0 else 0)


class RelayedStream(Response):
    """A stream of events to a caller that may leave or be slow, as one task.

    sse-starlette's response does the same with four tasks and their cancel scopes, which cost as much as all else that
    a stream takes (docs/decisions/0024-hot-path.md); its words for a comment are used. Whatever the end is, it is told
    to `ended`: a generator cannot do that, for a caller that leaves before the first byte means that it never runs.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes],
        headers: dict[str, str],
        caller: Caller,
        send_timeout: float,
        ended: Callable[[str], None],
    ) -> None:
        """`ended` gets `caller left`, `caller too slow` or `gateway stopped`, and "" for a stream sent whole."""
        self.status_code = 200
        self.raw_headers = [*_HEADERS, *((name.encode(), value.encode()) for name, value in headers.items())]
        self._events, self._caller, self._send_timeout, self._ended = events, caller, send_timeout, ended
        self._sending: float | None = None
        """Since when the caller has been given something that it has not taken."""
        self._sent = 0.0
        self._now: Callable[[], float]
        self._too_slow = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        why = "gateway stopped"
        try:
            with self._caller.waiting() as task, self._watched(task, send):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                async for events in self._events:
                    await self._give(send, events, more=True)
                await self._give(send, b"", more=False)
            why = ""
        except CallerLeftError:
            why = "caller left"
        except TimeoutError:
            why = "caller too slow"
        except asyncio.CancelledError:  # the server's end: nobody else cancels
            if self._sending is None:  # else the caller would have to take what it has first
                await self._give(send, errors.stopping().event(), more=False)
            else:
                raise
        finally:
            await self._events.aclose()
            self._ended(why)

    async def _give(self, send: Send, events: bytes, more: bool) -> None:
        self._sending = self._now()
        await send({"type": "http.response.body", "body": events, "more_body": more})
        self._sent, self._sending = self._now(), None

    @contextmanager
    def _watched(self, task: asyncio.Task[object], send: Send) -> Generator[None]:
        """Cancel the task when the caller does not take what it is given, and comment on a long silence."""
        loop = asyncio.get_running_loop()
        self._now, self._sent = loop.time, loop.time()
        comments = set[asyncio.Task[None]]()

        def look() -> None:
            nonlocal timer
            now = loop.time()
            if self._sending is not None and now - self._sending >= self._send_timeout:
                self._too_slow = True
                task.cancel()
                return
            if self._sending is None and now - self._sent >= PING_SECONDS:
                comments.add(comment := loop.create_task(self._give(send, _COMMENT, more=True)))
                comment.add_done_callback(comments.discard)
            timer = loop.call_later(min(self._send_timeout, PING_SECONDS), look)

        timer = loop.call_later(min(self._send_timeout, PING_SECONDS), look)
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
