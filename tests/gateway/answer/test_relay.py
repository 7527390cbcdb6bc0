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

from gateway.answer import counting, transcript
from gateway.answer.cost import Terms
from gateway.answer.counting import TokenCounter
from gateway.answer.relay import EndReason, Relay, RelayedStream, relayed
from gateway.answer.transcript import Transcript
from gateway.events import MAX_EVENT_BYTES
from gateway.request.caller import Caller
from models.family import Reasoning
from tests.gateway.fakes import EVENTS, USAGE, WITHOUT_USAGE, event


@pytest.fixture(scope="module")
def counter(family_dir: Path) -> TokenCounter:
    return counting.load(family_dir / "base" / "tokenizer.json")


def relay(counter: TokenCounter, wants_usage: bool, *, choices: int = 1, hides_reasoning: bool = False) -> Relay:
    terms = Terms(counter, Reasoning(), lambda: "the prompt", context_tokens=1024, choices=choices)
    return Relay(terms, wants_usage=wants_usage, hides_reasoning=hides_reasoning)


def relay_all(stream: Relay, pieces: list[bytes]) -> bytes:
    return b"".join([stream.feed(piece) for piece in pieces]) + stream.end()


def data(raw: bytes) -> list[Any]:
    """The events' data, parsed."""
    lines = [line[6:] for line in raw.splitlines() if line.startswith(b"data: ")]
    return [line if line == b"[DONE]" else json.loads(line) for line in lines]


def test_bytes_pass_unchanged_and_the_usage_event_only_on_request(counter: TokenCounter) -> None:
    asked, not_asked = relay(counter, True), relay(counter, False)
    assert relay_all(asked, EVENTS) == b"".join(EVENTS)
    assert relay_all(not_asked, EVENTS) == b"".join(e for e in EVENTS if b'"usage"' not in e)
    for each in (asked, not_asked):
        assert each.usage == USAGE
        assert (each.finish_reason, each.failure, each.done) == ("stop", None, True)


@given(st.lists(st.integers(0, len(b"".join(EVENTS)))), st.booleans(), st.booleans())
def test_the_output_does_not_depend_on_how_the_stream_is_split(
    counter: TokenCounter, cuts: list[int], wants_usage: bool, crlf: bool
) -> None:
    events = b"".join(EVENTS)
    events = events.replace(b"\n", b"\r\n") if crlf else events
    edges = [0, *sorted(cuts), len(events)]
    stream = relay(counter, wants_usage)
    out = [stream.feed(events[a:b]) for a, b in pairwise(edges)]
    assert b"".join(out) + stream.end() == relay_all(relay(counter, wants_usage), [events])
    assert stream.usage == USAGE
    for piece in out:  # every piece is whole events, so anything may follow it
        assert not piece or piece.endswith((b"\n\n", b"\r\n\r\n"))
        piece.decode()


def test_an_event_is_relayed_as_soon_as_it_is_complete(counter: TokenCounter) -> None:
    stream = relay(counter, False)
    first = EVENTS[1]
    assert stream.feed(first[:-1]) == b""
    assert stream.feed(first[-1:]) == first


@pytest.mark.parametrize("text", ['"usage": {', "data: [DONE]", '"finish_reason":"stop"', '"error":{"code":1}', "\n\n"])
def test_generated_text_that_looks_like_the_protocol_is_only_text(counter: TokenCounter, text: str) -> None:
    stream = relay(counter, False)
    relayed_events = event({"content": text})
    assert stream.feed(relayed_events) == relayed_events
    assert (stream.usage, stream.finish_reason, stream.failure, stream.done) == (None, "", None, False)


def test_usage_without_reasoning_tokens_is_completed_from_the_text(counter: TokenCounter) -> None:
    bare = {"prompt_tokens": 17, "completion_tokens": 30, "total_tokens": 47}
    events = [*WITHOUT_USAGE[:-1], event(usage=bare), b"data: [DONE]\n\n"]
    *_, last, done = data(relay_all(relay(counter, True), events))
    assert done == b"[DONE]"
    reasoning = counter.count("1 + 2 = 3")
    assert last["choices"] == []
    assert last["usage"] == {**bare, "completion_tokens_details": {"reasoning_tokens": reasoning}}


def test_without_any_usage_it_is_counted_and_sent_before_the_end(counter: TokenCounter) -> None:
    *_, last, done = data(relay_all(relay(counter, True), WITHOUT_USAGE))
    assert done == b"[DONE]"
    assert last["id"] == "chatcmpl-1"
    reasoning, content = counter.count("1 + 2 = 3"), counter.count("The answer is 3 → ok.")
    assert last["usage"]["completion_tokens"] == reasoning + content
    assert last["usage"]["completion_tokens_details"]["reasoning_tokens"] == reasoning
    assert last["usage"]["prompt_tokens"] == counter.count("the prompt")
    assert relay_all(relay(counter, False), WITHOUT_USAGE) == b"".join(WITHOUT_USAGE)


def test_usage_in_the_last_choices_event_is_used(counter: TokenCounter) -> None:
    events = [*EVENTS[:5], event({}, "stop", usage=USAGE), b"data: [DONE]\n\n"]
    with_usage = relay(counter, True)
    assert [e["usage"] for e in data(relay_all(with_usage, events))[-3:-1]] == [USAGE, USAGE]
    no_usage_wanted = relay(counter, False)
    assert relay_all(no_usage_wanted, events) == b"".join(events)
    assert no_usage_wanted.usage == USAGE


def test_a_stream_that_closes_before_every_choice_has_ended_fails(counter: TokenCounter) -> None:
    def choice(index: int, reason: str | None) -> bytes:
        return event(choices=[{"index": index, "delta": {"content": "3"}, "finish_reason": reason}])

    cut = relay(counter, False, choices=2)
    assert data(relay_all(cut, [choice(0, None), choice(1, None), choice(0, "stop")]))[-1]["error"]
    assert cut.failure is not None
    ended = relay(counter, False, choices=2)
    assert data(relay_all(ended, [choice(0, "stop"), choice(1, "length")]))[-1] == b"[DONE]"
    assert (ended.failure, ended.finish_reason) == (None, "length")


def test_choices_are_counted_separately_and_summed(counter: TokenCounter) -> None:
    def choice(index: int, **delta: str) -> bytes:
        return event(choices=[{"index": index, "delta": delta, "finish_reason": None}])

    events = [
        choice(0, reasoning="the ans"),
        choice(1, reasoning="check"),
        choice(0, reasoning="wer"),
        choice(1, content=" 1"),
    ]
    stream = relay(counter, True)
    relay_all(stream, [*events, event({}, "stop"), b"data: [DONE]\n\n"])
    counted = stream.cost.usage["completion_tokens_details"]["reasoning_tokens"]
    assert counted == counter.count("the answer") + counter.count("check")


def test_an_engines_error_ends_the_stream_in_openais_shape(counter: TokenCounter) -> None:
    broken = b'data: {"error": {"message": "out of memory", "type": "InternalServerError", "code": 500}}\n\n'
    stream = relay(counter, False)
    out = data(relay_all(stream, [*EVENTS[:2], broken, b"data: [DONE]\n\n"]))
    assert out[-1]["error"] == {"message": "out of memory", "type": "api_error", "param": None, "code": "engine_failed"}
    assert stream.failure is not None
    assert stream.failure.status == 502


@pytest.mark.parametrize("cut", [3, len(b"".join(EVENTS[:3])), len(b"".join(EVENTS[:3])) + 20])
def test_a_truncated_stream_ends_with_a_separate_error_event(counter: TokenCounter, cut: int) -> None:
    stream = relay(counter, True)
    out = relay_all(stream, [b"".join(EVENTS)[:cut]])
    complete_events = out[: out.index(b'data: {"error"')]
    assert b"".join(EVENTS).startswith(complete_events)
    assert data(out)[-1]["error"]["code"] == "engine_failed"
    assert stream.failure is not None


def test_a_stream_without_done_gets_one(counter: TokenCounter) -> None:
    stream = relay(counter, True)
    out = relay_all(stream, EVENTS[:-1])
    assert data(out)[-1] == b"[DONE]"
    assert stream.failure is None
    torn = relay(counter, True)
    assert data(relay_all(torn, [b"".join(EVENTS).removesuffix(b"\n\n")]))[-1] == b"[DONE]"


def test_an_endless_event_fails_instead_of_being_buffered(counter: TokenCounter) -> None:
    stream = relay(counter, False)
    assert stream.feed(b"data: " + b"x" * MAX_EVENT_BYTES).startswith(b'data: {"error"')
    assert stream.feed(b"more") == b""


def test_a_stream_that_is_longer_than_the_request_allows_fails(counter: TokenCounter) -> None:
    terms = Terms(counter, Reasoning(), lambda: "the prompt", context_tokens=1024, max_tokens=2)
    stream, sent = Relay(terms, wants_usage=False), 0
    piece = event({"content": "x" * 100_000})
    while not stream.done and sent < 10**8:
        out, sent = stream.feed(piece), sent + len(piece)
    assert json.loads(out[6:])["error"]["message"] == "The engine sent more than this request can have."
    assert MAX_EVENT_BYTES < sent < 2 * MAX_EVENT_BYTES


def test_comments_pass_unchanged(counter: TokenCounter) -> None:
    assert relay(counter, False).feed(b": keep-alive\n\n") == b": keep-alive\n\n"


def test_a_long_transcript_is_counted_without_keeping_its_events(
    counter: TokenCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transcript, "KEEP_BYTES", 500)
    text = Transcript()
    for _ in range(50):
        text.add_events(event({"reasoning": "1 + 2 "}))
    assert len(text._events) < 10
    assert text.count(counter, Reasoning()).reasoning == counter.count("1 + 2 " * 50)


def test_hidden_reasoning_is_counted_but_not_relayed(counter: TokenCounter) -> None:
    both = event({"reasoning": " so", "content": "The answer"})
    events = [*EVENTS[:3], both, *WITHOUT_USAGE[3:]]
    hidden, shown = relay(counter, False, hides_reasoning=True), relay(counter, False)
    relayed_events = data(relay_all(hidden, events))
    relay_all(shown, events)
    deltas = [choice["delta"] for one in relayed_events[:-1] for choice in one["choices"]]
    assert deltas[:3] == [
        {"role": "assistant", "content": ""},
        {"content": "The answer"},
        {"content": "The answer is "},
    ]
    assert relayed_events[-1] == b"[DONE]"
    assert hidden.cost == shown.cost
    assert hidden.transcript.count(counter, Reasoning()).reasoning > 0


class Staying:
    """The connection of a caller that does not leave."""

    def on_left(self, call: object) -> None: ...

    def whole_body(self) -> bytes | None: ...


async def test_a_slow_caller_is_noticed_after_a_comment_and_an_event_were_queued(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.answer.relay.PING_SECONDS", 0.1)
    taking, more, ended = asyncio.Event(), asyncio.Event(), list[EndReason]()
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

    response = RelayedStream(events(), {}, Caller(Staying()), 0.5, ended.append)
    answering = asyncio.create_task(response({"type": "http"}, receive, send))
    await asyncio.sleep(0.15)
    more.set()
    await asyncio.sleep(0.05)
    taking.set()
    async with asyncio.timeout(10):
        await answering
    assert ended == [EndReason.CALLER_TOO_SLOW]


async def test_a_bug_in_the_relay_still_ends_the_stream_and_settles_it(
    counter: TokenCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Once:
        first_bytes, relayed = EVENTS[0], False

    def broken(*_: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Relay, "_through", broken)
    monkeypatch.setattr("gateway.answer.cost.cost_of", broken)
    stream, reasons = relay(counter, True), list[EndReason]()
    events = [events async for events in relayed(stream, Once(), reasons.append)]  # pyright: ignore[reportArgumentType]
    assert data(b"".join(events))[-1]["error"]["code"] == "internal_error"
    assert reasons == [EndReason.COMPLETE]
    assert (stream.cost.counting, stream.cost.answered) == ("counted", False)


async def ending(stream: Relay, *pieces: bytes) -> tuple[list[Any], list[EndReason]]:
    """What a caller gets of an engine that closes the connection after these pieces, and what settled it."""

    class Closing:
        relayed, first_bytes, rest = False, pieces[0], list(pieces[1:])

        async def read(self) -> bytes:
            return self.rest.pop(0) if self.rest else b""

    reasons = list[EndReason]()
    events = [events async for events in relayed(stream, Closing(), reasons.append)]  # pyright: ignore[reportArgumentType]
    return data(b"".join(events)), reasons


async def test_a_stream_that_cannot_be_ended_fails_and_is_settled(
    counter: TokenCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = '{"x":' * 800 + "1e999" + "}" * 800
    stop = event({"content": "3"}, "stop", more="DEEP").replace(b'"DEEP"', deep.encode())
    stream = relay(counter, True)
    (*_, last), reasons = await ending(stream, EVENTS[0], stop)
    assert last["error"]["message"] == "The engine sent an event that cannot be read."
    assert reasons == [EndReason.COMPLETE]

    def broken(*_: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(Relay, "_finished", broken)
    (*_, last), reasons = await ending(relay(counter, True), EVENTS[0])
    assert last["error"]["code"] == "internal_error"
    assert reasons == [EndReason.COMPLETE]
