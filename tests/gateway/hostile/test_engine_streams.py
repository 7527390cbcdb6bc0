"""Streams of engines: whatever one sends, the caller gets valid events and a proper end, and the ledger an entry.

The cases of "Streams", and arbitrary JSON in every place of an event or a response.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.answer import counting
from gateway.answer.completion import completion
from gateway.answer.cost import Terms
from gateway.answer.relay import Relay
from gateway.errors import ApiError
from gateway.ledger import entry as entries
from gateway.ledger.ledger import read_snapshot
from models.family import Reasoning
from tests.conftest import RedisServer
from tests.gateway.answer.test_cascade import SECOND, UNCONFIDENT, script_by_model
from tests.gateway.entries import entry as plain_entry
from tests.gateway.fakes import (
    EVENTS,
    HARD,
    USAGE,
    WITHOUT_USAGE,
    FakeEngine,
    Gateway,
    Script,
    build_family,
    die,
    event,
    running,
    stream,
)
from tests.gateway.hostile.harness import CHAT, assert_nothing_is_left

DONE = b"data: [DONE]\n\n"
SECRET = "it is 41 or 42"


@pytest.fixture
def gateway(impatient: Gateway) -> Gateway:
    return impatient


async def ask(gateway: Gateway, **body: Any) -> httpx.Response:
    return await gateway.client.post("/v1/chat/completions", json={**CHAT, "stream": True, **body})


def parsed(text: str) -> list[Any]:
    """The events of a stream: valid UTF-8, valid JSON, and one end."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n")[:-1] if line.startswith("data:")]
    events = [line if line == "[DONE]" else json.loads(line, parse_constant=pytest.fail) for line in lines]
    ends = [one == "[DONE]" or (isinstance(one, dict) and bool(one.get("error"))) for one in events]
    assert ends[-1], text
    assert not any(ends[:-1])
    return events


def text_of(text: str) -> str:
    deltas = [choice["delta"] for one in parsed(text) if one != "[DONE]" for choice in one.get("choices", [])]
    return "".join(delta.get("content") or "" for delta in deltas if isinstance(delta, dict))


def thinking_in_every_field(part: str) -> dict[str, Any]:
    """What engines send of their thinking beside an answer, in a message or a delta."""
    token = {"token": SECRET, "logprob": -0.1, "bytes": list(SECRET.encode()), "top_logprobs": [{"token": SECRET}]}
    message = {
        "role": "assistant",
        "content": "Forty-two.",
        "reasoning": SECRET,
        "reasoning_content": SECRET,
        "reasoning_details": [{"type": "reasoning.text", "text": SECRET}],
        "thinking": SECRET,
        "thinking_blocks": [{"type": "thinking", "thinking": SECRET}],
        "provider_specific_fields": {"reasoning": SECRET},
        "a_field_of_next_year": SECRET,
        "tool_calls": None,
    }
    choice = {
        "index": 0, part: message, "logprobs": {"content": [token], "reasoning": [token]},
        "token_ids": [4, 1, 4, 2], "tokens": [SECRET], "finish_reason": "stop", "stop_reason": None, "text": SECRET,
    }  # fmt: skip
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice],
            "usage": USAGE, "reasoning": SECRET, "trace": {"thinking": SECRET}}  # fmt: skip


def encoded(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


async def test_hidden_thinking_is_nowhere_in_a_stream(gateway: Gateway, engine: FakeEngine) -> None:
    everything = thinking_in_every_field("delta")
    thinking_only = json.loads(json.dumps(everything))
    thinking_only["choices"][0]["delta"]["content"], thinking_only["choices"][0]["finish_reason"] = None, None
    engine.script = stream(encoded({**thinking_only, "usage": None}), encoded(everything), DONE)
    response = await ask(gateway, include_reasoning=False, logprobs=True, top_logprobs=1)
    assert SECRET not in response.text
    assert "token_ids" not in response.text
    assert text_of(response.text) == "Forty-two."
    events = parsed(response.text)
    assert all(choice["logprobs"] is None for one in events[:-1] for choice in one["choices"])
    assert [one["id"] for one in events[:-1]] == ["chatcmpl-1"] * len(events[:-1])


async def test_hidden_thinking_is_nowhere_in_a_response(gateway: Gateway, engine: FakeEngine) -> None:
    async def respond(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(thinking_in_every_field("message"))

    engine.script = respond
    response = await ask(gateway, stream=False, include_reasoning=False, logprobs=True)
    assert SECRET not in response.text
    (choice,) = response.json()["choices"]
    message = {"role": "assistant", "content": "Forty-two.", "tool_calls": None}
    assert choice == {"index": 0, "message": message, "finish_reason": "stop", "stop_reason": None, "logprobs": None}


@pytest.mark.parametrize("streamed", [True, False], ids=["streaming", "non-streaming"])
@pytest.mark.parametrize("opening", ["<think>", ""], ids=["opened by the model", "opened by the template"])
async def test_hidden_thinking_that_an_engine_leaves_in_the_content_is_removed(
    gateway: Gateway, engine: FakeEngine, opening: str, streamed: bool
) -> None:
    content = f"{opening}{SECRET}</think>Forty-two."

    async def respond(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body.get("stream"):
            pieces = [event({"content": content[at : at + 3]}) for at in range(0, len(content), 3)]
            return await stream(*pieces, event({}, "stop"), DONE)(request, body)
        return web.json_response({"choices": [{"index": 0, "message": {"content": content}, "finish_reason": "stop"}]})

    engine.script = respond
    response = await ask(gateway, stream=streamed, include_reasoning=False)
    shown = text_of(response.text) if streamed else response.json()["choices"][0]["message"]["content"]
    assert shown == "Forty-two."
    (entry,) = await gateway.entries()
    assert entry.reasoning_tokens > 0


async def test_an_answer_without_thinking_is_not_hidden(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = stream(event({"content": "<p>"}), event({"content": "no thinking"}), event({}, "stop"), DONE)
    assert text_of((await ask(gateway, include_reasoning=False)).text) == "<p>no thinking"
    assert text_of((await ask(gateway, include_reasoning=False, reasoning_effort="none")).text) == "<p>no thinking"


@pytest.fixture
async def escalating(tmp_path: Path, redis_server: RedisServer, engine: FakeEngine) -> AsyncIterator[Gateway]:
    build_family(tmp_path / "abacus", escalations=True)
    async with running(tmp_path / "abacus", redis_server.url, [engine.url]) as gateway:
        yield gateway


@pytest.mark.parametrize("spaced", [True, False], ids=["with spaces", "compact"])
async def test_an_escalated_stream_is_one_message(escalating: Gateway, engine: FakeEngine, spaced: bool) -> None:
    def renamed(raw: bytes) -> bytes:
        if not raw.startswith(b"data: {"):
            return raw
        other = {**json.loads(raw[6:]), "id": "chatcmpl-2", "created": 2, "model": "abacus/other"}
        return b"data: " + json.dumps(other, separators=None if spaced else (",", ":")).encode() + b"\n\n"

    second = [*SECOND[:2], *[event({"reasoning": f"{n}"}) for n in range(5)], *SECOND[2:]]
    engine.script = script_by_model(stream(*UNCONFIDENT), stream(*map(renamed, second)))
    response = await escalating.ask(HARD, stream=True, stream_options={"include_usage": True})
    events = parsed(response.text)[:-1]
    assert len(events) > 8
    assert {(one["id"], one["created"], one["model"]) for one in events} == {("chatcmpl-1", 1, "abacus/base")}
    assert text_of(response.text) == "The answer is 3."


@pytest.mark.parametrize("end", [b"\r", b"\r\n", b"\n"], ids=["cr", "crlf", "lf"])
@pytest.mark.parametrize("size", [None, 1], ids=["in pieces", "byte by byte"])
async def test_every_line_end_is_valid(gateway: Gateway, engine: FakeEngine, end: bytes, size: int | None) -> None:
    raw = b"".join(EVENTS).replace(b"\n", end)
    engine.script = stream(*([raw[at : at + size] for at in range(0, len(raw), size)] if size else [raw]))
    assert text_of((await ask(gateway)).text) == "The answer is 3 → ok."
    (entry,) = await gateway.entries()
    assert (entry.status, entry.reasoning_tokens, entry.counting) == (200, 4, "reported")


GRAMMAR: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("a byte order mark", lambda raw: b"\xef\xbb\xbf" + raw),
    ("comments", lambda raw: b": ping\n\n:\n\n" + raw.replace(b"\n\n", b"\n: pong\n\n")),
    ("no space after the colon", lambda raw: raw.replace(b"data: ", b"data:")),
    ("other fields", lambda raw: raw.replace(b"data: ", b"event: message\nid: 7\nretry: 10\ndata: ")),
    ("data on two lines", lambda raw: raw.replace(b'"choices"', b'\ndata: "choices"')),
    ("more empty lines", lambda raw: b"\n\n\n" + raw.replace(b"\n\n", b"\n\n\n")),
    ("mixed line ends", lambda raw: raw.replace(b"\n\n", b"\r\n\r", 2).replace(b"\n\n", b"\r\r\n", 2)),
    ("an unknown field without a colon", lambda raw: raw.replace(b"data: ", b"hello\ndata: ")),
]


@pytest.mark.parametrize("hides", [True, False], ids=["hiding", "showing"])
@pytest.mark.parametrize("change", [change for _, change in GRAMMAR], ids=[name for name, _ in GRAMMAR])
async def test_every_form_of_an_event_is_valid(
    gateway: Gateway, engine: FakeEngine, change: Callable[[bytes], bytes], hides: bool
) -> None:
    engine.script = stream(change(b"".join(EVENTS)))
    response = await ask(gateway, include_reasoning=not hides)
    assert response.status_code == 200, response.text
    assert b"3 \xe2\x86\x92 ok." in response.content
    assert response.text.rstrip().endswith("[DONE]")
    (entry,) = await gateway.entries()
    assert (entry.status, entry.reasoning_tokens, entry.finish_reason) == (200, 4, "stop")


@pytest.mark.parametrize("rest", [[], [EVENTS[-2][:40]], [EVENTS[-2]], [EVENTS[-2], DONE[:-3]]],
                         ids=["after the finish", "in the usage", "after the usage", "in the end"])  # fmt: skip
@pytest.mark.parametrize("hides", [True, False], ids=["hiding", "showing"])
async def test_a_finished_answer_is_complete_even_if_its_connection_is_cut(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer, rest: list[bytes], hides: bool
) -> None:
    engine.script = stream(*EVENTS[:-2], *rest, then=die)
    response = await ask(gateway, include_reasoning=not hides, stream_options={"include_usage": True})
    events = parsed(response.text)
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error, entry.finish_reason, entry.answered) == (200, "", "stop", True)
    await assert_nothing_is_left(gateway, engine, redis_server)


async def test_a_cut_before_each_choice_has_finished_is_an_error(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = stream(*EVENTS[:-3], then=die)
    assert parsed((await ask(gateway)).text)[-1]["error"]["code"] == "engine_failed"
    engine.script = stream(*EVENTS[:-2], then=die)
    assert parsed((await ask(gateway, n=2)).text)[-1]["error"]["code"] == "engine_failed"


def after_the_start(*pieces: bytes) -> Script:
    return stream(*EVENTS[:4], *pieces, *EVENTS[4:])


def odd(**fields: str) -> bytes:
    """An event with raw JSON in some fields."""
    raw = {"index": "0", "delta": '{"content":"x"}', "logprobs": "null", "finish_reason": "null", "top": "1"} | fields
    choice = ",".join(f'"{name}":{value}' for name, value in raw.items() if name != "top")
    return f'data: {{"id":"chatcmpl-1","top":{raw["top"]},"choices":[{{{choice}}}]}}\n\n'.encode()


DEEP = "[" * 100_000 + "]" * 100_000
NEARLY_TOO_DEEP = "[" * 960 + "]" * 960
ODD = [
    ("half a surrogate pair in the content", odd(delta='{"content":"a\\ud800"}')),
    ("half a surrogate pair in the finish reason", odd(finish_reason='"st\\ud800op"')),
    ("half a surrogate pair in the id", odd(top='"\\udfff"', finish_reason='"stop"')),
    ("a long finish reason", odd(finish_reason='"' + "x" * 100_000 + '"')),
    ("a finish reason that is a number", odd(finish_reason="5")),
    ("a finish reason that is an object", odd(finish_reason='{"a":1}')),
    ("NaN", odd(top="NaN")),
    ("infinity", odd(logprobs='{"content":[{"token":"x","logprob":-Infinity}]}')),
    ("1e999 in an event that is read", odd(top="1e999", finish_reason='"stop"')),
    ("deep JSON in an event that is read", odd(top=DEEP, finish_reason='"stop"')),
    ("JSON that is nearly too deep", odd(top=NEARLY_TOO_DEEP, finish_reason='"stop"')),
    ("5,000 digits", odd(top="9" * 5000, finish_reason='"stop"')),
    ("garbage that looks like usage", b'data: {"usage": {]\n\n'),
    ("choices that are a number", b'data: {"choices":5,"usage":{"a":1}}\n\n'),
    ("choices that are numbers", b'data: {"choices":[5],"usage":{"a":1}}\n\n'),
    ("a delta that is a list", odd(delta="[1]", finish_reason='"stop"')),
    ("an index that is an object", odd(index='{"a":1}', finish_reason='"stop"')),
    ("tool calls that are none", odd(delta='{"tool_calls":[5,{"function":7}]}', finish_reason='"stop"')),
    ("log probabilities that are none", odd(logprobs='{"content":[{"token":5,"logprob":"x"},7]}')),
    ("bytes that are no UTF-8", odd(delta='{"content":"x"}', finish_reason='"stop"').replace(b'"x"', b'"\xff"')),
    ("a list instead of an object", b'data: ["usage", {"usage": 1}]\n\n'),
    ("a message of an error that is deep", b'data: {"error":{"message":[[[]]],"code":[],"param":{}}}\n\n'),
]  # fmt: skip


@pytest.mark.parametrize("hides", [True, False], ids=["hiding", "showing"])
@pytest.mark.parametrize("piece", [piece for _, piece in ODD], ids=[name for name, _ in ODD])
async def test_an_odd_event(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer, piece: bytes, hides: bool
) -> None:
    engine.script = after_the_start(piece)
    response = await ask(gateway, include_reasoning=not hides)
    events = parsed(response.text)
    (entry,) = await gateway.entries()
    if events[-1] == "[DONE]":
        assert (entry.status, entry.error) == (200, "")
        assert "The answer is " in text_of(response.text)
    else:
        assert events[-1]["error"]["code"] == "engine_failed"
        assert (entry.status, entry.error) == (502, "engine failed mid-stream")
    assert len(entry.finish_reason) <= 64
    assert entry.reasoning_tokens > 0
    await assert_nothing_is_left(gateway, engine, redis_server)


@pytest.mark.parametrize("hides", [True, False], ids=["hiding", "showing"])
async def test_half_a_surrogate_pair_is_passed_on_escaped(gateway: Gateway, engine: FakeEngine, hides: bool) -> None:
    engine.script = after_the_start(odd(delta='{"content":"a\\ud800"}'))
    response = await ask(gateway, include_reasoning=not hides)
    assert '"a\\ud800"' in response.text
    assert parsed(response.text)[-1] == "[DONE]"


async def test_deep_json_ends_with_an_error_event(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = after_the_start(odd(top=DEEP, finish_reason='"stop"'))
    error = parsed((await ask(gateway)).text)[-1]["error"]
    assert error["message"] == "The engine sent an event that cannot be read."


async def test_the_sums_of_an_hour_stay_finite(gateway: Gateway, engine: FakeEngine) -> None:
    usage = {"prompt_tokens": 10**399, "completion_tokens": 10**399, "total_tokens": 10**399}
    engine.script = stream(*WITHOUT_USAGE[:-1], event(usage=usage), DONE)
    for _ in range(2):
        await ask(gateway)
    await gateway.entries(2)
    savings = await gateway.client.get("/v1/savings")
    assert savings.status_code in (200, 403)
    snapshot = await read_snapshot(gateway.services.ledger.redis, 0)
    spent = [totals.spent_tokens for _, totals in snapshot.cells]
    assert 0 < sum(spent) < 1000


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["\ud800", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("role", "content", "reasoning", "reasoning_content", "tool_calls", "function_call"), JSON),
)
CHOICE = st.fixed_dictionaries(
    {},
    optional={"index": JSON, "finish_reason": JSON | st.just("stop"), "logprobs": JSON,
              "delta": JSON | MESSAGE, "message": JSON | MESSAGE},
)  # fmt: skip
DATA = JSON | st.fixed_dictionaries(
    {},
    optional={"id": JSON, "created": JSON, "model": JSON, "error": JSON, "choices": JSON | st.lists(CHOICE, max_size=3),
              "usage": JSON | st.fixed_dictionaries({}, optional={"prompt_tokens": JSON, "completion_tokens": JSON,
                                                                  "completion_tokens_details": JSON})},
)  # fmt: skip
RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def terms(family_dir: Path) -> Terms:
    counter = counting.load(family_dir / "base" / "tokenizer.json")
    return Terms(counter, Reasoning(), lambda: "prompt", context_tokens=1024)


@given(data=st.lists(DATA, max_size=4), hides=st.booleans(), wants=st.booleans(), end=st.booleans())
@RELAXED
def test_whatever_json_a_stream_has_its_end_is_proper(
    terms: Terms, data: list[Any], hides: bool, wants: bool, end: bool
) -> None:
    relay = Relay(terms, wants_usage=wants, hides_reasoning=hides)
    out = b"".join(map(relay.feed, [*map(encoded, data), *([DONE] if end else [])])) + relay.end()
    *_, last = [event for event in out.split(b"\n\n") if event]
    assert relay.done
    assert (last == b"data: [DONE]") is (relay.failure is None)
    out.decode()
    recorded = plain_entry(finish_reason=relay.finish_reason, counting=relay.cost.counting)
    assert entries.parse(entries.dump(recorded)) == recorded


@given(data=DATA, hides=st.booleans())
@RELAXED
def test_whatever_json_a_response_is_it_is_an_answer_or_an_error(terms: Terms, data: Any, hides: bool) -> None:
    try:
        done = completion(json.dumps(data).encode(), terms, hides_reasoning=hides)
    except ApiError as error:
        json.loads(error.body())
        return
    if done.cost.counting != "reported":
        json.loads(done.body, parse_constant=pytest.fail)
    done.finish_reason.encode()


@given(raw=st.binary(max_size=200), cut=st.integers(0, 200), hides=st.booleans())
@RELAXED
def test_whatever_bytes_a_stream_has_its_end_is_proper(terms: Terms, raw: bytes, cut: int, hides: bool) -> None:
    relay = Relay(terms, wants_usage=True, hides_reasoning=hides)
    out = relay.feed(raw[:cut]) + relay.feed(raw[cut:]) + relay.feed(b"\n\n" + b"".join(EVENTS)) + relay.end()
    assert relay.done
    assert out.endswith(DONE) or b'data: {"error"' in out
