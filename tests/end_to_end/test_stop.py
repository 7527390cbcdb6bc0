"""Does a busy gateway finish its streams, and record them, when an operator stops it?"""

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
async def test_stopping_under_load_truncates_no_stream_and_records_every_request(
    stack: Stack, redis_server: RedisServer, tmp_path: Path, workers: int
) -> None:
    redis = store.connect(redis_server.url)
    secret, _ = await keys.create(redis, Grant(name="team-a", reasoning_tokens_per_day=10**9))
    finished: list[str] = []
    streaming: set[str] = set()

    async def ask(url: str) -> None:
        """Send requests, each on a new connection, until the gateway is gone."""
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
                    finished.append(name)
            except httpx.TransportError:  # no stream had begun: otherwise it would still be in `streaming`
                return

    options = ("--engine", stack.engine_url, "--redis", redis_server.url, "--workers", str(workers))
    with launched(tmp_path / "state", *options) as gateway:
        async with asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(ask(gateway.url))
            while len(finished) < CALLERS or len(streaming) < CALLERS - 2:
                await asyncio.sleep(0.01)
            gateway.process.send_signal(signal.SIGTERM)
            at_the_signal = streaming.copy()
        assert await asyncio.to_thread(gateway.process.wait) == 0
    assert not streaming, "a stream was truncated"
    assert at_the_signal <= set(finished)
    entries = [entry async for entry in ledger.read_entries(redis, 0)]
    await redis.aclose()
    assert {entry.id for entry in entries} == set(finished)
    assert len(entries) == len(finished)
    assert {entry.status for entry in entries} == {200}
    limits = redis_state(redis_server)
    assert (limits["reserved"], limits["day_tokens"]) == (0, sum(entry.reasoning_tokens for entry in entries))
