"""Is the spool read in bounded memory, whatever is in it, and never written through a link?"""

from __future__ import annotations

import errno
import os
import tracemalloc
from pathlib import Path

import pytest

from gateway.ledger import ledger
from gateway.ledger import spool as spools
from gateway.ledger.entry import dump
from gateway.ledger.ledger import Ledger
from tests.conftest import RedisServer
from tests.gateway.entries import entry
from tests.gateway.fakes import until
from tests.gateway.ledger.test_ledger import stored


async def test_a_line_of_a_gigabyte_is_skipped_without_being_held_in_memory(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = tmp_path / spools.SPOOL
    first, behind = entry(), entry()
    with spool.open("wb") as file:
        file.write(dump(first).encode() + b"\n")
        file.seek(1 << 30)  # a hole: it takes no room on the disk
        file.write(b"\n" + dump(behind).encode() + b"\n")
    tracemalloc.start()
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    await until(lambda: writer.pending == 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    await writer.aclose()
    assert await stored(redis_server) == [first, behind]
    assert peak < 32 * 1_048_576
    assert "that are no ledger entry" in caplog.text
    assert not spool.exists()


async def test_a_torn_line_of_megabytes_does_not_swallow_the_next_entry(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    (tmp_path / spools.SPOOL).write_bytes(b"x" * 3_000_000)
    writer = Ledger(redis_server.url, tmp_path)
    await writer.start()
    writer.put(one := entry())
    await until(lambda: writer.pending == 0)
    writer.put(two := entry())
    await writer.aclose()
    assert await stored(redis_server) == [one, two]


async def test_a_link_or_a_fifo_for_a_spool_is_not_used(
    redis_server: RedisServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (victim := tmp_path / "victim").write_text("precious")
    (tmp_path / spools.SPOOL).symlink_to(victim)
    os.mkfifo(tmp_path / spools.OTHER_SPOOL.format(1))
    for worker in (0, 1):
        writer = Ledger(redis_server.url, tmp_path, worker=worker)
        await writer.start()
        writer.put(entry())
        await writer.aclose()
    assert caplog.text.count("cannot use the ledger's spool") == 2
    assert len(await stored(redis_server)) == 2
    assert victim.read_text() == "precious"


def test_spools_that_cannot_be_merged_stay_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / spools.SPOOL).write_text("first\n")
    (other := tmp_path / spools.OTHER_SPOOL.format(1)).write_text("second\n")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("gateway.ledger.spool.os.fsync", full)
        spools.merge_spools(tmp_path)
    assert "must wait" in caplog.text
    assert ((tmp_path / spools.SPOOL).read_text(), other.read_text()) == ("first\n", "second\n")
    spools.merge_spools(tmp_path)
    assert ((tmp_path / spools.SPOOL).read_text(), other.exists()) == ("first\n\nsecond\n", False)


async def test_entries_in_memory_are_spooled_as_soon_as_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger, "RETRY_SECONDS", 0.02)
    writer = Ledger("redis://127.0.0.1:1/0", tmp_path)
    await writer.start()
    writer.put(entry())
    assert writer.safe
    with monkeypatch.context() as full:
        full.setattr("gateway.ledger.spool.os.write", lambda *_: 0)
        for _ in range(3):
            writer.put(entry())
        assert (writer.safe, writer.in_memory, writer.pending, writer.lost) == (False, 3, 4, 0)
    await until(lambda: writer.safe)
    assert (writer.in_memory, writer.pending) == (0, 4)
    await writer.aclose()
    assert (tmp_path / spools.SPOOL).read_text().count('{"id"') == 4
    assert caplog.text.count("only in memory") == caplog.text.count("safe again") == 1


async def test_a_spool_that_could_not_be_opened_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "RETRY_SECONDS", 0.02)
    (tmp_path / spools.SPOOL).mkdir()
    writer = Ledger("redis://127.0.0.1:1/0", tmp_path)
    await writer.start()
    assert not writer.safe
    (tmp_path / spools.SPOOL).rmdir()
    await until(lambda: writer.safe)
    writer.put(entry())
    assert writer.in_memory == 0
    await writer.aclose()
    assert (tmp_path / spools.SPOOL).read_text().count('{"id"') == 1
