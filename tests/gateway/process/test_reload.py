"""Does SIGHUP reload keys, profile and log level, and never stop a stream?"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path

import certifi
import httpx
import pytest

from gateway.access import keys
from gateway.access.keys import Grant
from gateway.engines.pool import Engines, Timeouts
from models import family as families
from models.family import Family
from models.files import sha256
from tests.conftest import RedisServer, patient
from tests.gateway.fakes import EASY, EVENTS, FakeEngine, until
from tests.gateway.hostile.test_store import Turnstile
from tests.gateway.prices import write_prices
from tests.gateway.process.serving import CHAT, serving


def change_profile(directory: Path, **changes: object) -> None:
    """Write another profile, as `laconic-train publish` would, with its hash in the manifest."""
    manifest = json.loads((directory / families.MANIFEST).read_text())
    profile = directory / manifest["profile"]
    profile.write_text(json.dumps(json.loads(profile.read_text()) | changes))
    manifest["files"][manifest["profile"]] = sha256(profile)
    (directory / families.MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_sighup_reloads_while_streams_go_on(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path, workers: str
) -> None:
    family, state, file = tmp_path / "family", tmp_path / "state", tmp_path / "laconic.toml"
    prices = write_prices(tmp_path)
    shutil.copytree(family_dir, family)
    file.write_text('log_level = "error"')
    turnstile = Turnstile(engine)
    options = ("--redis", redis_server.url, "--workers", workers, "--config", str(file))
    async with (
        serving(engine, family, state, *options, "--prices", str(prices)) as serve,
        httpx.AsyncClient(base_url=serve.url, timeout=30) as client,
    ):

        def said() -> str:
            return serve.printed() + "".join(log.read_text() for log in (state / "logs").glob("worker-?.log"))

        async def reload(times: int) -> None:
            serve.process.send_signal(signal.SIGHUP)
            await until(lambda: said().count("reloaded on SIGHUP") == times * int(workers))

        async def difficulty() -> float:
            body = {"model": "abacus", "messages": [{"role": "user", "content": EASY}]}
            async with httpx.AsyncClient(base_url=serve.url) as other:
                return (await other.post("/v1/route", json=body)).json()["difficulty"]

        async with client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as response:
            pieces = response.aiter_bytes()
            received = await anext(pieces)
            assert await difficulty() < 1
            change_profile(family, difficulties=[0.0, 0.001])
            file.write_text('log_level = "info"')
            await reload(1)
            assert await difficulty() == 1
            assert said().count("keys; profile; prices; log level info; certificates for engines") == int(workers)

            change_profile(family, difficulties="hard")
            file.write_text('log_level = "loud"')
            prices.write_text("currency: EUR")
            redis = patient(redis_server.url)
            secret, _ = await keys.create(redis, Grant(name="boss", admin=True))
            await redis.aclose()
            await reload(2)
            assert said().count("the profile stays as it is") == int(workers)
            assert "the log level stays as it is" in said()
            assert "the prices stay as they are (prices: " in said()
            async with httpx.AsyncClient(base_url=serve.url) as other:
                assert (await other.post("/v1/chat/completions", json=CHAT)).status_code == 401
            assert secret

            turnstile.open.set()
            async for piece in pieces:
                received += piece
        assert received.endswith(EVENTS[-1])
        assert serve.process.returncode is None


async def test_sighup_during_the_start_does_not_end_it(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path
) -> None:
    hang_up = "import gateway.process.serve as s, os, signal; load = s.families.load; s.families.load = "
    hang_up += "lambda *args, **more: (os.kill(os.getpid(), signal.SIGHUP), load(*args, **more))[1]"
    async with serving(engine, family_dir, tmp_path, "--redis", redis_server.url, prelude=hang_up) as serve:
        await asyncio.sleep(0)
        assert (await serve.ask()).status_code == 200


async def test_new_connections_to_engines_use_the_certificates_of_now(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    engines = Engines(["https://engine:8000"], family, tmp_path, Timeouts(connect=1, first_token=1, idle=1))
    client = engines._replicas[0].client

    def known() -> int:
        assert client.tls is not None
        return client.tls.cert_store_stats()["x509_ca"]

    assert known() == 0
    bundle = Path(certifi.where()).read_text()
    authorities.write_text(bundle[: bundle.index("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----\n")])
    assert known() == 0
    engines.reload_tls()
    assert known() == 1
    authorities.write_text("broken")
    engines.reload_tls()
    assert known() == 0
