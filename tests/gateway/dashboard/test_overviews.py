"""Do many pages cost no more than one, and does no request wait for them?"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from typing import Any

import pytest

from gateway.dashboard import overviews, reader
from gateway.dashboard.figures import Reading
from gateway.dashboard.overviews import Overviews
from gateway.errors import ApiError
from tests.gateway.fakes import Gateway


class Readings:
    """Counts the readings of the ledger, and in which threads they are made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0, error: Exception | None = None) -> None:
        self.count = 0
        self.threads: set[int] = set()
        self.error = error
        self._seconds, self._read = seconds, reader.read
        monkeypatch.setattr(reader, "read", self)

    def __call__(self, *arguments: Any) -> Reading:
        self.count += 1
        self.threads.add(threading.get_ident())
        time.sleep(self._seconds)
        if self.error is not None:
            raise self.error
        return self._read(*arguments)


async def test_ten_pages_at_once_cost_one_reading(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    readings, shown = Readings(monkeypatch, 0.05), Overviews(gateway.services)
    all_ten = await asyncio.gather(*(shown.get("7d") for _ in range(10)))
    assert readings.count == 1
    assert len({one.computed for one in all_ten}) == 1
    await shown.get("7d")
    assert readings.count == 1
    await shown.get("24h")
    assert readings.count == 2
    assert threading.get_ident() not in readings.threads


async def test_the_event_loop_goes_on_meanwhile(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    Readings(monkeypatch, 0.5)
    shown = Overviews(gateway.services)
    computing = asyncio.create_task(shown.get("7d"))
    turns = 0
    while not computing.done():
        await asyncio.sleep(0.005)
        turns += 1
    assert turns > 20


async def test_a_page_that_leaves_does_not_cancel_the_others(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    readings, shown = Readings(monkeypatch, 0.1), Overviews(gateway.services)
    first, second = (asyncio.create_task(shown.get("7d")) for _ in range(2))
    await asyncio.sleep(0.02)
    first.cancel()
    assert json.loads((await second).body)["window"] == "7d"
    assert readings.count == 1


async def test_an_overview_is_renewed_when_it_is_old(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "REFRESH_SECONDS", 0.01)
    monkeypatch.setattr(overviews, "IDLE_TIMES", 0)
    shown = Overviews(gateway.services)
    first = await shown.get("7d")
    await asyncio.sleep(0.02)
    assert await shown.get("7d") is first, "the old one comes at once, while the next one is computed"
    async with asyncio.timeout(30):
        while (await shown.get("7d")).computed == first.computed:
            await asyncio.sleep(0.01)


async def test_a_costly_overview_is_renewed_rarely(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overviews, "REFRESH_SECONDS", 0.0)
    readings, shown = Readings(monkeypatch, 0.2), Overviews(gateway.services)
    await shown.get("7d")
    await asyncio.sleep(0.3)
    await shown.get("7d")
    assert readings.count == 1


async def test_without_redis_the_caller_is_told_and_redis_is_not_asked_again_at_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings, shown = Readings(monkeypatch, error=ConnectionError("gone")), Overviews(gateway.services)
    for _ in range(3):
        with pytest.raises(ApiError) as refused:
            await shown.get("7d")
        assert (refused.value.status, refused.value.code) == (503, "store_unavailable")
    assert readings.count == 1


async def test_a_bug_is_logged_and_not_kept(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    readings, shown = Readings(monkeypatch, error=ZeroDivisionError()), Overviews(gateway.services)
    with pytest.raises(ZeroDivisionError):
        await shown.get("7d")
    assert "the overview cannot be computed" in caplog.text
    readings.error = None
    assert json.loads((await shown.get("7d")).body)["window"] == "7d"
