from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given

from gateway import ledger
from gateway.ledger import Entry, Ledger
from tests.conftest import RedisServer
from tests.gateway.entries import entries, entry


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what is bound to happen; the suite's own time limit ends a wait for what does not."""
    while not condition():
        await asyncio.sleep(0.01)


async def stored(server: RedisServer, since: float = 0.0) -> list[Entry]:
    redis = ledger.connect(server.url)
    try:
        return await ledger.read(redis, since)
    finally:
        await redis.aclose()


async def test_an_entry_comes_back_as_it_was_put(redis_server: RedisServer, tmp_path: Path) -> None:
    bare = entry(alpha=None, budget=None, difficulty=None, predicted_tokens=None, first_token_seconds=None, key="")
    full = entry(budget=5, key="a-key", error="broke “off”", status=502)
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    assert book.healthy
    book.put(bare)
    book.put(full)
    await book.aclose()
    assert await stored(redis_server) == [bare, full]


@given(entries())
def test_the_stream_form_loses_nothing(any_entry: Entry) -> None:
    flat = ledger._flat(any_entry)
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert flat[0] == "id"
    assert ledger._parse({k: v if v or k in ledger._TEXT else None for k, v in fields.items()}) == any_entry


@given(entries())
def test_the_spool_form_loses_nothing(any_entry: Entry) -> None:
    assert ledger._parse(json.dumps(asdict(any_entry)).encode()) == any_entry


async def test_the_same_id_is_written_once(redis_server: RedisServer, tmp_path: Path) -> None:
    twice = entry()
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    book.put(twice)
    book.put(twice)
    await book.aclose()
    assert await stored(redis_server) == [twice]


async def test_reading_since_leaves_earlier_requests_out(redis_server: RedisServer, tmp_path: Path) -> None:
    sample = [entry(time=float(second)) for second in range(100, 110)]
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    for one in sample:
        book.put(one)
    await book.aclose()
    assert await stored(redis_server, since=107.0) == sample[7:]


async def test_more_entries_than_one_page_are_all_read(redis_server: RedisServer, tmp_path: Path) -> None:
    sample = [entry() for _ in range(2500)]
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    for one in sample:
        book.put(one)
    await book.aclose()
    assert await stored(redis_server) == sample


async def test_without_redis_entries_wait_in_the_spool_of_the_next_process(
    mortal_redis: RedisServer, tmp_path: Path
) -> None:
    sample = [entry() for _ in range(5)]
    first = Ledger(mortal_redis.url, tmp_path)
    await first.start()
    assert not first.healthy
    for one in sample:
        first.put(one)
    await first.aclose()
    assert first.spooled == 5

    mortal_redis.start()
    second = Ledger(mortal_redis.url, tmp_path)
    await second.start()
    assert second.healthy
    assert second.spooled == 0
    await second.aclose()
    assert await stored(mortal_redis) == sample
    assert not (tmp_path / ledger.SPOOL).exists()


async def test_killing_redis_midway_loses_nothing_and_counts_nothing_twice(
    mortal_redis: RedisServer, tmp_path: Path
) -> None:
    sample = [entry() for _ in range(900)]
    mortal_redis.start()
    book = Ledger(mortal_redis.url, tmp_path)
    await book.start()
    for number, one in enumerate(sample):
        book.put(one)
        await asyncio.sleep(0)
        if number == 300:
            mortal_redis.kill()
    await until(lambda: not book.healthy)
    book.put(last := entry())
    await until(lambda: book.spooled > 0)
    mortal_redis.start()
    await until(lambda: book.healthy and book.spooled == 0)
    await book.aclose()
    ids = [one.id for one in await stored(mortal_redis)]
    assert sorted(ids) == sorted(one.id for one in [*sample, last])


async def test_an_entry_whose_acknowledgement_was_lost_is_not_counted_twice(
    mortal_redis: RedisServer, tmp_path: Path
) -> None:
    """Redis has it and the writer does not know: it is in the spool as well, and replayed."""
    mortal_redis.start()
    known = entry()
    book = Ledger(mortal_redis.url, tmp_path)
    await book.start()
    book.put(known)
    await book.aclose()
    (tmp_path / ledger.SPOOL).write_text(json.dumps(asdict(known)) + "\n" + json.dumps(asdict(entry())) + "\n")
    again = Ledger(mortal_redis.url, tmp_path)
    await again.start()
    await again.aclose()
    assert len(await stored(mortal_redis)) == 2


async def test_a_torn_line_costs_no_other_entry(redis_server: RedisServer, tmp_path: Path) -> None:
    whole, later = entry(), entry()
    (tmp_path / ledger.SPOOL).write_text(json.dumps(asdict(whole)) + "\n" + '{"id": "torn", "ti')
    no_redis = Ledger("redis://127.0.0.1:1/0", tmp_path)
    await no_redis.start()
    no_redis.put(later)
    await no_redis.aclose()
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    await book.aclose()
    assert await stored(redis_server) == [whole, later]


async def test_a_full_queue_spills_into_the_spool(redis_server: RedisServer, tmp_path: Path) -> None:
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    for _ in range(ledger.CAPACITY + 10):  # the writer gets no turn in between
        book.put(entry())
    assert book.spooled == 10
    await book.aclose()
    assert len(await stored(redis_server)) == ledger.CAPACITY + 10


async def test_a_spool_that_cannot_be_written_fails_no_request_and_says_what_is_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ledger.SPOOL).mkdir()
    book = Ledger("redis://127.0.0.1:1/0", tmp_path)
    book._to_spool([entry(), entry()])
    assert "up to 2 ledger entries are lost" in caplog.text
    assert book.spooled == 0
