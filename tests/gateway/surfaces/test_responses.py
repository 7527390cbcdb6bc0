"""OpenAI's Responses API in front of a scripted engine, with OpenAI's own client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.gateway.fakes import EASY, FakeEngine


async def test_a_response_has_its_thinking_its_answer_and_its_tokens(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model="abacus", input=EASY, instructions="Be brief.")
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert response.output_text
    assert response.status == "completed"
    assert response.instructions == "Be brief."
    assert response.usage is not None
    assert response.usage.output_tokens_details.reasoning_tokens > 0


async def test_a_stream_adds_up_to_the_same_response(client: openai.AsyncOpenAI) -> None:
    whole = await client.responses.create(model="abacus", input=EASY)
    async with client.responses.stream(model="abacus", input=EASY) as events:
        kinds = [event.type async for event in events]
        streamed = await events.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert [item.type for item in streamed.output] == [item.type for item in whole.output]
    assert streamed.output_text


async def test_the_budget_is_routed_and_capped_as_in_a_chat(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    raw = await client.responses.with_raw_response.create(model="abacus", input=EASY, reasoning={"effort": "low"})
    assert raw.headers["x-laconic-budget"] == "60"
    assert engine.bodies[-1]["thinking_token_budget"] == 60


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"input": [{"type": "item_reference", "id": "rs_1"}]}, "input[0]"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ],
)
async def test_what_needs_a_store_is_refused_by_name(
    client: openai.AsyncOpenAI, more: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(**{"model": "abacus", "input": EASY, **more})
    assert refused.value.param == param
