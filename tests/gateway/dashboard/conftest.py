from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright
from redis.asyncio import Redis

from gateway import store
from gateway.access import keys
from gateway.access.keys import Grant
from gateway.access.limits import Limiter
from gateway.config import shipped_family
from models import family as families
from scripts import browser as browsers
from tests.conftest import RedisServer
from tests.gateway.dashboard.books import fill, week
from tests.gateway.fakes import FakeEngine, Gateway, running

KEYS = (
    Grant(name="operator", admin=True),
    Grant(name="team-chat", requests_per_minute=60),
    Grant(name="team-search", reasoning_tokens_per_minute=20_000, reasoning_tokens_per_day=500_000),
)
PHONE, SCREEN = (390, 844), (1440, 900)


@dataclass
class Shown:
    """A gateway with a week behind it, and a browser that looks at it."""

    gateway: Gateway
    browser: Browser
    secret: str
    """The operator's key."""
    complaints: list[str] = field(default_factory=list)
    """What the browser's console said, and requests to other hosts."""

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}

    async def overview(self, window: str = "7d") -> Any:
        """The overview by the API, as it is now."""
        response = await self.gateway.client.get(f"/v1/overview?since={window}", headers=self.headers)
        assert response.status_code == 200
        return response.json()

    async def blank(self, size: tuple[int, int] = SCREEN, scheme: Any = "light", **more: Any) -> Page:
        """A new browser that has no session."""
        width, height = size
        look: Any = {"viewport": {"width": width, "height": height}, "color_scheme": scheme, "reduced_motion": "reduce"}
        context = await self.browser.new_context(locale="en-US", **look, **more)
        page = await context.new_page()
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self._note("error", str(error)))
        page.on("request", lambda request: self._see(request.url))
        return page

    async def open(self, size: tuple[int, int] = SCREEN, scheme: Any = "light", **more: Any) -> Page:
        """The dashboard, logged in, with its first figures."""
        page = await self.blank(size, scheme, **more)
        await page.goto(f"{self.gateway.url}/dashboard")
        await page.get_by_label("An admin's key").fill(self.secret)
        await page.get_by_role("button", name="Log in").click()
        await page.wait_for_selector('html[data-ready="7d"]')
        return page

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _see(self, url: str) -> None:
        if not url.startswith(f"{self.gateway.url}/dashboard"):
            self.complaints.append(f"a request to {url}")


@pytest.fixture(scope="session")
def chromium() -> str | None:
    """The executable of a Chromium that starts; None is Playwright's own."""
    found = browsers.find()
    if found is None:
        pytest.fail(browsers.ADVICE)
    return found[0]


@pytest.fixture(scope="module")
def written_week(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis for the tests of one module, without anything in it yet."""
    server = RedisServer(tmp_path_factory.mktemp("week"))
    server.start()
    yield server
    server.close()


async def write_week(server: RedisServer, state_dir: Path) -> None:
    """Fill the Redis once: a week of requests, some scores, three keys, one of which has used some of its limits."""
    redis = store.connect(server.url)
    if not await keys.version(redis):
        await fill(server, state_dir, week(families.load(shipped_family(), verify=False), time.time() - 60))
        for grant in KEYS:
            await keys.create(redis, grant)
        await _use(server, state_dir, (await keys.load(redis)).keys[-1])
    await redis.aclose()


async def _use(server: RedisServer, state_dir: Path, key: keys.Key) -> None:
    limiter = Limiter(server.url, state_dir)
    await limiter.start()
    reservation, _ = await limiter.reserve(key, "req_1", 9_000)
    limiter.settle(reservation, 8_000)
    await limiter.aclose()


async def new_admin(redis: Redis) -> str:
    """The secret of the operator's key, made anew."""
    await keys.revoke(redis, "operator")
    secret, _ = await keys.create(redis, KEYS[0])
    return secret


@pytest.fixture
async def shown(written_week: RedisServer, chromium: str | None, tmp_path: Path) -> AsyncIterator[Shown]:
    """The gateway and the browser. Whatever the console says is a failure, and so is a request to another host."""
    await write_week(written_week, tmp_path)
    family = families.load(shipped_family(), verify=False)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(FakeEngine(family).listening())
        engines = [engine.url, "http://127.0.0.1:9"]
        gateway = await stack.enter_async_context(
            running(shipped_family(), written_week.url, engines, state_dir=tmp_path, quality_tolerance=0.02)
        )
        secret = await new_admin(gateway.keyring.redis)
        await gateway.keyring.refresh()
        browser = await stack.enter_async_context(_launched(chromium))
        shown = Shown(gateway, browser, secret)
        yield shown
    assert shown.complaints == []


@asynccontextmanager
async def _launched(executable: str | None) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=executable, args=browsers.ARGUMENTS, env=browsers.environment(executable)
        )
        try:
            yield browser
        finally:
            await browser.close()
