"""What a request of the Responses API asks, as a chat request. The shapes are those that Codex sends."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequestError
from gateway.surfaces.responses_in import chat_body

LEAST: dict[str, Any] = {"model": "abacus", "input": "1 + 1?"}


def test_a_turn_of_codex_with_reasoning_calls_and_their_output() -> None:
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Sandbox: none."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Fix a.py"}]},
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Read it."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Reading."}]},
        {"type": "function_call", "name": "shell", "arguments": '{"cmd": "cat a.py"}', "call_id": "call_1"},
        {"type": "function_call", "name": "shell", "arguments": '{"cmd": "ls"}', "call_id": "call_2"},
        {"type": "function_call_output", "call_id": "call_1", "output": "print(1)"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "a.py"}]},
    ]
    shell = {"name": "shell", "description": "Runs.", "parameters": {"type": "object"}, "strict": False}
    body = chat_body(
        {
            "model": "abacus",
            "instructions": "You are Codex.",
            "input": items,
            "tools": [{"type": "function", **shell}],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
            "store": False,
            "stream": True,
            "include": ["reasoning.encrypted_content"],
            "reasoning": {"effort": "medium", "summary": "auto"},
            "prompt_cache_key": "c",
        }
    )
    assert body["messages"] == [
        {"role": "system", "content": "You are Codex."},
        {"role": "developer", "content": "Sandbox: none."},
        {"role": "user", "content": "Fix a.py"},
        {
            "role": "assistant",
            "content": "Reading.",
            "reasoning_content": "Read it.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "shell", "arguments": '{"cmd": "cat a.py"}'}},
                {"id": "call_2", "type": "function", "function": {"name": "shell", "arguments": '{"cmd": "ls"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "print(1)"},
        {"role": "tool", "tool_call_id": "call_2", "content": "a.py"},
    ]
    assert body["tools"][0]["function"] == shell
    assert body["reasoning"] == {"effort": "medium", "summary": "auto"}
    assert body["stream_options"] == {"include_usage": True}
    assert body["parallel_tool_calls"] is False


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_thinking_without_an_answer_belongs_to_no_later_turn(role: str) -> None:
    later = [{"role": role, "content": "Go on."}, {"role": "assistant", "content": "Done."}]
    asked, *rest = chat_body({**LEAST, "input": [{"role": "user", "content": "Fix it."}, thought("Cut."), *later]})[
        "messages"
    ]
    assert (asked, rest) == ({"role": "user", "content": "Fix it."}, later)


def test_thinking_in_several_items_is_one_thinking() -> None:
    encrypted = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    call = {"type": "function_call", "name": "shell", "arguments": "{}", "call_id": "call_1"}
    said = {"role": "assistant", "content": "Reading."}
    items = [thought("First."), encrypted, thought("Second."), said, thought("Third."), call]
    (message,) = chat_body({**LEAST, "input": items})["messages"]
    assert message["reasoning_content"] == "First.\nSecond.\nThird."
    assert len(message["tool_calls"]) == 1


def test_a_text_is_the_user_s_message_and_limits_keep_their_meaning() -> None:
    body = chat_body({**LEAST, "max_output_tokens": 50, "top_logprobs": 2, "text": {"verbosity": "low"}})
    assert body["messages"] == [{"role": "user", "content": "1 + 1?"}]
    assert body["max_completion_tokens"] == 50
    assert (body["logprobs"], body["top_logprobs"], body["verbosity"]) == (True, 2, "low")


def test_a_format_becomes_a_response_format() -> None:
    format_ = {"type": "json_schema", "name": "sum", "schema": {"type": "object"}, "strict": True}
    body = chat_body({**LEAST, "text": {"format": format_}})
    assert body["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "sum", "schema": {"type": "object"}, "strict": True},
    }
    assert chat_body({**LEAST, "text": {"format": {"type": "json_object"}}})["response_format"] == {
        "type": "json_object"
    }
    assert "response_format" not in chat_body({**LEAST, "text": {"format": {"type": "text"}}})


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": None}, "input"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": "x"}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"max_output_tokens": 2**31}, "max_output_tokens"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
        ({"input": [{"type": "computer_call"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_file"}]}]}, "input[0].content[0].type"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice.type"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["file_search_call.results"]}, "include[0]"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"max_tool_calls": 5}, "max_tool_calls"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        chat_body({**LEAST, **change})
    assert refused.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["message", "reasoning", "function_call", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "call_id", "name", "output"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["input", "instructions", "tools", "tool_choice", "text", "include"]), JSON))
def test_any_body_is_translated_or_refused_by_name(body: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequestError):
        assert chat_body({**LEAST, **body})["messages"] is not None
