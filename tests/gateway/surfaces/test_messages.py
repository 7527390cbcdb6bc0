"""Anthropic's Messages API in front of a scripted engine, with Anthropic's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anthropic
import pytest

from tests.gateway.fakes import EASY, FakeEngine, Gateway

WEATHER: Any = {"name": "weather", "description": "Now.", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(base_url=str(gateway.client.base_url), api_key="none", max_retries=0) as sdk:
        yield sdk


def asked(**more: Any) -> Any:
    return {"model": "abacus", "max_tokens": 500, "messages": [{"role": "user", "content": EASY}], **more}


async def test_a_message_has_its_thinking_its_answer_and_its_tokens(client: anthropic.AsyncAnthropic) -> None:
    message = await client.messages.create(**asked())
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens > 0
    assert message.id.startswith("msg_")


async def test_a_stream_adds_up_to_the_same_message(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    whole = await client.messages.create(**asked())
    async with client.messages.stream(**asked()) as events:
        streamed = await events.get_final_message()
    assert [block.type for block in streamed.content] == [block.type for block in whole.content]
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens > 0


async def test_the_budget_is_routed_and_capped_as_in_a_chat(
    client: anthropic.AsyncAnthropic, engine: FakeEngine
) -> None:
    raw = await client.messages.with_raw_response.create(**asked(thinking={"type": "enabled", "budget_tokens": 64}))
    assert raw.headers["x-laconic-budget"] == "64"
    assert engine.bodies[-1]["thinking_token_budget"] == 64
    await client.messages.create(**asked(thinking={"type": "disabled"}))
    assert engine.bodies[-1]["chat_template_kwargs"] == {"enable_thinking": False}


async def test_an_error_is_in_anthropic_s_shape(client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as refused:
        await client.messages.create(**asked(model="abacus/alpha-9"))
    assert refused.value.body == {
        "type": "error",
        "error": {"type": "not_found_error", "message": refused.value.body["error"]["message"]},  # type: ignore[index]
        "request_id": refused.value.request_id,
    }


async def test_the_client_knows_the_id_of_its_request(client: anthropic.AsyncAnthropic, gateway: Gateway) -> None:
    """It reads another header than OpenAI's."""
    message = await client.messages.create(**asked())
    (entry,) = await gateway.entries()
    assert message._request_id == entry.id
    raw = await client.messages.with_raw_response.create(**asked(stream=True))
    assert raw.headers["request-id"] == raw.headers["x-request-id"]
    counted = await client.messages.with_raw_response.count_tokens(model="abacus", messages=asked()["messages"])
    assert counted.request_id == counted.headers["x-request-id"]
    with pytest.raises(anthropic.NotFoundError) as refused:
        await client.messages.create(**asked(model="abacus/alpha-9"))
    assert refused.value.request_id == refused.value.response.headers["x-request-id"]


async def test_a_tool_runner_sends_the_whole_conversation_because_no_thread_is_stored(
    client: anthropic.AsyncAnthropic, engine: FakeEngine
) -> None:
    with pytest.raises(anthropic.BadRequestError, match="stores no messages"):
        await client.beta.messages.create(**asked(thread={"type": "create"}))
    assert engine.bodies == []
    runner = client.beta.messages.tool_runner(**asked(tools=[WEATHER]))
    message = await runner.until_done()
    assert [block.type for block in message.content] == ["thinking", "text"]


async def test_tokens_are_counted_before_anything_is_sent(client: anthropic.AsyncAnthropic, engine: FakeEngine) -> None:
    counted = await client.messages.count_tokens(model="abacus", messages=[{"role": "user", "content": EASY}])
    more = await client.messages.count_tokens(
        model="abacus", messages=[{"role": "user", "content": EASY}], tools=[WEATHER]
    )
    assert 0 < counted.input_tokens < more.input_tokens
    assert engine.bodies == []


async def test_what_an_agent_thought_and_called_is_counted_too(client: anthropic.AsyncAnthropic) -> None:
    thought: Any = {"type": "thinking", "thinking": "The weather decides, so I look it up first.", "signature": "c2ln"}
    called: Any = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Ouagadougou", "days": 7}}
    result: Any = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny."}

    async def counted(*blocks: Any) -> int:
        turns: Any = [{"role": "user", "content": EASY}, {"role": "assistant", "content": [*blocks]}]
        messages = [*turns, {"role": "user", "content": [result]}]
        return (await client.messages.count_tokens(model="abacus", messages=messages)).input_tokens

    text: Any = {"type": "text", "text": "Wait."}
    assert await counted(text) + 5 < await counted(text, called)
    assert await counted(text, called) + 5 < await counted(thought, text, called)
