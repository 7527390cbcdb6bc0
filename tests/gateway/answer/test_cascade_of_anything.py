"""Escalations of whatever engines send: the message has a proper end, and its cost can be recorded."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.answer import counting
from gateway.answer.cascade import EscalatingStream, SurprisalMeter, escalated_response
from gateway.answer.completion import completion
from gateway.answer.cost import Terms
from gateway.answer.relay import DONE, Relay, relayed
from gateway.errors import ApiError
from models.family import Reasoning

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
JSON = st.recursive(
    SCALARS | st.sampled_from(["\ud800", 10**400, "</think>", 1e308, -1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
TOKEN = st.fixed_dictionaries({}, optional={"token": JSON, "logprob": JSON})
LOGPROBS = JSON | st.fixed_dictionaries({"content": JSON | st.lists(TOKEN, max_size=3)})
MESSAGE = JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(("role", "content", "reasoning", "tool_calls"), JSON))
CHOICE = st.fixed_dictionaries(
    {"logprobs": LOGPROBS},
    optional={"index": JSON, "delta": MESSAGE, "message": MESSAGE, "finish_reason": JSON | st.just("stop")},
)
USAGE = JSON | st.fixed_dictionaries({"completion_tokens": JSON}, optional={"completion_tokens_details": JSON})
DATA = JSON | st.fixed_dictionaries(
    {"choices": JSON | st.lists(CHOICE, max_size=2)},
    optional={"id": JSON, "created": JSON, "model": JSON, "usage": USAGE, "error": JSON},
)
RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def terms(family_dir: Path) -> Terms:
    counter = counting.load(family_dir / "base" / "tokenizer.json")
    return Terms(counter, Reasoning(), lambda: "prompt", context_tokens=1024)


class Pieces:
    """An upstream that sends these pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces) or [b":\n\n"]
        self.first_bytes = self._pieces.pop(0)
        self.relayed = False

    async def read(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        self._pieces.clear()


def encoded(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@given(first=st.lists(DATA, max_size=4), second=st.lists(DATA, max_size=4), hides=st.booleans())
@RELAXED
def test_an_escalated_stream_of_anything_ends_properly(
    terms: Terms, first: list[Any], second: list[Any], hides: bool
) -> None:
    async def escalate(_: SurprisalMeter) -> Any:
        return Pieces(*map(encoded, second), DONE)

    async def relay_all() -> bytes:
        upstream: Any = Pieces(*map(encoded, first))
        answer = EscalatingStream(upstream, end="</think>", surprisal=1.5, escalate=escalate)
        return b"".join([events async for events in relayed(relay, answer, lambda _: None)])

    relay = Relay(terms, wants_usage=True, hides_reasoning=hides)
    out = asyncio.run(relay_all())
    assert relay.done
    assert out.endswith(DONE) is (relay.failure is None)
    assert out.decode().count("data: [DONE]") <= 1
    assert relay.cost.tokens.reasoning >= 0


@given(first=DATA, second=DATA)
@RELAXED
def test_an_escalated_response_of_anything_is_an_answer_or_an_error(terms: Terms, first: Any, second: Any) -> None:
    async def escalate(_: SurprisalMeter) -> Any:
        return Pieces(json.dumps(second).encode())

    upstream: Any = Pieces(json.dumps(first).encode())
    better = asyncio.run(escalated_response(upstream, end="</think>", surprisal=1.5, escalate=escalate))
    try:
        done = completion(better.first_bytes, terms, hides_reasoning=False)
    except ApiError:
        return
    assert done.cost.tokens.answer >= 0
