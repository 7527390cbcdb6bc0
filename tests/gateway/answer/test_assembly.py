from __future__ import annotations

import asyncio
import json
import time
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
    response = json.loads(asyncio.run(assembled(Scripted(chunks_of(events, at or [])), 10**6, 10**6)))
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


def logged(text: str) -> bytes:
    """An event of one token with its log probability."""
    at = {"token": text, "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    choice = {"index": 0, "delta": {"content": text}, "logprobs": {"content": [at]}, "finish_reason": None}
    return event(choices=[choice])


LARGE: dict[str, bytes] = {
    "a text": event({"content": "a" * 1000}),
    "log probabilities": logged("a" * 300),
    "another field each time": event({f"{'x' * 500}12345": 1}),
    "another field of the choice each time": event(choices=[{"index": 0, "delta": {}, f"{'x' * 500}12345": 1}]),
    "another field of the response each time": event({}).replace(b'"model"', b'"' + b"x" * 500 + b'12345":1,"model"'),
    "another choice each time": event(choices=[{"index": 12345, "delta": {}, "finish_reason": "stop"}]),
}


@pytest.mark.parametrize("kind", LARGE)
def test_a_response_that_is_too_large_is_refused_before_its_stream_ends(kind: str) -> None:
    parts = [LARGE[kind].replace(b"12345", str(n).encode()) for n in range(2000)]
    endless = Scripted(parts)
    with pytest.raises(ApiError, match="50000 bytes: stream it"):
        asyncio.run(assembled(endless, 50_000, 10**8))
    assert endless._chunks, "what came after was not awaited"  # pyright: ignore[reportPrivateUsage]


def test_the_size_that_is_limited_is_the_response_s_and_not_its_stream_s() -> None:
    events = [*(event({"content": "ab"}) for _ in range(1000)), event({}, "stop"), DONE]
    raw = b"".join(events)
    size = len(asyncio.run(assembled(Scripted([raw]), 10**6, len(raw))))
    assert size < len(raw) / 50
    assert len(asyncio.run(assembled(Scripted([raw]), size, len(raw)))) == size
    with pytest.raises(ApiError, match="stream it"):
        asyncio.run(assembled(Scripted([raw]), size - 1, len(raw)))


def test_a_stream_that_is_longer_than_its_tokens_can_be_is_refused() -> None:
    endless = Scripted([b": nothing\n\n"] * 1000)
    with pytest.raises(ApiError, match="more than this request can have"):
        asyncio.run(assembled(endless, 10**6, 5000))
    assert endless._chunks  # pyright: ignore[reportPrivateUsage]


def test_a_stream_that_cannot_be_written_as_a_response_is_the_engine_s_fault() -> None:
    deep = b'{"x":' * 800 + b"1e999" + b"}" * 800
    events = [event({"x": "DEEP"}).replace(b'"DEEP"', deep), event({}, "stop"), DONE]
    with pytest.raises(ApiError, match="cannot be read") as failed:
        asyncio.run(assembled(Scripted(events), 10**6, 10**6))
    assert failed.value.status == 502


def test_log_probabilities_take_no_longer_the_more_there_are() -> None:
    events = [*(logged("a") for _ in range(12_000)), event({}, "stop"), DONE]
    begun = time.process_time()
    asyncio.run(assembled(Scripted(events), 10**8, 10**8))
    assert time.process_time() - begun < 3, "each token is compared with all before"
