"""What does a stream look like as one response? For callers that do not stream, where the gateway has to.

Deltas are put together as OpenAI's clients do it: texts are joined, tool calls are joined by their index, lists grow,
and anything else is replaced by what comes later.
"""

from __future__ import annotations

from typing import Any, cast

from gateway import errors
from gateway.answer.continuation import Source, complete_events
from gateway.events import (
    EventBuffer,
    Json,
    UnreadableError,
    data_of,
    encode_json,
    integer_at,
    object_at,
    objects,
    parse_object,
)

_PER_CHUNK = frozenset({"choices", "object", "usage"})
_NAMES = frozenset({"id", "type", "role", "name"})
"""Texts that come once and are not joined if they come again."""
_CHOICE_BYTES = 100
"""Fewer than a choice has that says nothing."""


class Assembly:
    """One response, event by event."""

    def __init__(self) -> None:
        self._buffer = EventBuffer()
        self._envelope: Json = {}
        self._choices: dict[int, Json] = {}
        self._usage: object = None
        self.size = 0
        """About how many bytes the response has so far, rather fewer than more."""
        self.done = False

    def feed(self, chunk: bytes) -> None:
        """Take bytes of a stream.

        Raises:
            ApiError: the stream has an error.
        """
        for event in complete_events(self._buffer, chunk):
            data = data_of(event)
            self.done = self.done or data == b"[DONE]"
            if (parsed := parse_object(data)) is not None:
                self._add(parsed)

    @property
    def complete(self) -> bool:
        """Every choice has its finish reason."""
        return bool(self._choices) and all(choice.get("finish_reason") for choice in self._choices.values())

    def response(self) -> Json:
        """The response."""
        choices = [self._choice(self._choices[index]) for index in sorted(self._choices)]
        response = {**self._envelope, "object": "chat.completion", "choices": choices}
        return response if self._usage is None else {**response, "usage": self._usage}

    def _add(self, event: Json) -> None:
        if event.get("error"):
            raise errors.from_event(event)
        self._take(self._envelope, {name: value for name, value in event.items() if name not in _PER_CHUNK}, once=True)
        self._usage = event.get("usage") or self._usage
        for delta in objects(event.get("choices")):
            index = integer_at(delta, "index")
            if (choice := self._choices.get(index)) is None:
                choice = self._choices[index] = {"index": index, "message": {}}
                self.size += _CHOICE_BYTES
            self.size += _join(choice["message"], object_at(delta, "delta"))
            rest = {name: value for name, value in delta.items() if name not in ("index", "delta")}
            logprobs = rest.pop("logprobs", None)
            if isinstance(logprobs, dict):
                self.size += _join(choice.setdefault("logprobs", {}), cast("Json", logprobs))
            self._take(choice, rest)

    def _take(self, whole: Json, fields: Json, *, once: bool = False) -> None:
        """Take fields that are not joined: what comes later counts, or with `once` what came first."""
        new = {
            name: value
            for name, value in fields.items()
            if name not in whole or (value is not None and not (once and whole[name] is not None))
        }
        if new:
            replaced = {name: whole[name] for name in new if name in whole}
            self.size += len(encode_json(new)) - len(encode_json(replaced))
            whole.update(new)

    def _choice(self, choice: Json) -> Json:
        message: Json = {"role": "assistant", "content": None, "refusal": None, **choice["message"]}
        if not message["content"] and len(message.keys() - {"role", "content", "refusal"}):
            message["content"] = None  # the first event has an empty text, whatever follows
        calls = objects(message.get("tool_calls"))
        if calls:
            message["tool_calls"] = [{name: value for name, value in call.items() if name != "index"} for call in calls]
        return {"index": choice["index"], "message": message, "logprobs": None, "finish_reason": None} | {
            name: value for name, value in choice.items() if name not in ("index", "message")
        }


class Whole:
    """A response that is complete. Used like `Upstream`."""

    relayed = False

    def __init__(self, body: bytes) -> None:
        self.first_bytes = body

    async def read(self) -> bytes:
        """Nothing more comes."""
        return b""

    def close(self) -> None:
        """Nothing is open."""


async def assembled(stream: Source, most_bytes: int, most_sent: int) -> bytes:
    """Read a stream to its end. Returns it as one response.

    Args:
        stream: what an engine sends.
        most_bytes: of the response.
        most_sent: of the stream, in which each token has an event of its own.

    Raises:
        ApiError: the stream has an error, or it or the response is too large.
        OSError: the engine died, was silent for too long, or ended before its answer was complete.
    """
    assembly = Assembly()
    chunk = stream.first_bytes
    try:
        while not assembly.done:
            most_sent -= len(chunk)
            if most_sent < 0:
                raise errors.sent_too_much()
            assembly.feed(chunk)
            _require(assembly.size, most_bytes)
            if not assembly.done and not (chunk := await stream.read()):
                assembly.feed(b"\n\n")
                break
    except OSError:
        if not assembly.complete:
            raise
    except (UnreadableError, RecursionError):
        raise errors.unreadable() from None
    if not assembly.complete:
        raise ConnectionError("the stream ended before its answer was complete")
    try:
        response = encode_json(assembly.response())
    except UnreadableError:
        raise errors.unreadable() from None
    _require(len(response), most_bytes)
    stream.relayed = assembly.done
    return response


def _require(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise errors.interrupted(f"The engine's answer has more than {most_bytes} bytes: stream it.")


def _join(whole: Json, delta: Json) -> int:
    """Add a delta to what has come of it before. Returns at least how many bytes it is longer now, perhaps fewer."""
    longer = 0
    for name, value in delta.items():
        before = whole.get(name)
        if value is None:
            continue
        longer += 0 if name in whole else len(name)
        if isinstance(value, str) and isinstance(before, str):
            whole[name] = before or value if name in _NAMES else before + value
            longer += len(whole[name]) - len(before)
        elif isinstance(value, list):
            whole[name], more = _joined_list(before, cast("list[Any]", value))
            longer += more
        elif isinstance(value, dict) and isinstance(before, dict):
            longer += _join(cast("Json", before), cast("Json", value))
        else:
            whole[name] = value
            longer += len(encode_json({name: value})) if before is None else 0
    return longer


def _joined_list(before: object, new: list[Any]) -> tuple[list[Any], int]:
    """The list with more items; one that has the index of an item before goes on where that ended."""
    items = cast("list[Any]", before) if isinstance(before, list) else []
    longer = 0
    for item in new:
        index = cast("Json", item).get("index") if isinstance(item, dict) else None
        # Most items have none, and looking for it among all before would take the longer the more there are.
        earlier = None if index is None else next((one for one in objects(items) if one.get("index") == index), None)
        if earlier is None:
            items.append(item)
            longer += len(encode_json({"": item})) - len('{"":}')
        else:
            longer += _join(earlier, cast("Json", item))
    return items, longer
