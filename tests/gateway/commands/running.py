"""Runs `laconic` commands in a test, on a ledger with known entries."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from gateway import cli
from gateway.ledger.ledger import Ledger
from tests.conftest import RedisServer
from tests.gateway.entries import entry


def bare_environment(monkeypatch: pytest.MonkeyPatch, state_home: Path) -> None:
    """Remove all settings from the environment, and fix the state directory and the terminal's width."""
    for name in [name for name in os.environ if name.startswith("LACONIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(state_home))
    monkeypatch.setenv("COLUMNS", "120")


def run(*arguments: str) -> None:
    """Run a command in a thread, because the command runs an event loop, and so does the test."""
    failed: list[BaseException] = []

    def call() -> None:
        try:
            cli.main(arguments)
        except BaseException as error:  # noqa: BLE001  passed on to the test
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert not failed, failed


def exit_code(*arguments: str) -> object:
    """Run a command that exits, and return its exit code."""
    with pytest.raises(SystemExit) as exit_:
        cli.main(arguments)
    return exit_.value.code


def cells_of(line: str) -> list[str]:
    """The cells of a table's line."""
    return [cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")] if "│" in line else []


async def record_three_requests(server: RedisServer, tmp_path: Path) -> None:
    """Record three requests: two from an hour ago, one from last week."""
    now = time.time()
    ledger = Ledger(server.url, tmp_path)
    await ledger.start()
    ledger.put(entry(time=now - 3600, checkpoint="alpha-0.4", reasoning_tokens=30, reference_tokens=100.0))
    ledger.put(entry(time=now - 3600, checkpoint="base", choice="base", reasoning_tokens=1500, decision="holdout"))
    ledger.put(entry(time=now - 7 * 86_400, checkpoint="alpha-0.4", reasoning_tokens=50, reference_tokens=60.0))
    await ledger.aclose()


async def record_holdouts(server: RedisServer, tmp_path: Path) -> None:
    """Record 100 routed requests that spent 40 of 80 expected tokens, and 50 holdouts that spent about 120."""
    ledger = Ledger(server.url, tmp_path)
    await ledger.start()
    for number in range(150):
        holdout = {
            "decision": "holdout",
            "checkpoint": "base",
            "choice": "alpha-0.2",
            "reasoning_tokens": 110 + number % 21,
        }
        ledger.put(entry(time=time.time(), **holdout if number % 3 == 0 else {}))
    await ledger.aclose()
