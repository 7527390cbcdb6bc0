"""Does the process that computes overviews live as long as it is needed, and no longer than the gateway?"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.access.cost import Price
from gateway.access.prices import PriceList
from gateway.dashboard import calculator, worker
from gateway.dashboard.calculator import Calculator, UnreachableError
from gateway.dashboard.figures import Setting
from gateway.dashboard.worker import ORDER, Order
from models.family import Family
from tests.conftest import RedisServer
from tests.gateway.dashboard.books import fill
from tests.gateway.entries import entry
from tests.gateway.fakes import until

SECRET = "rosebud"


@pytest.fixture
async def computing() -> AsyncIterator[Calculator]:
    made = Calculator()
    yield made
    await made.aclose()


def order(family: Family, redis_url: str) -> Order:
    now = time.time()
    return Order(redis_url, "24h", now - 86_400, now, Setting(family, (), 0.02, None, 0.1, {"engines": []}))


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "gateway.dashboard.worker" in one.cmdline()]


async def test_the_process_computes_what_its_modules_compute(
    computing: Calculator, family: Family, redis_server: RedisServer, tmp_path: Path
) -> None:
    await fill(redis_server, tmp_path, [entry(time=time.time()) for _ in range(3)])
    some = order(family, redis_server.url)
    line = await computing.compute(some)
    shown: dict[str, Any] = json.loads(line)
    assert (shown["savings"]["total"]["requests"], shown["window"], shown["computed"]) == (3, "24h", some.now)
    assert line.encode() == await asyncio.to_thread(worker.answer, ORDER.dump_json(some))


async def test_prices_reach_the_process(
    computing: Calculator, family: Family, redis_server: RedisServer, tmp_path: Path
) -> None:
    spent = entry(
        time=time.time(), checkpoint="base", prompt_tokens=10, cached_tokens=0, reasoning_tokens=5, answer_tokens=2
    )
    await fill(redis_server, tmp_path, [spent])
    some = order(family, redis_server.url)
    prices = PriceList("EUR", {one.name: Price(10**9, 0, 3 * 10**9, 2 * 10**9) for one in family.checkpoints})
    shown = json.loads(await computing.compute(replace(some, setting=replace(some.setting, prices=prices))))
    assert shown["money"]["currency"] == "EUR"
    assert shown["money"]["total"]["total"] == pytest.approx((10 * 1 + 5 * 3 + 2 * 2) / 1000)


async def test_one_process_answers_all_orders(computing: Calculator, family: Family, redis_server: RedisServer) -> None:
    await computing.compute(order(family, redis_server.url))
    (first,) = children()
    await computing.compute(order(family, redis_server.url))
    assert children() == [first]
    assert first.nice() == min(psutil.Process().nice() + worker.NICE, 19)


async def test_it_has_no_secret_among_its_arguments(computing: Calculator, family: Family) -> None:
    with pytest.raises(UnreachableError, match=r"ConnectionError: .*connecting to 127.0.0.1:9"):
        await computing.compute(order(family, f"redis://:{SECRET}@127.0.0.1:9/0"))
    (child,) = children()
    assert SECRET not in " ".join(child.cmdline())
    assert SECRET not in str(child.environ())


async def test_it_ends_when_nobody_has_looked_for_a_while(
    computing: Calculator, family: Family, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calculator, "IDLE_SECONDS", 0.05)
    await computing.compute(order(family, redis_server.url))
    await until(lambda: not children())
    assert json.loads(await computing.compute(order(family, redis_server.url)))["window"] == "24h"


async def test_a_killed_process_is_told_of_and_replaced(
    computing: Calculator, family: Family, redis_server: RedisServer
) -> None:
    await computing.compute(order(family, redis_server.url))
    (child,) = children()
    child.suspend()
    waiting = asyncio.create_task(computing.compute(order(family, redis_server.url)))
    await asyncio.sleep(0.05)
    child.kill()
    with pytest.raises(RuntimeError, match="has ended"):
        await waiting
    assert json.loads(await computing.compute(order(family, redis_server.url)))["window"] == "24h"


async def test_a_cancelled_order_is_never_the_answer_to_the_next(
    computing: Calculator, family: Family, redis_server: RedisServer
) -> None:
    some = order(family, redis_server.url)
    waiting = asyncio.create_task(computing.compute(some))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not children()
    later = order(family, redis_server.url)
    assert json.loads(await computing.compute(later))["computed"] == later.now != some.now


def test_it_ends_with_a_gateway_that_is_killed() -> None:
    program = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-m', 'gateway.dashboard.worker'], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    gone, _ = psutil.wait_procs([child], timeout=60)
    assert gone == [child]
