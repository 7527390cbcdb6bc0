"""How does a chat response, or an error, become one of Anthropic's Messages API? Whole, and as a stream. Pure."""

from __future__ import annotations

from gateway.errors import ApiError
from gateway.events import (
    Json,
    integer_at,
    object_at,
    objects,
    parse_object,
    string_at,
)
from gateway.surfaces.messages_in import THREADS
from gateway.surfaces.said import ChatReader, Piece, first_choice, named_event, reasoning_of

_STOP_REASONS = {
    "": "end_turn",
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def message(completion: Json) -> Json:
    """The message of a whole chat completion; of several choices, the first.

    Raises:
        ApiError: 502, the engine gave up.
    """
    choice = first_choice(completion)
    said = object_at(choice, "message")
    blocks: list[Json] = []
    if thinking := reasoning_of(said):
        blocks.append({"type": "thinking", "thinking": thinking, "signature": ""})
    calls = objects(said.get("tool_calls"))
    answer = string_at(said, "content") or string_at(said, "refusal")
    if answer or not calls:
        blocks.append({"type": "text", "text": answer})
    for call in calls:
        function = object_at(call, "function")
        blocks.append(
            {
                "type": "tool_use",
                "id": string_at(call, "id"),
                "name": string_at(function, "name"),
                "input": parse_object(string_at(function, "arguments").encode("utf-8", "surrogatepass")) or {},
            }
        )
    return {
        **_envelope(completion),
        "content": blocks,
        **_stopped(choice, has_called=bool(calls)),
        "usage": usage_of(object_at(completion, "usage")),
    }


def error(failure: ApiError, request_id: str) -> Json:
    """An error in Anthropic's shape. Its clients need `details` to see that a `thread` cannot be had."""
    kind = _ERRORS.get(failure.status, "api_error" if failure.status >= 500 else "invalid_request_error")
    details = {"details": {"error_code": THREADS, "unsupported": ["thread"]}} if failure.code == THREADS else {}
    return {"type": "error", "error": {"type": kind, "message": failure.message, **details}, "request_id": request_id}


def usage_of(usage: Json) -> Json:
    """Tokens by Anthropic's names. The thinking is among the output, as there."""
    cached = integer_at(object_at(usage, "prompt_tokens_details"), "cached_tokens")
    return {
        "input_tokens": max(0, integer_at(usage, "prompt_tokens") - cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": integer_at(usage, "completion_tokens"),
        "output_tokens_details": {
            "thinking_tokens": integer_at(object_at(usage, "completion_tokens_details"), "reasoning_tokens")
        },
    }


def _envelope(chat: Json) -> Json:
    return {
        "id": f"msg_{string_at(chat, 'id').removeprefix('chatcmpl-')}",
        "type": "message",
        "role": "assistant",
        "model": string_at(chat, "model"),
    }


def _stopped(choice: Json, *, has_called: bool) -> Json:
    """Why it stopped. vLLM says in `stop_reason` which of the caller's own texts it met.

    A reason that is not known, such as vLLM's `repetition`, has cut the answer off.
    """
    sequence = choice.get("stop_reason")
    if choice.get("finish_reason") == "stop":
        if isinstance(sequence, str):
            return {"stop_reason": "stop_sequence", "stop_sequence": sequence}
        if has_called:  # vLLM says `stop` behind a call of the tool that the caller named
            return {"stop_reason": "tool_use", "stop_sequence": None}
    return {
        "stop_reason": _STOP_REASONS.get(string_at(choice, "finish_reason"), "max_tokens"),
        "stop_sequence": None,
    }


_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%%d,"delta":{"type":"%b","%b":%%b}}\n\n'
)
_THINKING = _DELTA % (b"thinking_delta", b"thinking")
_TEXT = _DELTA % (b"text_delta", b"text")


class MessageStream(ChatReader):
    """Turns the events of a chat stream into Anthropic's, as they come."""

    def __init__(self) -> None:
        super().__init__()
        self._block: str | None = None
        """What the open block holds: `thinking`, `text`, or `tool` and the index of the call."""
        self._index = -1
        self._has_called = False
        self._stopped: Json = {"stop_reason": "end_turn", "stop_sequence": None}

    def _begin(self) -> bytes:
        empty: Json = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": usage_of({})}
        return _sse({"type": "message_start", "message": {**_envelope(self._first), **empty}})

    def _finished(self, choice: Json) -> None:
        self._stopped = _stopped(choice, has_called=self._has_called)

    def _fail(self, message: str) -> bytes:
        self._block = None
        return _sse({"type": "error", "error": {"type": "api_error", "message": message}})

    def _plain(self, piece: Piece) -> bytes | None:
        if self._block != ("thinking" if piece.is_reasoning else "text"):
            return None
        return (_THINKING if piece.is_reasoning else _TEXT) % (self._index, piece.text)

    def _delta(self, delta: Json) -> bytes:
        out = b""
        if thinking := reasoning_of(delta):
            out += self._in("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            out += self._say({"type": "thinking_delta", "thinking": thinking})
        if text := string_at(delta, "content") or string_at(delta, "refusal"):
            out += self._in("text", {"type": "text", "text": ""}) + self._say({"type": "text_delta", "text": text})
        for call in objects(delta.get("tool_calls")):
            self._has_called = True
            function = object_at(call, "function")
            start: Json = {
                "type": "tool_use",
                "id": string_at(call, "id"),
                "name": string_at(function, "name"),
                "input": {},
            }
            out += self._in(f"tool {integer_at(call, 'index')}", start)
            if arguments := string_at(function, "arguments"):
                out += self._say({"type": "input_json_delta", "partial_json": arguments})
        return out

    def _in(self, block: str, start: Json) -> bytes:
        """Open a block, unless it is open; first close the one before."""
        if block == self._block:
            return b""
        closed = self._close()
        self._block, self._index = block, self._index + 1
        opened = {"type": "content_block_start", "index": self._index, "content_block": start}
        return closed + _sse(opened)

    def _say(self, delta: Json) -> bytes:
        return _sse({"type": "content_block_delta", "index": self._index, "delta": delta})

    def _close(self) -> bytes:
        if self._block is None:
            return b""
        out = self._say({"type": "signature_delta", "signature": ""}) if self._block == "thinking" else b""
        self._block = None
        return out + _sse({"type": "content_block_stop", "index": self._index})

    def _end(self) -> bytes:
        last = {"type": "message_delta", "delta": self._stopped, "usage": usage_of(self._usage)}
        return self._close() + _sse(last) + _sse({"type": "message_stop"})


def _sse(data: Json) -> bytes:
    return named_event(data["type"], data)
