"""What is read of a chat response, or of its events, for any other API?"""

from __future__ import annotations

from gateway.events import Json, object_at, objects, string_at


def first_choice(completion: Json) -> Json:
    """The first choice of a chat completion; an empty one if there is none."""
    choices = objects(completion.get("choices"))
    return choices[0] if choices else {}


def reasoning_of(message: Json) -> str:
    """The thinking of a chat message or of its delta, by either of its names."""
    return string_at(message, "reasoning") or string_at(message, "reasoning_content")


def failure_of(chunk: Json) -> str | None:
    """The message of an error event; None for any other."""
    return string_at(object_at(chunk, "error"), "message") if chunk.get("error") else None
