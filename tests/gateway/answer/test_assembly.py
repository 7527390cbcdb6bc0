from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from openai.types.chat import ChatCompletion

from gateway.answer.assembly import assembled
from gateway.errors import ApiError
from tests.gateway.answer.test_forced import CALL, DONE, REST, Scripted, chunks_of, first
from tests.gateway.answer.test_thinking import TRACE, cuts
from tests.gateway.fakes import EVENTS, USAGE, event


def response_of(events: list[bytes], at: list[int] | None = None) -> dict[str, Any]:
    response = json.loads(asyncio.run(assembled(Scripted(chunks_of(events, at or [])), 10**6)))
    ChatCompletion.model_validate(response)
    return response


@given(at=cuts)
def test_a_stream_becomes_the_response_that_the_engine_would_have_sent(at: list[int]) -> None:
    message = {"role": "assistant", "content": "The answer is 3 → ok.", "refusal": None, "reasoning": "1 + 2 = 3"}
    assert response_of(EVENTS, at) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "abacus/base",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": USAGE,
    }


def test_tool_calls_are_joined_by_their_index_and_leave_no_content() -> None:
    other = {"index": 1, "id": "call-2", "type": "function", "function": {"name": "mul", "arguments": "{}"}}
    response = response_of(first("reasoning", TRACE, [{"tool_calls": [CALL]}, {"tool_calls": [REST, other]}]))
    message = response["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "call-1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
        {"id": "call-2", "type": "function", "function": {"name": "mul", "arguments": "{}"}},
    ]


def test_an_error_in_the_stream_is_the_error_of_the_response() -> None:
    error = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
    with pytest.raises(ApiError, match="out of memory"):
        response_of([*EVENTS[:3], error])


@pytest.mark.parametrize("end", [3, 5])
def test_a_stream_that_breaks_off_is_no_response(end: int) -> None:
    with pytest.raises(ConnectionError):
        response_of(EVENTS[:end])


def test_a_stream_without_its_last_event_is_complete_if_it_is_finished() -> None:
    assert response_of(EVENTS[:-1])["choices"][0]["finish_reason"] == "stop"


def test_a_response_that_is_too_large_is_refused() -> None:
    endless = Scripted([event({"content": "a" * 1000})] * 100 + [DONE])
    with pytest.raises(ApiError, match="stream it"):
        asyncio.run(assembled(endless, 50_000))
