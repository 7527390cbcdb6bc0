"""What an answer is in the Messages API, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest

from gateway import errors
from gateway.errors import ApiError
from gateway.events import encode_event, encode_json
from gateway.surfaces.messages_out import MessageStream, error, message
from tests.gateway.surfaces.chats import CALL, USAGE, chunk, completion, events_from


def events_of(*chunks: bytes) -> list[dict[str, Any]]:
    return events_from(MessageStream().feed, *chunks)


def test_a_message_has_thinking_text_and_calls_in_this_order() -> None:
    said = {"role": "assistant", "reasoning": "Hm.", "content": "Let me see.", "tool_calls": [CALL]}
    answer = message(completion(said, "tool_calls"))
    assert answer["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "call_1", "name": "read", "input": {"path": "a"}},
    ]
    assert (answer["id"], answer["stop_reason"]) == ("msg_7", "tool_use")
    assert answer["usage"]["input_tokens"] == 10
    assert answer["usage"]["cache_read_input_tokens"] == 20
    assert answer["usage"]["output_tokens_details"] == {"thinking_tokens": 5}


def test_half_a_surrogate_pair_in_a_call_stays_what_it_is() -> None:
    call = {**CALL, "function": {"name": "read", "arguments": '{"path": "a\ud800"}'}}
    answer = message(completion({"tool_calls": [call]}, "tool_calls"))
    assert answer["content"][0]["input"] == {"path": "a\ud800"}
    assert rb"a\ud800" in encode_json(answer)


def test_why_it_stopped() -> None:
    assert message(completion({"content": "x"}, "length"))["stop_reason"] == "max_tokens"
    stopped = message(completion({"content": "x"}, "stop", stop_reason="END"))
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "END")


def test_an_answer_that_calls_a_tool_stopped_for_it_even_where_the_engine_says_stop() -> None:
    """As vLLM does behind a call of the tool that the caller named. Tool runners go by this."""
    assert message(completion({"tool_calls": [CALL]}, "stop"))["stop_reason"] == "tool_use"
    events = events_of(
        chunk(role="assistant", content=""), chunk(tool_calls=[CALL]), chunk("stop"), b"data: [DONE]\n\n"
    )
    assert events[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert message(completion({"tool_calls": [CALL]}, "length"))["stop_reason"] == "max_tokens"


def test_an_answer_that_ended_for_a_reason_of_the_engine_s_own_was_cut_off() -> None:
    assert message(completion({"content": "x x x"}, "repetition"))["stop_reason"] == "max_tokens"
    *_, stopped, _ = events_of(chunk(content="x x x"), chunk("repetition"), b"data: [DONE]\n\n")
    assert stopped["delta"]["stop_reason"] == "max_tokens"


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_the_engine_gave_up_is_an_error(reason: str) -> None:
    with pytest.raises(ApiError, match="gave up") as failed:
        message(completion({"content": "x"}, reason))
    assert failed.value.status == 502
    *said, last = events_of(chunk(content="x"), chunk(reason), chunk(content="y"), b"data: [DONE]\n\n")
    assert (last["type"], last["error"]["type"]) == ("error", "api_error")
    assert [event["type"] for event in said] == ["message_start", "content_block_start", "content_block_delta"]


def test_a_stream_opens_and_closes_a_block_for_each_part() -> None:
    call = {**CALL, "function": {"name": "read", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"path": "a"}'}}
    usage = encode_event({"id": "chatcmpl-7", "choices": [], "usage": USAGE})
    events = events_of(
        chunk(role="assistant", content=""),
        chunk(reasoning="H") + chunk(reasoning="m."),
        chunk(content="See."),
        chunk(tool_calls=[call]),
        chunk(tool_calls=[more]),
        chunk("tool_calls"),
        usage + b"data: [DONE]\n\n",
    )
    assert [event["type"].removeprefix("content_block_") for event in events] == [
        "message_start",
        *("start", "delta", "delta", "delta", "stop"),
        *("start", "delta", "stop"),
        *("start", "delta", "stop"),
        "message_delta",
        "message_stop",
    ]
    assert [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"] == [
        "thinking",
        "text",
        "tool_use",
    ]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert events[-2]["usage"]["output_tokens"] == 12


def test_comments_pass_and_a_failure_is_an_error_event() -> None:
    assert MessageStream().feed(b": keep-alive\n\n") == b": keep-alive\n\n"
    *_, last = events_of(chunk(content="x"), errors.interrupted("It died.").event())
    assert last == {"type": "error", "error": {"type": "api_error", "message": "It died."}}


def test_errors_have_anthropic_s_names_and_the_request_s_id() -> None:
    assert error(errors.unauthorized("no"), "req_1") == {
        "type": "error",
        "error": {"type": "authentication_error", "message": "no"},
        "request_id": "req_1",
    }
    assert error(errors.overloaded(), "")["error"]["type"] == "rate_limit_error"
    assert error(errors.interrupted("x"), "")["error"]["type"] == "api_error"
