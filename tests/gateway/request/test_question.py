from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequestError
from gateway.request import question

USER = {"role": "user", "content": "1 + 2?"}


def body(**changes: Any) -> dict[str, Any]:
    return {"model": "abacus", "messages": [USER], **changes}


def parse(**changes: Any) -> question.Question:
    return question.parse(json.dumps(body(**changes)).encode())


def test_a_minimal_body_gives_the_defaults() -> None:
    parsed = parse()
    assert (parsed.model, parsed.prompt, parsed.stream, parsed.wants_usage, parsed.choices) == (
        "abacus",
        "1 + 2?",
        False,
        False,
        1,
    )
    assert parsed.body == body()


def test_parameters_that_the_gateway_does_not_act_on_are_kept_unchanged() -> None:
    more = {"tools": [{"type": "function"}], "seed": 2**70, "stop": None, "metadata": {"a": [1.5, None]}}
    assert parse(**more).body == body(**more)


def test_max_completion_tokens_wins_over_max_tokens() -> None:
    assert parse().max_tokens is None
    assert parse(max_tokens=9).max_tokens == 9
    assert parse(max_tokens=9, max_completion_tokens=7).max_tokens == 7
    assert parse(max_tokens=9, min_tokens=0).max_tokens == 9


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        (
            [
                USER,
                {"role": "assistant", "content": "3", "reasoning_content": "x"},
                {"role": "user", "content": "And 4?"},
            ],
            "And 4?",
        ),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}], "a\nb"),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]}], None),
        ([{"role": "user", "content": []}], None),
        ([{"role": "system", "content": "Be brief."}], None),
        ([USER, {"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "5"}], "1 + 2?"),
    ],
)
def test_the_prompt_is_the_text_of_the_last_user_message(messages: list[Any], prompt: str | None) -> None:
    assert parse(messages=messages).prompt == prompt


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": 5}, "model"),
        ({"model": ""}, "model"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": "200"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 200.0}, "max_tokens"),
        ({"max_completion_tokens": [5]}, "max_completion_tokens"),
        ({"max_completion_tokens": "200"}, "max_completion_tokens"),
        ({"min_tokens": "2"}, "min_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": True}, "min_tokens"),
        ({"min_tokens": 2.5}, "min_tokens"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "x"}]}, "messages[0].role"),
        ({"messages": [USER, {"role": "user", "content": 5}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"stream": True, "stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.0}, "n"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
    ],
)
def test_an_invalid_field_is_rejected_by_name(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        parse(**changes)
    assert refused.value.param == param


CALL = {"id": "call_1", "type": "function", "function": {"name": "read", "arguments": '{"path": "a"}'}}


def test_the_model_reads_what_was_said_called_and_thought_since_the_user_spoke_and_the_tools() -> None:
    tools = [{"type": "function", "function": {"name": "read", "description": "Liest Zeilen für dich."}}]
    messages = [
        {"role": "user", "content": "Fix it."},
        {"role": "assistant", "content": "Done.", "reasoning_content": "Long ago."},
        {"role": "user", "content": "Fix more."},
        {"role": "assistant", "content": None, "reasoning": "I must read it.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "print(1)"},
        {"role": "assistant", "function_call": {"name": "look", "arguments": "{}"}, "reasoning_content": "Again."},
    ]
    read = question.prompt_of({"messages": messages, "tools": tools})
    for text in ("Fix it.", "print(1)", "read", '{"path": "a"}', "look", "I must read it.", "Again.", "für dich"):
        assert text in read
    assert "Long ago." not in read  # chat templates leave it out
    assert question.text_of({"messages": messages}) == "Fix it.\nDone.\nFix more.\nprint(1)"


@pytest.mark.parametrize("call", [None, "read", {"function": 5}, {"function": {"name": 5, "arguments": {"path": "a"}}}])
def test_calls_of_any_type_can_be_read(call: Any) -> None:
    messages = [USER, {"role": "assistant", "tool_calls": [call], "function_call": call, "reasoning": call}]
    assert USER["content"] in question.prompt_of({"messages": messages})


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_is_not_a_json_object_is_rejected(raw: bytes) -> None:
    with pytest.raises(BadRequestError):
        question.parse(raw)


@given(st.binary() | st.text().map(str.encode))
def test_arbitrary_bytes_are_rejected(raw: bytes) -> None:
    with pytest.raises(BadRequestError):
        question.parse(raw)


def test_half_a_surrogate_pair_is_rejected_and_names_the_field() -> None:
    parsed = question.parse(rb'{"model": "abacus", "messages": [{"role": "user", "content": "\ud800"}]}')
    with pytest.raises(BadRequestError) as refused:
        question.encode(parsed.body)
    assert refused.value.param == "messages"


def test_a_body_that_is_nested_too_deeply_to_be_written_is_rejected() -> None:
    deep: Any = 1
    for _ in range(2000):
        deep = [deep]
    with pytest.raises(BadRequestError, match="nested too deeply"):
        question.encode({"model": "abacus", "metadata": deep})
    assert question.prompt_of({"messages": [USER], "tools": deep}) == USER["content"]


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    )
)
def test_encoding_is_lossless(value: dict[str, Any]) -> None:
    assert json.loads(question.encode(value)) == value


@pytest.mark.parametrize(
    "message",
    [{"role": role} for role in ("user", "system", "developer", "tool", "assistant")]
    + [{"role": "user", "content": None}, {"role": "user", "tool_calls": [{}]}, {"role": "assistant", "refusal": None}],
)
def test_a_message_without_content_is_refused_by_name(message: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError) as refused:
        parse(messages=[USER, message])
    assert refused.value.param == "messages[1].content"


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "tool_calls": []},
        {"role": "assistant", "function_call": {"name": "f", "arguments": ""}},
        {"role": "assistant", "reasoning_content": "Hm."},
        {"role": "function", "name": "f"},
    ],
)
def test_some_messages_need_no_content(message: dict[str, Any]) -> None:
    assert parse(messages=[USER, message]).prompt == USER["content"]
