"""Events read by a regular expression mean what they mean when parsed as JSON, however a stream is cut."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer import cascade
from gateway.answer.cascade import EscalatingStream, SurprisalMeter
from gateway.answer.plain_event import logprobs_of, plain_run, without_logprobs

END = "</think>"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["\n", '"', "\\", "\\\\", END, "é", "},{", '","logprob":-1,"', '"logprobs":null', '{"content":[{"token":"']
)
TOKENS = st.lists(st.tuples(TEXT, st.floats(-9999, 0) | st.floats(-1e5, 1e5)), max_size=3)
FIELDS = st.sampled_from(["reasoning", "reasoning_content", "content"])
FINISH = st.sampled_from([None, None, None, None, "stop"])
EVENTS = st.lists(st.tuples(FIELDS, TEXT, st.none() | TOKENS, FINISH), max_size=8)


class FirstCheckpoint:
    """An upstream that sends these pieces."""

    relayed = False

    def __init__(self, pieces: list[bytes]) -> None:
        self.first_bytes, *self._more = pieces

    async def read(self) -> bytes:
        return self._more.pop(0) if self._more else b""

    def close(self) -> None:
        self._more.clear()


def encoded(
    field: str, text: str, tokens: list[tuple[str, float]] | None, finish: str | None = None, **more: Any
) -> bytes:
    """An event as vLLM encodes it."""
    content = [
        {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}
        for token, logprob in tokens or []
    ]
    choice = {
        "index": 0,
        "delta": {field: text},
        "logprobs": None if tokens is None else {"content": content},
        "finish_reason": finish,
        "token_ids": None,
    }
    data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": [choice | more]}
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def stream_of(events: list[tuple[str, str, Any, str | None]]) -> bytes:
    """A whole stream, as vLLM encodes it."""
    first = encoded("role", "assistant", None)
    usage = b'data: {"id":"chatcmpl-1","choices":[],"usage":{"completion_tokens":1}}\n\n'
    return b"".join([first, *(encoded(*event) for event in events), usage, b"data: [DONE]\n\n"])


def outcome(data: bytes, cuts: list[int], threshold: float) -> tuple[list[Any], list[Any]]:
    """What passes to the caller, parsed, and what was measured, when it was decided and at the end."""
    ends = [*sorted({cut % len(data) for cut in cuts} - {0}), len(data)]
    pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    measured: list[Any] = []

    def note(meter: SurprisalMeter) -> None:
        measured.append((round(meter.surprisal, 6), meter.reasoning_tokens, meter.ended))

    async def keep(meter: SurprisalMeter) -> None:
        note(meter)
        measured.append(meter.tokens)

    async def read() -> bytes:
        stream = EscalatingStream(FirstCheckpoint(pieces), end=END, surprisal=threshold, escalate=keep)
        passed = stream.first_bytes
        while chunk := await stream.read():
            passed += chunk
        note(stream._meter)
        return passed

    passed = asyncio.run(read())
    events = [event.removeprefix(b"data: ") for event in passed.split(b"\n\n") if event]
    return [event if event == b"[DONE]" else json.loads(event) for event in events], measured


@given(events=EVENTS, cuts=st.lists(st.integers(0, 5000), max_size=6), threshold=st.sampled_from([-1.0, 1.0]))
def test_a_plain_run_means_what_its_json_means(
    events: list[tuple[str, str, Any, str | None]], cuts: list[int], threshold: float
) -> None:
    data = stream_of(events)
    fast = outcome(data, cuts, threshold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "plain_run", lambda *_: None)
        patch.setattr(cascade, "_says_nothing", lambda *_, **__: False)
        assert outcome(data, cuts, threshold) == fast
    parsed, _ = fast
    assert all(choice["logprobs"] is None for one in parsed if one != b"[DONE]" for choice in one["choices"])


def test_a_stream_may_be_cut_at_every_byte() -> None:
    thinking = [("reasoning", f' {number}"\n', [(f' {number}"\n', -number / 8)], None) for number in range(3)]
    answer = [("content", text, [(text, -9.0)], None) for text in ("The", " end")]
    data = stream_of([*thinking, ("reasoning", ".", [(".", -0.5), (END, -0.25)], None), *answer])
    whole, (measured, *_) = outcome(data, [], 0.0)
    assert measured == (0.125 + 0.25 + 0.5 + 0.25, 4, True)
    for cut in range(1, len(data)):
        passed, (first, *_) = outcome(data, [cut], 0.0)
        assert (passed, first) == (whole, measured)


@pytest.mark.parametrize("field", ["reasoning", "content"])
@pytest.mark.parametrize("number", [1, 3])
def test_events_of_vllm_are_plain(field: str, number: int) -> None:
    event = encoded(field, ' 47"\n', [(' 47"\n', -0.25), ("+", -1e-05)])
    run = plain_run(event * number)
    assert run is not None
    assert run.end == len(event * number)
    assert run.is_reasoning is (field == "reasoning")
    assert run.has_tokens
    assert logprobs_of(event * number) == [-0.25, -1e-05] * number
    assert without_logprobs(event * number) == encoded(field, ' 47"\n', None) * number


@pytest.mark.parametrize(
    "other",
    [
        encoded("content", "1", [("1", -0.5)]),
        encoded("reasoning", "1", None),
        encoded("reasoning", "1", [("1", -0.5)], finish="stop"),
        b": a comment\n\n",
    ],
)
def test_a_run_ends_where_an_event_says_something_else(other: bytes) -> None:
    event = encoded("reasoning", "1", [("1", -0.5)])
    run = plain_run(event + event + other + event)
    assert run is not None
    assert run.end == len(event + event)


@pytest.mark.parametrize(
    "event",
    [
        encoded("reasoning", "", []),
        encoded("reasoning", "1", [("1", -0.5)], index=1),
        encoded("reasoning", "1", [("1", -0.5)], finish_reason="stop"),
        encoded("role", "assistant", None),
        encoded("reasoning", "1", [("1", -0.5)]).replace(b'"1","logprob"', rb'"\u0031","logprob"'),
        encoded("reasoning", "1", [("1", -0.5)]).replace(b"-0.5", b"NaN"),
        encoded("reasoning", "1", [("1", -0.5)]).replace(b":[]", b':[{"token":"2"}]'),
        encoded("reasoning", "1", [("1", -0.5)]).replace(b'"1"}', b'"1","content":"2"}'),
        b": a comment\n\n",
        b"data: [DONE]\n\n",
    ],
)
def test_any_other_event_is_left_to_the_json_parser(event: bytes) -> None:
    assert plain_run(event) is None
