"""Is every entry written once, through kills, outages, torn lines and full disks?"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from gateway import store
from gateway.ledger import ledger
from gateway.ledger import spool as spools
from gateway.ledger.entry import Entry, dump, parse
from gateway.ledger.ledger import Ledger, LedgerSnapshot
from gateway.ledger.savings import cell_of, compute_savings, sum_totals, totals_of
from tests.conftest import RedisServer, patient
from tests.gateway.entries import entries, entry
from tests.gateway.fakes import until


async def stored(server: RedisServer, since: float = 0.0) -> list[Entry]:
    redis = patient(server.url)
    try:
        return [one async for one in ledger.read_entries(redis, since)]
    finally:
        await redis.aclose()


async def snapshot_of(server: RedisServer, since: float = 0.0) -> LedgerSnapshot:
    redis = patient(server.url)
    try:
        return await ledger.read_snapshot(redis, since)
    finally:
        await redis.aclose()


async def wipe(server: RedisServer) -> None:
    redis = patient(server.url)
    await redis.flushall()
    await redis.aclose()


async def test_an_entry_is_read_as_it_was_put(redis_server: RedisServer, tmp_path: Path) -> None:
    bare = entry(alpha=None, budget=None, difficulty=None, predicted_tokens=None, first_token_seconds=None, key="")
    full = entry(budget=5, key="a-key", error="broke “off”", status=502)
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    assert writer.healthy
    writer.put(bare)
    writer.put(full)
    await writer.aclose()
    assert await stored(redis_server) == [bare, full]


@given(entries())
def test_dump_and_parse_round_trip(any_entry: Entry) -> None:
    line = dump(any_entry)
    assert "\n" not in line
    assert parse(line) == parse(line.encode()) == any_entry


async def test_the_same_id_is_written_once(redis_server: RedisServer, tmp_path: Path) -> None:
    twice = entry()
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    writer.put(twice)
    writer.put(twice)
    await writer.aclose()
    assert await stored(redis_server) == [twice]


async def test_reading_since_a_time_skips_earlier_requests(redis_server: RedisServer, tmp_path: Path) -> None:
    sample = [entry(time=float(second)) for second in range(100, 110)]
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    for one in sample:
        writer.put(one)
    await writer.aclose()
    assert await stored(redis_server, since=107.0) == sample[7:]


async def test_more_entries_than_one_page_are_all_read(redis_server: RedisServer, tmp_path: Path) -> None:
    sample = [entry() for _ in range(2500)]
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    for one in sample:
        writer.put(one)
    await writer.aclose()
    assert await stored(redis_server) == sample


async def test_without_redis_entries_stay_in_the_spool_for_the_next_process(
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
    assert not (tmp_path / spools.SPOOL).exists()


async def test_killing_redis_loses_no_entry_and_counts_none_twice(mortal_redis: RedisServer, tmp_path: Path) -> None:
    sample = [entry() for _ in range(900)]
    mortal_redis.start()
    writer = Ledger(mortal_redis.url, tmp_path)
    await writer.start()
    for number, one in enumerate(sample):
        writer.put(one)
        await asyncio.sleep(0)
        if number == 300:
            mortal_redis.kill()
    await until(lambda: not writer.healthy)
    writer.put(last := entry())
    await until(lambda: writer.pending > 0)
    mortal_redis.start()
    await until(lambda: writer.healthy and writer.pending == 0)
    await writer.aclose()
    ids = [one.id for one in await stored(mortal_redis)]
    assert sorted(ids) == sorted(one.id for one in [*sample, last])


async def test_an_entry_whose_acknowledgement_was_lost_is_not_counted_twice(
    mortal_redis: RedisServer, tmp_path: Path
) -> None:
    """Redis has the entry, but the writer does not know that. The entry is also in the spool, and is sent again."""
    mortal_redis.start()
    first_entry = entry()
    writer = Ledger(mortal_redis.url, tmp_path)
    await writer.start()
    writer.put(first_entry)
    await writer.aclose()
    (tmp_path / spools.SPOOL).write_text(dump(first_entry) + "\n" + dump(entry()) + "\n")
    again = Ledger(mortal_redis.url, tmp_path)
    await again.start()
    await again.aclose()
    assert len(await stored(mortal_redis)) == 2


async def test_a_torn_line_loses_no_other_entry(redis_server: RedisServer, tmp_path: Path) -> None:
    complete, later = entry(), entry()
    (tmp_path / spools.SPOOL).write_text(dump(complete) + "\n" + '{"id": "torn", "ti')
    no_redis = Ledger("redis://127.0.0.1:1/0", tmp_path)
    await no_redis.start()
    no_redis.put(later)
    await no_redis.aclose()
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    await writer.aclose()
    assert await stored(redis_server) == [complete, later]


async def test_entries_survive_a_kill_before_anything_was_sent(redis_server: RedisServer, tmp_path: Path) -> None:
    killed = Ledger(redis_server.url, tmp_path)
    await killed.start()
    sample = [entry() for _ in range(3)]
    for one in sample:
        killed.put(one)  # the writer task never runs
    if killed._writer is not None:
        await killed._writer.stop()
    await killed._redis.aclose()
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    await writer.aclose()
    assert await stored(redis_server) == sample


async def test_entries_reach_redis_even_if_the_spool_cannot_be_used(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / spools.SPOOL).mkdir()
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    assert "cannot use the ledger's spool" in caplog.text
    sample = [entry(), entry()]
    for one in sample:
        writer.put(one)
    await writer.aclose()
    assert await stored(redis_server) == sample


async def test_without_spool_and_redis_lost_entries_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_UNSPOOLED", 1)
    (tmp_path / spools.SPOOL).mkdir()
    writer = Ledger("redis://127.0.0.1:1/0", tmp_path)
    await writer.start()
    writer.put(entry())
    writer.put(lost := entry())
    await writer.aclose()
    assert f"a ledger entry is lost: {lost.id}" in caplog.text


async def test_a_full_disk_leaves_no_torn_line(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_redis = Ledger("redis://127.0.0.1:1/0", tmp_path)
    await no_redis.start()
    no_redis.put(first := entry())
    write = os.write
    with monkeypatch.context() as full:
        full.setattr("gateway.ledger.spool.os.write", lambda file, line: write(file, line[:20]))
        no_redis.put(second := entry())
    no_redis.put(third := entry())
    assert no_redis.pending == 3
    await no_redis.aclose()
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    await writer.aclose()
    assert await stored(redis_server) == [first, third, second], "the second was spooled once there was room"


async def test_the_stream_is_bounded_and_the_sums_keep_all_entries(redis_server: RedisServer, tmp_path: Path) -> None:
    writer = Ledger(redis_server.url, tmp_path, max_entries=100)
    await writer.start()
    sample = [entry(time=1_800_000_000.0 + 40 * number, reasoning_tokens=number) for number in range(1000)]
    for one in sample:
        writer.put(one)
    await writer.aclose()
    assert len(await stored(redis_server)) < 400  # Redis trims whole nodes of its tree
    snapshot = await snapshot_of(redis_server)
    total = sum_totals([totals for _, totals in snapshot.cells])
    assert (total.requests, total.spent_tokens) == (1000, sum(range(1000)))
    assert {cell.hour for cell, _ in snapshot.cells} == set(range(500_000, 500_012))


async def test_a_spool_with_a_torn_line_is_kept_until_redis_has_its_entries(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """Redis is up at first, and down when the next entry arrives."""
    (tmp_path / spools.SPOOL).write_text('{"id": "torn", "ti')
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    await until(lambda: writer.pending == 0)
    await writer._redis.aclose()
    writer._redis = store.connect("redis://127.0.0.1:1/0")
    writer._add = writer._redis.register_script("return 1")
    writer.put(late := entry())
    await writer.aclose()
    again = Ledger(redis_server.url, tmp_path)
    await again.start()
    await again.aclose()
    assert await stored(redis_server) == [late]


async def test_the_writer_survives_a_disk_that_cannot_be_read_for_a_while(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger, "RETRY_SECONDS", 0.01)
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()

    def broken(*_: object) -> bytes:
        raise OSError("the disk is gone")

    with monkeypatch.context() as gone:
        gone.setattr("gateway.ledger.spool.os.pread", broken)
        writer.put(one := entry())
        await until(lambda: not writer.healthy)
    assert "the disk is gone" in caplog.text
    await until(lambda: writer.healthy and writer.pending == 0)
    await writer.aclose()
    assert await stored(redis_server) == [one]


async def test_a_line_longer_than_a_block_does_not_block_later_entries(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "READ_BYTES", 64)
    (tmp_path / spools.SPOOL).write_bytes(b"\0" * 1000 + b"\n" + dump(behind := entry()).encode() + b"\n")
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    await writer.aclose()
    assert await stored(redis_server) == [behind]


async def test_the_spool_is_private_and_truncated_once_redis_has_all_entries(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    spool = tmp_path / spools.SPOOL
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    assert spool.stat().st_mode & 0o777 == 0o600
    writer.put(entry())
    assert spool.stat().st_size > 0
    await until(lambda: spool.stat().st_size == 0)
    await writer.aclose()


async def test_ids_and_sums_expire_and_holdouts_are_bounded(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "MAX_HOLDOUTS", 100)
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    for _ in range(1000):
        writer.put(entry(decision="holdout", checkpoint="base"))
    await writer.aclose()
    hour = cell_of(entry()).hour
    client = redis_server.client
    assert 0 < client.ttl(ledger.PLACES.format(day=hour // 24)) <= ledger.ID_DAYS * 86_400
    assert 0 < client.ttl(ledger._SUMS.format(hour=hour)) <= ledger.SUM_DAYS * 86_400
    assert client.xlen(ledger.HOLDOUTS) < 400


async def test_holdouts_have_their_own_stream(redis_server: RedisServer, tmp_path: Path) -> None:
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    holdouts = [entry(decision="holdout", checkpoint="base") for _ in range(3)]
    for one in holdouts:
        writer.put(one)
        writer.put(entry())
    await writer.aclose()
    assert (await snapshot_of(redis_server)).holdouts == holdouts


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=25,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(sample=st.lists(entries(), max_size=20, unique_by=lambda one: one.id))
async def test_the_sums_in_redis_equal_those_of_the_entries(
    redis_server: RedisServer, tmp_path: Path, sample: list[Entry]
) -> None:
    await wipe(redis_server)
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    for one in sample:
        writer.put(one)
    await writer.aclose()
    snapshot = await snapshot_of(redis_server)
    from_redis = compute_savings(snapshot.cells, snapshot.holdouts, "key")
    direct = compute_savings(((cell_of(one), totals_of(one)) for one in sample), snapshot.holdouts, "key")
    assert list(from_redis.groups) == list(direct.groups)
    for name, group in direct.groups.items():
        assert from_redis.groups[name].totals == pytest.approx(group.totals)


async def test_a_snapshot_starts_at_a_full_hour(redis_server: RedisServer, tmp_path: Path) -> None:
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    for minute in (59, 61, 119, 121):
        writer.put(entry(time=minute * 60.0))
    await writer.aclose()
    snapshot = await snapshot_of(redis_server, since=90 * 60.0)
    assert sum(totals.requests for _, totals in snapshot.cells) == 3
    assert snapshot.since_hour == 1


async def test_the_first_worker_sends_what_other_workers_left_in_their_spools(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    """There may be fewer workers after a restart than before."""
    left = [entry(), entry(), entry()]
    (tmp_path / spools.SPOOL).write_text(dump(left[0]) + "\n" + '{"id": "torn')
    for worker in (1, 7):
        (tmp_path / spools.OTHER_SPOOL.format(worker)).write_text(dump(left[1 + worker // 7]) + "\n")
    assert spools.count_pending(tmp_path) == 3
    spools.merge_spools(tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.jsonl")) == [spools.SPOOL]
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    await writer.aclose()
    assert {one.id for one in await stored(redis_server)} == {one.id for one in left}


async def test_each_worker_has_its_own_spool(mortal_redis: RedisServer, tmp_path: Path) -> None:
    writers = [Ledger(mortal_redis.url, tmp_path, worker=worker) for worker in range(3)]
    for writer in writers:
        await writer.start()
        writer.put(entry())
    assert len(list(tmp_path.glob("ledger.spool*.jsonl"))) == spools.count_pending(tmp_path) == 3
    for writer in writers:
        await writer.aclose()
