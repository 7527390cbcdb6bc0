"""How are server-sent events and their JSON read and written? Any field from an engine may have any type."""

from __future__ import annotations

import json
import math
import re
from typing import Any, cast

MAX_EVENT_BYTES = 2 * 2**20
EVENT_END = re.compile(rb"(?>\r\n|\n|\r){2}")
"""Two line ends; a `\r\n` is one and is never taken for two. What an `EventBuffer` returns needs no such search."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

GIVEN_UP = frozenset({"error", "abort"})
"""Finish reasons with which an engine says that it gave up."""

Json = dict[str, Any]


class UnreadableError(ValueError):
    """JSON from an engine that can be parsed but not written again."""


class LineEnds:
    """Turns the line ends of one stream into `\\n`. An event may end its lines with `\\r`, `\\n` or `\\r\\n`, mixed."""

    def __init__(self) -> None:
        self.waits = True
        """The next bytes have to be fed even without a `\\r` in them: the stream begins, or a `\\n` may follow."""
        self._begun = False
        self._after_cr = False
        self._start: bytes = b""
        """What may be the beginning of a byte order mark."""

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes of the stream with `\\n` for every line end, and without a byte order mark."""
        if not self._begun:
            chunk = self._start + chunk
            if len(chunk) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(chunk):
                self._start = chunk
                return b""
            self._begun, chunk = True, chunk.removeprefix(BYTE_ORDER_MARK)
        if self._after_cr and chunk:
            self._after_cr, chunk = False, chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        self.waits = self._after_cr
        return chunk


class EventBuffer:
    """Keeps the start of an event until its end has come. Each byte is looked at once, however small the pieces are."""

    def __init__(self) -> None:
        self._line_ends = LineEnds()
        self._pieces: list[bytes] = []
        self.size = 0
        """Bytes that are kept."""

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes. Returns all complete events, perhaps none; their lines end with `\\n`."""
        if self._line_ends.waits or b"\r" in chunk:
            chunk = self._line_ends.feed(chunk)
        if not self._pieces:
            if chunk.endswith(b"\n\n"):
                return chunk
            return self._keep_from(chunk, chunk.rfind(b"\n\n") + 2)
        end = chunk.rfind(b"\n\n") + 2
        if end == 1 and not (self._pieces[-1].endswith(b"\n") and chunk.startswith(b"\n")):
            if chunk:
                self._pieces.append(chunk)
                self.size += len(chunk)
            return b""
        kept = self.take()
        return self._keep_from(kept + chunk, len(kept) + end)

    def take(self) -> bytes:
        """Return what is kept, and keep nothing."""
        kept, self._pieces, self.size = b"".join(self._pieces), [], 0
        return kept

    def _keep_from(self, data: bytes, end: int) -> bytes:
        """The data up to `end`, which is 1 if no event ends in it. The rest is kept."""
        if end == 1:
            end = 0
        if rest := data[end:]:
            self._pieces, self.size = [rest], len(rest)
        return data[:end]


def split_events(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete events, each with the blank line that ends it, and the incomplete rest. Lines end with `\\n`."""
    *events, rest = data.split(b"\n\n")
    return [event + b"\n\n" for event in events], rest


def data_of(event: bytes) -> bytes:
    """An event's data, with its lines joined."""
    return b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def encode_event(data: Json) -> bytes:
    """A JSON object as an event.

    Raises:
        UnreadableError: it is nested too deeply.
    """
    return b"data: " + encode_json(data) + b"\n\n"


def encode_json(data: Json) -> bytes:
    """A JSON object as valid JSON: a number that is none becomes null, and half a surrogate pair stays escaped.

    Raises:
        UnreadableError: it is nested too deeply.
    """
    try:
        try:
            text = _COMPACT.encode(data)
        except ValueError:  # NaN, or a number such as 1e999, which Python reads as infinity
            data = cast("Json", _finite(data))
            text = _COMPACT.encode(data)
        try:
            return text.encode()
        except UnicodeEncodeError:
            return _ASCII.encode(data).encode()
    except RecursionError:
        raise UnreadableError("nested too deeply") from None


def parse_object(data: bytes) -> Json | None:
    """A JSON object, or None for anything else. `NaN`, `Infinity` and integers of thousands of digits become null."""
    return read_object(data)[0]


def read_object(data: bytes) -> tuple[Json | None, bool]:
    """The same, and whether the data can be passed on as it is: whether nothing in it had to become null."""
    exact = b"NaN" not in data and b"Infinity" not in data  # Python's parser takes them, and JSON does not have them
    try:
        text = data.decode(json.detect_encoding(data), "surrogatepass")
        try:
            value: object = _DECODER.decode(text)
        except json.JSONDecodeError:
            return None, False
        except ValueError:  # an integer that is too long for Python
            exact, value = False, _LENIENT.decode(text)
    except (ValueError, RecursionError):
        return None, False
    return cast("Json", value) if isinstance(value, dict) else None, exact


def line_of(value: object, limit: int) -> str:
    """A string from an engine as text that can be logged and stored: valid Unicode, no longer than `limit`."""
    text = value[:limit] if isinstance(value, str) else ""
    return text.encode(errors="replace").decode()


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in cast("Json", value).items()}
    return [_finite(item) for item in cast("list[object]", value)] if isinstance(value, list) else value


def _null(_: str) -> None:
    return None


def _short_integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= _MOST_DIGITS else None


_MOST_DIGITS = 400
# Built once: with other arguments than the default ones, `json.loads` and `json.dumps` build a coder for every call.
_DECODER = json.JSONDecoder(parse_constant=_null)
_LENIENT = json.JSONDecoder(parse_constant=_null, parse_int=_short_integer)
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_ASCII = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def objects(value: object) -> list[Json]:
    """The objects in a list; an empty list if the value is not a list."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("Json", item) for item in items if isinstance(item, dict)]


def object_at(parent: Json, field: str) -> Json:
    """The object in a field; a new, empty one if it holds no object."""
    value = parent.get(field)
    return cast("Json", value) if isinstance(value, dict) else {}


def integer_at(parent: Json, field: str) -> int:
    """The integer in a field; 0 if it holds no integer."""
    value = parent.get(field)
    return value if isinstance(value, int) else 0


def string_at(parent: Json, field: str) -> str:
    """The string in a field; "" if it holds no string."""
    value = parent.get(field)
    return value if isinstance(value, str) else ""
