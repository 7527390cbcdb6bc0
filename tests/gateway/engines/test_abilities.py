"""What each checkpoint can do is learned from answers, and callers are told what was refused or ignored."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from hypothesis import given

from gateway.engines.abilities import ABILITIES, Abilities, wanted
from gateway.errors import ApiError, from_engine
from tests.gateway.engines.test_verdict import json_values
from tests.gateway.fakes import COMPLETION, EASY, FakeEngine, Gateway, error, event, respond_with, stream

TOOL = {"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}
TOOLS: dict[str, Any] = {"tools": [TOOL]}
SCHEMA: dict[str, Any] = {
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
}
LOOK = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
IMAGE = {"messages": [{"role": "user", "content": LOOK}]}
REFUSALS = {
    "vLLM, tools": (TOOLS, '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'),
    "llama.cpp, tools": (TOOLS, "tools param requires --jinja flag"),
    "Ollama, tools": (TOOLS, "registry.ollama.ai/library/gemma:2b does not support tools"),
    "vLLM, images": (IMAGE, "qwen is not a multimodal model"),
    "vLLM, no image": (IMAGE, "At most 0 image(s) may be provided in one prompt."),
    "llama.cpp, images": (IMAGE, "image input is not supported - hint: you may need to provide the mmproj"),
    "OpenAI, images": (IMAGE, "Invalid content type. image_url is only supported by certain models."),
    "format": (SCHEMA, "This response_format type is unavailable now"),
}
FIELDS = {"tools": "tools", "images": "messages[0].content[1]", "format": "response_format"}


@pytest.mark.parametrize("engine_says", REFUSALS)
def test_a_refusal_is_learned_and_names_the_field_and_what_to_do(engine_says: str) -> None:
    body, message = REFUSALS[engine_says]
    abilities, refusal = Abilities(), from_engine(400, {"error": {"message": message}})
    abilities.learn_from_refusal("base", body, refusal)
    (ability,) = wanted(body)
    assert abilities.of("base") == dict.fromkeys(ABILITIES) | {ability: False}
    assert refusal.param in FIELDS.values()
    assert refusal.message.startswith(f"{refusal.param}: base cannot take this. ")
    assert message in refusal.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (TOOLS, "max_tokens is too large"),
        (TOOLS, "tools[0].function.parameters: invalid schema"),
        (IMAGE, "cannot identify image file"),
        (SCHEMA, "Grammar error: the schema has no type"),
        ({}, "requires --tool-call-parser"),
    ],
)
def test_another_refusal_shows_nothing_and_stays_as_it_is(body: dict[str, Any], message: str) -> None:
    abilities, refusal = Abilities(), ApiError(400, message)
    abilities.learn_from_refusal("base", body, refusal)
    assert abilities.of("base") == dict.fromkeys(ABILITIES)
    assert (refusal.message, refusal.param) == (message, None)


def answer(content: str | None = None, finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": finish}]}


CALLED = answer(tool_calls=[{"id": "1"}], finish="tool_calls")
MUST = {**TOOLS, "tool_choice": "required"}


@pytest.mark.parametrize(
    ("body", "said", "known", "ignored"),
    [
        (TOOLS, CALLED, {"tools": True}, None),
        (TOOLS, answer("No need."), {}, None),
        (MUST, answer("No."), {"tools": False}, "tool_choice"),
        ({**TOOLS, "tool_choice": {"type": "function"}}, answer("No."), {"tools": False}, "tool_choice"),
        (MUST, answer("Let me th", "length"), {}, None),
        (SCHEMA, answer('{"a": 1}'), {"response_format": True}, None),
        (SCHEMA, answer("a is 1"), {"response_format": False}, "response_format"),
        (SCHEMA, answer('{"a": ', "length"), {}, None),
        ({**SCHEMA, **TOOLS}, CALLED, {"tools": True}, None),
        ({"response_format": {"type": "text"}}, answer("a is 1"), {}, None),
        (IMAGE, answer("A cat."), {"images": True}, None),
    ],
)
def test_an_answer_shows_what_was_heeded(
    body: dict[str, Any], said: dict[str, Any], known: dict[str, bool], ignored: str | None
) -> None:
    abilities = Abilities()
    assert abilities.learn_from_answer("base", body, said) == ignored
    assert abilities.of("base") == dict.fromkeys(ABILITIES) | known
    assert abilities.of("alpha-0.1") == dict.fromkeys(ABILITIES)


@given(json_values(), json_values())
def test_any_answer_of_any_engine_can_be_read(body: Any, said: Any) -> None:
    for asked in ({**MUST, "response_format": body}, {**SCHEMA, "messages": body}):
        for answered in ({"choices": said}, {"choices": [{"message": said, "finish_reason": "stop"}]}):
            Abilities().learn_from_answer("base", asked, answered)


async def listed(gateway: Gateway) -> dict[str, Any]:
    return (await gateway.client.get("/v1/models/abacus/base")).json()["abilities"]


async def test_models_say_what_is_known(gateway: Gateway, engine: FakeEngine) -> None:
    unknown = {"reasoning": True, "thinking_capped_by": "engine", **dict.fromkeys(ABILITIES)}
    assert await listed(gateway) == unknown

    async def refuse(*_: object) -> web.Response:
        return web.json_response({"error": {"message": REFUSALS["vLLM, tools"][1], "code": 400}}, status=400)

    engine.script = refuse
    refused = await gateway.ask(EASY, model="abacus/base", **TOOLS)
    assert refused.status_code == 400
    assert error(refused)["param"] == "tools"
    assert "--engine-args" in error(refused)["message"]
    assert await listed(gateway) == {**unknown, "tools": False}


async def test_a_format_that_was_ignored_is_said_in_a_header(gateway: Gateway) -> None:
    whole = await gateway.ask(EASY, model="abacus/base", **SCHEMA)
    assert whole.headers["x-laconic-ignored"] == "response_format"
    assert (await listed(gateway))["response_format"] is False
    stream = await gateway.ask(EASY, model="abacus/base", stream=True, **SCHEMA)
    assert stream.headers["x-laconic-ignored"] == "response_format"
    assert "x-laconic-ignored" not in (await gateway.ask(EASY, model="abacus/base")).headers


async def test_a_tool_that_was_called_is_known_whole_and_streamed(gateway: Gateway, engine: FakeEngine) -> None:
    called = {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "read"}}]}
    engine.script = respond_with(200, {**COMPLETION, "choices": [{"message": called, "finish_reason": "tool_calls"}]})
    await gateway.ask(EASY, model="abacus/base", **TOOLS)
    assert (await listed(gateway))["tools"] is True
    calls = [{"index": 0, "id": "1", "type": "function", "function": {"name": "read", "arguments": "{}"}}]
    engine.script = stream(event({"tool_calls": calls}), event({}, "tool_calls"), b"data: [DONE]\n\n")
    await gateway.ask(EASY, model="abacus/alpha-0.1", stream=True, **TOOLS)
    other = (await gateway.client.get("/v1/models/abacus/alpha-0.1")).json()
    assert other["abilities"]["tools"] is True


async def test_a_checkpoints_context_is_what_its_engine_lists(gateway: Gateway, engine: FakeEngine) -> None:
    engine.contexts = {"abacus/base": 512, "abacus/alpha-0.1": 4096}
    await gateway.probe()
    models = {one["id"]: one["context_tokens"] for one in (await gateway.client.get("/v1/models")).json()["data"]}
    assert models == {"abacus": 1024, "abacus/base": 512, "abacus/alpha-0.1": 1024, "abacus/alpha-0.4": 1024}
