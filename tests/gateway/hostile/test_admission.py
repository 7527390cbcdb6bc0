"""Callers that want all of the gateway: slow bodies, large bodies, and one key with all the requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from gateway import store
from gateway.access import keys
from gateway.access.keys import Grant
from tests.conftest import RedisServer
from tests.gateway.access.test_limits import redis_state
from tests.gateway.fakes import EASY, EVENTS, FakeEngine, Gateway, answer, forever, running, stream, until
from tests.gateway.hostile.harness import CHAT
from tests.gateway.hostile.raw import POST, hold
from tests.gateway.process.serving import serving

SLOTS = 16
JSON = {"content-type": "application/json"}


@pytest.fixture
async def gateway(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    async with running(
        family_dir, redis_server.url, [engine.url], state_dir=tmp_path, max_concurrency=SLOTS
    ) as gateway:
        yield gateway


async def key(gateway: Gateway, name: str, **grant: int) -> dict[str, str]:
    """A new key's header."""
    secret, _ = await keys.create(gateway.keyring.redis, Grant(name=name, **grant))  # type: ignore[arg-type]
    await gateway.keyring.refresh()
    return {"authorization": f"Bearer {secret}"}


def first_byte_of_a_body(headers: dict[str, str]) -> bytes:
    return POST + b"authorization: %s\r\ncontent-length: 100\r\n\r\n{" % headers["authorization"].encode()


@asynccontextmanager
async def streams(gateway: Gateway, headers: dict[str, str], number: int) -> AsyncIterator[list[httpx.Response]]:
    """The responses to so many streams, as far as their heads. Those with 200 go on until the block ends."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=gateway.url, limits=limits, timeout=30, headers=headers) as client:
        request = client.build_request("POST", "/v1/chat/completions", json={**CHAT, "stream": True})
        responses = [await client.send(request, stream=True) for _ in range(number)]
        for response in responses:
            if response.status_code != 200:
                await response.aread()
        yield responses
        for response in responses:
            await response.aclose()
    await until(lambda: gateway.services.admission.in_flight == 0)


async def test_bodies_that_do_not_arrive_take_no_slot(gateway: Gateway) -> None:
    greedy, other = await key(gateway, "greedy"), await key(gateway, "other")
    held = [await asyncio.to_thread(hold, gateway.url, first_byte_of_a_body(greedy)) for _ in range(4 * SLOTS)]
    for headers in (other, greedy):
        assert (await gateway.ask(EASY, headers=headers)).status_code == 200
    assert gateway.services.admission.in_flight == 0
    for one in held:
        one.close()


async def test_one_key_leaves_slots_for_the_others(gateway: Gateway, engine: FakeEngine) -> None:
    greedy, other = await key(gateway, "greedy"), await key(gateway, "other")
    engine.script = stream(*EVENTS[:2], then=forever)
    async with streams(gateway, greedy, 2 * SLOTS) as responses:
        refused = [response for response in responses if response.status_code == 429]
        assert len(responses) - len(refused) == SLOTS * 7 / 8
        for response in refused:
            assert (response.json()["error"]["code"], response.headers["retry-after"]) == ("overloaded", "1")
        engine.script = answer
        assert (await gateway.ask(EASY, headers=other)).status_code == 200
        assert (await gateway.ask(EASY, headers=greedy)).status_code == 429
    assert (await gateway.ask(EASY, headers=greedy)).status_code == 200


async def test_the_only_key_and_a_gateway_without_keys_get_every_slot(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = stream(*EVENTS[:2], then=forever)
    for has_key in (False, True):
        headers = await key(gateway, "only") if has_key else {}
        async with streams(gateway, headers, SLOTS + 1) as responses:
            assert [response.status_code for response in responses].count(200) == SLOTS


async def test_a_key_with_max_concurrency(gateway: Gateway, engine: FakeEngine) -> None:
    limited = await key(gateway, "limited", max_concurrency=2)
    await key(gateway, "other")
    engine.script = stream(*EVENTS[:2], then=forever)
    async with streams(gateway, limited, 3) as (first, second, third):
        assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
        assert (third.json()["error"]["code"], third.headers["retry-after"]) == ("concurrency_exceeded", "1")
        await first.aclose()
        await until(lambda: gateway.services.admission.in_flight == 1)
        engine.script = answer
        assert (await gateway.ask(EASY, headers=limited)).status_code == 200


async def test_what_is_admitted_is_counted_and_nothing_else(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    await key(gateway, "other")
    limited = await key(gateway, "team-a", max_concurrency=1, requests_per_minute=1000)
    engine.script = stream(*EVENTS[:2], then=forever)
    async with streams(gateway, limited, 1) as (admitted,):
        assert (await gateway.ask(EASY, headers=limited)).status_code == 429
        assert (await gateway.ask(EASY, headers=limited, n=0)).status_code == 400
        held = await asyncio.to_thread(hold, gateway.url, first_byte_of_a_body(limited))
        assert admitted.status_code == 200
        assert redis_state(redis_server)["requests"] == 1
        held.close()
    assert len(await gateway.entries()) == 1


async def test_large_bodies_that_do_not_end_use_little_memory(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    """Each is a mebibyte less one byte. A caller with another key is answered meanwhile."""
    async with serving(engine, family_dir, tmp_path, "--redis", redis_server.url) as serve:
        greedy, other = await first_keys(redis_server)
        client = httpx.AsyncClient(base_url=serve.url, timeout=30, headers=other)
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        process = psutil.Process(serve.process.pid)
        before = process.memory_info().rss
        head = POST + b"authorization: %s\r\ncontent-length: %d\r\n\r\n" % (greedy["authorization"].encode(), 2**20)
        writers = []
        for _ in range(400):
            _, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(serve.url).port)
            writer.write(head + b" " * (2**20 - 1))
            writers.append(writer)
        assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
        await asyncio.sleep(1)
        assert process.memory_info().rss < before + 160 * 2**20
        for writer in writers:
            writer.transport.abort()
        await client.aclose()
        await until(lambda: process.memory_info().rss < 1.2 * before)


async def test_small_bodies_that_become_large_ones_use_bounded_memory(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    """A mebibyte of empty objects takes 25 in memory, for as long as its stream lasts."""
    engine.script = stream(*EVENTS[:2], then=forever)
    body = json.dumps({**CHAT, "stream": True, "messages": [{"role": "user", "content": [{}] * 340_000}]}).replace(
        " ", ""
    )
    async with serving(engine, family_dir, tmp_path, "--redis", redis_server.url) as serve:
        process = psutil.Process(serve.process.pid)
        before = process.memory_info().rss
        async with httpx.AsyncClient(base_url=serve.url, timeout=60) as client:
            request = client.build_request("POST", "/v1/chat/completions", content=body, headers=JSON)
            statuses = []
            for _ in range(40):
                response = await client.send(request, stream=True)
                statuses.append(response.status_code)
            grown = process.memory_info().rss - before
        assert statuses[0] == 200
        assert 429 in statuses
        assert grown < 800 * 2**20, grown


async def first_keys(redis_server: RedisServer) -> tuple[dict[str, str], dict[str, str]]:
    """Two keys, which the gateway has noticed."""
    redis = store.connect(redis_server.url)
    secrets = [(await keys.create(redis, Grant(name=name)))[0] for name in ("greedy", "other")]
    await redis.aclose()
    await asyncio.sleep(2)
    return {"authorization": f"Bearer {secrets[0]}"}, {"authorization": f"Bearer {secrets[1]}"}
