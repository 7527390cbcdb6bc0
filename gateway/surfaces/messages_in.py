"""How does a request of Anthropic's Messages API become a chat request? Pure.

    system, messages of blocks, tools, tool_choice, thinking  ->  messages, tools, tool_choice, budget

Its budget fields (`thinking`, `output_config.effort`) stay as they are: `gateway/request/dialects.py` reads them.
Signatures of thinking are not checked, and `cache_control` has no effect: engines cache prefixes by themselves. Nor has
`context_management`: what the caller sends is what the model reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from gateway.errors import BadRequestError
from gateway.surfaces.fields import Json, obj, objs, one_of, only, text, wrong

_SAME = ("model", "stream", "temperature", "top_p", "top_k", "max_tokens", "thinking")
_FIELDS = frozenset(
    {
        *_SAME, "cache_control", "context_management", "messages", "metadata", "output_config", "service_tier",
        "stop_sequences", "system", "tool_choice", "tools",
    }
)  # fmt: skip
_CACHED = frozenset({"cache_control"})
_TOOL_FIELDS = frozenset(
    {
        "type", "name", "description", "input_schema", "input_examples", "strict", "eager_input_streaming", *_CACHED,
    }
)  # fmt: skip
THREADS = "thread_unsupported_request"
"""Anthropic's code of an error after which its clients send the whole conversation instead of a `thread`."""
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_body(body: Json) -> Json:
    """The chat request that asks the same.

    Raises:
        BadRequestError: a field is missing, malformed, or asks for what no engine behind this gateway can do.
    """
    if body.get("thread") is not None:
        raise BadRequestError("thread: this gateway stores no messages. Send all of them.", "thread", THREADS)
    only(body, _FIELDS)
    if body.get("max_tokens") is None:
        raise BadRequestError("max_tokens: missing; the Messages API needs it", "max_tokens")
    chat: Json = {name: body[name] for name in _SAME if body.get(name) is not None}
    chat["messages"] = [*_system(body.get("system")), *_messages(body.get("messages"))]
    if (stops := body.get("stop_sequences")) is not None:
        chat["stop"] = stops
    if body.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    if body.get("tools"):
        chat["tools"] = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(objs(body["tools"], "tools"))]
    if body.get("tool_choice") is not None:
        chat |= _tool_choice(obj(body["tool_choice"], "tool_choice"))
    if body.get("output_config") is not None:
        chat |= _output_config(obj(body["output_config"], "output_config"))
    return chat


def _system(system: object) -> Iterator[Json]:
    if system is None or system == []:
        return
    if isinstance(system, str):
        yield {"role": "system", "content": system}
        return
    blocks = objs(system, "system")
    yield {"role": "system", "content": "\n\n".join(_text(block, f"system[{at}]") for at, block in enumerate(blocks))}


def _messages(messages: object) -> Iterator[Json]:
    if messages is None:
        raise BadRequestError("messages: missing", "messages")
    for at, message in enumerate(objs(messages, "messages")):
        path = f"messages[{at}]"
        only(message, ("role", "content"), f"{path}.")
        role = one_of(message.get("role"), ("user", "assistant", "system"), f"{path}.role")
        content = message.get("content")
        if isinstance(content, str):
            yield {"role": role, "content": content}
        elif role == "assistant":
            yield _assistant(objs(content, f"{path}.content"), f"{path}.content")
        elif role == "system":
            yield from _system(content)
        else:
            yield from _user(objs(content, f"{path}.content"), f"{path}.content")


def _user(blocks: list[Json], path: str) -> Iterator[Json]:
    """Results of tools come first, as messages of their own; what else the user says follows."""
    parts: list[Json] = []
    for at, block in enumerate(blocks):
        where = f"{path}[{at}]"
        if block.get("type") == "tool_result":
            result, images = _tool_result(block, where)
            yield result
            parts += images
        else:
            parts.append(_part(block, where))
    if parts or not blocks:
        is_text = all(part["type"] == "text" for part in parts)
        yield {"role": "user", "content": "\n\n".join(part["text"] for part in parts) if is_text else parts}


def _tool_result(block: Json, path: str) -> tuple[Json, list[Json]]:
    only(block, {"type", "tool_use_id", "content", "is_error", *_CACHED}, f"{path}.")
    content = block.get("content")
    parts = (
        [{"type": "text", "text": content or ""}]
        if content is None or isinstance(content, str)
        else [_part(part, f"{path}.content[{at}]") for at, part in enumerate(objs(content, f"{path}.content"))]
    )
    words = "\n".join(part["text"] for part in parts if part["type"] == "text")
    result = {
        "role": "tool",
        "tool_call_id": text(block.get("tool_use_id"), f"{path}.tool_use_id"),
        "content": f"Error: {words}" if block.get("is_error") else words,
    }
    return result, [part for part in parts if part["type"] != "text"]


def _part(block: Json, path: str) -> Json:
    kind = block.get("type")
    if kind == "text":
        return {"type": "text", "text": _text(block, path)}
    if kind == "image":
        only(block, {"type", "source", *_CACHED}, f"{path}.")
        return {"type": "image_url", "image_url": {"url": _image_url(obj(block.get("source"), f"{path}.source"), path)}}
    raise wrong(f"{path}.type", "text, image or tool_result", kind)


def _image_url(source: Json, path: str) -> str:
    kind = one_of(source.get("type"), ("base64", "url"), f"{path}.source.type")
    if kind == "url":
        return text(source.get("url"), f"{path}.source.url")
    media_type = text(source.get("media_type"), f"{path}.source.media_type")
    return f"data:{media_type};base64,{text(source.get('data'), f'{path}.source.data')}"


def _text(block: Json, path: str) -> str:
    one_of(block.get("type"), ("text",), f"{path}.type")
    only(block, {"type", "text", "citations", *_CACHED}, f"{path}.")
    return text(block.get("text"), f"{path}.text")


def _assistant(blocks: list[Json], path: str) -> Json:
    said: list[str] = []
    thought: list[str] = []
    calls: list[Json] = []
    for at, block in enumerate(blocks):
        where = f"{path}[{at}]"
        match block.get("type"):
            case "text":
                said.append(_text(block, where))
            case "thinking":
                only(block, ("type", "thinking", "signature"), f"{where}.")
                thought.append(text(block.get("thinking"), f"{where}.thinking"))
            case "redacted_thinking":
                pass  # nobody can read it
            case "tool_use":
                calls.append(_call(block, where))
            case kind:
                raise wrong(f"{where}.type", "text, thinking, redacted_thinking or tool_use", kind)
    message: Json = {"role": "assistant", "content": "".join(said) if said or not calls else None}
    if thought:
        message["reasoning_content"] = "\n".join(thought)
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Json, path: str) -> Json:
    only(block, {"type", "id", "name", "input", "caller", *_CACHED}, f"{path}.")
    arguments = json.dumps(obj(block.get("input"), f"{path}.input"), ensure_ascii=False)
    return {
        "id": text(block.get("id"), f"{path}.id"),
        "type": "function",
        "function": {"name": text(block.get("name"), f"{path}.name"), "arguments": arguments},
    }


def _tool(tool: Json, path: str) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise BadRequestError(
            f"{path}.type: {str(tool['type'])[:40]!r} runs on Anthropic's servers; this gateway takes your own tools",
            f"{path}.type",
        )
    only(tool, _TOOL_FIELDS, f"{path}.")
    function: Json = {
        "name": text(tool.get("name"), f"{path}.name"),
        "parameters": obj(tool.get("input_schema"), f"{path}.input_schema"),
    }
    for name in ("description", "strict"):
        if tool.get(name) is not None:
            function[name] = tool[name]
    return {"type": "function", "function": function}


def _tool_choice(choice: Json) -> Json:
    only(choice, ("type", "name", "disable_parallel_tool_use"), "tool_choice.")
    kind = one_of(choice.get("type"), ("auto", "any", "tool", "none"), "tool_choice.type")
    chosen: Any = _TOOL_CHOICES.get(kind)
    if chosen is None:
        chosen = {"type": "function", "function": {"name": text(choice.get("name"), "tool_choice.name")}}
    result: Json = {"tool_choice": chosen}
    if choice.get("disable_parallel_tool_use") is not None:
        result["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]
    return result


def _output_config(config: Json) -> Json:
    only(config, ("effort", "format"), "output_config.")
    result: Json = {}
    if config.get("effort") is not None:
        result["output_config"] = {"effort": config["effort"]}
    if (shape := config.get("format")) is not None:
        format_ = obj(shape, "output_config.format")
        one_of(format_.get("type"), ("json_schema",), "output_config.format.type")
        schema = obj(format_.get("schema"), "output_config.format.schema")
        result["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return result
