"""Web pages of strangers, in a browser on the gateway's machine."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from gateway.access import keys
from gateway.access.keys import Grant
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, FakeEngine, Gateway, error, running
from tests.gateway.hostile.harness import CHAT
from tests.gateway.hostile.raw import exchange

PAGE = "https://app.example.com"
PATHS = ["/v1/chat/completions", "/v1/route", "/v1/models", "/v1/savings", "/v1/keys", "/openapi.json", "/health/live",
         "/health/ready", "/metrics", "/nothing", "/dashboard", "/dashboard/login", "/v1/overview"]  # fmt: skip


@pytest.fixture
async def with_cors(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway with a key, whose answers `PAGE` may read."""
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path, cors_origin=[PAGE]) as gateway:
        secret, _ = await keys.create(gateway.keyring.redis, Grant(name="team-a", requests_per_minute=10))
        await gateway.keyring.refresh()
        gateway.client.headers["authorization"] = f"Bearer {secret}"
        yield gateway


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "sent", [{"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}], ids=str
)
async def test_without_keys_a_foreign_page_is_refused_everywhere(
    gateway: Gateway, engine: FakeEngine, path: str, sent: dict[str, str]
) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        response = await gateway.client.request(method, path, headers=sent, json=CHAT if method == "POST" else None)
        assert response.status_code == 403
        assert error(response)["code"] == "foreign_page"
    assert engine.bodies == []


async def test_without_keys_a_request_must_name_one_host(gateway: Gateway) -> None:
    old, two = b"GET /v1/models HTTP/1.0\r\n\r\n", b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nhost: evil\r\n"
    for head in (old, two + b"connection: close\r\n\r\n"):
        (refused,) = await exchange(gateway.url, head)
        assert (refused.status, refused.error["param"]) == (403, "Host")


async def test_without_keys_a_body_must_be_declared_as_json(gateway: Gateway, engine: FakeEngine) -> None:
    for declared in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        response = await gateway.client.post(
            "/v1/chat/completions", content=json.dumps(CHAT), headers={"content-type": declared}
        )
        assert response.status_code == 415
        assert "application/json" in error(response)["message"]
    assert engine.bodies == []


async def test_with_keys_the_key_decides(with_cors: Gateway) -> None:
    headers = {"host": "gateway.example", "origin": "https://evil.example", "content-type": "text/plain"}
    response = await with_cors.client.post("/v1/chat/completions", content=json.dumps(CHAT), headers=headers)
    assert response.status_code == 200
    assert response.headers["vary"] == "origin"
    assert not [name for name in response.headers if name.startswith("access-control-")]


async def test_a_listed_page_may_ask_first(with_cors: Gateway) -> None:
    asked = {
        "origin": PAGE,
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-reasoning-budget,x-stainless-os",
    }
    async with httpx.AsyncClient(base_url=with_cors.url) as client:  # without the key, as browsers ask
        for path in PATHS:
            response = await client.options(path, headers=asked)
            assert response.status_code == 204
            assert response.headers["access-control-allow-origin"] == PAGE
            allowed = response.headers["access-control-allow-headers"].replace(" ", "")
            assert allowed == asked["access-control-request-headers"]
            foreign = await client.options(path, headers={**asked, "origin": "https://evil.example"})
            assert "access-control-allow-origin" not in foreign.headers
            assert error(foreign)["code"] in ("method_not_allowed", "not_found")


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_listed_page_reads_answers_and_errors(with_cors: Gateway, streamed: bool) -> None:
    answered = await with_cors.ask(EASY, headers={"origin": PAGE}, stream=streamed)
    wrong = await with_cors.ask(EASY, headers={"origin": PAGE}, n=0)
    stranger = await with_cors.ask(EASY, headers={"origin": PAGE, "authorization": "Bearer x"})
    absent = await with_cors.client.get("/v1/nothing", headers={"origin": PAGE})
    admin = await with_cors.client.get("/v1/keys", headers={"origin": PAGE})
    for _ in range(10):
        limited = await with_cors.ask(EASY, headers={"origin": PAGE})
    responses = (answered, wrong, stranger, absent, admin, limited)
    assert [response.status_code for response in responses] == [200, 400, 401, 404, 403, 429]
    for response in responses:
        assert response.headers["access-control-allow-origin"] == PAGE
        assert response.headers["vary"] == "origin"
        exposed = response.headers["access-control-expose-headers"].split(", ")
        ours = [name for name in response.headers if name.startswith(("x-laconic", "x-rate", "x-request", "retry"))]
        assert set(ours) <= set(exposed)


async def test_without_configuration_no_page_may_read(gateway: Gateway) -> None:
    response = await gateway.ask(EASY, headers={"origin": "http://localhost:3000"})
    assert response.status_code == 200
    assert not [name for name in response.headers if name.startswith("access-control-") or name == "vary"]


ATTACK = """<script type=module>
const send = (url, options) => fetch(url, options).then(r => r.text(), e => "" + e)
const body = JSON.stringify(CHAT)
const found = []
for (const mode of ["no-cors", "cors"])
  for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/json"])
    found.push(await send("GATEWAY/v1/chat/completions", {method: "POST", mode, body, headers: {"content-type": type}}))
found.push(await send("GATEWAY/v1/chat/completions", {method: "POST", mode: "no-cors", body: new Blob([body])}))
found.push(await send("GATEWAY/v1/savings"))
found.push(await send("REBOUND/v1/savings", {mode: "no-cors"}))
await fetch("/done", {method: "POST", body: JSON.stringify(found)})
</script>"""
READ = """<script type=module>
const response = await fetch("GATEWAY/v1/chat/completions", {
  method: "POST", body: JSON.stringify({...CHAT, stream: true}),
  headers: {"content-type": "application/json", "authorization": "Bearer SECRET", "x-reasoning-budget": "64"}})
const found = [response.status, response.headers.get("x-laconic-budget"), await response.text()]
await fetch("/done", {method: "POST", body: JSON.stringify(found)})
</script>"""


class Website:
    """A site at any name. `found` is what its page posts to `/done`."""

    def __init__(self) -> None:
        self.page, self.port = "", 0
        self.found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Website]:
        async def page(_: web.Request) -> web.Response:
            return web.Response(text=self.page, content_type="text/html")

        async def done(request: web.Request) -> web.Response:
            self.found.set_result(json.loads(await request.text()))
            return web.Response()

        app = web.Application()
        app.add_routes([web.get("/", page), web.post("/done", done)])
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.port = runner.addresses[0][1]
        try:
            yield self
        finally:
            await runner.cleanup()

    async def visited(self, browser: str, host: str, profile: Path) -> Any:
        """What the page found in a real browser, for which every name is this machine."""
        options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
        names = "--host-resolver-rules=MAP *.example 127.0.0.1"
        url = f"http://{host}:{self.port}/"
        browsing = await asyncio.create_subprocess_exec(
            *(browser, *options, names, f"--user-data-dir={profile}", "--remote-debugging-port=0", url),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(60):
                return await self.found
        finally:
            browsing.kill()
            await browsing.wait()


def browser_or_none() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


async def test_a_page_in_a_real_browser_cannot_run_the_model_or_read_savings(
    gateway: Gateway, engine: FakeEngine, tmp_path: Path
) -> None:
    if (browser := browser_or_none()) is None:  # the same requests, as a browser would send them
        for headers in ({"origin": "http://evil.example"}, {"host": "rebound.example"}):
            assert (await gateway.ask(EASY, headers=headers)).status_code == 403
        return
    async with Website().listening() as site:
        rebound = f"http://rebound.example:{httpx.URL(gateway.url).port}"
        page = ATTACK.replace("CHAT", json.dumps(CHAT)).replace("GATEWAY", gateway.url).replace("REBOUND", rebound)
        site.page = page
        found = await site.visited(browser, "evil.example", tmp_path / "profile")
    assert len(found) == 9
    assert engine.bodies == []
    assert not [text for text in found if text and "Failed to fetch" not in text]


async def test_a_listed_page_in_a_real_browser_streams_an_answer(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    async with Website().listening() as site:
        origin = f"http://app.example:{site.port}"
        bounds = {"state_dir": tmp_path, "cors_origin": [origin]}
        async with running(family_dir, redis_server.url, [engine.url], **bounds) as gateway:
            secret, _ = await keys.create(gateway.keyring.redis, Grant(name="team-a"))
            await gateway.keyring.refresh()
            headers = {"origin": origin, "authorization": f"Bearer {secret}"}
            assert (await gateway.ask(EASY, headers=headers)).headers["access-control-allow-origin"] == origin
            if (browser := browser_or_none()) is None:
                return
            page = READ.replace("CHAT", json.dumps(CHAT)).replace("GATEWAY", gateway.url).replace("SECRET", secret)
            site.page = page
            status, budget, text = await site.visited(browser, "app.example", tmp_path / "profile")
    assert (status, budget) == (200, "64")
    assert text.endswith("data: [DONE]\n\n")
