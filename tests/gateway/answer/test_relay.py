from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer import counting, usage
from gateway.answer.counting import TokenCounter
from gateway.answer.relay import Relay, RelayedStream
from gateway.answer.usage import Transcript
from gateway.engines.pool import leading_error
from gateway.events import MAX_EVENT_BYTES, Json
from gateway.request.caller import Caller
from models.family import Reasoning
from tests.gateway.fakes import EVENTS, USAGE, WITHOUT_USAGE, event


@pytest.fixture(scope="module")
def counter(family_dir: Path) -> TokenCounter:
    return counting.load(family_dir / "base" / "tokenizer.json")


def relay(counter: TokenCounter, wants_usage: bool, *, choices: int = 1, hides_reasoning: bool = False) -> Relay:
    def complete(reported: Json | None, transcript: Transcript) -> Json:
        return usage.complete(reported, transcript, counter, Reasoning(), lambda: "the prompt")

    return Relay(wants_usage, complete, choices=choices, hides_reasoning=hides_reasoning)


def pour(through: Relay, pieces: list[bytes]) -> bytes:
    return b"".join([through.feed(piece) for piece in pieces]) + through.end()


def data(raw: bytes) -> list[Any]:
    """The events' data, parsed."""
    lines = [line[6:] for line in raw.splitlines() if line.startswith(b"data: ")]
    return [line if line == b"[DONE]" else json.loads(line) for line in lines]


def test_bytes_go_through_and_the_usage_event_only_to_who_asked(counter: TokenCounter) -> None:
    asked, not_asked = relay(counter, True), relay(counter, False)
    assert pour(asked, EVENTS) == b"".join(EVENTS)
    assert pour(not_asked, EVENTS) == b"".join(e for e in EVENTS if b'"usage"' not in e)
    for each in (asked, not_asked):
        assert each.usage == USAGE
        assert (each.finish_reason, each.failure, each.done) == ("stop", None, True)


@given(st.lists(st.integers(0, len(b"".join(EVENTS)))), st.booleans(), st.booleans())
def test_however_the_wire_cuts_the_stream_it_comes_out_the_same(
    counter: TokenCounter, cuts: list[int], wants_usage: bool, crlf: bool
) -> None:
    whole = b"".join(EVENTS)
    whole = whole.replace(b"\n", b"\r\n") if crlf else whole
    edges = [0, *sorted(cuts), len(whole)]
    through = relay(counter, wants_usage)
    out = [through.feed(whole[a:b]) for a, b in pairwise(edges)]
    assert b"".join(out) + through.end() == pour(relay(counter, wants_usage), [whole])
    assert through.usage == USAGE
    for piece in out:  # every piece is whole events, so anything may follow it
        assert not piece or piece.endswith((b"\n\n", b"\r\n\r\n"))
        piece.decode()


def test_an_event_reaches_the_caller_with_its_last_byte(counter: TokenCounter) -> None:
    through = relay(counter, False)
    first = EVENTS[1]
    assert through.feed(first[:-1]) == b""
    assert through.feed(first[-1:]) == first


@pytest.mark.parametrize("text", ['"usage": {', "data: [DONE]", '"finish_reason":"stop"', '"error":{"code":1}', "\n\n"])
def test_generated_text_that_looks_like_the_protocol_is_only_text(counter: TokenCounter, text: str) -> None:
    through = relay(counter, False)
    said = event({"content": text})
    assert through.feed(said) == said
    assert (through.usage, through.finish_reason, through.failure, through.done) == (None, "", None, False)


def test_usage_without_reasoning_tokens_is_completed_from_the_text(counter: TokenCounter) -> None:
    bare = {"prompt_tokens": 17, "completion_tokens": 30, "total_tokens": 47}
    events = [*WITHOUT_USAGE[:-1], event(usage=bare), b"data: [DONE]\n\n"]
    *_, last, done = data(pour(relay(counter, True), events))
    assert done == b"[DONE]"
    reasoning = counter.count("1 + 2 = 3")
    assert last["choices"] == []
    assert last["usage"] == {**bare, "completion_tokens_details": {"reasoning_tokens": reasoning}}


def test_without_any_usage_it_is_counted_and_sent_before_the_end(counter: TokenCounter) -> None:
    *_, last, done = data(pour(relay(counter, True), WITHOUT_USAGE))
    assert done == b"[DONE]"
    assert last["id"] == "chatcmpl-1"
    thought, said = counter.count("1 + 2 = 3"), counter.count("The answer is 3 → ok.")
    assert last["usage"]["completion_tokens"] == thought + said
    assert last["usage"]["completion_tokens_details"]["reasoning_tokens"] == thought
    assert last["usage"]["prompt_tokens"] == counter.count("the prompt")
    assert pour(relay(counter, False), WITHOUT_USAGE) == b"".join(WITHOUT_USAGE)


def test_usage_on_the_last_choice_counts_too(counter: TokenCounter) -> None:
    events = [*EVENTS[:5], event({}, "stop", usage=USAGE), b"data: [DONE]\n\n"]
    asked = relay(counter, True)
    assert [e["usage"] for e in data(pour(asked, events))[-3:-1]] == [USAGE, USAGE]
    silent = relay(counter, False)
    assert pour(silent, events) == b"".join(events)
    assert silent.usage == USAGE


def test_a_stream_whose_engine_goes_before_every_choice_has_ended_has_failed(counter: TokenCounter) -> None:
    def choice(index: int, reason: str | None) -> bytes:
        return event(choices=[{"index": index, "delta": {"content": "3"}, "finish_reason": reason}])

    cut = relay(counter, False, choices=2)
    assert data(pour(cut, [choice(0, None), choice(1, None), choice(0, "stop")]))[-1]["error"]
    assert cut.failure is not None
    ended = relay(counter, False, choices=2)
    assert data(pour(ended, [choice(0, "stop"), choice(1, "length")]))[-1] == b"[DONE]"
    assert (ended.failure, ended.finish_reason) == (None, "length")


def test_choices_are_counted_apart_and_added(counter: TokenCounter) -> None:
    def choice(index: int, **delta: str) -> bytes:
        return event(choices=[{"index": index, "delta": delta, "finish_reason": None}])

    events = [
        choice(0, reasoning="the ans"),
        choice(1, reasoning="check"),
        choice(0, reasoning="wer"),
        choice(1, content=" 1"),
    ]
    through = relay(counter, True)
    pour(through, [*events, event({}, "stop"), b"data: [DONE]\n\n"])
    assert through.usage is not None
    counted = through.usage["completion_tokens_details"]["reasoning_tokens"]
    assert counted == counter.count("the answer") + counter.count("check")


def test_an_engines_error_is_the_last_event_in_our_shape(counter: TokenCounter) -> None:
    broken = b'data: {"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}\n\n'
    through = relay(counter, False)
    out = data(pour(through, [*EVENTS[:2], broken, b"data: [DONE]\n\n"]))
    assert out[-1]["error"] == {"message": "out of memory", "type": "api_error", "param": None, "code": "engine_failed"}
    assert through.failure is not None
    assert through.failure.status == 502


@pytest.mark.parametrize("cut", [3, len(b"".join(EVENTS[:3])), len(b"".join(EVENTS[:3])) + 20])
def test_a_stream_that_breaks_off_ends_in_an_error_event_of_its_own(counter: TokenCounter, cut: int) -> None:
    through = relay(counter, True)
    out = pour(through, [b"".join(EVENTS)[:cut]])
    whole = out[: out.index(b'data: {"error"')]
    assert b"".join(EVENTS).startswith(whole)
    assert data(out)[-1]["error"]["code"] == "engine_failed"
    assert through.failure is not None


def test_a_stream_that_ends_without_done_is_ended_properly(counter: TokenCounter) -> None:
    through = relay(counter, True)
    out = pour(through, EVENTS[:-1])
    assert data(out)[-1] == b"[DONE]"
    assert through.failure is None
    torn = relay(counter, True)
    assert data(pour(torn, [b"".join(EVENTS).removesuffix(b"\n\n")]))[-1] == b"[DONE]"


def test_an_event_that_never_ends_is_not_buffered_for_ever(counter: TokenCounter) -> None:
    through = relay(counter, False)
    assert through.feed(b"data: " + b"x" * MAX_EVENT_BYTES).startswith(b'data: {"error"')
    assert through.feed(b"more") == b""


def test_comments_pass(counter: TokenCounter) -> None:
    assert relay(counter, False).feed(b": keep-alive\n\n") == b": keep-alive\n\n"


def test_a_long_stream_is_counted_though_its_events_are_not_all_kept(
    counter: TokenCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage, "KEEP_BYTES", 500)
    transcript = Transcript()
    for _ in range(50):
        transcript.add_events(event({"reasoning": "1 + 2 "}))
    assert len(transcript._events) < 10
    assert transcript.count(counter, Reasoning()).reasoning == counter.count("1 + 2 " * 50)


def test_a_stream_that_is_only_an_error_is_told_from_one_that_begins() -> None:
    refused = leading_error(
        b'data: {"error": {"message": "no", "code": 400, "param": "temperature"}}\n\ndata: [DONE]\n\n'
    )
    assert refused is not None
    assert (refused.status, refused.param) == (400, "temperature")
    assert leading_error(EVENTS[0]) is None
    assert leading_error(event({"content": '{"error": 1}'})) is None
    assert leading_error(b": comment\n\n") is None


def test_hidden_thinking_is_counted_and_not_shown(counter: TokenCounter) -> None:
    both = event({"reasoning": " so", "content": "The answer"})
    events = [*EVENTS[:3], both, *WITHOUT_USAGE[3:]]
    hidden, shown = relay(counter, False, hides_reasoning=True), relay(counter, False)
    said = data(pour(hidden, events))
    pour(shown, events)
    deltas = [choice["delta"] for one in said[:-1] for choice in one["choices"]]
    assert deltas[:3] == [
        {"role": "assistant", "content": ""},
        {"content": "The answer"},
        {"content": "The answer is "},
    ]
    assert said[-1] == b"[DONE]"
    assert hidden.usage == shown.usage
    assert hidden.transcript.count(counter, Reasoning()).reasoning > 0


async def test_after_a_comment_and_an_event_stood_in_line_a_caller_is_still_watched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.answer.relay.PING_SECONDS", 0.1)
    taking, more, ended = asyncio.Event(), asyncio.Event(), list[str]()
    taking.set()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(_: Any) -> None:
        await taking.wait()

    async def events() -> AsyncGenerator[bytes]:
        yield b"first"
        taking.clear()  # a comment waits
        await more.wait()
        yield b"second"  # and this behind it
        await asyncio.sleep(0.3)
        taking.clear()
        yield b"third"

    response = RelayedStream(events(), {}, Caller(receive), 0.5, ended.append)
    answering = asyncio.create_task(response({"type": "http"}, receive, send))
    await asyncio.sleep(0.15)
    more.set()
    await asyncio.sleep(0.05)
    taking.set()
    async with asyncio.timeout(10):
        await answering
    assert ended == ["caller too slow"]
