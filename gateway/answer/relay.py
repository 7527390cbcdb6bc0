"""How does a stream get from the engine to the caller? Its bytes pass through; its usage is read from them.

Bytes are split at the ends of events and otherwise passed on unchanged. A search for a few words finds the events that
the gateway must see (usage, finish reason, error, the end), and only those are parsed. Because bytes are split at
events, a keep-alive comment, or an error event when the engine dies, never lands inside another event, and no UTF-8
character is split.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from enum import StrEnum
from typing import cast

from sse_starlette import ServerSentEvent
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway import errors
from gateway.answer.continuation import Source
from gateway.answer.cost import Cost, Terms, cost_without_a_fault, is_plausible
from gateway.answer.hiding import HiddenThinking
from gateway.answer.hints import Hints, found_hints
from gateway.answer.transcript import MAX_CHOICES, MAX_FINISH_REASON, Transcript, index_of
from gateway.answer.usage import sum_choices
from gateway.errors import ApiError
from gateway.events import (
    MAX_EVENT_BYTES,
    EventBuffer,
    Json,
    UnreadableError,
    data_of,
    encode_event,
    line_of,
    objects,
    parse_object,
    read_object,
    split_events,
)
from gateway.request.caller import Caller, CallerLeftError

PING_SECONDS = 15.0
DONE = b"data: [DONE]\n\n"
_COMMENT = ServerSentEvent(comment="keep-alive", sep="\n").encode()
_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would buffer the events
)

log = logging.getLogger("laconic")

# Quotes inside a JSON string are escaped, so generated text cannot look like one of these fields.
_SIGNIFICANT = re.compile(
    rb'"usage"\s*:\s*[^n\s]|"finish_reason": ?"|"error"\s*:\s*[^n\s]|^data:\s*\[DONE\]', re.MULTILINE
)


class EndReason(StrEnum):
    """Why a stream ended. All but `COMPLETE` are what the ledger's field `error` says."""

    COMPLETE = ""
    CALLER_LEFT = "caller left"
    CALLER_TOO_SLOW = "caller too slow"
    GATEWAY_STOPPED = "gateway stopped"


class Relay:
    """Passes one stream's bytes through, and keeps what they say about usage, finish reason and failure."""

    def __init__(self, terms: Terms, *, wants_usage: bool, hides_reasoning: bool = False) -> None:
        """
        Args:
            terms: what is known of the request, for its cost; the stream has ended when each of its choices has.
            wants_usage: the caller asked for the usage event.
            hides_reasoning: the caller does not want the reasoning. The engine still sends it, because otherwise the
                cost of a stream that breaks off would be unknown.
        """
        self._terms, self._wants_usage = terms, wants_usage
        self._hidden = HiddenThinking(terms.marks, thinks=terms.thinks) if hides_reasoning else None
        self._left_bytes = terms.most_sent
        """How much the engine may still send."""
        self._buffer = EventBuffer()
        self._last_event: Json = {}
        self.transcript = Transcript()
        self._cost: Cost | None = None
        self._reported: Json | None = None
        """The usage in an event of its own."""
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
        """What the engine has reported; None if it has reported nothing."""
        return self._reported or (sum_choices(list(self._usage_so_far.values())) if self._usage_so_far else None)

    @property
    def cost(self) -> Cost:
        """What the stream has cost, decided once: when it has ended, or when this is asked for."""
        if self._cost is None:
            self._cost = cost_without_a_fault(self.usage, self.transcript, self._terms)
        return self._cost

    def feed(self, chunk: bytes) -> bytes:
        """Take bytes from the engine. Returns complete events for the caller, perhaps none."""
        if self.done:
            return b""
        self._left_bytes -= len(chunk)
        if self._left_bytes < 0:
            return self.fail(errors.sent_too_much())
        events = self._buffer.feed(chunk)
        if self._buffer.size > MAX_EVENT_BYTES:
            return self.fail(errors.interrupted("The engine sent an event that is too large."))
        if not events:
            return b""
        found = found_hints(events)
        if not found and self._hidden is None:
            self.transcript.add_events(events)
            return events
        return self._inspect_all(events, Hints(events, found))

    def _inspect_all(self, events: bytes, hints: Hints) -> bytes:
        """Read those of the events that may be significant. Returns what the caller gets in their place."""
        out: list[bytes] = []
        at = 0
        try:
            while not self.done and (hint := hints.next(at)) >= 0:
                start = max(at, _end_of_last(events, at, hint))
                end = events.index(b"\n\n", hint) + 2  # these events are complete
                out += (self._through(events[at:start]), self._inspect(events[start:end]))
                at = end
            if not self.done:
                out.append(self._through(events[at:] if at else events))
        except UnreadableError:
            out.append(self.fail(errors.unreadable()))
        return b"".join(out)

    def end(self) -> bytes:
        """The engine has closed the connection, or it was cut. Returns the caller's last events."""
        rest = self._buffer.take()
        data = data_of(rest)
        tail = self.feed(rest + b"\n\n") if data == b"[DONE]" or parse_object(data) is not None else b""
        if self.done:
            return tail
        if not self._finished():
            return tail + self.fail(errors.interrupted())
        return tail + self._inspect_all(DONE, Hints(DONE, found_hints(DONE)))

    def fail(self, failure: ApiError) -> bytes:
        """Break the stream off. Returns its last event, the error."""
        self.failure, self.done = failure, True
        return failure.event()

    def _finished(self) -> bool:
        """Whether every choice has its finish reason. If it seems not, each event is read again, to be sure."""
        if len(self._ended_choices) >= self._terms.choices:
            return True
        reasons = self.transcript.finish_reasons
        self.finish_reason = self.finish_reason or (reasons[-1] if reasons else "")
        return len(reasons) >= self._terms.choices

    def _through(self, events: bytes) -> bytes:
        if events:
            self.transcript.add_events(events)
        if self._hidden is None:
            return events
        return b"".join(map(self._visible, split_events(events)[0]))

    def _visible(self, event: bytes) -> bytes:
        """An event without its thinking; nothing if nothing is left of it. A comment stays."""
        if not (data := data_of(event)):
            return event
        if (parsed := parse_object(data)) is None:
            raise UnreadableError
        return self._encode(parsed)

    def _encode(self, parsed: Json) -> bytes:
        if self._hidden is not None:
            parsed = self._hidden.visible(parsed) or {}
        return encode_event(parsed) if parsed else b""

    def _inspect(self, event: bytes) -> bytes:
        """Read one event that may be significant. Returns what the caller gets in its place."""
        if not _SIGNIFICANT.search(event) and b"NaN" not in event and b"Infinity" not in event:
            return self._through(event)
        data = data_of(event)
        if data == b"[DONE]":
            self.done = True
            self._finished()
            return self._usage_event() + DONE
        parsed, exact = read_object(data)
        if parsed is None:
            raise UnreadableError
        if parsed.get("error"):
            return self.fail(errors.from_event(parsed))
        self._last_event = parsed
        if not objects(parsed.get("choices")) and (usage := parsed.get("usage")) is not None:
            self._reported = cast("Json", usage) if usage and isinstance(usage, dict) else self._reported
            return b""
        self.transcript.add_events(event)
        changed = self._note_choices(parsed) or self._hidden is not None or not exact
        return self._encode(parsed) if changed else event

    def _note_choices(self, parsed: Json) -> bool:
        """Note finish reasons and running usage. Returns whether something had to be corrected."""
        changed, choices = False, objects(parsed.get("choices"))
        for choice in choices:
            if reason := line_of(choice.get("finish_reason"), MAX_FINISH_REASON):
                changed = changed or reason != choice["finish_reason"]
                choice["finish_reason"] = self.finish_reason = reason
                if len(self._ended_choices) < MAX_CHOICES:
                    self._ended_choices.add(index_of(choice))
        usage = parsed.get("usage")
        return (usage is not None and not self._note_running(usage, choices, parsed)) or changed

    def _note_running(self, usage: object, choices: list[Json], parsed: Json) -> bool:
        """Note a running total; the last one is final if no usage event follows. Returns whether it may be shown."""
        if isinstance(usage, dict) and len(self._usage_so_far) < MAX_CHOICES:
            self._usage_so_far |= {index_of(choice): cast("Json", usage) for choice in choices}
        if isinstance(usage, dict) and is_plausible(cast("Json", usage), self._terms):
            return True
        parsed["usage"] = None
        return False

    def _usage_event(self) -> bytes:
        """The usage event, only for a caller that asked for it, whether the engine sent one or not."""
        cost = self.cost
        if not self._wants_usage:
            return b""
        envelope = {name: value for name, value in self._last_event.items() if name not in ("choices", "usage")}
        return self._encode({**envelope, "choices": [], "usage": cost.usage})


async def relayed(relay: Relay, answer: Source, settle: Callable[[EndReason], None]) -> AsyncGenerator[bytes]:
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
        pass  # an answer that is finished is complete, even if its connection was cut before the last chunk
    except Exception:  # a bug: the stream still ends properly, and the ledger gets its entry
        log.exception("a stream cannot be relayed")
        yield settled(relay.fail(errors.internal()))
        return
    try:
        last = relay.end()
    except Exception:
        log.exception("a stream cannot be ended")
        last = relay.fail(errors.internal())
    if events := settled(last):
        yield events


def _end_of_last(events: bytes, start: int, end: int) -> int:
    """The end of the last event that ends between these positions; 0 if none does."""
    blank = events.rfind(b"\n\n", start, end)
    return blank + 2 if blank >= 0 else 0


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
        *,
        translate: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """
        Args:
            events: whole events of a chat stream.
            headers: of the response.
            caller: may leave.
            send_timeout: how long the caller may take for what it is sent, in seconds.
            ended: gets the reason; it is `COMPLETE` if the stream was sent in full.
            translate: turns events into those of the API that the caller speaks.
        """
        self._translate = translate
        self.status_code = 200
        self.raw_headers = [*_HEADERS, *((name.encode(), value.encode()) for name, value in headers.items())]
        self._events, self._caller, self._send_timeout, self._ended = events, caller, send_timeout, ended
        self._sending_since: float | None = None
        """When the events now being sent were handed to the server; None while the caller has taken everything."""
        self._last_sent = 0.0
        """When the caller last took something."""
        self._now: Callable[[], float]
        self._too_slow = False
        self._comments = set[asyncio.Task[None]]()
        self._timer: asyncio.TimerHandle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = EndReason.GATEWAY_STOPPED
        try:
            with self._caller.waiting() as task, self._watch(task, send):
                headers, self.raw_headers = self.raw_headers, []  # 2 KB that a silent stream would keep
                await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
                del headers
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
        if self._translate is not None and events:
            events = self._translate(events)
        self._sending_since = self._now()
        await send({"type": "http.response.body", "body": events, "more_body": more})
        self._last_sent, self._sending_since = self._now(), None

    @contextmanager
    def _watch(self, task: asyncio.Task[object], send: Send) -> Generator[None]:
        """Cancel the task if the caller does not take what it is sent, and send a comment after a long silence."""
        loop = asyncio.get_running_loop()
        self._now, self._last_sent = loop.time, loop.time()
        self._check(task, send)
        try:
            yield
        except asyncio.CancelledError:
            if self._too_slow and not task.uncancel():
                raise TimeoutError from None
            raise
        finally:
            self._timer.cancel()
            for comment in self._comments:
                comment.cancel()

    def _check(self, task: asyncio.Task[object], send: Send) -> None:
        # Not a function in `_watch`: one that names itself is a cycle, which keeps the request until it is collected.
        loop, now = asyncio.get_running_loop(), self._now()
        if self._sending_since is not None and now - self._sending_since >= self._send_timeout:
            self._too_slow = True
            task.cancel()
            return
        if self._sending_since is None and now - self._last_sent >= PING_SECONDS:
            self._comments.add(comment := loop.create_task(self._send(send, _COMMENT, more=True)))
            comment.add_done_callback(self._comments.discard)
        self._timer = loop.call_later(min(self._send_timeout, PING_SECONDS), self._check, task, send)
