"""What does `laconic serve` say of its engines before it says where it listens, and does it wait for them?"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.process.embedded import free_port
from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.fakes import FakeEngine
from tests.gateway.process.serving import launch, serving


class Absent:
    """An engine that is not there yet."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_with_nothing_to_serve_it_says_so_first_and_serves_as_soon_as_an_engine_is_up(
    family: Family, family_dir: Path, redis_server: RedisServer, tmp_path: Path, workers: str
) -> None:
    absent = Absent()
    options = ("--redis", redis_server.url, "--workers", workers)
    async with serving(absent, family_dir, tmp_path, *options) as serve:
        greeting = serve.printed()
        notice = f"No engine serves anything of abacus yet:\n  {absent.url}: connection refused: GET /v1/models."
        assert f"{notice} Is the engine running, and is its URL right?\n" in greeting
        assert greeting.index("No engine serves") < greeting.index("Laconic will serve abacus on http://")
        assert (await serve.ask()).status_code == 503
        async with FakeEngine(family).listening(absent.port), asyncio.timeout(10):
            while (await serve.ask()).status_code != 200:
                await asyncio.sleep(0.1)


async def test_what_some_engines_lack_is_said_too(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    engine.serves = ["abacus/base"]
    async with serving(engine, family_dir, tmp_path, "--redis", redis_server.url) as serve:
        assert "No engine serves alpha-0.1, alpha-0.4 yet:\n" in serve.printed()
        assert "does not list 'abacus/alpha-0.1', 'abacus/alpha-0.4'" in serve.printed()
        assert "\nLaconic serves abacus on http://" in serve.printed()


async def test_nothing_is_said_if_nothing_is_missing(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    options = ("--redis", redis_server.url, "--wait-for-engines", "30", "--workers", "2")
    async with serving(engine, family_dir, tmp_path, *options) as serve:
        assert "No engine serves" not in serve.printed()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_it_waits_for_engines(
    family: Family, family_dir: Path, redis_server: RedisServer, tmp_path: Path, workers: str
) -> None:
    absent, engine = Absent(), FakeEngine(family)

    async def come_up() -> None:
        await asyncio.sleep(4)
        async with engine.listening(absent.port):
            await asyncio.Event().wait()

    coming = asyncio.create_task(come_up())
    options = ("--redis", redis_server.url, "--workers", workers, "--wait-for-engines")
    async with serving(absent, family_dir, tmp_path, *options) as serve:
        assert "Waiting up to 600 s for an engine for every checkpoint" in serve.printed()
        assert "No engine serves" not in serve.printed()
        assert (await serve.ask()).status_code == 200
    coming.cancel()
    await asyncio.wait([coming])


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_it_gives_up_with_the_reasons(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path, workers: str
) -> None:
    """Every checkpoint must have an engine: the base alone does not do."""
    engine.serves, absent = ["abacus/base"], Absent()
    engines = ("--engine", engine.url, "--engine", absent.url, "--redis", redis_server.url, "--workers", workers)
    places = ("--family", str(family_dir), "--state-dir", str(tmp_path))
    process = await launch(*engines, *places, "--wait-for-engines", "2", port=free_port())
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 1
    last = printed[printed.index("laconic serve: ") :]
    assert last.startswith(
        "laconic serve: wait_for_engines: 2 s are over. No engine serves alpha-0.1, alpha-0.4 yet:\n"
    )
    assert f"  {absent.url}: connection refused" in last
    assert f"  {engine.url} does not list 'abacus/alpha-0.1', 'abacus/alpha-0.4': add them" in last
    assert "Ctrl-C stops it" not in printed
