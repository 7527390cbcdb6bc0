"""Does `laconic refit` hand the ledger's entries and scores to the fit?"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path

import pytest

from gateway.ledger import feedback
from gateway.ledger.ledger import Ledger
from tests.conftest import RedisServer
from tests.gateway.commands.running import run
from tests.gateway.entries import entry


async def test_entries_come_with_their_scores_and_leave_no_file(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, one = Ledger(redis_server.url, tmp_path), entry(time=time.time())
    await ledger.start()
    ledger.put(one)
    await feedback.record(ledger.redis, one, "thumbs", 0.5)
    await ledger.aclose()
    seen: list[tuple[list[str], str, Path]] = []

    def run_module(name: str, run_name: str) -> None:
        path = Path(sys.argv[2].removeprefix("--entries="))
        seen.append((sys.argv[1:], path.read_text(), path))
        assert (name, run_name) == ("training.refit", "__main__")

    monkeypatch.setattr(runpy, "run_module", run_module)
    monkeypatch.setattr(sys, "argv", ["laconic"])
    run("refit", "./family", "--redis", redis_server.url, "--source", "thumbs", "--replace")
    ((arguments, text, path),) = seen
    assert arguments[0] == "family"
    assert arguments[2:] == ["--quality-tolerance=0.005", "--seed=0", "--source=thumbs", "--replace"]
    assert text.count("\n") == 1
    assert '"scores":{"thumbs": 0.5}' in text
    assert not path.exists()
