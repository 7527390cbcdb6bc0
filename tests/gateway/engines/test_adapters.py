from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.process.embedded import free_port
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, FakeEngine, Gateway, running, until


class Loading:
    """An engine's `/v1/load_lora_adapter`."""

    def __init__(self, engine: FakeEngine, status: int = 200) -> None:
        self.engine, self.status = engine, status
        self.asked: list[dict[str, Any]] = []
        engine.more.append(web.post("/v1/load_lora_adapter", self.load))

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.asked.append(body)
        if self.status == 200:
            self.engine.serves.append(body["lora_name"])
        return web.Response(status=self.status, text="said")


async def probed(gateway: Gateway, times: int = 3) -> None:
    for _ in range(times):
        await gateway.engines._probe_all()


@pytest.fixture
def engine_without_adapters(family: Any) -> FakeEngine:
    engine = FakeEngine(family)
    engine.serves = ["abacus/base"]
    return engine


async def test_adapters_an_engine_lacks_are_loaded_from_where_it_sees_them(
    engine_without_adapters: FakeEngine, family_dir: Path, redis_server: RedisServer
) -> None:
    loading = Loading(engine_without_adapters)
    async with (
        engine_without_adapters.listening() as engine,
        running(family_dir, redis_server.url, [engine.url], engine_family=Path("/mnt/abacus")) as gateway,
    ):
        await probed(gateway)
        assert gateway.engines.missing == []
        assert loading.asked == [
            {"lora_name": f"abacus/{name}", "lora_path": f"/mnt/abacus/{name}"} for name in ("alpha-0.1", "alpha-0.4")
        ]
        assert (await gateway.ask(EASY)).headers["x-laconic-checkpoint"] == "alpha-0.4"


async def test_an_engine_that_does_not_allow_it_is_asked_once_and_served_without(
    engine_without_adapters: FakeEngine,
    family_dir: Path,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loading = Loading(engine_without_adapters, status=404)
    async with (
        engine_without_adapters.listening() as engine,
        running(family_dir, redis_server.url, [engine.url]) as gateway,
    ):
        await probed(gateway)
        assert len(loading.asked) == 2
        assert gateway.engines.missing == ["alpha-0.1", "alpha-0.4"]
        assert "did not load it: 404 said" in caplog.text
        assert (await gateway.ask(EASY)).headers["x-laconic-decision"] == "fallback"


async def test_an_engine_that_comes_back_is_asked_again(
    engine_without_adapters: FakeEngine, family_dir: Path, redis_server: RedisServer
) -> None:
    loading = Loading(engine_without_adapters)
    port = free_port()
    async with running(family_dir, redis_server.url, [f"http://127.0.0.1:{port}"]) as gateway:
        for asked in (2, 4):
            engine_without_adapters.serves = ["abacus/base"]
            async with engine_without_adapters.listening(port):
                await probed(gateway)
                assert len(loading.asked) == asked
                assert gateway.engines.missing == []
            await probed(gateway, 1)
            assert len(gateway.engines.missing) == 3


async def test_an_engine_that_has_them_all_is_not_asked(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer
) -> None:
    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        await probed(gateway)
        assert gateway.engines._loader._asked == set()


async def test_behind_a_proxy_an_engine_that_was_away_is_asked_again(
    engine_without_adapters: FakeEngine, family_dir: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, listed, away = Loading(engine_without_adapters), engine_without_adapters.models, False

    async def models(request: web.Request) -> web.Response:
        return web.Response(status=502) if away else await listed(request)

    monkeypatch.setattr(engine_without_adapters, "models", models)
    async with (
        engine_without_adapters.listening() as engine,
        running(family_dir, redis_server.url, [engine.url]) as gateway,
    ):
        await probed(gateway)
        assert gateway.engines.missing == []
        away = True
        await probed(gateway)
        assert "base" in gateway.engines.missing
        engine.serves, away = ["abacus/base"], False  # started again, without what was loaded
        await probed(gateway)
        assert gateway.engines.missing == []
        assert len(loading.asked) == 4


async def test_an_engine_that_loads_slowly_does_not_keep_others_waiting(
    engine_without_adapters: FakeEngine, family: Any, family_dir: Path, redis_server: RedisServer
) -> None:
    loading = asyncio.Event()

    async def load(_: web.Request) -> web.Response:
        loading.set()
        await asyncio.Event().wait()
        raise AssertionError

    engine_without_adapters.more.append(web.post("/v1/load_lora_adapter", load))
    other = FakeEngine(family)
    async with (
        engine_without_adapters.listening() as engine,
        other.listening(),
        running(family_dir, redis_server.url, [engine.url, other.url]) as gateway,
    ):
        await loading.wait()
        other.serves = ["abacus/base"]
        await until(lambda: gateway.engines.missing == ["alpha-0.1", "alpha-0.4"])
