"""Does a loop that stands still show, and where it did?"""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from gateway.observe.lag import LOOK_SECONDS, PERIOD_SECONDS, STALL_SECONDS, LoopLag

SECONDS = 3 * (LOOK_SECONDS + PERIOD_SECONDS + STALL_SECONDS)


def stand_still() -> None:
    time.sleep(SECONDS)  # what a coroutine must not do


@pytest.fixture
async def lags() -> list[float]:
    return []


async def test_a_stall_is_measured_as_long_as_it_was(lags: list[float]) -> None:
    lag = LoopLag(lags.append)
    lag.start()
    stand_still()
    await asyncio.sleep(PERIOD_SECONDS)
    lag.stop()
    assert max(lags) > SECONDS - 2 * PERIOD_SECONDS


async def test_a_loop_that_runs_is_measured_all_the_time(lags: list[float]) -> None:
    lag = LoopLag(lags.append)
    lag.start()
    await asyncio.sleep(5 * PERIOD_SECONDS)
    lag.stop()
    measured = len(lags)
    assert measured >= 2
    assert min(lags) >= 0
    await asyncio.sleep(2 * PERIOD_SECONDS)
    assert len(lags) == measured, "it has stopped"


async def test_the_log_says_once_in_which_code_the_loop_stood_still(
    lags: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    lag = LoopLag(lags.append)
    lag.start()
    with caplog.at_level(logging.WARNING, "laconic"):
        for _ in range(2):
            stand_still()
            await asyncio.sleep(PERIOD_SECONDS)
    lag.stop()
    messages = [record.getMessage() for record in caplog.records if "event loop" in record.getMessage()]
    assert len(messages) == 1
    assert f"it is in stand_still ({__file__}:" in messages[0]
