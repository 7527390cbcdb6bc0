"""How does a message go on that another request continues? One message: one name, one role, one usage.

An escalation and a thinking that the gateway ends itself have this in common: the caller reads the events of two
responses as one message. What names the message stays the first response's. Clients concatenate deltas, so a second
role must not follow. The usage is that of both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.events import (
    MAX_EVENT_BYTES,
    EventBuffer,
    Json,
    UnreadableError,
    data_of,
    encode_event,
    object_at,
    objects,
    parse_object,
    split_events,
)

NAMES = ("id", "created", "model")


class Source(Protocol):
    """An engine's response, or what is made of one or two of them."""

    first_bytes: bytes
    """The bytes received so far that may go to the caller; perhaps none. Without a stream they are all."""

    @property
    def relayed(self) -> bool:
        """See `gateway.engines.replica.Upstream.relayed`."""
        ...

    @relayed.setter
    def relayed(self, relayed: bool) -> None: ...

    async def read(self) -> bytes:
        """Return the next bytes, waiting for at least one; b"" at the end.

        Raises:
            TimeoutError, OSError: the engine sent nothing for too long, or died.
        """
        ...

    def close(self) -> None:
        """Release the engine's connection."""
        ...


class Wrapped:
    """What is made of a response that is open: whose bytes are relayed, and whose connection is released."""

    def __init__(self, upstream: Source) -> None:
        self._upstream = upstream
        """The response that is read now."""

    @property
    def relayed(self) -> bool:
        """See `gateway.engines.replica.Upstream.relayed`."""
        return self._upstream.relayed

    @relayed.setter
    def relayed(self, relayed: bool) -> None:
        self._upstream.relayed = relayed

    def close(self) -> None:
        """Release the engine's connection."""
        self._upstream.close()


class Continuation:
    """Makes the events of a second response events of the message that a first one began."""

    def __init__(self, change: Callable[[Json], None], *, look_for: tuple[bytes, ...] = ()) -> None:
        """
        Args:
            change: makes the changes that the continued message needs, to an event of the second response.
            look_for: events of the second response that have one of these are always changed. Those with a role or
                usage are, too.
        """
        self._change = change
        self._look_for = (b'"usage"', b'"role"', *look_for)
        self._names: Json = {}
        self._second_head = self._head = b""
        """How the second response's events begin, and how they shall begin instead."""

    @property
    def begun(self) -> bool:
        """The message has its name."""
        return bool(self._names)

    def begin(self, event: Json) -> None:
        """Note an event of the first response: the first one names the message."""
        self._names = self._names or {name: event[name] for name in NAMES if name in event}

    def events(self, events: bytes) -> bytes:
        """Events of the second response as those of the message."""
        head = self._second_head
        if head and events.startswith(head) and not any(word in events for word in self._look_for):
            number = events.count(b"\n\n")
            if events.count(head) == number == events.count(b"\n\n" + head) + 1:
                return events.replace(head, self._head)
        return b"".join(map(self.event, split_events(events)[0]))

    def event(self, event: bytes) -> bytes:
        """An event of the second response as one of the message."""
        if not any(word in event for word in self._look_for):
            if self._second_head and event.startswith(self._second_head):
                return self._head + event[len(self._second_head) :]
            if b"{" not in event:  # a comment, or the end
                return event
        parsed = parse_object(data_of(event))
        if parsed is None:
            return event
        renamed = {**parsed, **{name: value for name, value in self._names.items() if name in parsed}}
        self._remember_head(event, parsed, renamed)
        for choice in objects(renamed.get("choices")):
            object_at(choice, "delta").pop("role", None)
        self._change(renamed)
        return encoded(renamed, event)

    def _remember_head(self, event: bytes, parsed: Json, renamed: Json) -> None:
        """Note how an event begins up to its choices, so that the next ones that begin alike need not be parsed."""
        names = list(parsed)
        if not event.startswith(b"data: {") or names[-1:] != ["choices"]:
            return
        before = {name: renamed[name] for name in names[:-1]}
        self._second_head = event[: event.index(b'"choices"')]
        self._head = encode_event({**before, "choices": None}).partition(b'"choices"')[0]


def encoded(parsed: Json, event: bytes) -> bytes:
    """The event with new content; as it came if it cannot be written again, for the relay to judge."""
    try:
        return encode_event(parsed)
    except UnreadableError:
        return event


def complete_events(buffer: EventBuffer, chunk: bytes) -> list[bytes]:
    """The events that are complete with these bytes. One that is too large is passed on: the relay reports it."""
    events, _ = split_events(buffer.feed(chunk))
    if buffer.size > MAX_EVENT_BYTES:
        events.append(buffer.take())
    return events
