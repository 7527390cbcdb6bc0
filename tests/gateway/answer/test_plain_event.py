"""Events read by a regular expression mean what they mean when parsed as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer import cascade
from gateway.answer.cascade import EscalatingStream
from gateway.answer.plain_event import read_plain
from gateway.events import data_of

END = "</think>"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["\n", '"', "\\", END, "é", "},{"]
)
TOKENS = st.lists(st.tuples(TEXT, st.floats(-9999, 0)), max_size=3)
FIELDS = st.sampled_from(["reasoning", "reasoning_content", "content"])


class FirstCheckpoint:
    """An upstream whose first bytes are all there is."""

    relayed = False

    def __init__(self, first_bytes: bytes) -> None:
        self.first_bytes = first_bytes


def encoded(field: str, text: str, tokens: list[tuple[str, float]] | None, **more: Any) -> bytes:
    """An event as vLLM encodes it."""
    content = [
        {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}
        for token, logprob in tokens or []
    ]
    choice = {
        "index": 0,
        "delta": {field: text},
        "logprobs": None if tokens is None else {"content": content},
        "finish_reason": None,
        "token_ids": None,
    }
    data = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "choices": [choice | more]}
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def outcome(events: bytes) -> tuple[list[Any], float, int, int, bool]:
    """What passes to the caller, parsed, and what was measured."""
    stream = EscalatingStream(FirstCheckpoint(events), end=END, surprisal=1.0, escalate=None)  # type: ignore[arg-type]
    meter = stream._meter
    passed = [json.loads(data_of(event + b"\n\n")) for event in stream.first_bytes.split(b"\n\n") if event]
    return passed, round(meter.surprisal, 6), meter.tokens, meter.reasoning_tokens, meter.ended


@given(events=st.lists(st.tuples(FIELDS, TEXT, st.none() | TOKENS)))
def test_a_plain_event_means_what_its_json_means(events: list[tuple[str, str, Any]]) -> None:
    data = b"".join(encoded(*event) for event in events)
    fast = outcome(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade, "read_plain", lambda _: None)
        assert outcome(data) == fast


@pytest.mark.parametrize("field", ["reasoning", "content"])
def test_events_of_vllm_are_plain(field: str) -> None:
    plain = read_plain(encoded(field, ' 47"\n', [(' 47"\n', -0.25), ("+", -1e-05)]))
    assert plain is not None
    assert plain.is_reasoning is (field == "reasoning")
    assert plain.tokens == [(b' 47\\"\\n', -0.25), (b"+", -1e-05)]
    assert b'"logprobs":null' in plain.event
    assert b"-0.25" not in plain.event


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
        b": a comment\n\n",
        b"data: [DONE]\n\n",
    ],
)
def test_any_other_event_is_left_to_the_json_parser(event: bytes) -> None:
    assert read_plain(event) is None
