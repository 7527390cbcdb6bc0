"""What the operator gets: every request in the books, once, whatever happens to Redis or to the caller."""

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
from tests.end_to_end.conftest import FAMILY_DIR, Stack, engine_count, launched, until

OUTAGE_SECONDS = float(os.environ.get("LACONIC_TEST_OUTAGE_SECONDS", "3"))
GENERATED = "vllm:generation_tokens_total"
ENDLESS = {"ignore_eos": True, "max_tokens": 900, "n": 16, "temperature": 1}
"""vLLM goes on to the last token of every choice, for a caller who leaves long before."""
ALL_TOKENS = ENDLESS["n"] * ENDLESS["max_tokens"]


def chat(prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": "abacus", "messages": [{"role": "user", "content": prompt}], "max_tokens": 60} | more


def savings(gateway: Stack) -> dict[str, Any]:
    command = (sys.executable, "-m", "gateway.cli", "savings", "--state-dir", str(gateway.state_dir), "--json")
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def redis_of(gateway: Stack) -> psutil.Process:
    return next(child for child in gateway.children if child.name() in REDIS_SERVERS)


async def test_fifty_mixed_requests_are_fifty_entries(gateway: Stack) -> None:
    names = [gateway.family.name, *(gateway.family.served_name(c.name) for c in gateway.family.checkpoints)]
    at_once = asyncio.Semaphore(8)

    async def ask(sdk: AsyncOpenAI, number: int) -> None:
        budget: dict[str, Any] = {"extra_headers": {"X-Reasoning-Budget": ("5", "none", "low", "auto")[number % 4]}}
        request = chat(f"What is {number} + {3 * number}?", model=names[number % len(names)])
        async with at_once:
            if number % 2:
                async for _ in await sdk.chat.completions.create(**request, **budget, stream=True):
                    pass
            else:
                await sdk.chat.completions.create(**request, **budget)

    async with gateway.async_sdk as sdk:
        await asyncio.gather(*(ask(sdk, number) for number in range(50)))
    until(lambda: savings(gateway)["total"]["requests"] >= 50, "not every request came into the books")
    booked = savings(gateway)
    assert booked["total"]["requests"] == 50
    assert booked["total"]["failed"] == 0
    assert sum(totals["requests"] for totals in booked["groups"].values()) == 50
    checkpoints = {checkpoint.name for checkpoint in gateway.family.checkpoints}
    escalations = profiles.load(FAMILY_DIR / gateway.family.profile).escalations
    assert checkpoints <= set(booked["groups"]) <= checkpoints | set(escalations)


def test_killing_redis_stops_no_answer_and_loses_no_entry(gateway: Stack) -> None:
    gateway.sdk.chat.completions.create(**chat("What is 1 + 1?"))
    until(lambda: savings(gateway)["total"]["requests"] == 1, "the first request did not come into the books")
    for number in range(6):
        if number % 2 == 0:
            redis = redis_of(gateway)
            redis.kill()
            redis.wait()
        assert gateway.sdk.chat.completions.create(**chat(f"What is {number} + 1?")).choices
        if number % 2 == 1:
            until(lambda: [c for c in gateway.children if c.name() in REDIS_SERVERS], "Redis was not started again")
    spool = gateway.state_dir / "ledger.spool.jsonl"
    until(lambda: spool.stat().st_size == 0, "the spool was not replayed")
    until(lambda: savings(gateway)["total"]["requests"] >= 7, "entries were lost")
    assert savings(gateway)["total"]["requests"] == 7


async def test_whatever_is_killed_under_load_every_answer_is_in_the_books_once(
    stack: Stack, mortal_redis: RedisServer, tmp_path: Path
) -> None:
    """Redis is killed, some time later the gateway, then both come back."""
    arguments = ("--engine", stack.engine_url, "--redis", mortal_redis.url)
    answered: list[str] = []

    async def ask(url: str, stop: asyncio.Event, stream: bool) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=600) as client:
            while not stop.is_set():
                request = chat(f"What is {len(answered)} + 12?", stream=stream)
                with contextlib.suppress(httpx.TransportError):  # the gateway was killed in the middle
                    response = await client.post("/v1/chat/completions", json=request)
                    if response.status_code == 200 and (not stream or "[DONE]" in response.text):
                        answered.append(response.headers["x-request-id"])

    async def load(url: str, then: Callable[[], Awaitable[None]]) -> None:
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as callers:
            for number in range(8):
                callers.create_task(ask(url, stop, stream=number % 2 == 0))
            await then()
            stop.set()

    async def more(count: int) -> None:
        while len(answered) < count:
            await asyncio.sleep(0.05)

    mortal_redis.start()
    with launched(tmp_path, *arguments) as first:

        async def kill_both() -> None:
            await more(20)
            mortal_redis.kill()
            before = len(answered)
            await asyncio.sleep(OUTAGE_SECONDS)
            await more(before + 20)
            first.process.kill()

        await load(first.url, kill_both)
    assert (tmp_path / "ledger.spool.jsonl").stat().st_size > 0
    mortal_redis.start()
    with launched(tmp_path, *arguments) as second:
        at_restart = len(answered)
        await load(second.url, lambda: more(at_restart + 20))
        spool = tmp_path / "ledger.spool.jsonl"
        until(lambda: spool.stat().st_size == 0, "the spool was not replayed")
        redis = store.connect(mortal_redis.url)
        ids = [entry.id async for entry in ledger.read_entries(redis, 0)]
        books = await ledger.read_snapshot(redis, 0)
        await redis.aclose()
    assert len(ids) == len(set(ids))
    assert set(answered) <= set(ids)
    assert len(ids) - len(answered) <= 8, "only what was under way at the kill was not answered to its caller"
    assert sum(totals.requests for _, totals in books.cells) == len(ids)


def test_a_caller_who_leaves_mid_stream_ends_the_engines_work(stack: Stack, gateway: Stack) -> None:
    before = engine_count(stack.engine_url, GENERATED)
    request = chat("What is 12 + 35 - 8?", stream=True, **ENDLESS)
    with httpx.stream("POST", f"{gateway.url}/v1/chat/completions", json=request, timeout=600) as response:
        assert response.status_code == 200
        next(response.iter_bytes())
    until(lambda: engine_count(stack.engine_url, "vllm:num_requests_running") == 0, "the engine is still at work")
    assert engine_count(stack.engine_url, GENERATED) - before < ALL_TOKENS / 2, "the engine went on"
    until(lambda: savings(gateway)["total"]["requests"] == 1, "it is not in the books")
    assert savings(gateway)["total"]["failed"] == 1


async def test_a_caller_who_leaves_before_the_first_byte_ends_the_engines_work(stack: Stack, gateway: Stack) -> None:
    before = engine_count(stack.engine_url, GENERATED)
    async with httpx.AsyncClient(timeout=600) as client:
        request = chat("What is 12 + 35 - 8?", **ENDLESS)
        asking = asyncio.create_task(client.post(f"{gateway.url}/v1/chat/completions", json=request))
        while engine_count(stack.engine_url, "vllm:num_requests_running") == 0:
            assert not asking.done(), f"answered before it was seen running: {asking.result().text}"
            await asyncio.sleep(0.01)
        asking.cancel()
    until(lambda: engine_count(stack.engine_url, "vllm:num_requests_running") == 0, "the engine is still at work")
    assert engine_count(stack.engine_url, GENERATED) - before < ALL_TOKENS / 2, "the engine went on"
