"""What is read of a chat response, or of its events, for any other API?"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import NamedTuple

from gateway import errors
from gateway.events import (
    GIVEN_UP,
    Json,
    data_of,
    encode_json,
    object_at,
    objects,
    parse_object,
    split_events,
    string_at,
)


def first_choice(completion: Json) -> Json:
    """The first choice of a chat completion; an empty one if there is none.

    Raises:
        ApiError: 502, the engine gave up.
    """
    choices = objects(completion.get("choices"))
    choice = choices[0] if choices else {}
    if string_at(choice, "finish_reason") in GIVEN_UP:
        raise errors.gave_up()
    return choice


def reasoning_of(message: Json) -> str:
    """The thinking of a chat message or of its delta, by either of its names."""
    return string_at(message, "reasoning") or string_at(message, "reasoning_content")


def failure_of(chunk: Json) -> str | None:
    """The message of an error event; None for any other."""
    return string_at(object_at(chunk, "error"), "message") if chunk.get("error") else None


def named_event(name: str, data: Json) -> bytes:
    """An event with its name, as APIs other than chat send it."""
    return b"event: " + name.encode() + b"\ndata: " + encode_json(data) + b"\n\n"


class Piece(NamedTuple):
    """A piece of one choice's thinking or answer."""

    is_reasoning: bool
    text: bytes
    """As JSON, with its quotes."""
    head: bytes
    """The event up to its choices."""


def piece_of(event: bytes) -> Piece | None:
    """What most events of a stream say, read without a JSON parser; None if only that can tell.

    Parsing and writing such an event costs several times as much as this. The text is valid JSON, whoever sent it.
    """
    at = event.find(b'"choices":[')
    if at < 0 or (match := _PLAIN.match(event, at)) is None or not event.startswith(b"data: {"):
        return None
    head, rest = event[:at], event[match.end() :]
    if not _REST.fullmatch(rest) or _NOT_PLAIN.search(head) or not _is_utf8(match[2]):
        return None
    return Piece(match[1] != b"content", match[2], head)


_PLAIN = re.compile(
    rb'"choices":\[\{"index":0,"delta":\{"(reasoning|reasoning_content|content)":(?!"")'
    rb'("(?>[^"\\\x00-\x1f]+|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*")'
    rb'\}(?:,"logprobs":null)?,"finish_reason":null(?:,"(?:token_ids|stop_reason)":null)*\}\]'
)
_NOT_PLAIN = re.compile(rb'"error"|"usage"|\n')
_REST = re.compile(rb'(?:,"(?:usage|prompt_token_ids|system_fingerprint)":null)*\}\n\n')


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


class ChatReader(ABC):
    """Reads the events of a chat stream and writes those of another API, as they come."""

    def __init__(self) -> None:
        self._first: Json = {}
        """The first chunk; empty until it came."""
        self._usage: Json = {}
        self._has_failed = False

    def feed(self, events: bytes) -> bytes:
        """Take whole events of a chat stream. Comments pass."""
        return b"".join(map(self._event, split_events(events)[0]))

    def _event(self, event: bytes) -> bytes:
        if self._first and (piece := piece_of(event)) is not None and (said := self._plain(piece)) is not None:
            return said
        data = data_of(event)
        if not data:
            return event
        if self._has_failed:
            return b""
        if data == b"[DONE]":
            return self._begun({}) + self._end()
        return self._read(parse_object(data) or {})

    def _read(self, chunk: Json) -> bytes:
        if (failure := failure_of(chunk)) is not None:
            return self._broken(failure)
        out = self._begun(chunk)
        if isinstance(chunk.get("usage"), dict):
            self._usage = object_at(chunk, "usage")
        for choice in objects(chunk.get("choices")):
            out += self._delta(object_at(choice, "delta"))
            if string_at(choice, "finish_reason") in GIVEN_UP:
                return out + self._broken(errors.gave_up().message)
            if choice.get("finish_reason"):
                self._finished(choice)
        return out

    def _broken(self, message: str) -> bytes:
        """The failure, which is the last that is said."""
        self._has_failed = True
        return self._fail(message)

    def _begun(self, chunk: Json) -> bytes:
        """What opens the stream, with its first chunk."""
        if self._first:
            return b""
        self._first = {"id": "", **chunk}
        return self._begin()

    @abstractmethod
    def _begin(self) -> bytes: ...

    @abstractmethod
    def _plain(self, piece: Piece) -> bytes | None:
        """What a piece becomes that goes on with what is open; None if it opens something else."""

    @abstractmethod
    def _delta(self, delta: Json) -> bytes: ...

    @abstractmethod
    def _finished(self, choice: Json) -> None: ...

    @abstractmethod
    def _fail(self, message: str) -> bytes:
        """The event of a failure. Nothing is open behind it."""

    @abstractmethod
    def _end(self) -> bytes: ...
