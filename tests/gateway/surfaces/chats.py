"""Chat responses, whole and as events, and what another API makes of the latter."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gateway.events import encode_event

USAGE = {
    "prompt_tokens": 30,
    "completion_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 20},
    "completion_tokens_details": {"reasoning_tokens": 5},
}
CALL = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "read", "arguments": '{"path": "a"}'}}


def completion(message: dict[str, Any], finish: str = "stop", **choice: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-7",
        "model": "abacus/base",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}],
        "usage": USAGE,
    }


def chunk(finish: str | None = None, **delta: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return encode_event({"id": "chatcmpl-7", "model": "abacus/base", "choices": [choice]})


def events_from(feed: Callable[[bytes], bytes], *chunks: bytes) -> list[dict[str, Any]]:
    """The events that the chunks become, each named as its data says."""
    events: list[dict[str, Any]] = []
    for event in b"".join(map(feed, chunks)).decode().split("\n\n"):
        if event:
            name, data = event.split("\n")
            events.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {events[-1]['type']}"
    return events
