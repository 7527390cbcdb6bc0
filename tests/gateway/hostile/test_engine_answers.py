"""Engines that fail before an answer has begun, each in its own way: the next one is asked, and the caller hears why.

Faults in the middle of an answer are in test_engine_faults.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import web

from gateway.engines import failing
from gateway.engines.verdict import MAX_FIRST_BYTES
from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.engines.raw import RawEngine, Write, http, sends
from tests.gateway.fakes import (
    COMPLETION,
    EVENTS,
    FakeEngine,
    Gateway,
    Script,
    answer,
    forever,
    respond_with,
    running,
    stream,
)
from tests.gateway.process.serving import serving

PINNED: dict[str, Any] = {"model": "abacus/alpha-0.4"}
DONE = EVENTS[-1]


@pytest.fixture
async def pair(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, other: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway in front of two engines, impatient with each."""
    settings: dict[str, Any] = {"state_dir": tmp_path, "first_token_timeout_seconds": 0.5, "conversations": False}
    async with running(family_dir, redis_server.url, [engine.url, other.url], **settings) as gateway:
        yield gateway


def text(body: str, content_type: str = "application/json") -> Script:
    async def script(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text=body, content_type=content_type)

    return script


def error_event(**error: Any) -> bytes:
    return f"data: {json.dumps({'error': error})}\n\n".encode()


OOM = {"message": "out of memory", "code": 500}
NO_ANSWERS: dict[str, tuple[Script, bool]] = {
    "an error object": (respond_with(200, {"error": OOM}), False),
    "an error string": (respond_with(200, {"error": "out of memory"}), False),
    "an error beside choices": (respond_with(200, {**COMPLETION, "error": OOM}), False),
    "an error without its field": (respond_with(200, {"object": "error", **OOM}), False),
    "details": (respond_with(200, {"detail": "out of memory"}), False),
    "no choices": (respond_with(200, {**COMPLETION, "choices": []}), False),
    "null": (respond_with(200, None), False),
    "HTML": (text("<html>", "text/html"), False),
    "deep JSON": (text('{"x":' + "[" * 100_000), False),
    "an error event": (stream(error_event(**OOM)), True),
    "an error event behind a comment": (stream(b": x\n\n", error_event(**OOM)), True),
    "an error event behind empty lines": (stream(b"\n", b"\r\n\r\n", error_event(**OOM)), True),
    "an error event with a name": (stream(b"event: error\n", b'data: {"message": "out of memory"}\n\n'), True),
    "an error event with CR": (stream(error_event(**OOM).replace(b"\n", b"\r")), True),
    "JSON for a stream": (respond_with(200, {"error": OOM}), True),
    "only comments": (stream(b": x\n\n", b": x\n\n"), True),
    "comments without end": (stream(b": x\n\n", then=forever), True),
    "only [DONE]": (stream(DONE), True),
    "half an event": (stream(EVENTS[0][:30]), True),
    "an event that is no JSON": (stream(b"data: {]\n\n"), True),
}


@pytest.mark.parametrize(("script", "streamed"), NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_what_is_no_answer_is_given_up_for_the_next_replica(
    pair: Gateway, engine: FakeEngine, other: FakeEngine, script: Script, streamed: bool
) -> None:
    engine.script = script
    while not engine.bodies:  # equally busy engines are asked in any order
        response = await pair.ask(stream=streamed)
        assert (response.status_code, response.headers["x-laconic-decision"]) == (200, "routed")
    assert other.bodies


@pytest.mark.parametrize(("script", "streamed"), NO_ANSWERS.values(), ids=NO_ANSWERS)
async def test_what_is_no_answer_is_given_up_for_the_neighbouring_checkpoint(
    pair: Gateway, engine: FakeEngine, other: FakeEngine, script: Script, streamed: bool
) -> None:
    async def one_fails(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (script if body["model"] == PINNED["model"] else answer)(request, body)

    engine.script = other.script = one_fails
    response = await pair.ask(stream=streamed)
    assert (response.status_code, response.headers["x-laconic-decision"]) == (200, "fallback")
    response = await pair.ask(stream=streamed, **PINNED)
    assert response.status_code in (502, 503)
    assert response.json()["error"]["code"] in ("engine_failed", "engine_unavailable")
    failed = [entry for entry in await pair.entries(2) if entry.status != 200]
    assert [(entry.reasoning_tokens, entry.answer_tokens) for entry in failed] == [(0, 0)]


async def test_an_error_in_a_200_is_told_to_the_caller_if_nobody_answers(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    engine.script = other.script = respond_with(200, {"error": OOM})
    response = await pair.ask(**PINNED)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_failed")
    assert response.json()["error"]["message"] == "out of memory"


@pytest.mark.parametrize("streamed", [True, False])
async def test_the_callers_own_error_in_a_200_is_the_callers(
    pair: Gateway, engine: FakeEngine, other: FakeEngine, streamed: bool
) -> None:
    too_long = {"message": "the maximum context length is 1024 tokens", "code": 400}
    script = stream(b": x\n\n", error_event(**too_long)) if streamed else respond_with(200, {"error": too_long})
    engine.script = other.script = script
    response = await pair.ask(stream=streamed)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert len(engine.bodies) + len(other.bodies) == 1


async def test_comments_before_the_answer_do_not_harm_it(pair: Gateway, engine: FakeEngine, other: FakeEngine) -> None:
    engine.script = other.script = stream(b": keep-alive\n\n", *EVENTS)
    response = await pair.ask(stream=True)
    assert response.status_code == 200
    assert response.text.rstrip().endswith("data: [DONE]")


@pytest.mark.parametrize("payload", ["text", [1], None, {"error": [1]}, {"error": {"message": {"a": 1}}}, "x" * 10**6])
@pytest.mark.parametrize("status", [400, 404, 429, 500])
async def test_an_errors_body_may_be_anything(
    pair: Gateway, engine: FakeEngine, other: FakeEngine, payload: Any, status: int
) -> None:
    engine.script = other.script = respond_with(status, payload)
    response = await pair.ask(**PINNED)
    assert response.status_code == {404: 503, 500: 503}.get(status, status)
    assert isinstance(response.json()["error"]["message"], str)
    assert len(response.content) < 5000


@pytest.mark.parametrize("status", [400, 500, 429])
async def test_an_errors_body_that_never_ends_is_given_up(
    pair: Gateway, engine: FakeEngine, other: FakeEngine, status: int
) -> None:
    async def dribble(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(status=status)
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.02)

    engine.script = other.script = dribble
    async with asyncio.timeout(8):
        assert (await pair.ask(**PINNED)).status_code == 503


class TestRetryAfter:
    @pytest.mark.parametrize(("said", "seconds"), [("7", "7"), ("99999", "3600"), ("soon", "1"), ("0", "1")])
    async def test_that_of_busy_engines_is_passed_on(
        self, pair: Gateway, engine: FakeEngine, other: FakeEngine, said: str, seconds: str
    ) -> None:
        engine.script = other.script = refuse(429, said)
        response = await pair.ask(**PINNED)
        assert (response.status_code, response.headers["retry-after"]) == (429, seconds)

    async def test_that_of_unavailable_engines_is_passed_on(
        self, pair: Gateway, engine: FakeEngine, other: FakeEngine
    ) -> None:
        engine.script, other.script = refuse(503, "30"), refuse(503, "7")
        response = await pair.ask(**PINNED)
        assert (response.status_code, response.headers["retry-after"]) == (503, "7")

    async def test_an_engine_that_does_not_say_may_be_tried_soon(
        self, pair: Gateway, engine: FakeEngine, other: FakeEngine
    ) -> None:
        engine.script, other.script = refuse(503, "30"), respond_with(500, {})
        response = await pair.ask(**PINNED)
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")


def refuse(status: int, retry_after: str) -> Script:
    async def script(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": "later"}}, status=status, headers={"retry-after": retry_after})

    return script


async def test_equally_busy_engines_get_equally_many_requests(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    for _ in range(200):
        assert (await pair.ask()).status_code == 200
    assert len(engine.bodies) + len(other.bodies) == 200
    assert 60 < len(engine.bodies) < 140  # 5.6 standard deviations of a fair coin


class TestCaps:
    """An engine without a reasoning parser refuses `thinking_token_budget`. That is not the caller's mistake."""

    REFUSED = (
        "thinking_token_budget is set but reasoning_config is not configured. Please set --reasoning-parser and/or"
        " --reasoning-config to use thinking_token_budget."
    )

    @staticmethod
    def without_caps(streamed: bool) -> Script:
        async def script(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            if "thinking_token_budget" not in body:
                return await answer(request, body)
            refusal = {"message": TestCaps.REFUSED, "code": 400, "param": None}
            refuse = stream(error_event(**refusal)) if streamed else respond_with(400, {"error": refusal})
            return await refuse(request, body)

        return script

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_a_replica_that_takes_caps_is_asked_instead_and_first_from_then_on(
        self, pair: Gateway, engine: FakeEngine, other: FakeEngine, streamed: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        engine.script = self.without_caps(streamed)
        budget = {"x-reasoning-budget": "50"}
        while not engine.bodies:
            assert (await pair.ask(stream=streamed, headers=budget)).status_code == 200
        for _ in range(10):
            assert (await pair.ask(stream=streamed, headers=budget)).status_code == 200
        assert len(engine.bodies) == 1
        assert caplog.text.count("refuses to cap the thinking") == 1
        metrics = (await pair.client.get("/metrics")).text
        assert f'laconic_engine_refused_caps_total{{engine="{engine.url}"}} 1.0' in metrics

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_if_no_replica_takes_caps_the_gateway_ends_the_thinking_and_asks_no_more_for_them(
        self, pair: Gateway, engine: FakeEngine, other: FakeEngine, streamed: bool
    ) -> None:
        engine.script = other.script = self.without_caps(streamed)
        response = await pair.ask(stream=streamed, headers={"x-reasoning-budget": "50"})
        assert (response.status_code, response.headers["x-laconic-budget"]) == (200, "50")
        asked = engine.bodies + other.bodies
        assert len(asked) == 3
        (served,) = [body for body in asked if "thinking_token_budget" not in body]
        assert "max_tokens" not in served
        assert served["stream"]
        assert (await pair.ask(stream=streamed, headers={"x-reasoning-budget": "50"})).status_code == 200
        assert len(engine.bodies + other.bodies) == 4

    @pytest.mark.parametrize("streamed", [True, False])
    async def test_requests_without_a_cap_go_there_as_before(
        self, pair: Gateway, engine: FakeEngine, other: FakeEngine, streamed: bool
    ) -> None:
        engine.script = other.script = self.without_caps(streamed)
        assert (await pair.ask(stream=streamed)).status_code == 200


SPACE = b" " * 65_536


@pytest.fixture
async def raw(family: Family) -> AsyncIterator[RawEngine]:
    async with RawEngine(family).listening() as engine:
        yield engine


async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer that never ends, as fast as it is taken."""
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n")
    while True:
        writer.write(b"10000\r\n" + SPACE + b"\r\n")
        await writer.drain()


async def test_a_non_streaming_answer_is_bounded_and_its_memory_is_given_back(
    raw: RawEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Asked for by eight callers at a time, four times: neither another replica nor a neighbour would do better."""
    good = raw.chat = sends(http(json.dumps(COMPLETION).encode()))
    async with serving(raw, family_dir, tmp_path, "--redis", redis_server.url) as serve:
        process = psutil.Process(serve.process.pid)
        for _ in range(50):
            assert (await serve.ask()).status_code == 200
        before, asked = process.memory_info().rss, raw.requests
        raw.chat = flood
        for _ in range(4):
            for response in await asyncio.gather(*(serve.ask() for _ in range(8))):
                assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_failed")
                assert "8 MiB" in response.json()["error"]["message"]
        assert raw.requests == asked + 32
        raw.chat = good
        assert (await serve.ask()).status_code == 200
        after = process.memory_info().rss
    assert after < 1.2 * before, (before, after)


@pytest.mark.parametrize("size", [-1, 1])
async def test_the_limit_is_exact(
    raw: RawEngine, family_dir: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(failing, "MAX_ANSWER_BYTES", 100_000)
    whole = json.dumps(COMPLETION).encode()
    raw.chat = sends(http(whole + b" " * (100_000 - len(whole) + (size > 0))))
    async with running(family_dir, redis_server.url, [raw.url]) as gateway:
        assert (await gateway.ask()).status_code == (200 if size < 0 else 502)


async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nx: ")
    while True:
        writer.write(b"y")
        await writer.drain()
        await asyncio.sleep(0.02)


INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
RAW: dict[str, tuple[Write, int]] = {
    "interim responses": (sends(INTERIM, http(json.dumps(COMPLETION).encode()), pause=0.05), 200),
    "headers that dribble": (drip, 503),
    "a switch of protocols": (sends(SWITCH), 503),
    "a status of 999": (sends(http(b"", status="999 What")), 503),
    "a redirect": (sends(http(b"", "location: http://127.0.0.1:1/", status="307 Temporary Redirect")), 503),
    "an empty answer": (sends(http(b"")), 503),
    "no content": (sends(b"HTTP/1.1 204 No Content\r\n\r\n"), 503),
}  # fmt: skip


@pytest.mark.parametrize(("chat", "status"), RAW.values(), ids=RAW)
async def test_odd_responses_are_answers_or_failures(
    raw: RawEngine, family_dir: Path, redis_server: RedisServer, chat: Write, status: int
) -> None:
    raw.chat = chat
    settings = {"first_token_timeout_seconds": 0.4}
    async with running(family_dir, redis_server.url, [raw.url], **settings) as gateway, asyncio.timeout(10):
        assert (await gateway.ask(**PINNED)).status_code == status


async def test_an_answer_that_never_begins_does_not_close_the_engine_for_others(
    raw: RawEngine, family_dir: Path, redis_server: RedisServer
) -> None:
    """The engine did respond. As with a 500, the request may be at fault, and must not shut out the others."""
    good = sends(http(b"".join(EVENTS), "content-type: text/event-stream"))
    async with running(family_dir, redis_server.url, [raw.url]) as gateway:
        raw.chat = sends(http(b"data: " + b"x" * 2 * MAX_FIRST_BYTES, "content-type: text/event-stream"))
        for _ in range(5):
            assert (await gateway.ask(stream=True)).status_code in (502, 503)
        raw.chat = good
        assert (await gateway.ask(stream=True)).status_code == 200
