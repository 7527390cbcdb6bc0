"""How long may a connection wait, and for what? Over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.process import guarded
from tests.conftest import RedisServer
from tests.gateway.fakes import FakeEngine, Gateway, running
from tests.gateway.hostile.raw import HEALTH, JSON, connect

UNKNOWN = b"POST /v1/nothing HTTP/1.1\r\nhost: localhost\r\n" + JSON


@pytest.fixture
async def gateway(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    """A gateway that waits 0.5 seconds for heads and for bodies that it does not read."""
    monkeypatch.setattr(guarded, "UNREAD_SECONDS", 0.5)
    async with running(
        family_dir, redis_server.url, [engine.url], head_timeout_seconds=0.5, state_dir=tmp_path
    ) as gateway:
        yield gateway


@pytest.mark.parametrize(
    ("framing", "rest"),
    [
        (b"content-length: 6\r\n\r\n{", b"     "),
        (b"transfer-encoding: chunked\r\n\r\n6\r\n{", b"     \r\n0\r\n\r\n"),
    ],
)
async def test_a_connection_whose_unread_body_has_ended_stays_open_as_long_as_any(
    gateway: Gateway, framing: bytes, rest: bytes
) -> None:
    reader, writer = await connect(gateway.url)
    writer.write(UNKNOWN + framing)
    assert b" 404 " in await reader.readline()
    writer.write(rest)
    await asyncio.sleep(1.5)
    writer.write(HEALTH)
    assert b"HTTP/1.1 200" in await reader.readuntil(b'{"status":"live"}')
    writer.write(HEALTH[:-2])  # a head still has its deadline
    assert b"HTTP/1.1 408" in await reader.read()
    writer.close()


async def test_an_idle_connection_is_closed_after_an_unread_body_too(gateway: Gateway) -> None:
    reader, writer = await connect(gateway.url)
    writer.write(UNKNOWN + b"content-length: 6\r\n\r\n{")
    assert b" 404 " in await reader.readline()
    writer.write(b"     ")
    async with asyncio.timeout(30):
        assert b"HTTP/1.1 " not in await reader.read()
    writer.close()
