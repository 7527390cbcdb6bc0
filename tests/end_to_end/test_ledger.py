"""Is every request recorded once, whatever happens to Redis, the gateway or the caller?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import AsyncOpenAI

from gateway import store
from gateway.ledger import ledger
from gateway.process.embedded import REDIS_SERVERS
from models import profile as profiles
from tests.conftest import RedisServer
from tests.end_to_end.conftest import FAMILY_DIR, Stack, launched, metric_total, until

OUTAGE_SECONDS = float(os.environ.get("LACONIC_TEST_OUTAGE_SECONDS", "3"))
GENERATED = "vllm:generation_tokens_total"
ENDLESS = {"ignore_eos": True, "max_tokens": 900, "n": 16, "temperature": 1}
"""vLLM would generate every choice up to its last token, but the caller leaves long before that."""
ALL_TOKENS = ENDLESS["n"] * ENDLESS["max_tokens"]


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "abacus", "messages": [{"role": "user", "content": prompt}], "max_tokens": 60} | more


def savings(gateway: Stack) -> dict[str, Any]:
    command = (sys.executable, "-m", "gateway.cli", "savings", "--state-dir", str(gateway.state_dir), "--json")
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def redis_of(gateway: Stack) -> psutil.Process:
    return next(child for child in gateway.children if child.name() in REDIS_SERVERS)


async def test_fifty_mixed_requests_make_fifty_entries(gateway: Stack) -> None:
    names = [gateway.family.name, *(gateway.family.served_name(c.name) for c in gateway.family.checkpoints)]
    concurrency = asyncio.Semaphore(8)

    async def ask(sdk: AsyncOpenAI, number: int) -> None:
        budget: dict[str, Any] = {"extra_headers": {"X-Reasoning-Budget": ("5", "none", "low", "auto")[number % 4]}}
        request = chat(f"What is {number} + {3 * number}?", model=names[number % len(names)])
        async with concurrency:
            if number % 2:
                async for _ in await sdk.chat.completions.create(**request, **budget, stream=True):
                    pass
            else:
                await sdk.chat.completions.create(**request, **budget)

    async with gateway.async_sdk as sdk:
        await asyncio.gather(*(ask(sdk, number) for number in range(50)))
    until(lambda: savings(gateway)["total"]["requests"] >= 50, "some requests were not recorded")
    recorded = savings(gateway)
    assert recorded["total"]["requests"] == 50
    assert recorded["total"]["failed"] == 0
    assert sum(totals["requests"] for totals in recorded["groups"].values()) == 50
    checkpoints = {checkpoint.name for checkpoint in gateway.family.checkpoints}
    escalations = profiles.load(FAMILY_DIR / gateway.family.profile).escalations
    assert checkpoints <= set(recorded["groups"]) <= checkpoints | set(escalations)


def test_requests_are_served_and_recorded_while_redis_is_killed(gateway: Stack) -> None:
    gateway.sdk.chat.completions.create(**chat("What is 1 + 1?"))
    until(lambda: savings(gateway)["total"]["requests"] == 1, "the first request was not recorded")
    for number in range(6):
        if number % 2 == 0:
            redis = redis_of(gateway)
            redis.kill()
            redis.wait()
        assert gateway.sdk.chat.completions.create(**chat(f"What is {number} + 1?")).choices
        if number % 2 == 1:
            until(lambda: [c for c in gateway.children if c.name() in REDIS_SERVERS], "Redis was not restarted")
    spool = gateway.state_dir / "ledger.spool.jsonl"
    until(lambda: spool.stat().st_size == 0, "the spool was not replayed")
    until(lambda: savings(gateway)["total"]["requests"] >= 7, "entries were lost")
    assert savings(gateway)["total"]["requests"] == 7


async def test_every_answered_request_is_recorded_once_when_redis_and_the_gateway_are_killed(
    stack: Stack, mortal_redis: RedisServer, tmp_path: Path
) -> None:
    """Under load, Redis is killed, then the gateway. Both come back."""
    arguments = ("--engine", stack.engine_url, "--redis", mortal_redis.url)
    answered: list[str] = []

    async def ask(url: str, stop: asyncio.Event, stream: bool) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            while not stop.is_set():
                request = chat(f"What is {len(answered)} + 12?", stream=stream)
                with contextlib.suppress(httpx.TransportError):  # the gateway was killed meanwhile
                    response = await client.post("/v1/chat/completions", json=request)
                    if response.status_code == 200 and (not stream or "[DONE]" in response.text):
                        answered.append(response.headers["x-request-id"])

    async def load(url: str, during: Callable[[], Awaitable[None]]) -> None:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as callers:
            for number in range(8):
                callers.create_task(ask(url, stop, stream=number % 2 == 0))
            await during()
            stop.set()

    async def until_answered(count: int) -> None:
        while len(answered) < count:
            await asyncio.sleep(0.05)

    mortal_redis.start()
    with launched(tmp_path, *arguments) as first:

        async def kill_both() -> None:
            await until_answered(20)
            mortal_redis.kill()
            before = len(answered)
            await asyncio.sleep(OUTAGE_SECONDS)
            await until_answered(before + 20)
            first.process.kill()

        await load(first.url, kill_both)
    assert (tmp_path / "ledger.spool.jsonl").stat().st_size > 0
    mortal_redis.start()
    with launched(tmp_path, *arguments) as second:
        at_restart = len(answered)
        await load(second.url, lambda: until_answered(at_restart + 20))
        spool = tmp_path / "ledger.spool.jsonl"
        until(lambda: spool.stat().st_size == 0, "the spool was not replayed")
        redis = store.connect(mortal_redis.url)
        ids = [entry.id async for entry in ledger.read_entries(redis, 0)]
        snapshot = await ledger.read_snapshot(redis, 0)
        await redis.aclose()
    assert len(ids) == len(set(ids))
    assert set(answered) <= set(ids)
    assert len(ids) - len(answered) <= 8, "only requests in flight at the kill may be recorded without an answer"
    assert sum(totals.requests for _, totals in snapshot.cells) == len(ids)


def test_the_engine_stops_when_a_caller_leaves_mid_stream(stack: Stack, gateway: Stack) -> None:
    before = metric_total(stack.engine_url, GENERATED)
    request = chat("What is 12 + 35 - 8?", stream=True, **ENDLESS)
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=request, timeout=600) as response:
        assert response.status_code == 200
        next(response.iter_bytes())
    until(
        lambda: metric_total(stack.engine_url, "vllm:num_requests_running") == 0,
        "the engine is still running the request",
    )
    assert metric_total(stack.engine_url, GENERATED) - before < ALL_TOKENS / 2, "the engine did not stop"
    until(lambda: savings(gateway)["total"]["requests"] == 1, "the request was not recorded")
    assert savings(gateway)["total"]["failed"] == 1


async def test_the_engine_stops_when_a_caller_leaves_before_the_first_byte(stack: Stack, gateway: Stack) -> None:
    before = metric_total(stack.engine_url, GENERATED)
    async with httpx.AsyncClient(timeout=600) as client:
        request = chat("What is 12 + 35 - 8?", **ENDLESS)
        asking = asyncio.create_task(client.post(f"{gateway.url}/v1/chat/completions", json=request))
        while metric_total(stack.engine_url, "vllm:num_requests_running") == 0:
            assert not asking.done(), f"the response came before the engine was seen running: {asking.result().text}"
            await asyncio.sleep(0.01)
        asking.cancel()
    until(
        lambda: metric_total(stack.engine_url, "vllm:num_requests_running") == 0,
        "the engine is still running the request",
    )
    assert metric_total(stack.engine_url, GENERATED) - before < ALL_TOKENS / 2, "the engine did not stop"
