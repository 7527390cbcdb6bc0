from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.house import EASY, EVENTS, STRANGE, WITHOUT_USAGE, FakeEngine, Gateway, die, refuse, running, stream


@pytest.fixture
async def other(family: Family) -> AsyncIterator[FakeEngine]:
    async with FakeEngine(family).listening() as engine:
        yield engine


@pytest.fixture
async def pair(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, other: FakeEngine
) -> AsyncIterator[Gateway]:
    """A gateway in front of `engine` and `other`."""
    async with running(family_dir, redis_server.url, [engine.url, other.url]) as gateway:
        yield gateway


async def drop(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    """Die before a single byte."""
    await die(request)
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "fault", [drop, refuse(500, {"error": {"message": "boom"}}), refuse(503, None), refuse(404, {})]
)
async def test_before_the_first_byte_another_replica_is_tried(
    pair: Gateway, engine: FakeEngine, other: FakeEngine, fault: Any, streamed: bool
) -> None:
    engine.script = fault
    for _ in range(3):
        response = await pair.ask(stream=streamed)
        assert response.status_code == 200
        assert response.headers["x-laconic-decision"] == "routed"
    assert len(other.bodies) == 3


async def test_an_engine_error_as_the_first_event_is_before_the_first_byte(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    engine.script = stream(b'data: {"error": {"message": "boom", "code": 500}}\n\n')
    for _ in range(2):
        assert (await pair.ask(stream=True)).content == b"".join(WITHOUT_USAGE)
    assert len(other.bodies) == 2


async def test_after_the_first_byte_none_is(pair: Gateway, engine: FakeEngine, other: FakeEngine) -> None:
    engine.script = other.script = stream(EVENTS[0], then=die)
    assert b'"engine_failed"' in (await pair.ask(stream=True)).content
    assert len(engine.bodies) + len(other.bodies) == 1


async def test_a_caller_at_fault_is_not_sent_around(pair: Gateway, engine: FakeEngine, other: FakeEngine) -> None:
    engine.script = other.script = refuse(400, {"error": {"message": "no"}})
    assert (await pair.ask()).status_code == 400
    assert len(engine.bodies) + len(other.bodies) == 1


async def test_the_least_busy_replica_is_asked(pair: Gateway, engine: FakeEngine, other: FakeEngine) -> None:
    both = asyncio.Event()

    async def hold(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if engine.bodies and other.bodies:
            both.set()
        await both.wait()
        return await stream(*EVENTS)(request, body)

    engine.script = other.script = hold
    answers = await asyncio.gather(pair.ask(stream=True), pair.ask(stream=True))
    assert [a.status_code for a in answers] == [200, 200]
    assert (len(engine.bodies), len(other.bodies)) == (1, 1)


async def test_a_slow_first_token_is_given_up(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, other: FakeEngine
) -> None:
    async def sleep(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    engine.script = sleep
    settings = {"first_token_timeout_seconds": 0.2}
    async with running(family_dir, redis_server.url, [engine.url, other.url], **settings) as gateway:
        for _ in range(2):
            assert (await gateway.ask(stream=True)).status_code == 200
        await engine.idle.wait()


async def test_checkpoints_may_live_on_different_engines(pair: Gateway, engine: FakeEngine, other: FakeEngine) -> None:
    engine.serves, other.serves = ["abacus/base"], ["abacus/alpha-0.4", "abacus/alpha-0.1", "something/else"]
    await pair.engines._probe_all()
    assert (await pair.ask(EASY)).headers["x-laconic-checkpoint"] == "alpha-0.4"
    assert (await pair.ask(STRANGE)).headers["x-laconic-checkpoint"] == "base"
    assert [b["model"] for b in engine.bodies] == ["abacus/base"]
    assert [b["model"] for b in other.bodies] == ["abacus/alpha-0.4"]


async def test_a_checkpoint_that_nobody_answers_for_falls_back_to_its_neighbour(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    async def only_others(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] == "abacus/alpha-0.4":
            return web.json_response({"error": {"message": "boom"}}, status=500)
        return await stream(*EVENTS)(request, body)

    engine.script = other.script = only_others
    response = await pair.ask(EASY, stream=True)
    assert response.status_code == 200
    assert response.headers["x-laconic-decision"] == "fallback"
    assert response.headers["x-laconic-checkpoint"] == "alpha-0.1"
    pinned = await pair.ask(EASY, stream=True, model="abacus/alpha-0.4")
    assert pinned.status_code == 503


async def test_every_engine_down_is_a_503_at_once(family_dir: Path, redis_server: RedisServer, family: Family) -> None:
    engine = FakeEngine(family)
    async with engine.listening():
        pass  # its port is closed now
    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        for model in ("abacus", "abacus/base"):
            response = await gateway.ask(model=model)
            assert response.status_code == 503
            assert int(response.headers["retry-after"]) > 0
            assert response.json()["error"]["code"] == "engine_unavailable"
        assert [e.status for e in await gateway.entries(2)] == [503, 503]


@pytest.mark.parametrize("how", ["closed", "reset"])
async def test_a_connection_that_dies_as_it_is_taken_is_replaced_by_a_new_one(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, how: str
) -> None:
    """As when the engine's server closes an idle one: `ServerDisconnectedError` or a `ClientOSError`."""

    async def die_once(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        engine.script = stream(*EVENTS)
        assert request.transport is not None
        if how == "reset":
            linger = struct.pack("ii", 1, 0)  # closing then sends RST
            request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.transport.abort()
        await asyncio.Event().wait()
        raise AssertionError

    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        engine.script = die_once
        assert (await gateway.ask(model="abacus/base", stream=True)).status_code == 200


async def test_an_engine_that_comes_back_is_used_again(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        engine.script = drop
        assert (await gateway.ask(model="abacus/base")).status_code == 503
        engine.script = stream(*EVENTS)
        await gateway.engines._probe_all()
        assert (await gateway.ask(model="abacus/base", stream=True)).status_code == 200


async def test_all_replicas_busy_is_a_429(pair: Gateway, engine: FakeEngine, other: FakeEngine) -> None:
    engine.script = other.script = refuse(429, {"error": {"message": "queue is full"}})
    response = await pair.ask(model="abacus/base")
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
