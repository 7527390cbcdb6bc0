"""Which engine gets a request, and what happens when engines fail?"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.engines import breaker, probes
from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.fakes import (
    EASY,
    EVENTS,
    HARD,
    UNFAMILIAR,
    WITHOUT_USAGE,
    FakeEngine,
    Gateway,
    Script,
    answer,
    die,
    respond_with,
    running,
    silent,
    stream,
    until,
)


@pytest.fixture(autouse=True)
def first_engine_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of engines that are equally busy, the first is asked. By itself the gateway draws."""
    monkeypatch.setattr("gateway.engines.pool.random.shuffle", lambda replicas: None)


@pytest.fixture
async def pair(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, other: FakeEngine
) -> AsyncIterator[Gateway]:
    """A gateway in front of `engine` and `other`."""
    async with running(family_dir, redis_server.url, [engine.url, other.url], conversations=False) as gateway:
        yield gateway


async def drop(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    """Close the connection before sending a byte."""
    await die(request)
    return await silent(request, _)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    "fault", [drop, respond_with(500, {"error": {"message": "boom"}}), respond_with(503, None), respond_with(404, {})]
)
async def test_another_replica_is_tried_while_no_byte_has_arrived(
    pair: Gateway, engine: FakeEngine, other: FakeEngine, fault: Any, streamed: bool
) -> None:
    engine.script = fault
    for _ in range(3):
        response = await pair.ask(stream=streamed)
        assert response.status_code == 200
        assert response.headers["x-laconic-decision"] == "routed"
    assert len(other.bodies) == 3


async def test_an_error_as_the_first_event_makes_the_gateway_try_another_replica(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    engine.script = stream(b'data: {"error": {"message": "boom", "code": 500}}\n\n')
    for _ in range(2):
        assert (await pair.ask(stream=True)).content == b"".join(WITHOUT_USAGE)
    assert len(other.bodies) == 2


async def test_no_other_replica_is_tried_after_the_first_byte(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    engine.script = other.script = stream(EVENTS[0], then=die)
    assert b'"engine_failed"' in (await pair.ask(stream=True)).content
    assert len(engine.bodies) + len(other.bodies) == 1


async def test_an_invalid_request_is_not_sent_to_another_replica(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    engine.script = other.script = respond_with(400, {"error": {"message": "no"}})
    assert (await pair.ask()).status_code == 400
    assert len(engine.bodies) + len(other.bodies) == 1


async def test_the_least_busy_replica_gets_the_request(pair: Gateway, engine: FakeEngine, other: FakeEngine) -> None:
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


async def test_an_engine_without_a_first_token_in_time_is_given_up(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, other: FakeEngine
) -> None:
    engine.script = silent
    settings = {"first_token_timeout_seconds": 0.2, "conversations": False}
    async with running(family_dir, redis_server.url, [engine.url, other.url], **settings) as gateway:
        for _ in range(2):
            assert (await gateway.ask(stream=True)).status_code == 200
        await engine.idle.wait()


async def test_a_non_streaming_request_does_not_wait_for_an_engine_that_never_finishes_stopping(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, other: FakeEngine
) -> None:
    engine.script = silent
    settings = {"first_token_timeout_seconds": 0.5, "conversations": False}
    async with running(family_dir, redis_server.url, [engine.url, other.url], **settings) as gateway:
        asked = asyncio.create_task(gateway.ask())
        await engine.busy.wait()
        await asyncio.sleep(1)  # a non-streaming response may take any time while its engine is up
        assert not asked.done()
        await engine.site.stop()  # its port is closed, its connections are not
        assert (await asked).status_code == 200
        assert len(other.bodies) == 1
        await engine.idle.wait()


async def test_a_non_streaming_request_does_not_wait_for_an_engine_that_hangs_with_its_port_open(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, other: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "PROBE_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(probes, "PROBE_SECONDS", 0.1)
    hangs, listed = False, engine.models

    async def models(request: web.Request) -> web.Response:
        if hangs:
            await asyncio.Event().wait()
        return await listed(request)

    settings = {"first_token_timeout_seconds": 0.5, "conversations": False}
    monkeypatch.setattr(engine, "models", models)
    engine.script = silent
    # The fixture has bound its routes already, so this one listens with the patched route on a port of its own.
    async with (
        engine.listening() as hanging,
        running(family_dir, redis_server.url, [hanging.url, other.url], **settings) as gateway,
    ):
        asked = asyncio.create_task(gateway.ask())
        async with asyncio.timeout(20):
            await engine.busy.wait()
            hangs = True
            assert (await asked).status_code == 200
        assert len(other.bodies) == 1


async def test_a_long_non_streaming_trial_does_not_block_other_trials(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.2)
    pinned: Any = {"model": "abacus/base"}
    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        engine.script = respond_with(503, {})
        for _ in range(3):
            assert (await gateway.ask(**pinned)).status_code == 503
        engine.script = silent
        await asyncio.sleep(0.3)
        trying = asyncio.create_task(gateway.ask(**pinned))
        await until(lambda: engine.running == 1)
        engine.script = answer
        assert (await gateway.ask(**pinned, stream=True)).status_code == 503  # one trial at a time
        await asyncio.sleep(0.3)
        assert (await gateway.ask(**pinned, stream=True)).status_code == 200
        trying.cancel()


async def test_checkpoints_may_be_served_by_different_engines(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    engine.serves, other.serves = ["abacus/base"], ["abacus/alpha-0.4", "abacus/alpha-0.1", "something/else"]
    await pair.probe()
    assert (await pair.ask(EASY)).headers["x-laconic-checkpoint"] == "alpha-0.4"
    assert (await pair.ask(UNFAMILIAR)).headers["x-laconic-checkpoint"] == "base"
    assert [b["model"] for b in engine.bodies] == ["abacus/base"]
    assert [b["model"] for b in other.bodies] == ["abacus/alpha-0.4"]


async def test_a_checkpoint_that_no_engine_can_serve_falls_back_to_its_neighbour(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    async def fail_one_checkpoint(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] == "abacus/alpha-0.4":
            return web.json_response({"error": {"message": "boom"}}, status=500)
        return await stream(*EVENTS)(request, body)

    engine.script = other.script = fail_one_checkpoint
    response = await pair.ask(EASY, stream=True)
    assert response.status_code == 200
    assert response.headers["x-laconic-decision"] == "fallback"
    assert response.headers["x-laconic-checkpoint"] == "alpha-0.1"
    pinned = await pair.ask(EASY, stream=True, model="abacus/alpha-0.4")
    assert pinned.status_code == 503


async def test_with_every_engine_down_requests_fail_with_503_at_once(
    family_dir: Path, redis_server: RedisServer, family: Family
) -> None:
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
async def test_a_reused_connection_that_dies_is_replaced_by_a_new_one(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, how: str
) -> None:
    """This happens when the engine closes an idle connection just as a request is sent on it."""

    async def die_once(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        engine.script = stream(*EVENTS)
        assert request.transport is not None
        if how == "reset":
            linger = struct.pack("ii", 1, 0)  # closing then sends RST
            request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        request.transport.abort()
        return await silent(request, _)

    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        assert (await gateway.ask(model="abacus/base", stream=True)).status_code == 200
        engine.script = die_once
        assert (await gateway.ask(model="abacus/base", stream=True)).status_code == 200
        assert len(engine.bodies) == 3


async def test_an_engine_that_comes_back_is_used_again(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        engine.script = drop
        assert (await gateway.ask(model="abacus/base")).status_code == 503
        engine.script = stream(*EVENTS)
        await gateway.probe()
        assert (await gateway.ask(model="abacus/base", stream=True)).status_code == 200


async def test_when_all_replicas_are_busy_the_caller_gets_429(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    engine.script = other.script = respond_with(429, {"error": {"message": "queue is full"}})
    response = await pair.ask(model="abacus/base")
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")


async def test_a_busy_replica_beside_a_failing_one_falls_back_to_the_neighbouring_checkpoint(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    """A 429 goes to the caller only if every replica that was tried is busy, whichever of the two is tried first."""

    def for_one_checkpoint(fault: Script) -> Script:
        async def script(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            return await (fault if body["model"] == "abacus/alpha-0.4" else answer)(request, body)

        return script

    busy = for_one_checkpoint(respond_with(429, {"error": {"message": "queue is full"}}))
    failing = for_one_checkpoint(respond_with(500, {"error": {"message": "boom"}}))
    for engine.script, other.script in ((busy, failing), (failing, busy)):
        response = await pair.ask(EASY)
        assert response.status_code == 200
        assert response.headers["x-laconic-decision"] == "fallback"
        assert response.headers["x-laconic-checkpoint"] == "alpha-0.1"
        assert (await pair.ask(model="abacus/alpha-0.4")).status_code == 503
    engine.script = other.script = busy
    assert (await pair.ask(EASY)).status_code == 429


async def test_after_three_timeouts_requests_for_that_checkpoint_fail_at_once(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.engines.breaker.FIRST_PAUSE_SECONDS", 30.0)
    engine.script = silent
    async with running(family_dir, redis_server.url, [engine.url], first_token_timeout_seconds=0.05) as gateway:
        for _ in range(3):
            assert (await gateway.ask(model="abacus/base", stream=True)).status_code == 503
        assert len(engine.bodies) == 3
        refused = await gateway.ask(model="abacus/base", stream=True)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert len(engine.bodies) == 3
        # Other checkpoints on the same engine are not affected.
        engine.script = stream(*EVENTS)
        assert (await gateway.ask(model="abacus/alpha-0.1", stream=True)).status_code == 200
        assert gateway.engines.missing == ["base"]


async def test_a_failing_engine_is_tried_again_after_a_pause(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.engines.breaker.FIRST_PAUSE_SECONDS", 0.1)
    engine.script = silent
    async with running(family_dir, redis_server.url, [engine.url], first_token_timeout_seconds=0.05) as gateway:
        for _ in range(3):
            await gateway.ask(model="abacus/base", stream=True)
        engine.script = stream(*EVENTS)
        await asyncio.sleep(0.1)
        assert (await gateway.ask(model="abacus/base", stream=True)).status_code == 200


async def test_requests_that_crash_an_engine_do_not_block_others(gateway: Gateway, engine: FakeEngine) -> None:
    """A 500 may be the request's fault, so a caller who sends such requests must not block other callers."""
    engine.script = respond_with(500, {"error": {"message": "index out of range"}})
    for _ in range(5):
        assert (await gateway.ask(model="abacus/base")).status_code == 503
    engine.script = stream(*EVENTS)
    assert (await gateway.ask(model="abacus/base", stream=True)).status_code == 200


async def test_one_connect_timeout_does_not_mark_an_engine_down(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        client = gateway.engines._replicas[0].client
        connect, attempts = client._connect, 0

        async def time_out_once() -> Any:
            nonlocal attempts
            attempts += 1
            if attempts == 1:
                raise TimeoutError("connecting took too long")
            return await connect()

        monkeypatch.setattr(client, "_connect", time_out_once)
        assert (await gateway.ask(model="abacus/base")).status_code == 503
        assert gateway.engines.missing == []
        assert (await gateway.ask(model="abacus/base")).status_code == 200


async def test_under_load_the_overload_tolerance_lets_a_cheaper_checkpoint_serve(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    held = asyncio.Event()

    async def hold(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await held.wait()
        return await stream(*EVENTS)(request, body)

    engine.script = hold
    settings = {"max_concurrency": 4, "overload_tolerance": 1.0}
    debug = {"x-laconic-debug": "true"}
    async with running(family_dir, redis_server.url, [engine.url], **settings) as gateway:
        asked: list[asyncio.Task[Any]] = []
        for number in range(1, 5):
            asked.append(asyncio.create_task(gateway.ask(HARD, headers=debug, stream=True)))
            while engine.running < number:
                await asyncio.sleep(0.01)
        held.set()
        answers = await asyncio.gather(*asked)
    assert [a.headers["x-laconic-checkpoint"] for a in answers] == ["base", "base", "base", "alpha-0.4"]
    assert "for load" not in answers[1].headers["x-laconic-reason"]
    assert "(1 of it for load)" in answers[3].headers["x-laconic-reason"]
