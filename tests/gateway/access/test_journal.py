"""Are settlements found again by the next process, whatever else is in the file?"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gateway.access.journal import MAX_BYTES, Journal, merge_journals
from gateway.access.windows import STATE_SECONDS


def settlement(lease: str, spent: int = 1) -> dict[str, object]:
    return {"kind": "settle", "key": "team-a", "lease": lease, "tokens": 5, "spent": spent}


def test_what_one_process_wrote_the_next_one_reads(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write([settlement("r1:5"), settlement("r2:5", 3)])
    journal.write([settlement("r1:5")])  # it is there
    again = Journal(tmp_path)
    assert again.read() == [settlement("r1:5"), settlement("r2:5", 3)]
    assert again.in_use
    again.write([settlement("r2:5", 3)])
    again.clear()
    assert (again.in_use, Journal(tmp_path).read()) == (False, [])
    again.close(delivered=True)
    assert not list(tmp_path.iterdir())


def test_torn_old_and_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.write([settlement("r1:5")])
    file = tmp_path / "limits.0.jsonl"
    good = file.read_text()
    old = good.replace("r1", "r0").replace(good.split(",")[0], f'{{"time":{time.time() - STATE_SECONDS - 1}')
    assert "r0:5" in old
    bad = '{"time":1e999,"key":"a","lease":"r:1","tokens":1,"spent":1}\n{"time":1,"ke' + "\n[[[[\n\n"
    file.write_text(old + bad + good)
    assert Journal(tmp_path).read() == [settlement("r1:5")]


def test_a_journal_that_cannot_be_used_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "limits.0.jsonl").symlink_to(tmp_path / "elsewhere")
    journal = Journal(tmp_path)
    assert journal.read() == []
    for number in range(3):
        journal.write([settlement(f"r{number}:5")])
    assert len([record for record in caplog.records if "in memory only" in record.getMessage()]) == 1
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "limits.0.jsonl").unlink()
    os.truncate(os.open(tmp_path / "limits.0.jsonl", os.O_CREAT | os.O_WRONLY), MAX_BYTES + 1)
    assert Journal(tmp_path).read() == []
    assert "settlements of limits are lost" in caplog.text


def test_the_first_worker_takes_over_what_other_workers_left(tmp_path: Path) -> None:
    for worker in (0, 1, 12):
        Journal(tmp_path, worker).write([settlement(f"r{worker}:5")])
    merge_journals(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["limits.0.jsonl"]
    assert [one["lease"] for one in Journal(tmp_path).read()] == ["r0:5", "r1:5", "r12:5"]
