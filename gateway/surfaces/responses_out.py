"""How does a chat response become one of OpenAI's Responses API? Whole, and as a stream of events. Pure."""

from __future__ import annotations

import json
from typing import Any

from gateway.events import (
    Json,
    integer_at,
    object_at,
    objects,
    string_at,
)
from gateway.surfaces.said import ChatReader, Piece, first_choice, named_event, reasoning_of

_ECHOED = (
    "instructions", "max_output_tokens", "metadata", "parallel_tool_calls", "reasoning", "temperature", "text",
    "tool_choice", "tools", "top_p", "truncation", "user", "service_tier", "safety_identifier", "prompt_cache_key",
)  # fmt: skip
_COMPLETE = frozenset({"", "stop", "tool_calls", "function_call"})
_DEFAULTS: Json = {
    "metadata": {},
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "truncation": "disabled",
}


def response(completion: Json, asked: Json) -> Json:
    """The response of a whole chat completion; of several choices, the first.

    Args:
        completion: what the chat answered.
        asked: the Responses request, whose settings are repeated.

    Raises:
        ApiError: 502, the engine gave up.
    """
    choice = first_choice(completion)
    said, name = object_at(choice, "message"), _name(completion)
    output: list[Json] = []
    if thinking := reasoning_of(said):
        output.append(_reasoning(name, thinking, "completed"))
    calls = objects(said.get("tool_calls"))
    answer = string_at(said, "content")
    if answer or not (calls or thinking):
        output.append(_message(name, answer, "completed"))
    output += [_call(name, at, call, "completed") for at, call in enumerate(calls)]
    finish = string_at(choice, "finish_reason")
    output[-1]["status"] = _ended(finish)
    return _envelope(completion, asked, finish, output, object_at(completion, "usage"))


def usage_of(usage: Json) -> Json:
    """Tokens by the Responses API's names."""
    return {
        "input_tokens": integer_at(usage, "prompt_tokens"),
        "input_tokens_details": {
            "cached_tokens": integer_at(object_at(usage, "prompt_tokens_details"), "cached_tokens"),
            "cache_write_tokens": 0,
        },
        "output_tokens": integer_at(usage, "completion_tokens"),
        "output_tokens_details": {
            "reasoning_tokens": integer_at(object_at(usage, "completion_tokens_details"), "reasoning_tokens")
        },
        "total_tokens": integer_at(usage, "total_tokens"),
    }


def _name(chat: Json) -> str:
    return string_at(chat, "id").removeprefix("chatcmpl-")


def _ended(finish: str) -> str:
    """The status of a response that ended for this reason, and of its last item.

    A reason that is not known, such as vLLM's `repetition`, has cut the answer off.
    """
    return "completed" if finish in _COMPLETE else "incomplete"


def _envelope(chat: Json, asked: Json, finish: str, output: list[Json], usage: Json | None) -> Json:
    is_cut = _ended(finish) == "incomplete"
    reason = "content_filter" if finish == "content_filter" else "max_output_tokens"
    status = "in_progress" if usage is None else _ended(finish)
    echoed = {field: asked[field] for field in _ECHOED if asked.get(field) is not None}
    return {
        "id": f"resp_{_name(chat)}",
        "object": "response",
        "created_at": integer_at(chat, "created"),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": reason} if is_cut else None,
        "model": string_at(chat, "model"),
        "output": output,
        "instructions": None,
        "previous_response_id": None,
        "store": False,
        "temperature": None,
        "top_p": None,
        **_DEFAULTS,
        **echoed,
        "usage": None if usage is None else usage_of(usage),
    }


def _reasoning(name: str, thinking: str, status: str) -> Json:
    return {
        "id": f"rs_{name}",
        "type": "reasoning",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": thinking}],
        "status": status,
    }


def _message(name: str, answer: str, status: str) -> Json:
    content: list[Json] = [{"type": "output_text", "text": answer, "annotations": []}]
    return {"id": f"msg_{name}", "type": "message", "status": status, "role": "assistant", "content": content}


def _call(name: str, at: int, call: Json, status: str) -> Json:
    function = object_at(call, "function")
    return {
        "id": f"fc_{name}_{at}",
        "type": "function_call",
        "status": status,
        "call_id": string_at(call, "id"),
        "name": string_at(function, "name"),
        "arguments": string_at(function, "arguments"),
    }


_DELTA = (
    b'event: response.%b.delta\ndata: {"type":"response.%b.delta","sequence_number":%%d,"item_id":%%b,'
    b'"output_index":%%d,"delta":%%b,"content_index":0%b}\n\n'
)
_THINKING = _DELTA % (b"reasoning_text", b"reasoning_text", b"")
_TEXT = _DELTA % (b"output_text", b"output_text", b',"logprobs":[]')


class ResponseStream(ChatReader):
    """Turns the events of a chat stream into those of the Responses API, as they come."""

    def __init__(self, asked: Json) -> None:
        """`asked` is the Responses request, whose settings are repeated."""
        super().__init__()
        self._asked = asked
        self._number = 0
        self._open: tuple[str, Json] | None = None
        """The item that is being written: `reasoning`, `message`, or `call` and its index; and the item."""
        self._written: list[str] = []
        self._output: list[Json] = []
        self._finish = ""

    def _begin(self) -> bytes:
        begun = _envelope(self._first, self._asked, "", [], None)
        return self._sse("response.created", response=begun) + self._sse("response.in_progress", response=begun)

    def _finished(self, choice: Json) -> None:
        self._finish = string_at(choice, "finish_reason")

    def _plain(self, piece: Piece) -> bytes | None:
        kind, item = self._open or ("", {})
        if kind != ("reasoning" if piece.is_reasoning else "message"):
            return None
        self._written.append(json.loads(piece.text))
        place = (self._number, json.dumps(item["id"]).encode(), len(self._output), piece.text)
        self._number += 1
        return (_THINKING if piece.is_reasoning else _TEXT) % place

    def _delta(self, delta: Json) -> bytes:
        name, out = _name(self._first), b""
        if thinking := reasoning_of(delta):
            out += self._in("reasoning", {**_reasoning(name, "", "in_progress"), "content": []})
            out += self._say("response.reasoning_text.delta", thinking, content_index=0)
        if text := string_at(delta, "content"):
            out += self._in("message", {**_message(name, "", "in_progress"), "content": []})
            out += self._say("response.output_text.delta", text, content_index=0, logprobs=[])
        for call in objects(delta.get("tool_calls")):
            at = integer_at(call, "index")
            without = {**call, "function": {**object_at(call, "function"), "arguments": ""}}
            out += self._in(f"call {at}", _call(name, at, without, "in_progress"))
            if arguments := string_at(object_at(call, "function"), "arguments"):
                out += self._say("response.function_call_arguments.delta", arguments)
        return out

    def _in(self, kind: str, item: Json) -> bytes:
        """Begin an item, unless it is open; first end the one before."""
        if self._open is not None and self._open[0] == kind:
            return b""
        closed = self._close()
        self._open, self._written = (kind, item), []
        opened = self._sse("response.output_item.added", output_index=len(self._output), item=item)
        if kind.startswith("call"):
            return closed + opened
        return closed + opened + self._part("response.content_part.added", "")

    def _say(self, event: str, delta: str, **more: Any) -> bytes:
        self._written.append(delta)
        return self._sse(event, **self._place(), delta=delta, **more)

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        kind, item = self._open
        text, place = "".join(self._written), self._place()
        status = _ended(self._finish)  # known for the last item only, which is the one that was cut
        if kind == "reasoning":
            done = {**item, "content": [{"type": "reasoning_text", "text": text}], "status": status}
            out = self._sse("response.reasoning_text.done", **place, content_index=0, text=text)
            out += self._part("response.content_part.done", text)
        elif kind == "message":
            done = _message(_name(self._first), text, status)
            out = self._sse("response.output_text.done", **place, content_index=0, text=text, logprobs=[])
            out += self._part("response.content_part.done", text)
        else:
            done = {**item, "arguments": text, "status": status}
            out = self._sse("response.function_call_arguments.done", **place, name=item["name"], arguments=text)
        out += self._sse("response.output_item.done", output_index=place["output_index"], item=done)
        self._output.append(done)
        self._open = None
        return out

    def _part(self, event: str, text: str) -> bytes:
        assert self._open is not None
        part: Json = {"type": "reasoning_text", "text": text}
        if self._open[0] == "message":
            part = {"type": "output_text", "text": text, "annotations": []}
        return self._sse(event, **self._place(), content_index=0, part=part)

    def _place(self) -> Json:
        assert self._open is not None
        return {"item_id": self._open[1]["id"], "output_index": len(self._output)}

    def _end(self) -> bytes:
        out = b""
        if not self._output and self._open is None:
            out += self._in("message", {**_message(_name(self._first), "", "in_progress"), "content": []})
        out += self._close()
        ended = _envelope(self._first, self._asked, self._finish, self._output, self._usage)
        return out + self._sse(f"response.{ended['status']}", response=ended)

    def _fail(self, message: str) -> bytes:
        out = self._begun({})
        failed = _envelope(self._first, self._asked, "", self._output, None)
        self._open = None
        failed |= {"status": "failed", "error": {"code": "server_error", "message": message}}
        return out + self._sse("response.failed", response=failed)

    def _sse(self, event: str, **data: Any) -> bytes:
        body = {"type": event, "sequence_number": self._number, **data}
        self._number += 1
        return named_event(event, body)
