"""What is said when engines change, once for each cause; and what an engine without a list is taken for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from gateway import supervision
from gateway.engines import probes
from gateway.engines.replica import MAX_CHANGES
from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.engines.raw import RawEngine, http, sends
from tests.gateway.engines.test_probes import listed, warnings
from tests.gateway.fakes import EASY, FakeEngine, Gateway, running, until
from tests.gateway.served import SERVED_MODEL, build_served_family


@pytest.fixture(autouse=True)
def quick_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.engines.probes.PROBE_SECONDS", 0.05)
    monkeypatch.setattr(supervision, "faults", {})


@pytest.fixture
def served_dir(tmp_path: Path) -> Path:
    build_served_family(tmp_path / "qwen3")
    return tmp_path / "qwen3"


class Listless(FakeEngine):
    """An engine whose list of models is a status, unless it is 200."""

    status = 404
    refuses: web.Response | None = None

    async def models(self, request: web.Request) -> web.Response:
        return await super().models(request) if self.status == 200 else web.json_response({}, status=self.status)


@pytest.fixture
async def listless(family: Family) -> AsyncIterator[Listless]:
    async with Listless(family).listening() as engine:
        assert isinstance(engine, Listless)
        engine.serves = [SERVED_MODEL]
        yield engine


@pytest.fixture
async def served(served_dir: Path, redis_server: RedisServer, listless: Listless) -> AsyncIterator[Gateway]:
    """A gateway for a served model, in front of `listless`."""
    async with running(served_dir, redis_server.url, [listless.url]) as gateway:
        yield gateway


def refuses(status: int, message: str):
    async def script(_: web.Request, __: object) -> web.StreamResponse:
        return web.json_response({"error": {"message": message}}, status=status)

    return script


@pytest.mark.parametrize("status", probes.NO_LIST)
async def test_an_engine_without_a_list_is_taken_to_serve_every_served_model_and_that_is_said(
    status: int,
    served_dir: Path,
    redis_server: RedisServer,
    listless: Listless,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listless.status = status
    async with running(served_dir, redis_server.url, [listless.url]) as gateway:
        ready = (await gateway.client.get("/health/ready")).json()
        assert (ready["status"], ready["engines"][0]["assumed"]) == ("ready", True)
        assert "has no list of models, so its models are not known to be there" in ready["report"][0]
        assert (await gateway.ask(EASY)).status_code == 200
        assert listless.bodies[-1]["model"] == SERVED_MODEL
        (line,) = warnings(caplog, listless.url)
        assert line.endswith("has no list of models; it is taken to serve alpha-0.1, alpha-0.4, base")


async def test_an_engine_without_a_list_is_no_engine_of_a_trained_family(
    family_dir: Path, redis_server: RedisServer, tmp_path: Path, listless: Listless
) -> None:
    async with running(family_dir, redis_server.url, [listless.url], state_dir=tmp_path) as gateway:
        assert gateway.engines.states[0].problem == "HTTP 404"
        assert gateway.engines.states[0].action == "Is an OpenAI-compatible API at this URL?"


async def test_an_engine_that_had_a_list_is_not_taken_for_one_without_at_its_first_error(
    served: Gateway, listless: Listless, caplog: pytest.LogCaptureFixture
) -> None:
    listless.status = 200
    await until(lambda: not served.engines.states[0].assumed)
    listless.status = 500
    await served.probe()
    assert not served.engines.states[0].assumed
    await until(lambda: served.engines.states[0].assumed)
    assert sum("has no list of models" in line for line in warnings(caplog, listless.url)) == 1


@pytest.mark.parametrize("status", [404, 400])
async def test_a_model_that_is_not_there_is_held_back_until_a_trial_succeeds(
    status: int, served: Gateway, listless: Listless, caplog: pytest.LogCaptureFixture
) -> None:
    working, listless.script = listless.script, refuses(status, f"The model `{SERVED_MODEL}` does not exist.")
    response = await served.ask(EASY)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
    asked = len(listless.bodies)
    for _ in range(5):
        assert (await served.ask(EASY)).status_code == 503
    assert len(listless.bodies) - asked <= 3  # one trial for each of the three levels at most
    ready = await served.client.get("/health/ready")
    assert ready.status_code == 503
    assert ready.json()["engines"][0]["problem"] == "it does not have the model"
    assert any(f"HTTP {status} for '{SERVED_MODEL}'. Start it with this name" in one for one in ready.json()["report"])
    assert sum("gets no more requests for base but trials" in line for line in warnings(caplog, listless.url)) == 1
    listless.script = working
    async with asyncio.timeout(10):
        while (await served.ask(EASY)).status_code != 200:
            await asyncio.sleep(0.05)


async def test_a_request_that_is_refused_for_its_own_fault_does_not_hold_others_back(
    served: Gateway, listless: Listless
) -> None:
    working = listless.script
    for status, message in ((400, "model is a word in the prompt, not found"), (403, "this prompt is not allowed")):
        listless.script = refuses(status, message)
        await served.ask(EASY)
        listless.script = working
        assert (await served.ask(EASY)).status_code == 200


async def test_a_new_key_ends_what_an_old_one_was_refused_for(
    served_dir: Path, redis_server: RedisServer, listless: Listless, tmp_path: Path
) -> None:
    """Where the list is public, and only requests need the key."""
    file = tmp_path / "keys"
    file.write_text("sk-old")
    working = listless.script

    async def locked(request: web.Request, body: dict[str, object]) -> web.StreamResponse:
        if request.headers.get("authorization") != "Bearer sk-new":
            return web.json_response({"error": {"message": "who are you?"}}, status=401)
        return await working(request, body)

    listless.status, listless.script = 200, locked
    async with running(served_dir, redis_server.url, [listless.url], engine_key_file=file) as gateway:
        for _ in range(3):
            assert (await gateway.ask(EASY)).status_code == 503
        assert gateway.engines.states[0].problem == "HTTP 401"
        assert f"refuses the key in {file}" in (gateway.engines.states[0].details or "")
        file.write_text("sk-new-one".removesuffix("-one"))
        async with asyncio.timeout(5):
            while (await gateway.ask(EASY)).status_code != 200:
                await asyncio.sleep(0.02)
        assert gateway.engines.states[0].problem is None


async def test_a_busy_list_changes_nothing(served: Gateway, listless: Listless) -> None:
    listless.status = 200
    await until(lambda: not served.engines.states[0].assumed)
    listless.status = 429
    for _ in range(4):
        await served.probe()
    assert served.engines.states[0].problem is None


async def test_each_change_of_the_reason_why_an_engine_is_down_is_logged_once_and_at_once(
    family: Family, family_dir: Path, redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    causes = {
        "HTTP 401": sends(http(b"", status="401 Unauthorized")),
        "HTTP 302: GET /v1/models redirects to 'https://login/'": sends(
            http(b"", "location: https://login/", status="302 Found")
        ),
        "'abacus/bas' is most like 'abacus/base'": listed({"data": [{"id": "abacus/bas"}]}),
        "HTTP 503": sends(http(b"", status="503 Service Unavailable")),
    }
    async with (
        RawEngine(family).listening() as raw,
        running(family_dir, redis_server.url, [raw.url], state_dir=tmp_path) as gateway,
    ):
        for _ in range(2):
            for raw.models in causes.values():
                seen = raw.probes
                await until(lambda seen=seen: raw.probes > seen + 3)
        lines = warnings(caplog, raw.url)
        for words in causes:
            assert sum(words in line for line in lines) == 2, words
        assert len(lines) == 2 * len(causes)
        raw.models = sends(raw.good_list)
        await until(lambda: not gateway.engines.missing)
    gone = [one.getMessage() for one in caplog.records if "no engine serves" in one.getMessage()]
    assert gone == ["no engine serves alpha-0.1, alpha-0.4, base"]


async def test_an_engine_that_gives_ever_new_reasons_does_not_fill_the_log(
    family: Family, family_dir: Path, redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        RawEngine(family).listening() as raw,
        running(family_dir, redis_server.url, [raw.url], state_dir=tmp_path),
    ):
        for number in range(20):
            raw.models = listed({"data": [{"id": f"model-{number}"}]})
            seen = raw.probes
            await until(lambda seen=seen: raw.probes > seen + 1)
        assert len(warnings(caplog, raw.url)) == 1 + MAX_CHANGES


async def test_what_no_engine_serves_is_logged_with_what_the_engines_lack(
    engine: FakeEngine, family_dir: Path, redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "laconic")
    everything, engine.serves = engine.serves, ["abacus/base"]
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:

        def lines(words: str) -> list[str]:
            return [one.getMessage() for one in caplog.records if words in one.getMessage()]

        await until(lambda: bool(lines("no engine serves")))
        (line,) = lines("no engine serves")
        assert line.startswith("no engine serves alpha-0.1, alpha-0.4 (")
        assert "does not list 'abacus/alpha-0.1', 'abacus/alpha-0.4': add them to its --lora-modules" in line
        assert (await gateway.client.get("/health/ready")).json()["report"] == [line.partition("(")[2][:-1]]
        assert any("VLLM_ALLOW_RUNTIME_LORA_UPDATING=True there" in one for one in lines("did not load it: 404"))
        engine.serves = everything
        await until(lambda: bool(lines("every checkpoint has an engine")))
        assert (await gateway.client.get("/health/ready")).json()["report"] == []
