"""Callers that are slow, leave, or pipeline requests: nothing leaks, and the ledger says what each one cost."""

from __future__ import annotations

import asyncio
import json
import random
import socket
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
    FakeEngine,
    Gateway,
    event,
    forever,
    running,
    silent,
    stream,
    until,
)
from tests.gateway.hostile.harness import CHAT, QUICK, assert_nothing_is_left
from tests.gateway.hostile.raw import POST


@pytest.fixture
def gateway(impatient: Gateway) -> Gateway:
    return impatient


async def test_a_caller_that_is_too_slow_is_disconnected(
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
        auth = gateway.client.headers["authorization"].encode()
        caller.sendall(POST + b"authorization: %s\r\ncontent-length: %d\r\n\r\n%s" % (auth, len(body), body))
        (entry,) = await gateway.entries()
    assert (entry.status, entry.error) == (499, "caller too slow")
    assert entry.reasoning_tokens > 0
    assert sent < 32 * 2**20
    await assert_nothing_is_left(gateway, engine, redis_server)


def half_closed() -> set[Any]:
    """This process's sockets whose other end has gone: (local, remote) addresses."""
    connections = psutil.Process().net_connections()
    return {(one.laddr, one.raddr) for one in connections if one.status == "CLOSE_WAIT"}


async def test_a_thousand_callers_that_leave_at_random_moments_leave_nothing_behind(
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
        entries = await gateway.entries(len(began))
        ids = [entry.id for entry in entries]
        assert len(ids) == len(set(ids))
        assert began <= set(ids)
        assert {entry.status for entry in entries} <= {200, 499}
        assert len(began) > 20
        assert any(0 < entry.reasoning_tokens < 30 for entry in entries if entry.status == 499)
        # Those who left before they were told their request's id are in the ledger, too, maybe a moment later.
        async with asyncio.timeout(60):
            while sum(entry.reasoning_tokens for entry in entries) != redis_state(redis_server)["day_tokens"]:
                entries = await gateway.entries()
        await until(lambda: half_closed() <= before)


async def test_a_comment_keeps_a_silent_stream_alive(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.answer.relay.PING_SECONDS", 0.1)

    async def think(_: web.Request) -> None:
        await asyncio.sleep(0.35)

    engine.script = stream(*EVENTS[:2], then=think)
    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        response = await gateway.ask(EASY, stream=True)
    comments = [line for line in response.text.splitlines() if line.startswith(":")]
    assert 2 <= len(comments) <= 4


async def test_a_caller_whose_body_does_not_arrive_frees_its_slot(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    settings = {**QUICK, "max_concurrency": 1, "state_dir": tmp_path}
    async with running(family_dir, redis_server.url, [engine.url], **settings) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(gateway.url).port)
        writer.write(POST + b"content-length: 100\r\n\r\n{")
        assert b" 408 " in await reader.readline()
        assert (await gateway.ask(EASY)).status_code == 200
        writer.close()


@pytest.mark.parametrize("streamed", [True, False])
async def test_callers_get_an_error_when_the_time_to_drain_is_over(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, streamed: bool
) -> None:
    engine.script = stream(*EVENTS[:2], then=forever) if streamed else silent
    async with httpx.AsyncClient(timeout=20) as client:
        async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
            url = f"{gateway.url}/v1/chat/completions"
            asked = asyncio.create_task(client.post(url, json={**CHAT, "stream": streamed}))
            await engine.busy.wait()
            await asyncio.sleep(0.2)
        response = await asked
    body = json.loads(response.text.splitlines()[-2].removeprefix("data: ")) if streamed else response.json()
    assert response.status_code == (200 if streamed else 503)
    assert body["error"]["code"] == "gateway_stopping"
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error) == (503, "gateway stopped")


@pytest.mark.parametrize("field", ["n", "max_tokens", "max_completion_tokens"])
async def test_a_number_out_of_range_is_rejected_and_names_the_field(gateway: Gateway, field: str) -> None:
    for number in (2**31, 10**320):
        response = await gateway.client.post("/v1/chat/completions", json={**CHAT, field: number})
        assert (response.status_code, response.json()["error"]["param"]) == (400, field)


async def leave_after(gateway: Gateway, pieces: int, **body: Any) -> bytes:
    """What a caller sees who leaves as soon as it has so many events."""
    received = b""
    async with gateway.client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True, **body}) as response:
        async for chunk in response.aiter_bytes():
            received += chunk
            if received.count(b"\n\n") >= pieces:
                break
    return received


async def test_hidden_reasoning_of_a_caller_that_leaves_is_counted(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    engine.script = stream(*EVENTS[:4], then=forever)
    received = await leave_after(gateway, 2, include_reasoning=False)
    assert engine.bodies[0]["include_reasoning"] is True
    assert b"1 + 2" not in received
    (entry,) = await gateway.entries()
    assert entry.reasoning_tokens > 0
    await until(lambda: redis_state(redis_server)["day_tokens"] == entry.reasoning_tokens)


async def test_running_usage_of_several_choices_is_summed(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    def running_total(choice: int) -> bytes:
        spent = {"prompt_tokens": 5, "completion_tokens": 100, "completion_tokens_details": {"reasoning_tokens": 90}}
        one = json.loads(event({"reasoning": "1 + 2"}, usage=spent)[6:])
        one["choices"][0]["index"] = choice
        return b"data: " + json.dumps(one).encode() + b"\n\n"

    engine.script = stream(*map(running_total, range(8)), then=forever)
    await leave_after(gateway, 8, n=8, stream_options={"include_usage": True, "continuous_usage_stats": True})
    (entry,) = await gateway.entries()
    assert (entry.prompt_tokens, entry.reasoning_tokens, entry.answer_tokens) == (5, 720, 80)
    await until(lambda: redis_state(redis_server)["day_tokens"] == 720)


def raw(gateway: Gateway) -> bytes:
    """A streamed chat request as it goes over the wire."""
    body = json.dumps({**CHAT, "stream": True}).encode()
    auth = gateway.client.headers["authorization"].encode()
    return POST + b"authorization: %s\r\ncontent-length: %d\r\n\r\n%s" % (auth, len(body), body)


async def test_a_caller_that_leaves_after_pipelining_a_request_is_noticed(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    engine.script = stream(*EVENTS[:2], then=forever)
    _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(gateway.url).port)
    writer.write(raw(gateway))
    await engine.busy.wait()
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
    await asyncio.sleep(0.1)
    writer.close()
    async with asyncio.timeout(0.15):  # sooner than the engine's silence would end it
        await engine.idle.wait()
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error) == (499, "caller left")
    await assert_nothing_is_left(gateway, engine, redis_server)


async def test_pipelined_requests_are_answered_in_order(gateway: Gateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(gateway.url).port)
    health = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
    writer.write((raw(gateway) + health) * 3 + health.replace(b"localhost", b"localhost\r\nconnection: close"))
    received = await reader.read()
    kinds = [b"event-stream" in answer.split(b"\r\n\r\n")[0] for answer in received.split(b"HTTP/1.1 200 OK")[1:]]
    assert kinds == [True, False, True, False, True, False, False]
    assert received.count(b"data: [DONE]") == 3
    writer.close()
