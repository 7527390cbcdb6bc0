"""Does the gateway make engines load the adapters that they lack?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.engines import adapters
from gateway.process.embedded import free_port
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, FakeEngine, Gateway, running, until


class LoadEndpoint:
    """An engine's `/v1/load_lora_adapter`, which records what it is asked to load."""

    def __init__(self, engine: FakeEngine, status: int = 200) -> None:
        self.engine, self.status = engine, status
        self.requests: list[dict[str, Any]] = []
        engine.more.append(web.post("/v1/load_lora_adapter", self.load))

    async def load(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        if self.status == 200:
            self.engine.serves.append(body["lora_name"])
        return web.Response(status=self.status, text="not allowed")


async def probe(gateway: Gateway, times: int = 3) -> None:
    for _ in range(times):
        await gateway.probe()


@pytest.fixture
def engine_without_adapters(family: Any) -> FakeEngine:
    engine = FakeEngine(family)
    engine.serves = ["abacus/base"]
    return engine


async def test_missing_adapters_are_loaded_from_the_path_that_the_engine_sees(
    engine_without_adapters: FakeEngine, family_dir: Path, redis_server: RedisServer
) -> None:
    loading = LoadEndpoint(engine_without_adapters)
    async with (
        engine_without_adapters.listening() as engine,
        running(family_dir, redis_server.url, [engine.url], engine_family=Path("/mnt/abacus")) as gateway,
    ):
        await probe(gateway)
        assert gateway.engines.missing == []
        assert loading.requests == [
            {"lora_name": f"abacus/{name}", "lora_path": f"/mnt/abacus/{name}"} for name in ("alpha-0.1", "alpha-0.4")
        ]
        assert (await gateway.ask(EASY)).headers["x-laconic-checkpoint"] == "alpha-0.4"


async def test_an_engine_that_refuses_to_load_is_asked_once_and_used_without_the_adapter(
    engine_without_adapters: FakeEngine,
    family_dir: Path,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loading = LoadEndpoint(engine_without_adapters, status=404)
    async with (
        engine_without_adapters.listening() as engine,
        running(family_dir, redis_server.url, [engine.url]) as gateway,
    ):
        await probe(gateway)
        assert len(loading.requests) == 2
        assert gateway.engines.missing == ["alpha-0.1", "alpha-0.4"]
        assert "did not load it: 404 not allowed" in caplog.text
        assert (await gateway.ask(EASY)).headers["x-laconic-decision"] == "fallback"


@pytest.mark.parametrize("status", [302, 307, 308])
async def test_a_redirect_is_not_followed_so_that_no_other_host_gets_the_operator_s_headers(
    engine_without_adapters: FakeEngine,
    family_dir: Path,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.headers.get("x-tenant", ""))
        return web.Response()

    async def load(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={"location": "/elsewhere"})

    engine_without_adapters.more += [
        web.post("/v1/load_lora_adapter", load),
        web.route("*", "/elsewhere", elsewhere),
    ]
    settings = {"engine_header": ["x-tenant: secret"]}
    async with (
        engine_without_adapters.listening() as engine,
        running(family_dir, redis_server.url, [engine.url], **settings) as gateway,
    ):
        await probe(gateway)
        assert f"did not load it: {status}" in caplog.text
        assert asked == []


async def test_an_engine_that_comes_back_is_asked_to_load_again(
    engine_without_adapters: FakeEngine, family_dir: Path, redis_server: RedisServer
) -> None:
    loading = LoadEndpoint(engine_without_adapters)
    port = free_port()
    async with running(family_dir, redis_server.url, [f"http://127.0.0.1:{port}"]) as gateway:
        for expected in (2, 4):
            engine_without_adapters.serves = ["abacus/base"]
            async with engine_without_adapters.listening(port):
                await probe(gateway)
                assert len(loading.requests) == expected
                assert gateway.engines.missing == []
            await probe(gateway, 1)
            assert len(gateway.engines.missing) == 3


async def test_an_engine_with_all_adapters_is_not_asked(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer
) -> None:
    async with running(family_dir, redis_server.url, [engine.url]) as gateway:
        await probe(gateway)
        assert gateway.engines._probes.loader._requested == set()


async def test_an_engine_behind_a_proxy_is_asked_again_after_an_outage(
    engine_without_adapters: FakeEngine, family_dir: Path, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, listed, away = LoadEndpoint(engine_without_adapters), engine_without_adapters.models, False

    async def models(request: web.Request) -> web.Response:
        return web.Response(status=502) if away else await listed(request)

    monkeypatch.setattr(engine_without_adapters, "models", models)
    async with (
        engine_without_adapters.listening() as engine,
        running(family_dir, redis_server.url, [engine.url]) as gateway,
    ):
        await probe(gateway)
        assert gateway.engines.missing == []
        away = True
        await probe(gateway)
        assert "base" in gateway.engines.missing
        engine.serves, away = ["abacus/base"], False  # restarted, without the loaded adapters
        await probe(gateway)
        assert gateway.engines.missing == []
        assert len(loading.requests) == 4


async def test_a_slow_adapter_load_does_not_delay_the_probes_of_other_engines(
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


async def test_what_an_engine_says_is_logged_on_one_short_line() -> None:
    async def said() -> AsyncIterator[bytes]:
        yield "no\r\nforged line \x1b[31m\u2028 é\xff ".encode("latin-1", "replace")
        while True:
            yield b"more " * 100

    text = await adapters._shown(said())
    assert text.startswith("no forged line ")
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= adapters.SHOWN_BYTES
