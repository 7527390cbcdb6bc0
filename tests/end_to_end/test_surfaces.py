"""Anthropic's and OpenAI's other APIs on the real stack, with their own clients."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.end_to_end.conftest import Stack

QUESTION = "What is 47 * 86?"
BUDGET = 16


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_messages_think_within_their_budget_and_answer(stack: Stack, stream: bool) -> None:
    asked: Any = {
        "model": "abacus/base",
        "max_tokens": 300,
        "extra_body": {"temperature": 0},
        "messages": [{"role": "user", "content": QUESTION}],
        "thinking": {"type": "enabled", "budget_tokens": BUDGET},
    }
    with anthropic.Anthropic(base_url=stack.url, api_key="none", max_retries=0, timeout=600) as client:
        if stream:
            with client.messages.stream(**asked) as events:
                message = events.get_final_message()
        else:
            message = client.messages.create(**asked)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert "The answer is" in message.content[1].text  # type: ignore[union-attr]
    assert message.stop_reason == "end_turn"
    assert 0 < message.usage.model_dump()["output_tokens_details"]["thinking_tokens"] <= BUDGET
    assert message.usage.input_tokens > 0


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_responses_think_within_their_budget_and_answer(stack: Stack, stream: bool) -> None:
    asked: Any = {
        "model": "abacus/base",
        "input": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_output_tokens": 300,
        "reasoning": {"max_tokens": BUDGET},
    }
    if stream:
        with stack.sdk.responses.stream(**asked) as events:
            for _ in events:
                pass
            response = events.get_final_response()
    else:
        response = stack.sdk.responses.create(**asked)
    assert [item.type for item in response.output] == ["reasoning", "message"]
    assert "The answer is" in response.output_text
    assert response.status == "completed"
    assert response.usage is not None
    assert 0 < response.usage.output_tokens_details.reasoning_tokens <= BUDGET


def test_a_turn_after_a_replayed_one_is_answered(stack: Stack) -> None:
    """What an agent sends back: thinking with its signature, and what the model had said."""
    with anthropic.Anthropic(base_url=stack.url, api_key="none", max_retries=0, timeout=600) as client:
        first = client.messages.create(model="abacus", max_tokens=300, messages=[{"role": "user", "content": QUESTION}])
        replayed: Any = [
            {"role": "user", "content": [{"type": "text", "text": QUESTION, "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": [block.model_dump() for block in first.content]},
            {"role": "user", "content": "What is 5 + 6?"},
        ]
        second = client.messages.create(model="abacus", max_tokens=300, messages=replayed)
    assert second.content[-1].type == "text"
