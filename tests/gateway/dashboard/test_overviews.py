"""Do many pages cost no more than one?"""

from __future__ import annotations

import asyncio
import json

import pytest

from gateway.dashboard import overviews
from gateway.dashboard.calculator import UnreachableError
from gateway.dashboard.overviews import Overviews
from gateway.dashboard.worker import Order
from gateway.errors import ApiError
from models.floor import Certified, Floor
from tests.gateway.fakes import Gateway


class Computing:
    """Stands in for the process that computes, and counts what it is asked."""

    def __init__(self, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.count, self.at_once, self.most_at_once = 0, 0, 0
        self.seconds, self.error = seconds, error
        self.orders: list[Order] = []

    async def __call__(self, order: Order) -> str:
        self.count += 1
        self.orders.append(order)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.seconds)
        self.at_once -= 1
        if self.error is not None:
            raise self.error
        return json.dumps({"window": order.window, "since": order.since, "now": order.now})


async def test_ten_pages_at_once_cost_one_overview(gateway: Gateway) -> None:
    computing = Computing(0.05)
    shown = Overviews(gateway.services, computing)
    all_ten = await asyncio.gather(*(shown.get("7d") for _ in range(10)))
    assert computing.count == 1
    assert len({one.computed for one in all_ten}) == 1
    await shown.get("7d")
    assert computing.count == 1


async def test_each_window_has_its_own_and_they_are_computed_one_after_the_other(gateway: Gateway) -> None:
    computing = Computing(0.05)
    shown = Overviews(gateway.services, computing)
    day, week = await asyncio.gather(shown.get("24h"), shown.get("7d"))
    assert (computing.count, computing.most_at_once) == (2, 1)
    for overview, hours in ((day, 24), (week, 168)):
        order = json.loads(overview.body)
        assert order["now"] - order["since"] == pytest.approx(hours * 3600)


async def test_a_page_that_leaves_does_not_cancel_the_others(gateway: Gateway) -> None:
    computing = Computing(0.1)
    shown = Overviews(gateway.services, computing)
    first, second = (asyncio.create_task(shown.get("7d")) for _ in range(2))
    await asyncio.sleep(0.02)
    first.cancel()
    assert json.loads((await second).body)["window"] == "7d"
    assert computing.count == 1


async def test_an_overview_is_renewed_when_it_is_old(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(overviews, "IDLE_TIMES", 0)
    shown = Overviews(gateway.services, Computing())
    first = await shown.get("7d")
    await asyncio.sleep(0.02)
    assert await shown.get("7d") is first, "the old one comes at once, while the next one is computed"
    async with asyncio.timeout(30):
        while (await shown.get("7d")).computed == first.computed:
            await asyncio.sleep(0.01)


async def test_a_very_old_overview_is_not_shown(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REFRESH_SECONDS", "STALE_SECONDS"):
        monkeypatch.setattr(overviews, name, 0.01)
    monkeypatch.setattr(overviews, "IDLE_TIMES", 0)
    shown = Overviews(gateway.services, Computing())
    first = await shown.get("7d")
    await asyncio.sleep(0.05)
    assert (await shown.get("7d")).computed > first.computed


async def test_a_costly_overview_is_renewed_rarely(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "REFRESH_SECONDS", 0.0)
    computing = Computing(0.2)
    shown = Overviews(gateway.services, computing)
    await shown.get("7d")
    await asyncio.sleep(0.3)
    await shown.get("7d")
    await asyncio.sleep(0.01)  # for a task that should not be there
    assert computing.count == 1


async def test_without_redis_the_caller_is_told_and_redis_is_not_asked_again_at_once(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    computing = Computing(error=UnreachableError("ConnectionError: Connection refused"))
    shown = Overviews(gateway.services, computing)
    for _ in range(3):
        with pytest.raises(ApiError) as refused:
            await shown.get("7d")
        assert (refused.value.status, refused.value.code) == (503, "store_unavailable")
    assert computing.count == 1
    assert caplog.text.count("Redis does not answer: ConnectionError: Connection refused") == 1


async def test_a_failure_that_took_long_is_forgotten_soon(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "REFRESH_SECONDS", 0.0)
    monkeypatch.setattr(overviews, "IDLE_TIMES", 10_000)
    computing = Computing(0.05, UnreachableError("TimeoutError: Timeout reading from socket"))
    shown = Overviews(gateway.services, computing)
    with pytest.raises(ApiError):
        await shown.get("7d")
    computing.error = None
    assert json.loads((await shown.get("7d")).body)["window"] == "7d"


async def test_a_bug_is_logged_and_not_kept(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    computing = Computing(error=ZeroDivisionError())
    shown = Overviews(gateway.services, computing)
    with pytest.raises(ZeroDivisionError):
        await shown.get("7d")
    assert "the overview cannot be computed" in caplog.text
    computing.error = None
    assert json.loads((await shown.get("7d")).body)["window"] == "7d"


async def test_closing_ends_what_is_being_computed(gateway: Gateway) -> None:
    shown = Overviews(gateway.services, Computing(60.0))
    waiting = asyncio.create_task(shown.get("7d"))
    await asyncio.sleep(0.02)
    await shown.aclose()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_under_a_quality_floor_the_tolerance_in_use_is_the_certified_one(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    computing = Computing()
    certified = Certified(tolerance=0.03, kept=0.995, low=0.99, tokens=0.5)
    some = Floor(floor=0.99, confidence=0.95, prompts=500, alone=certified, escalating=None, needed=None)
    none = some.model_copy(update={"alone": None})
    for floor in (None, some, none):
        monkeypatch.setattr(type(gateway.services), "floor", floor)
        await Overviews(gateway.services, computing).get("7d")
    set_ = gateway.services.settings.quality_tolerance
    assert [order.setting.quality_tolerance for order in computing.orders] == [set_, 0.03, None]
