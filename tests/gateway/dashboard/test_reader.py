"""Is what an overview reads of Redis bounded, and is it of the window?"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from gateway import store
from gateway.dashboard import reader
from gateway.ledger.ledger import STREAM
from gateway.ledger.savings import Totals, cell_of, complete_from
from tests.conftest import RedisServer
from tests.gateway.arrivals import let_a_holdout_arrive_once_holdouts_are_read
from tests.gateway.dashboard.books import fill
from tests.gateway.entries import entry

NOW = round(time.time()) - 100.0


async def test_the_latest_entries_of_the_window_are_read(redis_server: RedisServer, tmp_path: Path) -> None:
    entries = [entry(time=NOW + number) for number in range(6)]
    await fill(redis_server, tmp_path, entries, scored=0)
    redis = store.connect(redis_server.url)
    assert await reader.read_latest(redis, NOW, most=4) == entries[:1:-1]
    await redis.xadd(STREAM, {"entry": '{"torn'})
    assert await reader.read_latest(redis, NOW + 4) == [entries[5], entries[4]]
    await redis.aclose()


async def test_a_reading_has_all_that_is_shown(redis_server: RedisServer, tmp_path: Path) -> None:
    entries = [entry(time=NOW, decision="holdout", checkpoint="base"), entry(time=NOW)]
    await fill(redis_server, tmp_path, entries)
    reading = await reader.read(redis_server.url, NOW - 3600, ["team-a"])
    assert reading.entries == entries[::-1]
    assert reading.snapshot.holdouts == entries[:1]
    assert sum(totals.requests for _, totals in reading.snapshot.cells) == 2
    assert reading.usage["team-a"].requests == 0
    assert len(reading.scores) > 0


async def test_a_holdout_that_arrives_while_the_ledger_is_read_is_not_missing(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(redis_server, tmp_path, [entry(time=NOW, decision="holdout", checkpoint="base")])
    let_a_holdout_arrive_once_holdouts_are_read(monkeypatch, redis_server, tmp_path)
    reading = await reader.read(redis_server.url, NOW - 3600, [], priced=True)
    counted = [(line.cell, Totals(holdout=used.requests)) for line, used in reading.lines if line.outcome == "holdout"]
    assert len(counted) > 0
    assert complete_from(counted, [cell_of(one) for one in reading.snapshot.holdouts]) == 0


async def test_without_redis_a_reading_fails_as_redis_does(mortal_redis: RedisServer) -> None:
    with pytest.raises((RedisError, OSError)):
        await reader.read(mortal_redis.url, NOW, [])
