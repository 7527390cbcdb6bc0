from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway import store
from gateway.ledger import ledger
from gateway.ledger.entry import Entry, dump, parse
from gateway.ledger.ledger import Ledger, LedgerSnapshot
from gateway.ledger.savings import added, cell_of, compute_savings, totals_of
from tests.conftest import RedisServer
from tests.gateway.entries import entries, entry
from tests.gateway.fakes import until


async def stored(server: RedisServer, since: float = 0.0) -> list[Entry]:
    redis = store.connect(server.url)
    try:
        return [one async for one in ledger.read_entries(redis, since)]
    finally:
        await redis.aclose()


async def books_of(server: RedisServer, since: float = 0.0) -> LedgerSnapshot:
    redis = store.connect(server.url)
    try:
        return await ledger.read_snapshot(redis, since)
    finally:
        await redis.aclose()


async def wiped(server: RedisServer) -> None:
    redis = store.connect(server.url)
    await redis.flushall()
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
def test_a_line_loses_nothing(any_entry: Entry) -> None:
    line = dump(any_entry)
    assert "\n" not in line
    assert parse(line) == parse(line.encode()) == any_entry


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
    assert first.pending == 5

    mortal_redis.start()
    second = Ledger(mortal_redis.url, tmp_path)
    await second.start()
    assert second.healthy
    await until(lambda: second.pending == 0)
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
    await until(lambda: book.pending > 0)
    mortal_redis.start()
    await until(lambda: book.healthy and book.pending == 0)
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
    (tmp_path / ledger.SPOOL).write_text(dump(known) + "\n" + dump(entry()) + "\n")
    again = Ledger(mortal_redis.url, tmp_path)
    await again.start()
    await again.aclose()
    assert len(await stored(mortal_redis)) == 2


async def test_a_torn_line_costs_no_other_entry(redis_server: RedisServer, tmp_path: Path) -> None:
    whole, later = entry(), entry()
    (tmp_path / ledger.SPOOL).write_text(dump(whole) + "\n" + '{"id": "torn", "ti')
    no_redis = Ledger("redis://127.0.0.1:1/0", tmp_path)
    await no_redis.start()
    no_redis.put(later)
    await no_redis.aclose()
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    await book.aclose()
    assert await stored(redis_server) == [whole, later]


async def test_what_was_put_survives_a_kill_before_anything_was_sent(redis_server: RedisServer, tmp_path: Path) -> None:
    killed = Ledger(redis_server.url, tmp_path)
    await killed.start()
    sample = [entry() for _ in range(3)]
    for one in sample:
        killed.put(one)  # the writer gets no turn, and never will
    if killed._writer is not None:
        killed._writer.cancel()
    await killed._redis.aclose()
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    await book.aclose()
    assert await stored(redis_server) == sample


async def test_without_a_spool_entries_go_to_redis_all_the_same(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / ledger.SPOOL).mkdir()
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    assert "spool cannot be used" in caplog.text
    sample = [entry(), entry()]
    for one in sample:
        book.put(one)
    await book.aclose()
    assert await stored(redis_server) == sample


async def test_without_spool_and_redis_what_is_lost_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_UNSPOOLED", 1)
    (tmp_path / ledger.SPOOL).mkdir()
    book = Ledger("redis://127.0.0.1:1/0", tmp_path)
    await book.start()
    book.put(entry())
    book.put(lost := entry())
    await book.aclose()
    assert f"a ledger entry is lost: {lost.id}" in caplog.text


async def test_a_full_disk_tears_no_line(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_redis = Ledger("redis://127.0.0.1:1/0", tmp_path)
    await no_redis.start()
    no_redis.put(first := entry())
    write = os.write
    with monkeypatch.context() as full:
        full.setattr("gateway.ledger.ledger.os.write", lambda file, line: write(file, line[:20]))
        no_redis.put(second := entry())
    no_redis.put(third := entry())
    assert no_redis.pending == 3
    await no_redis.aclose()
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    await book.aclose()
    assert await stored(redis_server) == [first, third, second], "the second came into the spool when there was room"


async def test_the_stream_is_bounded_and_the_sums_outlive_it(redis_server: RedisServer, tmp_path: Path) -> None:
    book = Ledger(redis_server.url, tmp_path, max_entries=100)
    await book.start()
    sample = [entry(time=1_800_000_000.0 + 40 * number, reasoning_tokens=number) for number in range(1000)]
    for one in sample:
        book.put(one)
    await book.aclose()
    assert len(await stored(redis_server)) < 400  # Redis cuts whole nodes of its tree
    books = await books_of(redis_server)
    total = added([totals for _, totals in books.cells])
    assert (total.requests, total.spent_tokens) == (1000, sum(range(1000)))
    assert {cell.hour for cell, _ in books.cells} == set(range(500_000, 500_012))


async def test_a_spool_with_a_torn_line_is_kept_until_redis_has_it(redis_server: RedisServer, tmp_path: Path) -> None:
    """With Redis there at first, and away when the next entry comes."""
    (tmp_path / ledger.SPOOL).write_text('{"id": "torn", "ti')
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    await until(lambda: book.pending == 0)
    await book._redis.aclose()
    book._redis = store.connect("redis://127.0.0.1:1/0")
    book._add = book._redis.register_script("return 1")
    book.put(late := entry())
    await book.aclose()
    again = Ledger(redis_server.url, tmp_path)
    await again.start()
    await again.aclose()
    assert await stored(redis_server) == [late]


async def test_a_disk_that_cannot_be_read_for_a_while_ends_nothing(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger, "RETRY_SECONDS", 0.01)
    book = Ledger(redis_server.url, tmp_path)
    await book.start()

    def broken(*_: object) -> bytes:
        raise OSError("the disk is gone")

    with monkeypatch.context() as gone:
        gone.setattr("gateway.ledger.ledger.os.pread", broken)
        book.put(one := entry())
        await until(lambda: not book.healthy)
    assert "the disk is gone" in caplog.text
    await until(lambda: book.healthy and book.pending == 0)
    await book.aclose()
    assert await stored(redis_server) == [one]


async def test_a_line_longer_than_a_block_stands_in_nobodys_way(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "READ_BYTES", 64)
    (tmp_path / ledger.SPOOL).write_bytes(b"\0" * 1000 + b"\n" + dump(behind := entry()).encode() + b"\n")
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    await book.aclose()
    assert await stored(redis_server) == [behind]


async def test_the_spool_is_the_owners_and_is_cut_when_redis_has_all(redis_server: RedisServer, tmp_path: Path) -> None:
    spool = tmp_path / ledger.SPOOL
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    assert spool.stat().st_mode & 0o777 == 0o600
    book.put(entry())
    assert spool.stat().st_size > 0
    await until(lambda: spool.stat().st_size == 0)
    await book.aclose()


async def test_ids_and_sums_are_forgotten_in_time_and_holdouts_are_bounded(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_HOLDOUTS", 100)
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    for _ in range(1000):
        book.put(entry(decision="holdout", checkpoint="base"))
    await book.aclose()
    hour = cell_of(entry()).hour
    client = redis_server.client
    assert 0 < client.ttl(ledger._IDS.format(day=hour // 24)) <= ledger.ID_DAYS * 86_400
    assert 0 < client.ttl(ledger._SUMS.format(hour=hour)) <= ledger.SUM_DAYS * 86_400
    assert client.xlen(ledger.HOLDOUTS) < 400


async def test_holdouts_are_kept_apart(redis_server: RedisServer, tmp_path: Path) -> None:
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    held = [entry(decision="holdout", checkpoint="base") for _ in range(3)]
    for one in held:
        book.put(one)
        book.put(entry())
    await book.aclose()
    assert (await books_of(redis_server)).holdouts == held


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(sample=st.lists(entries(), max_size=20, unique_by=lambda one: one.id))
async def test_sums_are_those_of_the_entries(redis_server: RedisServer, tmp_path: Path, sample: list[Entry]) -> None:
    await wiped(redis_server)
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    for one in sample:
        book.put(one)
    await book.aclose()
    books = await books_of(redis_server)
    booked = compute_savings(books.cells, books.holdouts, "key")
    direct = compute_savings(((cell_of(one), totals_of(one)) for one in sample), books.holdouts, "key")
    assert list(booked.groups) == list(direct.groups)
    for name, group in direct.groups.items():
        assert booked.groups[name].totals == pytest.approx(group.totals)


async def test_books_begin_with_the_hour(redis_server: RedisServer, tmp_path: Path) -> None:
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    for minute in (59, 61, 119, 121):
        book.put(entry(time=minute * 60.0))
    await book.aclose()
    books = await books_of(redis_server, since=90 * 60.0)
    assert sum(totals.requests for _, totals in books.cells) == 3
    assert books.since_hour == 1


async def test_what_other_workers_left_is_the_first_ones_to_send(redis_server: RedisServer, tmp_path: Path) -> None:
    """There may be fewer workers after a restart than before."""
    left = [entry(), entry(), entry()]
    (tmp_path / ledger.SPOOL).write_text(dump(left[0]) + "\n" + '{"id": "torn')
    for worker in (1, 7):
        (tmp_path / ledger.OTHER_SPOOL.format(worker)).write_text(dump(left[1 + worker // 7]) + "\n")
    assert ledger.count_pending(tmp_path) == 3
    ledger.merge_spools(tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.jsonl")) == [ledger.SPOOL]
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    await book.aclose()
    assert {one.id for one in await stored(redis_server)} == {one.id for one in left}


async def test_workers_spools_are_apart(mortal_redis: RedisServer, tmp_path: Path) -> None:
    books = [Ledger(mortal_redis.url, tmp_path, worker=worker) for worker in range(3)]
    for book in books:
        await book.start()
        book.put(entry())
    assert len(list(tmp_path.glob("ledger.spool*.jsonl"))) == ledger.count_pending(tmp_path) == 3
    for book in books:
        await book.aclose()
