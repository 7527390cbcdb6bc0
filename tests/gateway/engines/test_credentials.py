"""Engines that want a key: it is sent with every request, changed without a restart, and never logged."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiohttp import web

from gateway.engines import credentials
from gateway.engines.credentials import Credentials, CredentialsError
from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, FakeEngine, running

URL = "http://gpu1:8000"


class LockedEngine(FakeEngine):
    """An engine that wants a key."""

    key = "sk-engine-one"

    def __init__(self, family: Family) -> None:
        super().__init__(family)
        self.refused = 0
        self.seen: list[dict[str, str]] = []

    async def models(self, request: web.Request) -> web.Response:
        return self._refusal(request) or await super().models(request)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        return self._refusal(request) or await super().chat(request)

    def _refusal(self, request: web.Request) -> web.Response | None:
        self.seen.append(dict(request.headers))
        if request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        self.refused += 1
        return web.json_response({"error": {"message": "Unauthorized"}}, status=401)


def test_a_file_has_one_key_or_one_for_each_engine(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-all\n")
    assert Credentials(key_file=file).headers(URL) == {"authorization": "Bearer sk-all"}
    file.write_text(f"# the first\n{URL}/v1/   sk-one\n\nhttps://gpu2:8443 sk-two\n")
    both = Credentials(key="sk-else", key_file=file)
    assert both.headers(URL) == {"authorization": "Bearer sk-one"}
    assert both.headers("https://gpu2:8443") == {"authorization": "Bearer sk-two"}
    assert both.headers("http://gpu3:8000") == {"authorization": "Bearer sk-else"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "has no key in it"),
        ("# nothing\n", "has no key in it"),
        ("http://a:1 sk one more", "line 1 is neither"),
        ("gpu1 sk-one", "line 1 is neither"),
        ("sk-ä", "line 1 is neither"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_without_its_keys(text: str, named: str, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(CredentialsError, match=named) as error:
        Credentials(key_file=file)
    assert "sk" not in str(error.value).replace(str(file), "")
    with pytest.raises(CredentialsError, match="cannot read"):
        Credentials(key_file=tmp_path / "missing")


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    for path in (file, tmp_path / "missing"):
        with pytest.raises(CredentialsError, match="engine_ca: "):
            credentials.load(None, (), path)


def test_a_changed_file_is_read_again_and_a_broken_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-one")
    sent = Credentials(key_file=file)
    file.write_text("sk-two-is-longer")
    sent.refresh()
    assert sent.headers(URL) == {"authorization": "Bearer sk-two-is-longer"}
    file.write_text("")
    sent.refresh()
    sent.refresh()
    assert sent.headers(URL) == {"authorization": "Bearer sk-two-is-longer"}
    assert caplog.text.count("stay as they were") == 1
    assert "sk-" not in caplog.text


async def test_an_engine_s_key_is_sent_changed_and_never_logged(
    family: Family, family_dir: Path, redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "engine-keys"
    file.write_text("sk-engine-one")
    async with LockedEngine(family).listening() as engine:
        assert isinstance(engine, LockedEngine)
        settings = {"engine_key_file": file, "engine_header": ["X-Team: red"], "state_dir": tmp_path / "state"}
        async with running(family_dir, redis_server.url, [engine.url], **settings) as gateway:
            assert (await gateway.ask(EASY)).status_code == 200
            assert (await gateway.ask(EASY, stream=True)).status_code == 200
            assert engine.refused == 0
            assert {headers.get("X-Team") for headers in engine.seen} == {"red"}
            engine.key = "sk-engine-two"
            async with asyncio.timeout(5):
                while any(state.problem is None for state in gateway.engines.states):
                    await asyncio.sleep(0.05)
            assert gateway.engines.states[0].problem == "HTTP 401"
            assert (await gateway.ask(EASY)).status_code == 503
            file.write_text("sk-engine-two")
            os.utime(file, ns=(1, 1))
            async with asyncio.timeout(5):
                while (await gateway.ask(EASY)).status_code != 200:
                    await asyncio.sleep(0.05)
    assert f"it refuses the key in {file}. Correct the file; it is read again at once." in caplog.text
    assert "sk-engine" not in caplog.text
