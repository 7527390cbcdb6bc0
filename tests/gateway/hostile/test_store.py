"""Faults of Redis and of the gateways that share it: slow, gone, frozen, killed. What do limits promise then?"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from gateway import store
from gateway.access import keys
from gateway.access.keys import Grant
from tests.conftest import RedisServer
from tests.gateway.access.test_limits import redis_state
from tests.gateway.fakes import EASY, EVENTS, FakeEngine, Gateway, error, running, stream, until
from tests.gateway.process.serving import Serve, serving

DAY_LIMIT = 100
SHORT_LEASES = "from gateway.access import windows; windows.LEASE_SECONDS, windows.RENEW_SECONDS = 1.5, 0.3"
SPENT = 4
"""Reasoning tokens of the scripted engine's answer."""


class SlowRedis:
    """A proxy in front of a Redis that delays every byte in both directions."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self.seconds = 0.0
        self.url = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[SlowRedis]:
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection("127.0.0.1", self._server.port)
            tasks.update(asyncio.create_task(self._forward(*way)) for way in ((reader, back), (there, writer)))

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        try:
            yield self
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                await asyncio.sleep(self.seconds)
                writer.write(data)
        finally:
            writer.close()


@pytest.fixture
async def slow_redis(redis_server: RedisServer) -> AsyncIterator[SlowRedis]:
    async with SlowRedis(redis_server).listening() as proxy:
        yield proxy


async def limited(gateway: Gateway) -> None:
    """Create a key with limits, and let the gateway's caller use it."""
    secret, _ = await keys.create(gateway.keyring.redis, Grant(name="team-a", reasoning_tokens_per_day=100_000))
    await gateway.keyring.refresh()
    gateway.client.headers["authorization"] = f"Bearer {secret}"


async def test_nobody_waits_for_a_slow_redis_and_everything_is_counted(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, slow_redis: SlowRedis, tmp_path: Path
) -> None:
    async with running(family_dir, slow_redis.url, [engine.url], state_dir=tmp_path) as gateway:
        await limited(gateway)
        assert "x-ratelimit-limit-tokens" in (await gateway.ask()).headers
        slow_redis.seconds = 2.5
        took: list[float] = []
        for _ in range(30):
            began = time.perf_counter()
            assert (await gateway.ask()).status_code == 200
            took.append(time.perf_counter() - began)
            await asyncio.sleep(0.15)
        assert max(took) < 3.75, "less than one answer of this Redis, which takes 5 s"
        assert statistics.median(took) < 1.5, "most did not wait at all"
        assert not gateway.limiter.healthy
        slow_redis.seconds = 0.0
        await until(lambda: gateway.limiter.healthy)
        await until(lambda: redis_state(redis_server)["day_tokens"] == 31 * SPENT)
        assert redis_state(redis_server)["reserved"] == 0
        assert "x-ratelimit-limit-tokens" in (await gateway.ask()).headers, "limits are checked again"


async def test_limits_that_are_closed_refuse_while_redis_is_slow(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, slow_redis: SlowRedis, tmp_path: Path
) -> None:
    closed = {"limits_when_store_is_down": "closed", "state_dir": tmp_path}
    async with running(family_dir, slow_redis.url, [engine.url], **closed) as gateway:
        await limited(gateway)
        slow_redis.seconds = 2.5
        was_healthy = True
        while was_healthy:
            was_healthy = gateway.limiter.healthy
            refused = await gateway.ask()
            assert (refused.status_code, error(refused)["code"]) == (503, "limits_unavailable")
            assert refused.elapsed.total_seconds() < 3.75
        slow_redis.seconds = 0.0
        await until(lambda: gateway.limiter.healthy)
        assert (await gateway.ask()).status_code == 200
        await until(lambda: redis_state(redis_server)["reserved"] == 0)
        assert redis_state(redis_server)["day_tokens"] == SPENT


class Turnstile:
    """An engine whose answers wait in mid-stream until they are let through."""

    def __init__(self, engine: FakeEngine) -> None:
        self.open = asyncio.Event()
        engine.script = self._answer

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        async def rest(_: web.Request) -> None:
            await self.open.wait()

        response = await stream(*EVENTS[:2], then=rest)(request, body)
        for piece in EVENTS[2:]:
            await response.write(piece)
        return response


async def caller(url: str) -> httpx.AsyncClient:
    """A caller with the key `team-a`, which may spend 100 tokens a day."""
    redis = store.connect(url)
    secret, _ = await keys.create(redis, Grant(name="team-a", reasoning_tokens_per_day=DAY_LIMIT))
    await redis.aclose()
    return httpx.AsyncClient(headers={"authorization": f"Bearer {secret}"}, timeout=30)


async def ask(client: httpx.AsyncClient, serve: Serve, budget: int) -> httpx.Response:
    body = {"model": "abacus", "messages": [{"role": "user", "content": EASY}], "stream": True}
    headers = {"x-reasoning-budget": str(budget)}
    return await client.post(f"{serve.url}/v1/chat/completions", json=body, headers=headers)


async def test_a_frozen_gateway_s_reservation_cannot_be_spent_again(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    turnstile = Turnstile(engine)
    options: Any = ("--redis", redis_server.url), {"prelude": SHORT_LEASES}
    async with (
        await caller(redis_server.url) as client,
        serving(engine, family_dir, tmp_path / "a", *options[0], **options[1]) as frozen,
        serving(engine, family_dir, tmp_path / "b", *options[0], **options[1]) as other,
    ):
        running = asyncio.create_task(ask(client, frozen, DAY_LIMIT))
        await until(lambda: redis_state(redis_server).get("reserved") == DAY_LIMIT)
        frozen.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(2.5)
        refused = await ask(client, other, 1)
        assert (refused.status_code, f"{DAY_LIMIT} are spent, 0 are reserved" in refused.text) == (429, True)

        frozen.process.send_signal(signal.SIGCONT)
        turnstile.open.set()
        assert (await running).status_code == 200
        await until(lambda: redis_state(redis_server)["day_tokens"] == SPENT)
        assert (await ask(client, other, DAY_LIMIT - SPENT)).status_code == 200


async def test_a_gateway_killed_while_redis_is_away_loses_no_settlement(
    engine: FakeEngine, family_dir: Path, mortal_redis: RedisServer, tmp_path: Path
) -> None:
    """Ten requests end during the outage, and one still runs at the kill: that one is charged in full."""
    mortal_redis.start()
    state, turnstile = tmp_path / "state", Turnstile(engine)
    options: Any = (engine, family_dir, state, "--redis", mortal_redis.url)
    async with await caller(mortal_redis.url) as client:
        async with serving(*options, prelude=SHORT_LEASES) as killed:
            answers = [asyncio.create_task(ask(client, killed, 5)) for _ in range(10)]
            await until(lambda: redis_state(mortal_redis).get("reserved") == 50)
            mortal_redis.kill()
            turnstile.open.set()
            assert [answer.status_code for answer in await asyncio.gather(*answers)] == [200] * 10
            await until((state / "limits.0.jsonl").exists)
            await until(lambda: (state / "limits.0.jsonl").read_text().count("\n") == 10)
            turnstile.open.clear()
            mortal_redis.start()
            await until(lambda: redis_state(mortal_redis)["day_tokens"] == 10 * SPENT)
            await until(lambda: (state / "limits.0.jsonl").read_text() == "")

            answers = [asyncio.create_task(ask(client, killed, tokens)) for tokens in (5, 5, 5)]
            last = asyncio.create_task(ask(client, killed, 20))
            await until(lambda: redis_state(mortal_redis)["reserved"] == 35)
            mortal_redis.kill()
            for answer in answers:
                answer.cancel()  # the callers leave: settled with what had been generated
            await until(lambda: (state / "limits.0.jsonl").read_text().count("\n") == 3)
            os.kill(killed.process.pid, signal.SIGKILL)
            await asyncio.gather(last, *answers, return_exceptions=True)
        mortal_redis.start()
        async with serving(*options, prelude=SHORT_LEASES) as again:
            await asyncio.sleep(2)  # the lease of the request that ran at the kill is over
            assert (await ask(client, again, DAY_LIMIT)).status_code == 429
            spent = redis_state(mortal_redis)
            assert spent["reserved"] == 0
            assert 10 * SPENT + 20 <= spent["day_tokens"] <= 10 * SPENT + 20 + 3 * SPENT
