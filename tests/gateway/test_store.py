"""Does the Redis client give up quickly?"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from gateway import store
from tests.conftest import RedisServer


async def test_a_client_reads_and_writes_text(redis_server: RedisServer) -> None:
    redis = store.connect(redis_server.url)
    await redis.set("name", "é")
    assert await redis.get("name") == "é"
    await redis.aclose()


async def test_a_client_without_a_server_fails_at_once(tmp_path: Path) -> None:
    redis = store.connect(store.embedded_url(tmp_path))
    with pytest.raises(RedisError):
        await redis.ping()
    await redis.aclose()


async def test_a_client_does_not_wait_long_for_a_server_that_hangs() -> None:
    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    redis = store.connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    began = time.monotonic()
    with pytest.raises(RedisError):
        await redis.ping()
    assert 1 < time.monotonic() - began < 10
    await redis.aclose()
    server.close()
