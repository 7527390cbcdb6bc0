"""What a request of the Messages API asks, as a chat request. The shapes are those that Claude Code sends."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequestError
from gateway.surfaces.messages_in import chat_body

CACHED = {"cache_control": {"type": "ephemeral"}}
LEAST: dict[str, Any] = {"model": "abacus", "max_tokens": 9, "messages": [{"role": "user", "content": "1 + 1?"}]}


def messages(*given: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return chat_body({**LEAST, "messages": list(given), **more})["messages"]


def test_a_turn_of_claude_code_with_tools_results_and_replayed_thinking() -> None:
    system = [{"type": "text", "text": "You are an agent.", **CACHED}, {"type": "text", "text": "Be brief."}]
    called = {"type": "tool_use", "id": "toolu_1", "name": "read", "input": {"path": "a.py"}}
    replayed = [
        {"type": "thinking", "thinking": "I must read it.", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "I read it."},
        called,
    ]
    result = {
        "type": "tool_result",
        "tool_use_id": "toolu_1",
        "content": [{"type": "text", "text": "print(1)"}],
        **CACHED,
    }
    assert messages(
        {"role": "user", "content": [{"type": "text", "text": "Fix a.py", **CACHED}]},
        {"role": "assistant", "content": replayed},
        {"role": "user", "content": [result, {"type": "text", "text": "Go on."}]},
        system=system,
    ) == [
        {"role": "system", "content": "You are an agent.\n\nBe brief."},
        {"role": "user", "content": "Fix a.py"},
        {
            "role": "assistant",
            "content": "I read it.",
            "reasoning_content": "I must read it.",
            "tool_calls": [
                {"id": "toolu_1", "type": "function", "function": {"name": "read", "arguments": '{"path": "a.py"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "toolu_1", "content": "print(1)"},
        {"role": "user", "content": "Go on."},
    ]


def test_a_result_that_is_an_error_says_so_and_images_follow_it() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBOR"}}
    result = {"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": [{"type": "text", "text": "no"}]}
    shown = {"type": "tool_result", "tool_use_id": "u", "content": [image]}
    tool, second, user = messages({"role": "user", "content": [result, shown]})
    assert tool == {"role": "tool", "tool_call_id": "t", "content": "Error: no"}
    assert second == {"role": "tool", "tool_call_id": "u", "content": ""}
    assert user["content"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR"}}]


def test_tools_and_their_choice() -> None:
    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    tool = {"name": "read", "description": "Reads.", "input_schema": schema, **CACHED}
    body = chat_body({**LEAST, "tools": [tool], "tool_choice": {"type": "any", "disable_parallel_tool_use": True}})
    function = {"name": "read", "parameters": schema, "description": "Reads."}
    assert body["tools"] == [{"type": "function", "function": function}]
    assert (body["tool_choice"], body["parallel_tool_calls"]) == ("required", False)
    named = chat_body({**LEAST, "tools": [tool], "tool_choice": {"type": "tool", "name": "read"}})
    assert named["tool_choice"] == {"type": "function", "function": {"name": "read"}}


def test_a_stream_reports_its_usage_and_stops_where_it_was_told() -> None:
    body = chat_body({**LEAST, "stream": True, "stop_sequences": ["END"], "top_k": 5, "metadata": {"user_id": "u"}})
    assert body["stream_options"] == {"include_usage": True}
    assert (body["stop"], body["top_k"]) == (["END"], 5)
    assert "metadata" not in body


def test_a_cache_for_the_whole_request_and_examples_of_a_tool_s_input_have_no_effect() -> None:
    tool = {"name": "read", "input_schema": {"type": "object"}}
    body = chat_body({**LEAST, **CACHED, "tools": [{**tool, "input_examples": [{"path": "a"}]}]})
    assert body == chat_body({**LEAST, "tools": [tool]})


def test_how_the_context_should_be_managed_has_no_effect() -> None:
    managed = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    assert chat_body({**LEAST, "context_management": managed}) == chat_body(LEAST)


def test_effort_stays_a_budget_and_a_format_becomes_a_schema() -> None:
    schema = {"type": "object"}
    config = {"effort": "medium", "format": {"type": "json_schema", "schema": schema}}
    body = chat_body({**LEAST, "thinking": {"type": "adaptive"}, "output_config": config})
    assert body["thinking"] == {"type": "adaptive"}
    assert body["output_config"] == {"effort": "medium"}
    assert body["response_format"]["json_schema"]["schema"] == schema


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": None}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "document"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages[0].name"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "all"}}, "tool_choice.type"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"container": "c"}, "container"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(change: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        chat_body({**LEAST, **change})
    assert refused.value.param == param


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(["text", "thinking", "tool_use", "tool_result", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "role", "content", "text", "input", "name", "source"]), inner)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["messages", "system", "tools", "tool_choice", "output_config"]), JSON))
def test_any_body_is_translated_or_refused_by_name(body: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequestError):
        assert chat_body({**LEAST, **body})["messages"] is not None
