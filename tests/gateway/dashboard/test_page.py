"""Does a real browser show what the API says, to everybody, and nothing that it must not?

The pictures in docs/ are made by one of the tests, if LACONIC_SCREENSHOTS names their directory (`make screenshots`).
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from axe_playwright_python.async_playwright import Axe
from PIL import Image
from playwright.async_api import Page

from gateway.access import keys
from gateway.access.keys import Grant
from gateway.dashboard import endpoints, overviews
from gateway.dashboard.calculator import Calculator
from tests.conftest import RedisServer
from tests.gateway.dashboard.books import HOSTILE, fill_with_markup
from tests.gateway.dashboard.conftest import PHONE, SCREEN, Shown
from tests.gateway.dashboard.numbers import DASH, FIGURES, OTHER_DIGITS, at, text
from tests.gateway.fakes import EASY

WINDOWS = {"24h": "day", "7d": "week", "30d": "month", "90d": "quarter"}


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that stay as they are while a test compares them."""
    monkeypatch.setattr(overviews, "REFRESH_SECONDS", 600.0)


def live(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures that are computed again and again."""
    for module in (overviews, endpoints):
        monkeypatch.setattr(module, "REFRESH_SECONDS", 0.1)
    monkeypatch.setattr(overviews, "IDLE_TIMES", 0)


async def wrong_figures(page: Page, overview: Any) -> list[tuple[str, str, str]]:
    """The figures on the page that are not the overview's: their place, what is shown, and what should be."""
    shown = await page.evaluate(FIGURES)
    assert len(shown) > 300
    return [(path, said, text(at(overview, path), form)) for path, form, said in shown if "*" not in path
            and said != text(at(overview, path), form)]  # fmt: skip


async def test_every_number_on_the_page_is_the_apis(shown: Shown) -> None:
    page = await shown.open()
    for window, label in WINDOWS.items():
        await page.get_by_text(label, exact=True).click()
        await page.wait_for_selector(f'html[data-ready="{window}"]')
        overview = await shown.overview(window)
        assert await wrong_figures(page, overview) == []
    assert overview["savings"]["total"]["requests"] == 4_000
    assert overview["savings"]["total"]["measured"] is not None
    assert overview["quality"]["source"] == "thumbs"


async def test_there_is_no_number_that_is_not_a_figure(shown: Shown) -> None:
    page = await shown.open()
    overview = await shown.overview()
    names = {*overview["savings"]["groups"], *overview["quality"]["sources"]}
    names |= {f"sent to {name}" for one in overview["what_if"]["tolerances"] for name in one["choices"]}
    said = await page.evaluate(OTHER_DIGITS)
    assert [one for one in said if one not in names and "95\u00a0% interval" not in one] == []


async def test_the_headline_has_the_figures_of_v1_savings(shown: Shown) -> None:
    page = await shown.open()
    response = await shown.gateway.client.get("/v1/savings?since=7d", headers=shown.headers)
    total = response.json()["total"]
    cards = await page.locator(".cards").inner_text()
    for figure, form in ((total["measured"]["saved_tokens"], "count"), (total["measured"]["low"], "count"),
                         (total["saved_share"], "share"), (total["requests"], "count")):  # fmt: skip
        assert text(figure, form) in cards
    assert "not measured yet" not in cards
    assert not await page.get_by_text("Saved money").is_visible()


async def test_money_is_shown_where_the_api_has_it(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Calculator._ask

    async def with_money(calculator: Calculator, line: bytes) -> bytes:
        overview = json.loads(await ask(calculator, line))
        for point in overview["over_time"]:
            point["money"] = {"saved": point["saved_tokens"] * 2e-4}
        total = {"saved": 12_345.678, "measured": {"saved": 0.0123, "low": -0.5, "high": 1_234_567.8}}
        return json.dumps({**overview, "money": {"currency": "EUR", "total": total}}).encode()

    monkeypatch.setattr(Calculator, "_ask", with_money)
    page = await shown.open()
    overview = await shown.overview()
    assert await page.get_by_text("Saved money").is_visible()
    cards = await page.locator(".cards").inner_text()
    for figure in ("12,345.68 EUR", "measured 0.0123", "-0.5000", "1,234,567.80"):
        assert figure in cards
    assert await wrong_figures(page, overview) == []
    await page.get_by_text("Saved over time as a table").click()
    assert text(overview["over_time"][-1]["money"]["saved"], "money") in await page.locator("#t-time").inner_text()


async def test_a_key_with_limits_in_money_or_of_requests_at_once_does_not_look_unlimited(shown: Shown) -> None:
    redis = shown.gateway.keyring.redis
    await keys.create(redis, Grant(name="team-dear", money_per_day=Decimal("1200.5"), max_concurrency=3))
    await keys.create(redis, Grant(name="team-free"))
    await shown.gateway.keyring.refresh()
    try:
        page = await shown.open()
        dear, free = (page.locator("#t-keys tbody tr", has_text=name) for name in ("team-dear", "team-free"))
        said = [text.strip() for text in await dear.locator(".limit").all_inner_texts()]
        assert said == ["0.00 of 1,200.50 in money a day", "at most 3 at once"]
        assert (await free.inner_text()).endswith(DASH)
        assert await wrong_figures(page, await shown.overview()) == []
    finally:
        for name in ("team-dear", "team-free"):
            await keys.revoke(redis, name)


async def test_what_if_follows_the_slider(shown: Shown) -> None:
    page = await shown.open()
    what_if = (await shown.overview())["what_if"]
    place = [one["tolerance"] for one in what_if["tolerances"]].index(0.02)
    output = page.locator("output[for=tolerance]")
    assert await output.inner_text() == "0.02"
    await page.locator("#tolerance").focus()
    for _ in range(2):
        await page.keyboard.press("ArrowRight")
    tried = what_if["tolerances"][place + 2]
    assert await output.inner_text() == str(tried["tolerance"]) == "0.05"
    assert await page.locator("#tolerance").get_attribute("aria-valuetext") == "0.05"
    rows = await page.locator("#t-whatif tbody tr").all_inner_texts()
    assert rows[0].split("\t")[1:] == [text(what_if["recorded"]["tokens"], "count"), text(tried["tokens"], "count")]
    assert await wrong_figures(page, await shown.overview()) == []


async def chat(shown: Shown) -> None:
    """A request of the operator."""
    question = {"model": "abacus", "messages": [{"role": "user", "content": EASY}]}
    response = await shown.gateway.client.post("/v1/chat/completions", json=question, headers=shown.headers)
    assert response.status_code == 200


async def other_than(before: str, page: Page) -> str:
    """The first decision on the page, as soon as it is another one."""
    async with asyncio.timeout(60):
        while (now := await page.locator("#t-decisions tbody tr").first.inner_text()) == before:
            await asyncio.sleep(0.05)
    return now


async def test_the_page_follows_the_gateway(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    live(monkeypatch)
    page = await shown.open()
    before = await page.locator("#t-decisions tbody tr").first.inner_text()
    await chat(shown)
    now = await other_than(before, page)
    assert "operator" in now
    newest = (await shown.overview())["decisions"][0]
    assert (newest["key"], newest["reason"]) == ("operator", now.split("\t")[-1])


async def test_a_hidden_page_rests(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    live(monkeypatch)
    page = await shown.open()
    turn = """(hidden) => {
        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    await page.evaluate(turn, arg=True)
    before = await page.locator("#t-decisions tbody tr").first.inner_text()
    await chat(shown)
    async with asyncio.timeout(60):
        while (await shown.overview())["decisions"][0]["key"] != "operator":
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    assert await page.locator("#t-decisions tbody tr").first.inner_text() == before
    await page.evaluate(turn, arg=False)
    assert "operator" in await other_than(before, page)


async def test_logging_in_and_out(shown: Shown) -> None:
    page = await shown.blank()
    await page.goto(f"{shown.gateway.url}/dashboard")
    await page.get_by_label("An admin's key").fill("sk-laconic-wrong")
    await page.keyboard.press("Enter")
    assert await page.get_by_role("alert").inner_text() == "This key is not valid."
    assert shown.complaints.pop().startswith("Failed to load resource: the server responded with a status of 401")
    await page.get_by_label("An admin's key").fill(shown.secret)
    await page.keyboard.press("Enter")
    await page.wait_for_selector("html[data-ready]")
    assert await page.evaluate("document.cookie") == ""
    (cookie,) = await page.context.cookies()
    assert [cookie.get(name) for name in ("httpOnly", "sameSite", "path")] == [True, "Strict", "/dashboard"]
    await page.get_by_role("button", name="Log out").click()
    await page.wait_for_url("**/dashboard/login")
    await page.goto(f"{shown.gateway.url}/dashboard")
    assert page.url.endswith("/dashboard/login")


@pytest.mark.parametrize("size", [SCREEN, PHONE], ids=["screen", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everybody_can_read_it(shown: Shown, size: tuple[int, int], scheme: str) -> None:
    """By axe-core: contrast, names, headings, tables. The policy of scripts would keep axe itself away."""
    page = await shown.open(size, scheme, bypass_csp=True)
    await page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    login = await shown.blank(size, scheme, bypass_csp=True)
    await login.goto(f"{shown.gateway.url}/dashboard/login")
    found = await Axe().run(login)
    assert found.violations_count == 0, found.generate_report()


async def test_a_keyboard_reaches_everything(shown: Shown) -> None:
    page = await shown.open()
    await page.evaluate("document.activeElement.blur()")
    reached: list[str] = []
    for _ in range(60):
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate(
            "(() => { const one = document.activeElement;"
            " return one.id || one.name || one.getAttribute('aria-label') || one.textContent; })()"
        ))  # fmt: skip
        if reached[-1] == "Latest decisions":
            break
    assert reached[0] == "Skip to the figures"
    for name in ("since", "Log out", "tolerance", "Saved over time as a table", "Latest decisions"):
        assert name in reached
    assert not await page.locator("#t-time").is_visible()
    await page.locator("summary").focus()
    await page.keyboard.press("Enter")
    assert await page.locator("#t-time").is_visible()


async def test_every_chart_is_drawn_and_has_its_table(shown: Shown) -> None:
    page = await shown.open()
    charts = await page.evaluate(
        """() => [...document.querySelectorAll(".chart")].map((chart) => {
            const canvas = chart.querySelector("canvas"), pixels = canvas.getContext("2d")
                .getImageData(0, 0, canvas.width, canvas.height).data;
            return [chart.id, pixels.some((value) => value), chart.querySelector(".uplot").ariaHidden,
                    chart.closest("section").querySelectorAll("tbody tr").length > 0];
        })"""
    )
    names = ["c-time", "c-quality", "c-frontier", "c-difficulty"]
    assert charts == [[name, True, "true", True] for name in names]


async def test_without_the_chart_library_there_are_tables(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    page = await shown.open()
    await page.route("**/uplot.js", lambda route: route.fulfill(body="", content_type="text/javascript"))
    await page.reload()
    await page.wait_for_selector("html[data-ready]")
    assert "charts cannot be drawn" in await page.locator("#status").inner_text()
    assert await wrong_figures(page, await shown.overview()) == []


async def test_a_phone_need_not_be_moved_sideways(shown: Shown) -> None:
    page = await shown.open(PHONE)
    wide = await page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0


async def test_an_empty_ledger_is_no_error(shown: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "HOURS", dict.fromkeys(WINDOWS, -2))
    page = await shown.open()
    assert "not measured yet" in await page.locator(".cards").inner_text()
    assert await page.get_by_text("No answer has been scored in this time.").is_visible()
    assert await page.locator(".chart canvas").count() == 0


async def test_the_pictures_of_the_documentation(shown: Shown, tmp_path: Path) -> None:
    directory = Path(os.environ.get("LACONIC_SCREENSHOTS") or tmp_path)
    for name, size in (("screen", SCREEN), ("phone", PHONE)):
        for scheme in ("light", "dark"):
            page = await shown.open(size, scheme)
            await page.evaluate("document.fonts.ready")
            picture = Image.open(io.BytesIO(await page.screenshot(full_page=True))).convert("RGB")
            assert picture.width == size[0]
            is_dark = sum(cast("tuple[int, ...]", picture.getpixel((2, 2)))) < 3 * 128
            assert is_dark == (scheme == "dark")
            file = directory / f"dashboard-{name}-{scheme}.png"
            picture.quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)
            assert file.stat().st_size < 200_000


async def test_what_others_say_is_never_markup(shown: Shown, written_week: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "markup").mkdir()
    await fill_with_markup(written_week, tmp_path / "markup", time.time())
    page = await shown.open()
    assert await page.evaluate("window.broken") is None
    assert await page.locator("img").count() == 0
    assert await page.get_by_text(HOSTILE, exact=True).count() == 3  # a key, twice, and a source of scores
    assert await wrong_figures(page, await shown.overview()) == []
