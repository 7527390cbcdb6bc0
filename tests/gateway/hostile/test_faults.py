"""Whatever the engine or the caller does wrong: what the caller sees, what the ledger says, and that nothing leaks.

The faults that have a real component to be provoked with are provoked there, too, in tests/end_to_end.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from aiohttp import web

from gateway.access import keys
from gateway.access.keys import Grant
from tests.conftest import RedisServer
from tests.gateway.access.test_limits import redis_state
from tests.gateway.fakes import (
    EASY,
    EVENTS,
    WHOLE,
    WITHOUT_USAGE,
    FakeEngine,
    Gateway,
    Script,
    answer,
    die,
    event,
    forever,
    refuse,
    running,
    silent,
    stream,
    until,
)

CHAT = {"model": "abacus", "messages": [{"role": "user", "content": EASY}]}
QUICK = {"first_token_timeout_seconds": 0.3, "idle_timeout_seconds": 0.3, "send_timeout_seconds": 0.3}


@pytest.fixture
async def gateway(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """One that loses patience soon, and whose callers have keys with limits."""
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path, **QUICK) as gateway:
        secret, _ = await keys.create(
            gateway.keyring.redis, Grant(name="team-a", reasoning_tokens_per_day=10**9, requests_per_minute=10**9)
        )
        await gateway.keyring.refresh()
        gateway.client.headers["authorization"] = f"Bearer {secret}"
        yield gateway


async def assert_nothing_is_left(gateway: Gateway, engine: FakeEngine, server: RedisServer) -> None:
    """No request at the engine, no token reserved, no task that belongs to a request."""
    await until(lambda: engine.running == 0)
    await until(lambda: not any(gateway.engines.running.values()) and gateway.limiter.reserved == 0)
    await until(lambda: redis_state(server)["reserved"] == 0)
    gc.collect()
    names = {task.get_coro().__qualname__ for task in asyncio.all_tasks()}  # type: ignore[union-attr]
    assert not {name for name in names if name.startswith(("ChatEndpoint.", "Caller.", "RelayedStream."))}


async def reset(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    """A TCP reset instead of an answer."""
    assert request.transport is not None
    sock: socket.socket = request.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    request.transport.abort()
    return await silent(request, _)


def byte_by_byte(*pieces: bytes) -> Script:
    return stream(*(bytes([byte]) for piece in pieces for byte in piece))


def endless(*start: bytes) -> Script:
    async def script(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in start:
            await response.write(piece)
        while True:
            await response.write(b"x" * 65_536)

    return script


@dataclass(frozen=True)
class Fault:
    """A row of the table."""

    name: str
    script: Script
    streamed: bool
    status: int
    """What the caller gets, and the ledger where `booked` is not set."""
    code: str | None = None
    """Of the error, in the body or in the stream's last event."""
    booked: int | None = None
    error: str = ""
    thought: Callable[[int], bool] = lambda tokens: tokens == 0


def some(tokens: int) -> bool:
    return tokens > 0


HALF = EVENTS[1][: len(EVENTS[1]) // 2]
GONE, BROKEN = "engine_unavailable", "engine failed mid-stream"
TABLE = [
    Fault("reset", reset, True, 503, GONE, error=GONE),
    Fault("reset, whole", reset, False, 503, GONE, error=GONE),
    Fault("500", refuse(500, {"error": {"message": "boom"}}), True, 503, GONE, error=GONE),
    Fault("500 that is no JSON", refuse(500, "boom"), False, 503, GONE, error=GONE),
    Fault("429", refuse(429, {"error": {"message": "busy"}}), True, 429, "overloaded", error="overloaded"),
    Fault("silent before the first token", silent, True, 503, GONE, error=GONE),
    Fault("silent after it", stream(*EVENTS[:2], then=forever), True, 200, "engine_failed", 502, BROKEN, some),
    Fault("dies after it", stream(*EVENTS[:2], then=die), True, 200, "engine_failed", 502, BROKEN, some),
    Fault("closes after it", stream(*EVENTS[:2]), True, 200, "engine_failed", 502, BROKEN, some),
    Fault("half a line, and dies", stream(EVENTS[0], HALF, then=die), True, 200, "engine_failed", 502, BROKEN),
    Fault("half a line, and closes", stream(*EVENTS[:2], HALF), True, 200, "engine_failed", 502, BROKEN, some),
    Fault("an error event", stream(EVENTS[0], b'data: {"error": {"message": "oom", "code": 500}}\n\n'), True, 200,
          "engine_failed", 502, BROKEN),
    Fault("garbage for events", stream(b"data: {]\n\n", b"\xff\xfe\n\n"), True, 200, "engine_failed", 502, BROKEN),
    Fault("an event without end", endless(EVENTS[0], b'data: {"choices": "'), True, 200, "engine_failed", 502, BROKEN),
    Fault("all in one piece, and dies", stream(b"".join(EVENTS), then=die), True, 200, thought=some),
    Fault("all in one piece, and hangs", stream(b"".join(EVENTS), then=forever), True, 200, thought=some),
    Fault("an error in the first piece, and dies", stream(EVENTS[0] + b'data: {"error": {"message": "oom"}}\n\n',
          then=die), True, 200, "engine_failed", 502, BROKEN),
    Fault("no usage", stream(*WITHOUT_USAGE), True, 200, thought=some),
    Fault("no [DONE]", stream(*EVENTS[:-1]), True, 200, thought=some),
    Fault("byte by byte, characters torn", byte_by_byte(*EVENTS), True, 200, thought=some),
    Fault("an empty stream", stream(), True, 503, GONE, error=GONE),
    Fault("whole answer that is no JSON", lambda *_: _text("{"), False, 502, "engine_failed", error="engine_failed"),
    Fault("whole answer without choices", lambda *_: _text("{}"), False, 200),
    Fault("whole answer without usage", lambda *_: _text(json.dumps({**WHOLE, "usage": None})), False, 200,
          thought=some),
]  # fmt: skip


async def _text(text: str) -> web.StreamResponse:
    return web.Response(text=text, content_type="application/json")


@pytest.mark.parametrize("fault", TABLE, ids=lambda fault: fault.name)
async def test_a_fault_of_the_engine(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer, fault: Fault
) -> None:
    engine.script = fault.script
    pinned = {"model": "abacus/alpha-0.4"}  # or a neighbour would be asked, which is another test
    said = await gateway.client.post("/v1/chat/completions", json={**CHAT, **pinned, "stream": fault.streamed})
    assert said.status_code == fault.status
    if said.status_code == 200 and fault.streamed:
        last = [line[6:] for line in said.text.splitlines() if line.startswith("data: ")][-1]
        assert (json.loads(last)["error"]["code"] if fault.code else last) == (fault.code or "[DONE]")
    elif fault.code is not None:
        assert said.json()["error"]["code"] == fault.code
    (booked,) = await gateway.entries()
    assert (booked.status, booked.error) == (fault.booked or fault.status, fault.error)
    assert fault.thought(booked.reasoning_tokens), booked.reasoning_tokens
    await assert_nothing_is_left(gateway, engine, redis_server)
    assert redis_state(redis_server)["day_tokens"] == booked.reasoning_tokens

    engine.script = answer  # and the gateway serves on
    assert (await gateway.client.post("/v1/chat/completions", json=CHAT)).status_code == 200


@pytest.mark.parametrize("script", [refuse(500, {}), reset, silent], ids=["500", "reset", "silent"])
async def test_before_the_first_byte_the_neighbour_answers(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer, script: Script
) -> None:
    async def only_others(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (script if body["model"] == "abacus/alpha-0.4" else answer)(request, body)

    engine.script = only_others
    said = await gateway.client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    assert (said.status_code, said.headers["x-laconic-decision"]) == (200, "fallback")
    assert said.headers["x-laconic-checkpoint"] == "alpha-0.1"
    (booked,) = await gateway.entries()
    assert (booked.status, booked.decision, booked.choice) == (200, "fallback", "alpha-0.4")
    await assert_nothing_is_left(gateway, engine, redis_server)


async def test_a_caller_too_slow_to_take_its_answer_is_left(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    """Its engine stops, and what the gateway has read ahead for it is bounded."""
    sent = 0

    async def flood(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        while True:
            piece = event({"reasoning": "thinking " * 1000})
            await response.write(piece)
            sent += len(piece)

    engine.script = flood
    host, port = gateway.url.removeprefix("http://").split(":")
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect((host, int(port)))
        body = json.dumps({**CHAT, "stream": True}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: {gateway.client.headers['authorization']}"
        )
        caller.sendall(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        (booked,) = await gateway.entries()
    assert (booked.status, booked.error) == (499, "caller too slow")
    assert booked.reasoning_tokens > 0
    assert sent < 32 * 2**20
    await assert_nothing_is_left(gateway, engine, redis_server)


def half_closed() -> set[Any]:
    """This process's sockets whose other end has gone: (local, remote) addresses."""
    connections = psutil.Process().net_connections()
    return {(one.laddr, one.raddr) for one in connections if one.status == "CLOSE_WAIT"}


async def test_a_thousand_callers_who_leave_at_random_moments(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    """The engine's running count and what was reserved are 0 again; each is in the ledger once, with what came."""

    async def think(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(random.random() * 0.02)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(30):
            await response.write(event({"reasoning": " 1"}))
            await asyncio.sleep(random.random() * 0.02)
        await response.write(event({}, "stop") + EVENTS[-1])
        return response

    engine.script = think
    before = half_closed()  # an earlier test's client may have left some
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        secret, _ = await keys.create(gateway.keyring.redis, Grant(name="team-a", reasoning_tokens_per_day=10**9))
        await gateway.keyring.refresh()
        headers = {"authorization": f"Bearer {secret}"}
        began: set[str] = set()

        async def leave(client: httpx.AsyncClient) -> None:
            patience = random.random() * 1.0
            try:
                async with asyncio.timeout(patience):
                    async with client.stream(
                        "POST", "/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers
                    ) as response:
                        began.add(response.headers["x-request-id"])
                        async for _ in response.aiter_bytes():
                            pass
            except TimeoutError:
                pass

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=gateway.url, limits=limits, timeout=60) as client:
            for _ in range(10):
                await asyncio.gather(*(leave(client) for _ in range(100)))
        await assert_nothing_is_left(gateway, engine, redis_server)
        booked = await gateway.entries(len(began))
        ids = [entry.id for entry in booked]
        assert len(ids) == len(set(ids))
        assert began <= set(ids)
        assert {entry.status for entry in booked} <= {200, 499}
        assert len(began) > 20
        assert any(0 < entry.reasoning_tokens < 30 for entry in booked if entry.status == 499)
        # Those who left before they were told their request's id are in the ledger, too, maybe a moment later.
        async with asyncio.timeout(60):
            while sum(entry.reasoning_tokens for entry in booked) != redis_state(redis_server)["day_tokens"]:
                booked = await gateway.entries()
        await until(lambda: half_closed() <= before)


async def test_a_comment_keeps_a_silent_stream_alive(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.answer.relay.PING_SECONDS", 0.1)

    async def think(_: web.Request) -> None:
        await asyncio.sleep(0.35)

    engine.script = stream(*EVENTS[:2], then=think)
    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        said = await gateway.ask(EASY, stream=True)
    comments = [line for line in said.text.splitlines() if line.startswith(":")]
    assert 2 <= len(comments) <= 4


async def test_a_caller_whose_body_does_not_come_gives_its_place_back(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    settings = {**QUICK, "max_concurrency": 1, "state_dir": tmp_path}
    async with running(family_dir, redis_server.url, [engine.url], **settings) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(gateway.url).port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert b" 408 " in await reader.readline()
        assert (await gateway.ask(EASY)).status_code == 200
        writer.close()


@pytest.mark.parametrize("streamed", [True, False])
async def test_when_the_time_to_drain_is_over_the_caller_is_told(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, streamed: bool
) -> None:
    engine.script = stream(*EVENTS[:2], then=forever) if streamed else silent
    async with httpx.AsyncClient(timeout=20) as client:
        async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
            url = f"{gateway.url}/v1/chat/completions"
            asked = asyncio.create_task(client.post(url, json={**CHAT, "stream": streamed}))
            await engine.busy.wait()
            await asyncio.sleep(0.2)
        said = await asked
    body = json.loads(said.text.splitlines()[-2].removeprefix("data: ")) if streamed else said.json()
    assert said.status_code == (200 if streamed else 503)
    assert body["error"]["code"] == "gateway_stopping"
    (booked,) = await gateway.entries()
    assert (booked.status, booked.error) == (503, "gateway stopped")


@pytest.mark.parametrize("field", ["n", "max_tokens", "max_completion_tokens"])
async def test_a_number_beyond_all_measure_is_refused_by_name(gateway: Gateway, field: str) -> None:
    for number in (2**31, 10**320):
        said = await gateway.client.post("/v1/chat/completions", json={**CHAT, field: number})
        assert (said.status_code, said.json()["error"]["param"]) == (400, field)


async def left_after(gateway: Gateway, pieces: int, **body: Any) -> bytes:
    """What a caller sees who leaves as soon as it has so many events."""
    got = b""
    async with gateway.client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True, **body}) as said:
        async for chunk in said.aiter_bytes():
            got += chunk
            if got.count(b"\n\n") >= pieces:
                break
    return got


async def test_who_hides_the_thinking_and_leaves_has_it_counted(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    engine.script = stream(*EVENTS[:4], then=forever)
    got = await left_after(gateway, 2, include_reasoning=False)
    assert engine.bodies[0]["include_reasoning"] is True
    assert b"1 + 2" not in got
    (booked,) = await gateway.entries()
    assert booked.reasoning_tokens > 0
    await until(lambda: redis_state(redis_server)["day_tokens"] == booked.reasoning_tokens)


async def test_running_totals_of_several_choices_are_added_up(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    def running_total(choice: int) -> bytes:
        spent = {"prompt_tokens": 5, "completion_tokens": 100, "completion_tokens_details": {"reasoning_tokens": 90}}
        one = json.loads(event({"reasoning": "1 + 2"}, usage=spent)[6:])
        one["choices"][0]["index"] = choice
        return b"data: " + json.dumps(one).encode() + b"\n\n"

    engine.script = stream(*map(running_total, range(8)), then=forever)
    await left_after(gateway, 8, n=8, stream_options={"include_usage": True, "continuous_usage_stats": True})
    (booked,) = await gateway.entries()
    assert (booked.prompt_tokens, booked.reasoning_tokens, booked.answer_tokens) == (5, 720, 80)
    await until(lambda: redis_state(redis_server)["day_tokens"] == 720)


def raw(gateway: Gateway) -> bytes:
    """A streamed chat request as it goes over the wire."""
    body = json.dumps({**CHAT, "stream": True}).encode()
    auth = gateway.client.headers["authorization"]
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: {auth}\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def test_a_caller_who_has_sent_its_next_request_and_leaves_is_noticed(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    engine.script = stream(*EVENTS[:2], then=forever)
    _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(gateway.url).port)
    writer.write(raw(gateway))
    await engine.busy.wait()
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
    await asyncio.sleep(0.1)
    writer.close()
    async with asyncio.timeout(0.15):  # sooner than the engine's silence would end it
        await engine.idle.wait()
    (booked,) = await gateway.entries()
    assert (booked.status, booked.error) == (499, "caller left")
    await assert_nothing_is_left(gateway, engine, redis_server)


async def test_requests_sent_ahead_are_answered_in_their_order(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(gateway.url).port)
    health = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    writer.write((raw(gateway) + health) * 3 + health.replace(b"x", b"x\r\nconnection: close"))
    got = await reader.read()
    kinds = [b"event-stream" in answer.split(b"\r\n\r\n")[0] for answer in got.split(b"HTTP/1.1 200 OK")[1:]]
    assert kinds == [True, False, True, False, True, False, False]
    assert got.count(b"data: [DONE]") == 3
    writer.close()
