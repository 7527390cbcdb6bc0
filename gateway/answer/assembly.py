"""What does a stream look like as one response? For callers that do not stream, where the gateway has to.

Deltas are put together as OpenAI's clients do it: texts are joined, tool calls are joined by their index, lists grow,
and anything else is replaced by what comes later.
"""

from __future__ import annotations

from typing import Any, cast

from gateway import errors
from gateway.answer.continuation import Source, complete_events
from gateway.events import EventBuffer, Json, data_of, encode_json, integer_at, object_at, objects, parse_object

_PER_CHUNK = frozenset({"choices", "object", "usage"})
_NAMES = frozenset({"id", "type", "role", "name"})
"""Texts that come once and are not joined if they come again."""


class Assembly:
    """One response, event by event."""

    def __init__(self) -> None:
        self._buffer = EventBuffer()
        self._envelope: Json = {}
        self._choices: dict[int, Json] = {}
        self._usage: object = None
        self.size = 0
        self.done = False

    def feed(self, chunk: bytes) -> None:
        """Take bytes of a stream.

        Raises:
            ApiError: the stream has an error.
        """
        self.size += len(chunk)
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
        for name, value in event.items():
            if name not in _PER_CHUNK and self._envelope.get(name) is None:
                self._envelope[name] = value
        self._usage = event.get("usage") or self._usage
        for delta in objects(event.get("choices")):
            index = integer_at(delta, "index")
            choice = self._choices.setdefault(index, {"index": index, "message": {}})
            _join(choice["message"], object_at(delta, "delta"))
            rest = {name: value for name, value in delta.items() if name not in ("index", "delta")}
            logprobs = rest.pop("logprobs", None)
            if isinstance(logprobs, dict):
                _join(choice.setdefault("logprobs", {}), cast("Json", logprobs))
            choice |= {name: value for name, value in rest.items() if value is not None or name not in choice}

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


async def assembled(stream: Source, most_bytes: int) -> bytes:
    """Read a stream to its end. Returns it as one response.

    Raises:
        ApiError: the stream has an error, or is too large.
        OSError: the engine died, was silent for too long, or ended before its answer was complete.
    """
    assembly = Assembly()
    chunk = stream.first_bytes
    try:
        while not assembly.done:
            assembly.feed(chunk)
            if assembly.size > most_bytes:
                raise errors.interrupted(f"The engine's answer has more than {most_bytes} bytes: stream it.")
            if not assembly.done and not (chunk := await stream.read()):
                assembly.feed(b"\n\n")
                break
    except OSError:
        if not assembly.complete:
            raise
    if not assembly.complete:
        raise ConnectionError("the stream ended before its answer was complete")
    stream.relayed = assembly.done
    return encode_json(assembly.response())


def _join(whole: Json, delta: Json) -> None:
    """Add a delta to what has come of it before."""
    for name, value in delta.items():
        before = whole.get(name)
        if value is None:
            continue
        if isinstance(value, str) and isinstance(before, str):
            whole[name] = before or value if name in _NAMES else before + value
        elif isinstance(value, list):
            whole[name] = _joined_list(before, cast("list[Any]", value))
        elif isinstance(value, dict) and isinstance(before, dict):
            _join(cast("Json", before), cast("Json", value))
        else:
            whole[name] = value


def _joined_list(before: object, new: list[Any]) -> list[Any]:
    """The list with more items; one that has the index of an item before goes on where that ended."""
    items = cast("list[Any]", before) if isinstance(before, list) else []
    for item in new:
        index = cast("Json", item).get("index") if isinstance(item, dict) else None
        earlier = next((one for one in objects(items) if index is not None and one.get("index") == index), None)
        if earlier is None:
            items.append(item)
        else:
            _join(earlier, cast("Json", item))
    return items
