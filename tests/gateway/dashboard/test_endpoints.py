"""Who gets to the dashboard, how, and what else can they reach from there? Over HTTP, without a browser."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.access import keys
from gateway.access.guesses import Guesses
from gateway.access.keys import Grant
from gateway.dashboard import endpoints, session
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, FakeEngine, Gateway, error, running

PAGES = ["/dashboard", "/dashboard/"]
FIGURES = ["/dashboard/overview", "/dashboard/stream"]


@pytest.fixture
async def locked(gateway: Gateway) -> Gateway:
    """A gateway with an admin's key and a caller's."""
    for name, admin in (("operator", True), ("team-a", False)):
        secret, _ = await keys.create(gateway.keyring.redis, Grant(name=name, admin=admin))
        SECRETS[name] = secret
    await gateway.keyring.refresh()
    return gateway


SECRETS: dict[str, str] = {}


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {SECRETS[name]}"}


async def log_in(gateway: Gateway, secret: str, **headers: str) -> httpx.Response:
    return await gateway.client.post("/dashboard/login", data={"key": secret}, headers=headers)


async def test_without_keys_the_page_is_open(gateway: Gateway) -> None:
    for path in PAGES:
        response = await gateway.client.get(path)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert (await gateway.client.get("/dashboard/login")).headers["location"] == "/dashboard"
    assert (await gateway.client.get("/dashboard/overview")).json()["window"] == "7d"


@pytest.mark.parametrize("path", [*PAGES, *FIGURES, "/v1/overview", "/v1/overview/stream", "/dashboard/login"])
@pytest.mark.parametrize("sent", [{"host": "evil.example"}, {"origin": "https://evil.example"}], ids=str)
async def test_without_keys_a_foreign_page_gets_nothing(gateway: Gateway, path: str, sent: dict[str, str]) -> None:
    response = await gateway.client.get(path, headers=sent)
    assert response.status_code == 403
    assert error(response)["code"] == "foreign_page"


async def test_with_keys_the_page_leads_to_the_login(locked: Gateway) -> None:
    for path in PAGES:
        response = await locked.client.get(path)
        assert (response.status_code, response.headers["location"]) == (303, "/dashboard/login")
    assert "An admin's key" in (await locked.client.get("/dashboard/login")).text
    for path in FIGURES:
        assert error(await locked.client.get(path))["code"] == "invalid_api_key"


async def test_an_admins_key_opens_the_dashboard(locked: Gateway) -> None:
    response = await log_in(locked, SECRETS["operator"])
    assert (response.status_code, response.headers["location"]) == (303, "/dashboard")
    cookie = response.headers["set-cookie"].lower()
    for part in ("httponly", "samesite=strict", "path=/dashboard", f"max-age={session.SECONDS}"):
        assert part in cookie
    assert "secure" not in cookie
    assert SECRETS["operator"] not in response.text + cookie
    assert (await locked.client.get("/dashboard")).status_code == 200
    assert (await locked.client.get("/dashboard/overview")).json()["window"] == "7d"


async def test_behind_a_proxy_with_tls_the_cookie_is_secure(locked: Gateway) -> None:
    response = await log_in(locked, SECRETS["operator"], **{"x-forwarded-proto": "https"})
    assert "secure" in response.headers["set-cookie"].lower()


async def test_the_cookie_opens_nothing_else(locked: Gateway) -> None:
    cookie = (await log_in(locked, SECRETS["operator"])).headers["set-cookie"].partition(";")[0]
    # Even if a program sends it where a browser would not.
    async with httpx.AsyncClient(base_url=locked.url, headers={"cookie": cookie}) as client:
        chat = {"model": "abacus", "messages": [{"role": "user", "content": EASY}]}
        assert (await client.post("/v1/chat/completions", json=chat)).status_code == 401
        assert (await client.post("/v1/keys", json={"name": "mine", "admin": True})).status_code == 401
        assert (await client.delete("/v1/keys/team-a")).status_code == 401
        for path in ("/v1/keys", "/v1/savings", "/v1/overview", "/v1/overview/stream", "/metrics", "/v1/models"):
            assert (await client.get(path)).status_code == 401, path
        token = cookie.partition("=")[2]
        assert (await client.get("/v1/keys", headers={"authorization": f"Bearer {token}"})).status_code == 401
        for path in ("/dashboard/overview", "/dashboard/stream", "/dashboard"):
            assert (await client.post(path, json={})).status_code == 405, path


@pytest.mark.parametrize(
    ("sent", "status", "notice"),
    [
        ("team-a", 403, "login admin"),
        ("sk-laconic-<script>", 401, "login wrong"),
        ("sk-laconic-…", 401, "login wrong"),  # no header can have this character
    ],
)
async def test_another_key_is_refused_in_words(locked: Gateway, sent: str, status: int, notice: str) -> None:
    response = await log_in(locked, SECRETS.get(sent, sent))
    assert response.status_code == status
    assert f'class="{notice}"' in response.text
    assert "set-cookie" not in response.headers
    assert "script>" not in response.text


async def test_wrong_keys_are_refused_one_after_the_other(locked: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals: list[int] = []

    async def refused(_: Guesses) -> None:
        refusals.append(1)

    monkeypatch.setattr(Guesses, "refused", refused)
    await log_in(locked, "wrong")
    await log_in(locked, "wrong, too…")
    await log_in(locked, SECRETS["operator"])
    assert len(refusals) == 2


@pytest.mark.parametrize("sent", [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}], ids=str)
async def test_no_other_page_can_log_in_or_out_or_read(locked: Gateway, sent: dict[str, str]) -> None:
    assert (await log_in(locked, SECRETS["operator"], **sent)).status_code == 403
    await log_in(locked, SECRETS["operator"])
    for path in FIGURES:
        assert (await locked.client.get(path, headers=sent)).status_code == 403
    assert (await locked.client.post("/dashboard/logout", headers=sent)).status_code == 403
    assert (await locked.client.get("/dashboard/overview")).status_code == 200


async def test_logging_out_deletes_the_cookie(locked: Gateway) -> None:
    await log_in(locked, SECRETS["operator"])
    response = await locked.client.post("/dashboard/logout")
    assert (response.status_code, response.headers["location"]) == (303, "/dashboard/login")
    assert (await locked.client.get("/dashboard/overview")).status_code == 401


async def test_a_revoked_key_closes_the_page_and_its_stream(locked: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "REFRESH_SECONDS", 0.05)
    await log_in(locked, SECRETS["operator"])
    async with locked.client.stream("GET", "/dashboard/stream") as response:
        events = Events(response)
        assert (await events.next())[0] == "overview"
        await keys.revoke(locked.keyring.redis, "operator")
        await locked.keyring.refresh()
        assert (await events.next())[0] == "login"
    assert (await locked.client.get("/dashboard/overview")).status_code == 401


async def test_a_login_is_bounded_before_its_key_is_known(locked: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await log_in(locked, "x" * 5000)).status_code == 413
    many = "&".join("a=1" for _ in range(50))
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert (await locked.client.post("/dashboard/login", content=many, headers=form)).status_code == 400
    assert (await locked.client.post("/dashboard/login", content=b"\xff=\xfe", headers=form)).status_code == 400
    assert (await locked.client.post("/dashboard/login", content=b"", headers=form)).status_code == 401
    monkeypatch.setattr(endpoints, "LOGIN_SECONDS", 0.05)

    async def slowly() -> AsyncIterator[bytes]:
        yield b"key="
        await asyncio.sleep(1)
        yield b"x"

    assert (await locked.client.post("/dashboard/login", content=slowly(), headers=form)).status_code == 408


async def test_an_admins_key_gets_the_figures_without_the_page(locked: Gateway) -> None:
    assert (await locked.client.get("/v1/overview", headers=bearer("team-a"))).status_code == 403
    shown = (await locked.client.get("/v1/overview?since=24h", headers=bearer("operator"))).json()
    assert shown["window"] == "24h"
    assert [one["name"] for one in shown["keys"]] == ["operator", "team-a"]
    wrong = await locked.client.get("/v1/overview?since=1y", headers=bearer("operator"))
    assert (wrong.status_code, error(wrong)["param"]) == (400, "since")
    other = await locked.client.get("/v1/overview?sinc=24h", headers=bearer("operator"))
    assert (other.status_code, error(other)["param"]) == (400, "sinc")


async def test_the_overview_has_the_figures_of_v1_savings(gateway: Gateway) -> None:
    for _ in range(3):
        await gateway.ask(EASY)
    await gateway.entries(3)
    while (savings := (await gateway.client.get("/v1/savings?since=7d")).json())["total"]["requests"] < 3:
        await asyncio.sleep(0.01)
    shown = (await gateway.client.get("/v1/overview")).json()
    for name in ("total", "groups", "by"):
        assert shown["savings"][name] == savings[name]
    for name in ("quality", "drift", "shadows", "since"):
        assert shown[name] == savings[name]
    assert shown["health"] == (await gateway.client.get("/health/ready")).json()
    assert [one["checkpoint"] for one in shown["decisions"]] == ["alpha-0.4"] * 3


class Events:
    """Reads server-sent events."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, Any]:
        """The next event's name and its data, which are JSON if it is an overview."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(30):
            async for line in self._lines:
                if line and not line.startswith(":"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    data = fields["data"]
                    return fields["event"], json.loads(data) if fields["event"] == "overview" else data
        raise AssertionError("the stream has ended")


async def test_the_stream_has_each_new_overview(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr("gateway.dashboard.overviews.REFRESH_SECONDS", 0.05)
    monkeypatch.setattr("gateway.dashboard.overviews.IDLE_TIMES", 0)
    async with gateway.client.stream("GET", "/v1/overview/stream?since=24h") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = Events(response)
        name, first = await events.next()
        assert (name, first["window"], first["savings"]["total"]["requests"]) == ("overview", "24h", 0)
        await gateway.ask(EASY)
        last = first
        while last["savings"]["total"]["requests"] == 0:
            name, shown = await events.next()
            assert name == "overview", f"{name}: {shown}"
            assert shown["computed"] > last["computed"]
            last = shown


async def test_a_stream_ends_when_the_gateway_stops(gateway: Gateway) -> None:
    async with gateway.client.stream("GET", "/dashboard/stream") as response:
        events = Events(response)
        assert (await events.next())[0] == "overview"
        gateway.services.stopping.set()
        with pytest.raises(AssertionError, match="the stream has ended"):
            await asyncio.wait_for(events.next(), 2)


async def test_streams_are_bounded_and_given_back(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "MAX_STREAMS", 1)
    async with gateway.client.stream("GET", "/dashboard/stream") as response:
        await Events(response).next()
        assert error(await gateway.client.get("/dashboard/stream"))["code"] == "overloaded"
    async with asyncio.timeout(30):
        while True:
            async with gateway.client.stream("GET", "/dashboard/stream") as response:
                if response.status_code == 200:
                    break
            await asyncio.sleep(0.05)


async def test_files_are_kept_by_browsers_and_pages_are_not(locked: Gateway) -> None:
    login = await locked.client.get("/dashboard/login")
    assert login.headers["cache-control"] == "no-store"
    (style,) = re.findall(r'href="([^"]+\.css)"', login.text)
    response = await locked.client.get(style)
    assert response.headers["content-type"] == "text/css; charset=utf-8"
    assert "immutable" in response.headers["cache-control"]
    for wrong in (style.replace("style.css", "page.html"), style.replace("style.css", "..%2fassets.py"), "/x/y"):
        path = wrong if wrong.startswith("/dashboard") else f"/dashboard/static{wrong}"
        assert (await locked.client.get(path)).status_code == 404


async def test_every_answer_of_the_dashboard_has_a_strict_policy(gateway: Gateway) -> None:
    (style,) = re.findall(r'href="([^"]+style\.css)"', (await gateway.client.get("/dashboard")).text)
    for path in ("/dashboard", "/dashboard/login", "/dashboard/overview", style):
        headers = (await gateway.client.get(path)).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-frame-options"] == "DENY"
        assert headers["x-content-type-options"] == "nosniff"


async def test_the_page_can_be_turned_off(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path, dashboard=False) as gateway:
        for path in (*PAGES, *FIGURES, "/dashboard/login"):
            assert (await gateway.client.get(path)).status_code == 404
        assert (await gateway.client.get("/v1/overview")).status_code == 200
