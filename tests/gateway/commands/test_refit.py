"""Does `laconic refit` hand the ledger's entries and scores to the fit?"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.commands import refit
from gateway.config import shipped_family
from gateway.ledger import feedback
from gateway.ledger.ledger import Ledger
from tests.conftest import RedisServer
from tests.gateway.commands.running import run
from tests.gateway.entries import entry


async def test_entries_come_with_their_scores_and_leave_no_file(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _scored(redis_server, tmp_path)
    seen: list[tuple[Sequence[str], str, Path]] = []

    def fit(arguments: Sequence[str]) -> None:
        path = Path(arguments[1].removeprefix("--entries="))
        seen.append((arguments, path.read_text(), path))

    modules = {"training.refit": SimpleNamespace(main=fit)}
    monkeypatch.setattr(refit, "import_module", modules.__getitem__)
    run("refit", "./family", "--redis", redis_server.url, "--source", "thumbs", "--replace")
    ((arguments, text, path),) = seen
    assert arguments[0] == "family"
    assert arguments[2:] == ["--quality-tolerance=0.005", "--seed=0", "--source=thumbs", "--replace"]
    assert text.count("\n") == 1
    assert '"scores":{"thumbs": 0.5}' in text
    assert not path.exists()


async def test_the_command_reads_the_entries_that_it_exported(redis_server: RedisServer, tmp_path: Path) -> None:
    await _scored(redis_server, tmp_path)
    command = [sys.executable, "-m", "gateway.cli", "refit", str(shipped_family()), "--redis", redis_server.url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: ASYNC221
    assert done.stderr == "laconic refit: 0 scored entries are too few; 200 are needed\n"
    assert done.stdout == "0 entries can be used, 0 with a score from thumbs; 1 cannot.\n"
    assert done.returncode == 2


async def _scored(redis_server: RedisServer, state_dir: Path) -> None:
    """One entry in the ledger, with a score."""
    ledger, one = Ledger(redis_server.url, state_dir), entry(time=time.time())
    await ledger.start()
    ledger.put(one)
    await feedback.record(ledger.redis, one, "thumbs", 0.5)
    await ledger.aclose()
