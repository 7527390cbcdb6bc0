"""What an answer is in the Responses API, whole and streamed."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway import errors
from gateway.errors import ApiError
from gateway.events import encode_event
from gateway.surfaces.responses_out import ResponseStream, response
from tests.gateway.surfaces.chats import CALL, USAGE, chunk, completion, events_from

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
ASKED = {"model": "abacus", "input": "x", "instructions": "Be brief.", "tools": [], "metadata": {"a": "b"}}


CUT = {**CALL, "function": {"name": "read", "arguments": '{"pa'}}


def events_of(*chunks: bytes) -> list[dict[str, Any]]:
    events = events_from(ResponseStream(ASKED).feed, *chunks)
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == [*range(len(events))]
    return events


def test_a_response_has_reasoning_message_and_calls_in_this_order() -> None:
    said = {"role": "assistant", "reasoning": "Hm.", "content": "Let me see.", "tool_calls": [CALL]}
    answer = response(completion(said, "tool_calls"), ASKED)
    Response.model_validate(answer)
    assert [item["type"] for item in answer["output"]] == ["reasoning", "message", "function_call"]
    assert answer["output"][0]["content"][0]["text"] == "Hm."
    assert answer["output"][2]["call_id"] == "call_1"
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 5}
    assert (answer["status"], answer["instructions"], answer["store"]) == ("completed", "Be brief.", False)
    assert answer["metadata"] == {"a": "b"}


def test_an_answer_that_was_cut_off_is_incomplete() -> None:
    answer = response(completion({"content": "x"}, "length"), ASKED)
    assert answer["status"] == "incomplete"
    assert answer["incomplete_details"] == {"reason": "max_output_tokens"}


@pytest.mark.parametrize(
    ("said", "statuses"),
    [
        ({"reasoning": "Hm"}, ["incomplete"]),
        ({"reasoning": "Hm.", "content": "Let m"}, ["completed", "incomplete"]),
        ({"content": "Let me see.", "tool_calls": [CUT]}, ["completed", "incomplete"]),
        ({"tool_calls": [CALL, {**CUT, "index": 1}]}, ["completed", "incomplete"]),
    ],
    ids=["thinking", "message", "call", "second call"],
)
def test_what_was_being_written_is_the_item_that_is_incomplete(said: dict[str, Any], statuses: list[str]) -> None:
    """A caller that ran the call would run half of it."""
    answer = response(completion(said, "length"), ASKED)
    Response.model_validate(answer)
    assert [item["status"] for item in answer["output"]] == statuses
    pieces = [chunk(**{name: value}) for name, value in said.items()]
    events = events_of(chunk(role="assistant", content=""), *pieces, chunk("length"), b"data: [DONE]\n\n")
    assert [one["item"]["status"] for one in events if one["type"] == "response.output_item.done"] == statuses
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["output"] == answer["output"]


def test_an_answer_that_ended_for_a_reason_of_the_engine_s_own_was_cut_off() -> None:
    answer = response(completion({"content": "x x x"}, "repetition"), ASKED)
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response(completion({"content": "x"}, "content_filter"), ASKED)["incomplete_details"] == {
        "reason": "content_filter"
    }
    *_, last = events_of(chunk(content="x x x"), chunk("repetition"), b"data: [DONE]\n\n")
    assert last["type"] == "response.incomplete"


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_the_engine_gave_up_has_failed(reason: str) -> None:
    with pytest.raises(ApiError, match="gave up") as failed:
        response(completion({"content": "x"}, reason), ASKED)
    assert failed.value.status == 502
    *_, said, last = events_of(chunk(content="x"), chunk(reason), chunk(content="y"), b"data: [DONE]\n\n")
    assert (said["type"], last["type"]) == ("response.output_text.delta", "response.failed")
    assert last["response"]["error"]["code"] == "server_error"


def test_a_stream_begins_and_ends_an_item_for_each_part() -> None:
    call = {**CALL, "function": {"name": "read", "arguments": ""}}
    more = {"index": 0, "function": {"arguments": '{"path": "a"}'}}
    usage = encode_event({"id": "chatcmpl-7", "choices": [], "usage": USAGE | {"total_tokens": 42}})
    events = events_of(
        chunk(role="assistant", content=""),
        chunk(reasoning="H") + chunk(reasoning="m."),
        chunk(content="See."),
        chunk(tool_calls=[call]),
        chunk(tool_calls=[more]),
        chunk("tool_calls"),
        usage + b"data: [DONE]\n\n",
    )
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.done"] == [0, 1, 2]
    last = events[-1]["response"]
    said = {"role": "assistant", "reasoning": "Hm.", "content": "See.", "tool_calls": [CALL]}
    assert last["output"] == response(completion(said, "tool_calls"), ASKED)["output"]
    assert last["usage"]["total_tokens"] == 42


def test_a_failure_ends_the_stream_as_failed() -> None:
    *_, last = events_of(chunk(content="x"), errors.interrupted("It died.").event())
    assert last["type"] == "response.failed"
    assert last["response"]["error"] == {"code": "server_error", "message": "It died."}


def test_an_empty_answer_is_an_empty_message() -> None:
    *_, last = events_of(chunk("stop", role="assistant", content=""), b"data: [DONE]\n\n")
    assert [item["type"] for item in last["response"]["output"]] == ["message"]
