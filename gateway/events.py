"""How are server-sent events and their JSON read and written? Any field from an engine may have any type."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any, cast

MAX_EVENT_BYTES = 8 * 2**20
EVENT_END = re.compile(rb"\n\n|\r\n\r\n")

Json = dict[str, Any]


def split_events(data: bytes) -> tuple[list[bytes], bytes]:
    """The complete events, each with the blank line that ends it, and the incomplete rest."""
    if (
        data.endswith(b"\n\n") and data.find(b"\n\n") == len(data) - 2 and b"\r" not in data
    ):  # one event, as in most chunks
        return [data], b""
    ends = [0, *(end.end() for end in EVENT_END.finditer(data))]
    return [data[begin:end] for begin, end in pairwise(ends)], data[ends[-1] :]


def data_of(event: bytes) -> bytes:
    """An event's data, with its lines joined."""
    return b"\n".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))


def encode_event(data: Json) -> bytes:
    """A JSON object as an event."""
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def parse_object(data: bytes) -> Json | None:
    """A JSON object, or None for anything else."""
    try:
        value: object = json.loads(data)
    except ValueError:
        return None
    return cast("Json", value) if isinstance(value, dict) else None


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
