"""How does a request of OpenAI's Responses API become a chat request? Pure.

    instructions, input of items, tools, text.format, reasoning  ->  messages, tools, response_format, budget

The gateway keeps no conversations, so what would need a stored one is refused by name: `previous_response_id`,
`conversation`, `background`, items by reference, and stored prompts.
"""

from __future__ import annotations

from typing import Any

from gateway.errors import BadRequestError
from gateway.request.dialects import MAX_BUDGET
from gateway.surfaces.fields import Json, items, obj, objs, one_of, only, text, whole, wrong

_SAME = (
    "model", "stream", "temperature", "top_p", "top_logprobs", "parallel_tool_calls", "reasoning", "metadata",
    "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "user",
)  # fmt: skip
_STORED = ("previous_response_id", "conversation", "prompt", "background")
_FIELDS = frozenset(
    {
        *_SAME, *_STORED, "include", "input", "instructions", "max_output_tokens", "store", "stream_options", "text",
        "tool_choice", "tools", "truncation", "client_metadata",
    }
)  # fmt: skip
NAMES = {
    "max_tokens": "max_output_tokens", "max_completion_tokens": "max_output_tokens", "messages": "input",
    "response_format": "text.format",
}  # fmt: skip
"""What of a chat is called otherwise here."""
_ENCRYPTED = "reasoning.encrypted_content"


def chat_body(body: Json) -> Json:
    """The chat request that asks the same.

    Raises:
        BadRequestError: a field is missing, malformed, needs a store, or asks for what no engine here can do.
    """
    only(body, _FIELDS)
    _require_nothing_stored(body)
    chat: Json = {name: body[name] for name in _SAME if body.get(name) is not None}
    system = [] if body.get("instructions") is None else [_system(body["instructions"])]
    chat["messages"] = [*system, *_items(body.get("input"))]
    if not chat["messages"]:
        raise BadRequestError("input: it has nothing to answer", "input")
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = whole(body["max_output_tokens"], "max_output_tokens", 1, MAX_BUDGET)
    if body.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    if body.get("tools"):
        chat["tools"] = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(objs(body["tools"], "tools"))]
    if body.get("tool_choice") is not None:
        chat["tool_choice"] = _tool_choice(body["tool_choice"])
    if body.get("text") is not None:
        chat |= _text_format(obj(body["text"], "text"))
    if body.get("top_logprobs"):
        chat["logprobs"] = True
    return chat


def _require_nothing_stored(body: Json) -> None:
    for field in _STORED:
        if body.get(field):
            raise BadRequestError(
                f"{field}: this gateway stores no responses. Send the whole conversation in input.",
                field,
                code="not_stored",
            )
    for at, name in enumerate(items(body.get("include") or [], "include")):
        one_of(name, (_ENCRYPTED,), f"include[{at}]")
    if body.get("truncation") is not None:
        one_of(body["truncation"], ("disabled",), "truncation")


def _system(instructions: object) -> Json:
    return {"role": "system", "content": text(instructions, "instructions")}


def _items(given: object) -> list[Json]:
    if given is None:
        raise BadRequestError("input: missing", "input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    messages: list[Json] = []
    thinking = ""
    for at, item in enumerate(objs(given, "input")):
        path = f"input[{at}]"
        if item.get("type") == "reasoning":
            thinking = _joined(thinking, _thinking(item, path))
            continue
        message = _item(item, path)
        if message["role"] == "assistant":
            message, thinking = {**message, "reasoning_content": thinking} if thinking else message, ""
        elif message["role"] != "tool":
            thinking = ""  # it led to no answer, and belongs to no later one
        _append(messages, message)
    return messages


def _item(item: Json, path: str) -> Json:
    """The message that an item is, unless it is thinking."""
    kind = item.get("type") or "message"
    if kind == "message":
        return _message(item, path)
    if kind == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": [_call(item, path)]}
    if kind == "function_call_output":
        return _output(item, path)
    if kind == "item_reference":
        raise BadRequestError(f"{path}: this gateway stores no items. Send the item itself.", path, code="not_stored")
    raise wrong(f"{path}.type", "message, reasoning, function_call or function_call_output", kind)


def _joined(*thoughts: str) -> str:
    return "\n".join(filter(None, thoughts))


def _append(messages: list[Json], message: Json) -> None:
    """Calls behind an assistant's message, or behind each other, are one message in a chat."""
    last = messages[-1] if messages else {}
    if message.get("tool_calls") and last.get("role") == "assistant":
        last["tool_calls"] = [*last.get("tool_calls", []), *message["tool_calls"]]
        if thinking := _joined(last.get("reasoning_content", ""), message.get("reasoning_content", "")):
            last["reasoning_content"] = thinking
    else:
        messages.append(message)


def _message(item: Json, path: str) -> Json:
    only(item, ("type", "role", "content", "id", "status", "phase"), f"{path}.")
    role = one_of(item.get("role"), ("user", "assistant", "system", "developer"), f"{path}.role")
    content = item.get("content")
    if isinstance(content, str):
        return {"role": role, "content": content}
    parts = [_part(part, f"{path}.content[{at}]") for at, part in enumerate(objs(content, f"{path}.content"))]
    if all(part["type"] == "text" for part in parts):
        return {"role": role, "content": "\n".join(part["text"] for part in parts)}
    return {"role": role, "content": parts}


def _part(part: Json, path: str) -> Json:
    kind = one_of(part.get("type"), ("input_text", "output_text", "refusal", "input_image"), f"{path}.type")
    if kind == "input_image":
        only(part, ("type", "image_url", "detail"), f"{path}.")
        image: Json = {"url": text(part.get("image_url"), f"{path}.image_url")}
        if part.get("detail") is not None:
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    return {"type": "text", "text": text(part.get("refusal" if kind == "refusal" else "text"), f"{path}.text")}


def _thinking(item: Json, path: str) -> str:
    only(item, ("type", "id", "summary", "content", "encrypted_content", "status"), f"{path}.")
    parts = objs(item.get("content") or item.get("summary") or [], f"{path}.content")
    return "\n".join(text(part.get("text"), f"{path}.content[{at}].text") for at, part in enumerate(parts))


def _call(item: Json, path: str) -> Json:
    only(item, ("type", "id", "call_id", "name", "arguments", "status", "namespace"), f"{path}.")
    return {
        "id": text(item.get("call_id"), f"{path}.call_id"),
        "type": "function",
        "function": {
            "name": text(item.get("name"), f"{path}.name"),
            "arguments": text(item.get("arguments"), f"{path}.arguments"),
        },
    }


def _output(item: Json, path: str) -> Json:
    only(item, ("type", "id", "call_id", "output", "status"), f"{path}.")
    output = item.get("output")
    if not isinstance(output, str):
        parts = [_part(part, f"{path}.output[{at}]") for at, part in enumerate(objs(output, f"{path}.output"))]
        if any(part["type"] != "text" for part in parts):
            raise BadRequestError(f"{path}.output: results of tools are text here", f"{path}.output")
        output = "\n".join(part["text"] for part in parts)
    return {"role": "tool", "tool_call_id": text(item.get("call_id"), f"{path}.call_id"), "content": output}


def _tool(tool: Json, path: str) -> Json:
    if tool.get("type") != "function":
        raise BadRequestError(
            f"{path}.type: {str(tool.get('type'))[:40]!r} runs on OpenAI's servers; this gateway takes functions",
            f"{path}.type",
        )
    only(tool, ("type", "name", "description", "parameters", "strict"), f"{path}.")
    function: Json = {"name": text(tool.get("name"), f"{path}.name")}
    function |= {name: tool[name] for name in ("description", "parameters", "strict") if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: object) -> Any:
    if isinstance(choice, str):
        return one_of(choice, ("auto", "none", "required"), "tool_choice")
    chosen = obj(choice, "tool_choice")
    one_of(chosen.get("type"), ("function",), "tool_choice.type")
    return {"type": "function", "function": {"name": text(chosen.get("name"), "tool_choice.name")}}


def _text_format(config: Json) -> Json:
    only(config, ("format", "verbosity"), "text.")
    result: Json = {} if config.get("verbosity") is None else {"verbosity": config["verbosity"]}
    if config.get("format") is None:
        return result
    format_ = obj(config["format"], "text.format")
    kind = one_of(format_.get("type"), ("text", "json_object", "json_schema"), "text.format.type")
    if kind == "json_schema":
        only(format_, ("type", "name", "schema", "strict", "description"), "text.format.")
        schema = {name: format_[name] for name in ("name", "schema", "strict", "description") if name in format_}
        result["response_format"] = {"type": kind, "json_schema": schema}
    elif kind == "json_object":
        result["response_format"] = {"type": kind}
    return result
