"""Does the Redis client connect, and give up in time if there is no server, or if it is slow or hangs?"""

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


async def test_a_client_without_a_server_raises_a_redis_error(tmp_path: Path) -> None:
    redis = store.connect(store.embedded_url(tmp_path))
    with pytest.raises(RedisError):
        await redis.ping()
    await redis.aclose()


async def test_a_client_does_not_wait_long_for_a_server_that_hangs() -> None:
    closed = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):  # until the client hangs up
            pass
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    redis = store.connect(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    began = time.monotonic()
    with pytest.raises(RedisError):
        await redis.ping()
    assert 1 < time.monotonic() - began < 10
    await redis.aclose()
    await closed.wait()
    server.close()


async def test_only_a_patient_client_waits_for_a_slow_server(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "ANSWER_SECONDS", 0.05)
    hurried, patient = store.connect(redis_server.url), store.connect(redis_server.url, patient=True)
    redis_server.client.client_pause(15_000)
    with pytest.raises(RedisError, match="Timeout"):
        await hurried.ping()
    waiting = asyncio.ensure_future(patient.ping())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    redis_server.client.client_unpause()
    assert await waiting
    await asyncio.gather(hurried.aclose(), patient.aclose())
