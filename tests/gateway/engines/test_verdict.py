"""What is recognised as the beginning of an answer, and what as a failure?"""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.verdict import (
    MAX_FIRST_BYTES,
    FirstEvent,
    NoAnswerError,
    failure_in,
    failure_in_body,
    refuses_cap,
    retry_after,
)
from gateway.errors import ApiError
from tests.gateway.fakes import COMPLETION, EVENTS, event

ERROR = b'data: {"error": {"message": "no", "code": 400, "param": "temperature"}}\n\n'
DEEP = b'{"choices":' + b"[" * 100_000


def json_values() -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    names = st.sampled_from(["error", "choices", "object", "code", "message", "detail", "data", "id"]) | st.text()
    return st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(names, inner), max_leaves=20)


def begin(*pieces: bytes) -> bytes | None:
    """What the pieces begin: the bytes of an answer, or None if more is needed."""
    first = FirstEvent()
    for at, piece in enumerate(pieces):
        if (begun := first.feed(piece)) is not None:
            return begun + b"".join(pieces[at + 1 :])
    return None


@pytest.mark.parametrize(
    "before",
    [b"", b": x\n\n", b":\n", b"\n\n", b"\r\n", b": one\n\n: two\n\n", b"event: message\n", b"id: 1\nretry: 5\n\n"],
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_an_error_in_the_first_event_is_recognised_behind_whatever_is_no_event(before: bytes, end: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        begin((before + ERROR).replace(b"\r\n", b"\n").replace(b"\n", end))
    assert (refused.value.status, refused.value.param) == (400, "temperature")
    answer = (before + EVENTS[0]).replace(b"\r\n", b"\n").replace(b"\n", end)
    assert begin(answer) == answer


def test_an_error_behind_a_byte_order_mark_is_recognised() -> None:
    with pytest.raises(ApiError):
        begin(b"\xef\xbb\xbf" + ERROR)


@given(st.lists(st.integers(0, 60), max_size=8), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_the_first_event_may_arrive_in_any_pieces(cuts: list[int], end: bytes) -> None:
    for sent, is_answer in ((b": x\n\n" + EVENTS[0], True), (b": x\n\n" + ERROR, False)):
        sent = sent.replace(b"\n", end)  # noqa: PLW2901
        pieces = [sent[start:stop] for start, stop in pairwise([0, *sorted(cuts), len(sent)])]
        if is_answer:
            assert begin(*pieces) == sent
        else:
            with pytest.raises(ApiError):
                begin(*pieces)


@pytest.mark.parametrize("sent", [b": keep-alive\n\n" * 100, b"event: ping\n\n", EVENTS[0][:-2], b"data:\n\n", b"\n"])
def test_a_comment_and_half_an_event_are_no_answer(sent: bytes) -> None:
    assert begin(sent) is None


def test_words_about_errors_in_an_answer_are_no_error() -> None:
    for text in ('{"error": 1}', '"error"', 'data: {"error": {}}'):
        sent = event({"content": text})
        assert begin(sent) == sent
        body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        assert failure_in_body(body) is None


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"[DONE]", 502),
        (b"{]", 502),
        (b"\xff\xfe", 502),
        (b"[]", 502),
        (b"null", 502),
        (b'"text"', 502),
        (DEEP, 502),
        (b"{}", 502),
        (b'{"choices": null}', 502),
        (b'{"choices": {}}', 502),
        (b'{"detail": "no"}', 502),
        (b'{"error": "no"}', 502),
        (b'{"error": ["no"]}', 502),
        (b'{"error": {"message": {"a": 1}, "code": true}}', 502),
        (b'{"error": {"message": "no"}, "choices": [{}]}', 502),
        (b'{"error": {"message": "no", "code": 429}}', 429),
        (b'{"error": {"message": "no", "code": "400"}}', 400),
        (b'{"error": {"message": "no", "code": 4000}}', 502),
        (b'{"object": "error", "message": "no", "code": 400}', 400),
        (b'{"object": "error", "message": "no"}', 502),
    ],
)
@pytest.mark.parametrize("streamed", [True, False])
def test_what_is_no_answer_is_a_failure_with_its_status(data: bytes, status: int, streamed: bool) -> None:
    failure = failure_in(data, streamed=streamed) if streamed else failure_in_body(data)
    assert failure is not None
    assert failure.status == status
    assert json.loads(failure.body())["error"]["message"]


def test_an_answer_is_no_failure() -> None:
    assert failure_in_body(json.dumps(COMPLETION).encode()) is None
    assert failure_in_body(json.dumps({"error": None, **COMPLETION}).encode()) is None
    assert failure_in(b'{"choices": [], "prompt_filter_results": []}', streamed=True) is None


def test_a_non_streaming_response_without_a_choice_is_a_failure() -> None:
    for choices in ([], [1], None):
        assert failure_in_body(json.dumps({"choices": choices}).encode()) is not None


@given(json_values(), st.booleans())
def test_any_json_is_an_answer_or_a_failure(value: Any, streamed: bool) -> None:
    failure = failure_in(json.dumps(value).encode(), streamed=streamed)
    assert failure is None or 400 <= failure.status < 600
    assert failure is not None or isinstance(value.get("choices"), list)


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"\n\n", b"data: ", b": x\n", b"\r", b'{"error":1}'])))
def test_any_bytes_are_an_answer_or_a_failure(pieces: list[bytes]) -> None:
    first = FirstEvent()
    try:
        if all(first.feed(piece) is None for piece in pieces):
            first.end()
    except (ApiError, NoAnswerError):
        pass


def test_a_stream_of_comments_is_bounded_and_read_in_linear_time() -> None:
    with pytest.raises(NoAnswerError):
        begin(*[b": x\n" * 64] * 100_000)


@pytest.mark.parametrize("rest", [b"", b"\n", b": x\n\n", b"event: end"])
def test_a_stream_that_ends_without_an_event_is_no_answer(rest: bytes) -> None:
    first = FirstEvent()
    assert rest == b"" or first.feed(rest) is None
    with pytest.raises(NoAnswerError):
        first.end()


def test_an_error_that_is_no_event_at_all_is_recognised_at_the_end() -> None:
    """Some engines answer a stream's request with JSON."""
    first = FirstEvent()
    assert first.feed(b'{"error": {"message": "no", "code": 400}}') is None
    with pytest.raises(ApiError) as refused:
        first.end()
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7), ("0", 1), ("-5", None), ("3600", 3600), ("86400", 3600), ("9" * 60, 3600), ("soon", None), ("", None),
        ("1.5", None), ("٣", None), ("7, 8", None),
        (formatdate(0, usegmt=True), 1),
        pytest.param(formatdate(time.time() + 10**7, usegmt=True), 3600, id="a date"),
        ("Sun, 99 Nov 9999 99:99:99 GMT", None),
    ],
)  # fmt: skip
def test_retry_after_is_read_as_seconds_or_a_date_and_clipped(value: str, seconds: int | None) -> None:
    head = f"HTTP/1.1 503 Busy\r\nRetry-After: {value}\r\nx: y\r\n\r\n".encode()
    assert retry_after(head) == seconds


def test_a_date_in_retry_after_is_counted_from_now() -> None:
    head = f"HTTP/1.1 429 Busy\r\nretry-after: {formatdate(time.time() + 100, usegmt=True)}\r\n\r\n".encode()
    assert retry_after(head) in (99, 100)


@given(st.binary(max_size=100))
def test_any_retry_after_is_nothing_or_in_range(value: bytes) -> None:
    found = retry_after(b"HTTP/1.1 503 Busy\r\nretry-after:" + value + b"\r\n\r\n")
    assert found is None or 1 <= found <= 3600


def test_retry_after_is_not_read_from_an_interim_response_or_from_the_body() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nretry-after: 5\r\n\r\n"
    assert retry_after(interim + b"HTTP/1.1 503 Busy\r\n\r\nretry-after: 6\r\n") is None
    assert retry_after(interim + b"HTTP/1.1 503 Busy\r\nretry-after: 7\r\n\r\n") == 7


VLLM = "thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-parser"


@pytest.mark.parametrize(
    ("message", "param", "body", "is_ours"),
    [
        (VLLM, None, b'{"messages":[],"thinking_token_budget":5}', True),
        ("Extra inputs are not permitted", "thinking_token_budget", b'{"thinking_token_budget":5}', True),
        ("`thinking_token_budget` is unknown", None, b'{"thinking_token_budget":5}', True),
        ("messages: bad: 'thinking_token_budget'", None, b'{"messages":[],"thinking_token_budget":5}', False),
        (VLLM, None, b'{"messages":["thinking_token_budget"],"thinking_token_budget":5}', False),
        (VLLM, None, b'{"messages":[]}', False),
        ("too long", "messages", b'{"messages":[],"thinking_token_budget":5}', False),
    ],
)
def test_a_refused_cap_is_told_from_the_callers_own_mistake(
    message: str, param: str | None, body: bytes, is_ours: bool
) -> None:
    refusal = ApiError(400, message, param=param)
    assert refuses_cap(refusal, body, "thinking_token_budget") is is_ours
    assert not refuses_cap(refusal, body, None)  # nothing was to be capped


def test_a_refused_cap_is_recognised_whatever_the_engine_calls_it() -> None:
    body = b'{"messages":[],"custom_params":{"thinking_budget":5}}'
    assert refuses_cap(ApiError(422, "unknown", param="custom_params.thinking_budget"), body, "custom_params")
    assert refuses_cap(ApiError(400, "custom_params is not supported"), body, "custom_params")
    assert not refuses_cap(ApiError(400, "messages is empty", param="messages"), body, "custom_params")


def test_a_first_event_without_an_end_is_given_up_early() -> None:
    """Every other engine and checkpoint is asked after it, and may do the same."""
    first, piece = FirstEvent(), b"x" * 65_536
    assert first.feed(b'data: {"choices": [{"delta": {"content": "') is None
    for _ in range(MAX_FIRST_BYTES // len(piece) - 1):
        assert first.feed(piece) is None
    with pytest.raises(NoAnswerError, match="without events"):
        first.feed(piece)
