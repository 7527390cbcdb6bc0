from __future__ import annotations

import json
import shutil

import pytest

from benchmarks import instructions
from benchmarks.counted import REPEATED

DUMP = """# callgrind format
version: 1
creator: callgrind-3.19.0
part: 1

desc: Timerange: Basic block 0 - 30500000
desc: Trigger: Client Request: non-streaming

events: Ir
summary: 0

totals: 159364894
"""


def test_a_dump_of_callgrind_has_its_mark_and_its_total() -> None:
    assert instructions.read_dump(DUMP) == ("non-streaming", 159_364_894)


def test_output_without_a_mark_is_refused() -> None:
    with pytest.raises(instructions.CannotCountError):
        instructions.read_dump(DUMP.replace("Client Request: non-streaming", "Program termination"))


def test_a_count_fails_only_if_it_is_more_than_a_tenth_above_the_committed_one() -> None:
    committed = {"decision": 1000, "streamed": 1000, "non-streaming": 1000}
    (line,) = instructions.grown(committed, {"decision": 1101, "streamed": 1099, "non-streaming": 500})
    assert line.startswith("decision: 1,101 instructions, 10% more than the 1,000")


def test_without_valgrind_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "valgrind" else name)
    with pytest.raises(instructions.CannotCountError, match="apt-get install valgrind"):
        instructions.count()


def test_every_piece_of_work_has_a_committed_count() -> None:
    committed = json.loads(instructions.COMMITTED.read_text())
    assert committed
    for version in committed.values():
        assert version["instructions"].keys() == REPEATED.keys()
