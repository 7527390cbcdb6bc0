"""An operator stops a gateway that is busy."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest

from gateway import store
from gateway.access import keys
from gateway.access.keys import Grant
from gateway.ledger import ledger
from tests.conftest import RedisServer
from tests.end_to_end.conftest import Stack, launched
from tests.gateway.access.test_limits import redis_state

CALLERS = 12
CHAT = {
    "model": "abacus/base",
    "messages": [{"role": "user", "content": "What is 12 + 35 - 8?"}],
    "stream": True,
    "min_tokens": 200,
    "max_tokens": 220,
}


@pytest.mark.parametrize("workers", [1, 3])
async def test_told_to_stop_under_load_it_cuts_no_stream_and_books_everything(
    stack: Stack, redis_server: RedisServer, tmp_path: Path, workers: int
) -> None:
    redis = store.connect(redis_server.url)
    secret, _ = await keys.create(redis, Grant(name="team-a", reasoning_tokens_per_day=10**9))
    whole: list[str] = []
    streaming: set[str] = set()

    async def ask(url: str) -> None:
        """Again and again, on a connection of its own each time, until nobody is there any more."""
        while True:
            try:
                async with (
                    httpx.AsyncClient(timeout=600, headers={"authorization": f"Bearer {secret}"}) as client,
                    client.stream("POST", f"{url}/v1/chat/completions", json=CHAT) as response,
                ):
                    assert response.status_code == 200, await response.aread()
                    streaming.add(name := response.headers["x-request-id"])
                    text = "".join([piece async for piece in response.aiter_text()])
                    assert text.endswith("data: [DONE]\n\n"), text[-200:]
                    streaming.remove(name)
                    whole.append(name)
            except httpx.TransportError:  # not a request that was begun: it would be in `streaming` still
                return

    more = ("--engine", stack.engine_url, "--redis", redis_server.url, "--workers", str(workers))
    with launched(tmp_path / "state", *more) as gateway:
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(ask(gateway.url))
            while len(whole) < CALLERS or len(streaming) < CALLERS - 2:
                await asyncio.sleep(0.01)
            gateway.process.send_signal(signal.SIGTERM)
            at_the_signal = streaming.copy()
        assert await asyncio.to_thread(gateway.process.wait) == 0
    assert not streaming, "a stream was cut"
    assert at_the_signal <= set(whole)
    booked = [entry async for entry in ledger.read_entries(redis, 0)]
    await redis.aclose()
    assert {entry.id for entry in booked} == set(whole)
    assert len(booked) == len(whole)
    assert {entry.status for entry in booked} == {200}
    limits = redis_state(redis_server)
    assert (limits["reserved"], limits["day_tokens"]) == (0, sum(entry.reasoning_tokens for entry in booked))
