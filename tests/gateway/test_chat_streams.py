"""Streams over real sockets: what is relayed, what is counted, and what happens when either side goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.answer.continuation import Source
from gateway.answer.relay import Relay
from tests.conftest import RedisServer
from tests.gateway.fakes import (
    COMPLETION,
    EASY,
    EVENTS,
    USAGE,
    WITHOUT_USAGE,
    FakeEngine,
    Gateway,
    die,
    error,
    forever,
    running,
    stream,
)


async def test_a_stream_is_relayed_byte_for_byte(gateway: Gateway, engine: FakeEngine) -> None:
    response = await gateway.ask(stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-laconic-checkpoint"] == "alpha-0.4"
    assert response.content == b"".join(WITHOUT_USAGE)
    assert engine.bodies[0]["stream_options"] == {"include_usage": True}
    (entry,) = await gateway.entries()
    assert (entry.prompt_tokens, entry.reasoning_tokens, entry.answer_tokens) == (17, 4, 5)
    assert (entry.status, entry.finish_reason) == (200, "stop")
    assert entry.first_token_seconds is not None
    assert 0 < entry.first_token_seconds <= entry.total_seconds


async def test_the_usage_event_reaches_only_callers_that_asked_for_it(gateway: Gateway, engine: FakeEngine) -> None:
    options = {"include_usage": True, "continuous_usage_stats": False}
    response = await gateway.ask(stream=True, stream_options=options)
    assert response.content == b"".join(EVENTS)
    assert engine.bodies[0]["stream_options"] == options
    await gateway.ask(stream=True, stream_options={"include_usage": False})
    assert engine.bodies[1]["stream_options"] == {"include_usage": True}


async def test_events_are_relayed_as_they_arrive(gateway: Gateway, engine: FakeEngine) -> None:
    go_on = asyncio.Event()

    async def wait(_: web.Request) -> None:
        await go_on.wait()

    async def script(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(EVENTS[0] + EVENTS[1][:30])
        await go_on.wait()
        await response.write(EVENTS[1][30:] + b"".join(EVENTS[2:]))
        return response

    engine.script = script
    chat = {"model": "abacus", "stream": True, "messages": [{"role": "user", "content": EASY}]}
    async with gateway.client.stream("POST", "/v1/chat/completions", json=chat) as response:
        pieces = response.aiter_raw()
        assert await anext(pieces) == EVENTS[0]
        go_on.set()
        assert EVENTS[0] + b"".join([piece async for piece in pieces]) == b"".join(WITHOUT_USAGE)


async def test_reasoning_tokens_are_counted_if_the_engine_reports_none(gateway: Gateway, engine: FakeEngine) -> None:
    async def omit_reasoning_tokens(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body.get("stream"):
            return await stream(*WITHOUT_USAGE)(request, body)
        bare = {name: value for name, value in USAGE.items() if name != "completion_tokens_details"}
        return web.json_response({**COMPLETION, "usage": bare})

    engine.script = omit_reasoning_tokens
    completed = (await gateway.ask()).json()
    assert completed["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    assert {**completed, "usage": None} == {**COMPLETION, "usage": None}
    streamed = (await gateway.ask(stream=True, stream_options={"include_usage": True})).content
    assert b'"reasoning_tokens":' in streamed
    assert streamed.endswith(b"data: [DONE]\n\n")
    for entry in await gateway.entries(2):
        assert entry.reasoning_tokens > 0
        assert entry.answer_tokens > 0


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_caller_that_leaves_before_the_first_byte_aborts_the_engine(
    gateway: Gateway, engine: FakeEngine, streamed: bool
) -> None:
    async def think(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        await forever(request)
        raise AssertionError

    engine.script = think
    asking = asyncio.create_task(gateway.ask(stream=streamed))
    await engine.busy.wait()
    asking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asking
    await engine.idle.wait()
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error, entry.checkpoint) == (499, "caller left", "alpha-0.4")
    if streamed:
        assert (entry.reasoning_tokens, entry.assumed) == (0, False)
    else:  # what the engine has done by now nobody can know
        assert entry.predicted_tokens is not None
        assert (entry.reasoning_tokens, entry.assumed) == (math.ceil(entry.predicted_tokens), True)


async def test_a_caller_that_leaves_mid_stream_aborts_the_engine_and_is_charged_for_what_arrived(
    gateway: Gateway, engine: FakeEngine
) -> None:
    engine.script = stream(*EVENTS[:4], then=forever)
    chat = {"model": "abacus", "stream": True, "messages": [{"role": "user", "content": EASY}]}
    async with gateway.client.stream("POST", "/v1/chat/completions", json=chat) as response:
        received = b""
        async for piece in response.aiter_raw():
            received += piece
            if received == b"".join(EVENTS[:4]):
                break
    await engine.idle.wait()
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error, entry.finish_reason) == (499, "caller left", "")
    assert entry.reasoning_tokens > 0
    assert entry.answer_tokens > 0
    assert entry.prompt_tokens > 0
    assert entry.first_token_seconds is not None


async def test_a_caller_that_leaves_frees_its_slot(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    async with running(family_dir, redis_server.url, [engine.url], max_concurrency=1) as gateway:
        engine.script = stream(*EVENTS[:2], then=forever)
        chat = {"model": "abacus", "stream": True, "messages": [{"role": "user", "content": EASY}]}
        async with gateway.client.stream("POST", "/v1/chat/completions", json=chat) as response:
            await anext(response.aiter_raw())
            full = await gateway.ask()
            assert (full.status_code, full.headers["retry-after"]) == (429, "1")
            assert error(full)["type"] == "rate_limit_error"
        await engine.idle.wait()
        engine.script = stream(*EVENTS)
        await gateway.entries(1)
        assert (await gateway.ask(stream=True)).status_code == 200


async def test_an_engine_that_dies_mid_stream_ends_the_stream_with_an_error_event(
    gateway: Gateway, engine: FakeEngine
) -> None:
    half = len(EVENTS[3]) // 2
    engine.script = stream(*EVENTS[:3], EVENTS[3][:half], then=die)
    response = await gateway.ask(stream=True)
    assert response.status_code == 200
    assert response.content.startswith(b"".join(EVENTS[:3]) + b"data: {")
    last = json.loads(response.content.split(b"data: ")[-1])
    assert last["error"]["code"] == "engine_failed"
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error) == (502, "engine failed mid-stream")
    assert entry.reasoning_tokens > 0


async def test_an_engine_that_falls_silent_mid_stream_times_out(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    async with running(family_dir, redis_server.url, [engine.url], idle_timeout_seconds=0.2) as gateway:
        engine.script = stream(*EVENTS[:3], then=forever)
        response = await gateway.ask(stream=True)
        assert b'"engine_failed"' in response.content
        await engine.idle.wait()


async def test_a_stream_that_ended_unsettled_is_settled_when_its_response_ends(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgetful(relay: Relay, answer: Source, _: object) -> AsyncGenerator[bytes]:
        while not relay.done:
            yield relay.feed(answer.first_bytes or await answer.read())
            answer.first_bytes = b""

    monkeypatch.setattr("gateway.chat.relayed", forgetful)
    response = await gateway.ask(stream=True)
    assert response.content.endswith(b"[DONE]\n\n")
    (entry,) = await gateway.entries()
    assert (entry.status, entry.finish_reason) == (200, "stop")
