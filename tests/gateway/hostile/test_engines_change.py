"""Engines are killed, renamed and given another key while `laconic serve` serves.

Within five seconds the log and readiness name the cause; requests get a clear 503 meanwhile; and when the engine is
right again, so is the gateway, without a restart. The gateway is a process, and the engine a real HTTP server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.process.embedded import free_port
from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.engines.test_credentials import LockedEngine
from tests.gateway.process.serving import Serve, serving
from tests.gateway.served import SERVED_MODEL, build_served_family

SECONDS = 5.0
OTHER = "Qwen/Qwen3-8B-AWQ"


class Controlled:
    """An engine with a key, that a test kills, starts again, renames and gives another key."""

    def __init__(self, family: Family, key_file: Path) -> None:
        self._engine, self._stack = LockedEngine(family), AsyncExitStack()
        self._engine.serves, self._key_file, self._port = [SERVED_MODEL], key_file, free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    async def start(self) -> None:
        await self._stack.enter_async_context(self._engine.listening(self._port))

    async def kill(self) -> None:
        await self._stack.aclose()

    async def rename(self) -> None:
        await self.kill()
        self._engine.serves = [OTHER]
        await self.start()

    async def name_again(self) -> None:
        await self.kill()
        self._engine.serves = [SERVED_MODEL]
        await self.start()

    async def change_key(self) -> None:
        self._engine.key = "sk-engine-two"

    async def hand_over_key(self) -> None:
        self._key_file.write_text("sk-engine-two")


@dataclass(frozen=True)
class Change:
    """What happens to an engine, what is said of it, and what mends it."""

    happens: Callable[[Controlled], Awaitable[None]]
    mends: Callable[[Controlled], Awaitable[None]]
    problem: str
    words: str


CHANGES = {
    "killed": Change(Controlled.kill, Controlled.start, "connection refused", "Is the engine running"),
    "renamed": Change(
        Controlled.rename,
        Controlled.name_again,
        "it lists other models",
        f"lists '{OTHER}', none of '{SERVED_MODEL}'; '{OTHER}' is most like '{SERVED_MODEL}'. Start it with",
    ),
    "given another key": Change(
        Controlled.change_key,
        Controlled.hand_over_key,
        "HTTP 401",
        "it refuses the key in {key_file}. Correct the file",
    ),
}


@pytest.fixture
async def engine(family: Family, tmp_path: Path) -> AsyncIterator[Controlled]:
    key_file = tmp_path / "engine-key"
    key_file.write_text("sk-engine-one")
    controlled = Controlled(family, key_file)
    await controlled.start()
    yield controlled
    await controlled.kill()


@asynccontextmanager
async def gateway(engine: Controlled, redis: RedisServer, directory: Path, *more: str) -> AsyncIterator[Serve]:
    build_served_family(directory / "qwen3")
    options = ("--redis", redis.url, "--engine-key-file", str(directory / "engine-key"), *more)
    async with serving(engine, directory / "qwen3", directory / "state", *options) as serve:
        yield serve


async def ready(serve: Serve) -> tuple[int, dict[str, object], list[str]]:
    """The status of readiness, its first engine and its report."""
    async with httpx.AsyncClient(base_url=serve.url, timeout=10) as client:
        response = await client.get("/health/ready")
        body = response.json()
        return response.status_code, body["engines"][0], body["report"]


async def within(condition: Callable[[], Awaitable[bool]]) -> float:
    """Wait for a condition that must come true in time, and return how many seconds that took."""
    began = time.monotonic()
    while not await condition():
        assert time.monotonic() - began < SECONDS
        await asyncio.sleep(0.05)
    return time.monotonic() - began


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_the_cause_is_named_in_time_and_nothing_needs_a_restart(
    change: Change, engine: Controlled, redis_server: RedisServer, tmp_path: Path
) -> None:
    words = change.words.format(key_file=tmp_path / "engine-key")
    async with gateway(engine, redis_server, tmp_path) as serve:
        assert (await serve.ask()).status_code == 200

        async def named() -> bool:
            status, state, report = await ready(serve)
            said = state["problem"] == change.problem and any(words in line for line in report)
            return status == 503 and said and words in serve.printed()

        async def served() -> bool:
            return (await serve.ask()).status_code == 200 and (await ready(serve))[0] == 200

        for _ in range(2):
            logged = serve.printed().count(words)
            await change.happens(engine)
            await within(named)
            assert serve.printed().count(words) <= logged + 1
            refused = await serve.ask()
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
            assert "retry-after" in refused.headers
            await change.mends(engine)
            await within(served)
            if change.problem == "HTTP 401":
                break  # the key has been changed for good
        assert "sk-engine" not in serve.printed()
        assert "Traceback" not in serve.printed()


async def test_with_several_workers_it_is_the_same(
    engine: Controlled, redis_server: RedisServer, tmp_path: Path
) -> None:
    async with gateway(engine, redis_server, tmp_path, "--workers", "2") as serve:
        await engine.rename()

        async def named() -> bool:
            logs = (tmp_path / "state" / "logs").glob("worker-*.log")
            return all(f"is most like '{SERVED_MODEL}'" in log.read_text() for log in logs)

        async def served() -> bool:
            return (await serve.ask()).status_code == 200

        await within(named)
        assert (await serve.ask()).status_code == 503
        await engine.name_again()
        await within(served)
