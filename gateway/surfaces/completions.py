"""How does a request of the old completions API become a chat request, and its answer a completion? Pure.

The prompt is put to the model as what a user says, because only in a chat does a model think, and only there can it be
capped (docs/decisions/0045-surfaces.md). So the text that comes back answers the prompt and does not continue it; what
would need the raw prompt is refused.
"""

from __future__ import annotations

from typing import cast

from gateway.errors import BadRequestError
from gateway.events import Json, data_of, encode_json, object_at, objects, parse_object, split_events, string_at
from gateway.surfaces.said import failure_of, piece_of, reasoning_of

_RAW = {"echo": False, "suffix": "", "logprobs": None, "prompt_logprobs": None, "best_of": 1}
"""What has no meaning once the prompt is a chat, and the value that changes nothing."""
_CALLS = ("tools", "functions")


def chat_body(body: Json) -> Json:
    """The chat request that asks the same. Fields that both APIs have pass as they are.

    Raises:
        BadRequestError: there is no prompt, there are several, or a field needs the raw prompt.
    """
    if "messages" in body:
        raise BadRequestError("messages: completions take a prompt; chats go to /v1/chat/completions", "messages")
    for name in _CALLS:
        if body.get(name):
            raise BadRequestError(f"{name}: a completion has no place for calls; use /v1/chat/completions", name)
    for name, nothing in _RAW.items():
        if body.get(name) not in (None, nothing):
            raise BadRequestError(
                f"{name}: the model answers the prompt as a chat, so {name} has no meaning here. Leave it out.",
                name,
                code="field_not_allowed",
            )
    chat = {name: value for name, value in body.items() if name != "prompt" and name not in _RAW}
    return {**chat, "messages": [{"role": "user", "content": _prompt(body.get("prompt"))}]}


def _prompt(prompt: object) -> str:
    if isinstance(prompt, list):
        prompts = cast("list[object]", prompt)
        if len(prompts) == 1 and isinstance(prompts[0], str):
            return prompts[0]
        if prompts and all(isinstance(one, str) for one in prompts):
            raise BadRequestError("prompt: one at a time; send a request for each", "prompt")
        raise BadRequestError("prompt: must be text; tokens are not taken, because a chat is text", "prompt")
    if prompt is None:
        raise BadRequestError("prompt: missing", "prompt")
    if not isinstance(prompt, str):
        raise BadRequestError(f"prompt must be a string, got {str(prompt)[:40]!r}", "prompt")
    return prompt


def completion(chat: Json) -> Json:
    """The completion of a whole chat response. What the model thought stands beside the text, as `reasoning`."""
    return _envelope(chat) | {
        "choices": [_choice(choice, object_at(choice, "message")) for choice in objects(chat.get("choices"))],
        "usage": chat.get("usage"),
    }


class CompletionStream:
    """Turns the events of a chat stream into those of a completion's, as they come."""

    def __init__(self) -> None:
        self._heads: tuple[bytes, bytes] = (b"", b"")
        """What a chat's event says before its choices, and what the completion's does."""

    def feed(self, events: bytes) -> bytes:
        """Take whole events of a chat stream. Comments and `[DONE]` pass."""
        return b"".join(map(self._event, split_events(events)[0]))

    def _event(self, event: bytes) -> bytes:
        piece = piece_of(event)
        if piece is None or (chunk := parse_object(data_of(event)) if piece.head != self._heads[0] else {}) is None:
            return _event(event)
        if chunk:
            self._heads = piece.head, b"data: " + encode_json(_envelope(chunk))[:-1]
        said = b'"text":"","reasoning":%b' if piece.is_reasoning else b'"text":%b'
        choice = b'{"index":0,' + said % piece.text + b',"logprobs":null,"finish_reason":null}'
        return self._heads[1] + b',"choices":[' + choice + b"]}\n\n"


def _event(event: bytes) -> bytes:
    data = data_of(event)
    chunk = parse_object(data) if data else None
    if chunk is None or failure_of(chunk) is not None:
        return event
    choices = objects(chunk.get("choices"))
    shown = [_choice(choice, object_at(choice, "delta")) for choice in choices]
    shown = [choice for choice in shown if choice["text"] or "reasoning" in choice or choice["finish_reason"]]
    if choices and not shown:
        return b""  # what opens a chat message says nothing here
    usage = {"usage": chunk["usage"]} if chunk.get("usage") else {}
    return b"data: " + encode_json(_envelope(chunk) | {"choices": shown} | usage) + b"\n\n"


def _envelope(chat: Json) -> Json:
    return {
        "id": f"cmpl-{string_at(chat, 'id').removeprefix('chatcmpl-')}",
        "object": "text_completion",
        "created": chat.get("created"),
        "model": string_at(chat, "model"),
    }


def _choice(choice: Json, said: Json) -> Json:
    thought = reasoning_of(said)
    return {
        "index": choice.get("index", 0),
        "text": string_at(said, "content") or string_at(said, "refusal"),
        **({"reasoning": thought} if thought else {}),
        "logprobs": None,
        "finish_reason": choice.get("finish_reason"),
    }
