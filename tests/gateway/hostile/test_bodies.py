"""Bodies whose numbers, sizes or fields no engine should see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, FakeEngine, Gateway, error, running
from tests.gateway.hostile.harness import CHAT

JSON = {"content-type": "application/json"}


def with_number(field: str, number: str) -> str:
    """A chat request in which a field is this number, written exactly so."""
    return json.dumps({**CHAT, field: "here"}).replace('"here"', number)


HUGE = ["1e999", "-1e999", "1E+400", "[1, 1e999]", '{"a": {"b": -1e309}}', "1" * 400 + ".0", "1" * 400, "1" * 5000]


@pytest.mark.parametrize("number", HUGE, ids=[number[:20] for number in HUGE])
@pytest.mark.parametrize("field", ["temperature", "logit_bias", "metadata"])
async def test_a_number_that_is_not_finite_is_rejected(
    gateway: Gateway, engine: FakeEngine, field: str, number: str
) -> None:
    response = await gateway.client.post("/v1/chat/completions", content=with_number(field, number), headers=JSON)
    assert response.status_code == 400
    assert error(response)["param"] == field
    assert engine.bodies == []


@pytest.mark.parametrize(
    "body", ["[1e999]", "1e999", '{"a": 1e999', '{"a": 1e999, "b": ' + "[" * 100_000, '{"a": NaN, "b": 1e999}']
)
async def test_a_number_that_is_not_finite_in_a_body_that_is_none(gateway: Gateway, body: str) -> None:
    response = await gateway.client.post("/v1/chat/completions", content=body, headers=JSON)
    assert response.status_code == 400
    assert error(response)["message"]


async def test_a_body_that_can_be_read_and_not_written_again_is_rejected(gateway: Gateway) -> None:
    statuses: list[int] = []
    for depth in range(880, 1000):
        content = with_number("metadata", "[" * depth + "]" * depth)
        response = await gateway.client.post("/v1/chat/completions", content=content, headers=JSON)
        statuses.append(response.status_code)
    assert sorted(set(statuses)) == [200, 400]
    assert statuses == sorted(statuses)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "01", "1.", "0x1"])
async def test_what_is_no_json_number_is_rejected(gateway: Gateway, engine: FakeEngine, number: str) -> None:
    content = with_number("temperature", number)
    response = await gateway.client.post("/v1/chat/completions", content=content, headers=JSON)
    assert response.status_code == 400
    assert engine.bodies == []


async def test_choices_are_bounded(gateway: Gateway, engine: FakeEngine) -> None:
    for number in (129, 2**31 - 1, 10**300, 0, -1):
        response = await gateway.ask(EASY, n=number)
        assert (response.status_code, error(response)["param"]) == (400, "n")
    assert engine.bodies == []
    for number in (1, 128):
        assert (await gateway.ask(EASY, n=number)).status_code == 200


FORBIDDEN: dict[str, Any] = {
    "priority": -1,
    "kv_transfer_params": {"do_remote_prefill": True},
    "chat_template": "{{ messages }}",
    "request_id": "another's",
    "session_id": "another's",
    "cache_salt": "x",
    "vllm_xargs": {"a": 1},
    "mm_processor_kwargs": {},
    "use_beam_search": True,
    "echo": True,
    "add_generation_prompt": False,
    "continue_final_message": True,
    "documents": [],
    "thinking_budget_tokns": 16,
    "max_token": 5,
    "": 1,
    "x" * 5000: 1,
}


@pytest.mark.parametrize("field", FORBIDDEN)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
async def test_a_field_that_is_not_on_the_list_is_rejected_by_name(
    gateway: Gateway, engine: FakeEngine, path: str, field: str
) -> None:
    response = await gateway.client.post(path, json={**CHAT, field: FORBIDDEN[field]})
    assert response.status_code == 400
    refused = error(response)
    assert refused["code"] == "field_not_allowed"
    assert field.startswith(refused["param"].removesuffix("..."))
    assert len(refused["message"]) < 400
    assert "--allow-field" in refused["message"]
    assert engine.bodies == []


async def test_the_template_gets_no_parameter_of_the_engine(gateway: Gateway, engine: FakeEngine) -> None:
    for parameter in ("chat_template", "add_generation_prompt", "continue_final_message", "documents", "tokenize"):
        response = await gateway.ask(EASY, chat_template_kwargs={"enable_thinking": False, parameter: True})
        assert (response.status_code, error(response)["param"]) == (400, f"chat_template_kwargs.{parameter}")
    assert engine.bodies == []


async def test_the_operator_can_open_a_field(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    opened = {"allow_field": ["priority", "chat_template_kwargs.documents"], "state_dir": tmp_path}
    async with running(family_dir, redis_server.url, [engine.url], **opened) as gateway:
        template = {"documents": []}
        assert (await gateway.ask(EASY, priority=3, chat_template_kwargs=template)).status_code == 200
        assert (engine.bodies[0]["priority"], engine.bodies[0]["chat_template_kwargs"]) == (3, template)
        assert error(await gateway.ask(EASY, cache_salt="x"))["param"] == "cache_salt"


async def test_what_clients_send_is_allowed(gateway: Gateway, engine: FakeEngine) -> None:
    sent: dict[str, Any] = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.0, "seed": 1, "stop": ["x"], "user": "u",
        "store": False,
        "logprobs": True, "top_logprobs": 1, "metadata": {"a": "b"}, "repetition_penalty": 1.1, "stop_token_ids": [1],
        "response_format": {"type": "text"}, "structured_outputs": {"regex": "[0-9]+"}, "service_tier": "auto",
        "prompt_cache_key": "x", "safety_identifier": "x", "verbosity": "low", "parallel_tool_calls": True,
        "chat_template_kwargs": {"style": "terse"}, "ignore_eos": False, "min_tokens": 1, "skip_special_tokens": True,
    }  # fmt: skip
    assert (await gateway.ask(EASY, **sent)).status_code == 200
    assert {name: engine.bodies[0][name] for name in sent} == sent


@pytest.mark.parametrize("value", [0, 1, "false", "no", "f", [], {}])
async def test_a_caller_cannot_hide_its_thinking_from_the_gateway(
    gateway: Gateway, engine: FakeEngine, value: object
) -> None:
    """Engines read many spellings as false. The gateway must notice each, because it counts the thinking."""
    response = await gateway.ask(EASY, include_reasoning=value)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "include_reasoning")
    assert engine.bodies == []
