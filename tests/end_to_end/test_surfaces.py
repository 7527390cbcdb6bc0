"""Anthropic's and OpenAI's other APIs on the real stack, with their own clients."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
import pytest

from tests.end_to_end.conftest import Stack

QUESTION = "What is 47 * 86?"
BUDGET = 16


def messaged(client: anthropic.Anthropic, asked: Any, *, stream: bool) -> anthropic.types.Message:
    """The message that answers, whole or put together from a stream."""
    if not stream:
        return client.messages.create(**asked)
    with client.messages.stream(**asked) as events:
        return events.get_final_message()


def responded(stack: Stack, asked: Any, *, stream: bool) -> Any:
    """The response that answers, whole or put together from a stream."""
    if not stream:
        return stack.sdk.responses.create(**asked)
    with stack.sdk.responses.stream(**asked) as events:
        for _ in events:
            pass
        return events.get_final_response()


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
        message = messaged(client, asked, stream=stream)
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
    response = responded(stack, asked, stream=stream)
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


SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}
CACHED = {"cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_turn_as_claude_code_sends_it_is_answered(stack: Stack, stream: bool) -> None:
    """System blocks, a tool, a replayed thinking with its signature, a tool's result, a budget, and edits of it all."""
    called = {"type": "tool_use", "id": "toolu_1", "name": "Read", "input": {"path": "a.py"}}
    thought = {"type": "thinking", "thinking": "I read it.", "signature": "EqQBCgIYAg=="}
    returned = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "47 * 86"}]}
    asked: Any = {
        "model": "abacus",
        "max_tokens": 300,
        "system": [{"type": "text", "text": "You are Claude Code."}, {"type": "text", "text": "Be brief.", **CACHED}],
        "tools": [{"name": "Read", "description": "Reads a file.", "input_schema": SCHEMA, **CACHED}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is in a.py?", **CACHED}]},
            {"role": "assistant", "content": [thought, {"type": "text", "text": "I look."}, called]},
            {"role": "user", "content": [returned, {"type": "text", "text": QUESTION}]},
        ],
        "metadata": {"user_id": "user_1"},
        "thinking": {"type": "enabled", "budget_tokens": BUDGET},
        "extra_body": {
            "temperature": 0,
            "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        },
    }
    with anthropic.Anthropic(base_url=stack.url, api_key="none", max_retries=0, timeout=600) as client:
        message = messaged(client, asked, stream=stream)
        counted = client.messages.count_tokens(
            **{name: asked[name] for name in ("model", "messages", "system", "tools")}
        )
    assert message.content
    assert message.stop_reason in ("end_turn", "tool_use", "max_tokens")
    assert message.usage.model_dump()["output_tokens_details"]["thinking_tokens"] <= BUDGET
    assert counted.input_tokens > 20


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_turn_as_codex_sends_it_is_answered(stack: Stack, stream: bool) -> None:
    """Instructions, a developer's message, replayed reasoning, a function's call and output, and an effort."""
    shell = {"type": "function", "name": "shell", "description": "Runs.", "parameters": SCHEMA, "strict": False}
    asked: Any = {
        "model": "abacus",
        "instructions": "You are Codex.",
        "input": [
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandbox: none."}]},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What is in a.py?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA", "content": []},
            {"type": "function_call", "name": "shell", "arguments": '{"path": "a.py"}', "call_id": "call_1"},
            {"type": "function_call_output", "call_id": "call_1", "output": "47 * 86"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": QUESTION}]},
        ],
        "tools": [shell],
        "tool_choice": "auto",
        "parallel_tool_calls": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "max_output_tokens": 300,
        "temperature": 0,
    }
    response = responded(stack, asked, stream=stream)
    assert response.output
    assert response.status in ("completed", "incomplete")
    assert response.usage is not None
    assert response.usage.input_tokens > 20
    with pytest.raises(openai.BadRequestError) as refused:
        stack.sdk.responses.create(**asked, previous_response_id=response.id)
    assert refused.value.param == "previous_response_id"


def test_a_completion_thinks_within_its_budget_and_answers(stack: Stack) -> None:
    answer = stack.sdk.completions.create(
        model="abacus/base",
        prompt=QUESTION,
        max_tokens=300,
        temperature=0,
        extra_body={"thinking_token_budget": BUDGET},
    )
    assert "The answer is" in answer.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert 0 < (answer.usage.completion_tokens_details.reasoning_tokens or 0) <= BUDGET
