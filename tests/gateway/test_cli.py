from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gateway import cli
from gateway.ledger import SPOOL, Ledger
from tests.conftest import RedisServer
from tests.gateway.entries import entry


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("LACONIC_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")


async def recorded(server: RedisServer, tmp_path: Path) -> None:
    """Three requests: two of an hour ago, one of last week."""
    now = time.time()
    book = Ledger(server.url, tmp_path)
    await book.start()
    book.put(entry(time=now - 3600, checkpoint="alpha-0.4", reasoning_tokens=30, reference_tokens=100.0))
    book.put(entry(time=now - 3600, checkpoint="base", reasoning_tokens=1500, decision="holdout"))
    book.put(entry(time=now - 7 * 86_400, checkpoint="alpha-0.4", reasoning_tokens=50, reference_tokens=60.0))
    await book.aclose()


async def test_savings_show_every_checkpoint_and_the_total(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await recorded(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url)
    lines = {cells[0]: cells[1:] for cells in map(cells_of, capsys.readouterr().out.splitlines()) if cells}
    assert lines["alpha-0.4"] == ["2", "0", "0", "80", "160", "80", "50%"]
    assert lines["base"] == ["1", "0", "1", "1,500", "-", "-", "-"]
    assert lines["total"] == ["3", "0", "1", "1,580", "160", "80", "50%"]


async def test_savings_since_leave_earlier_requests_out_and_come_as_json(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await recorded(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url, "--since", "24h", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed["total"]["requests"] == 2
    assert printed["checkpoints"]["alpha-0.4"]["saved_tokens"] == 70.0


async def test_savings_tell_of_what_waits_in_the_spool(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "laconic"
    state.mkdir()
    (state / SPOOL).write_text("{}\n{}\n")
    run("savings", "--redis", redis_server.url)
    assert "2 more requests wait" in capsys.readouterr().out


def test_savings_without_a_ledger_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("savings") == 1
    assert "is `laconic serve` running?" in capsys.readouterr().err


@pytest.mark.parametrize("since", ["24", "h", "1y", "-1h", ""])
def test_a_time_that_is_none_is_refused(since: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("savings", f"--since={since}") == 2
    assert "--since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("1.5h", 5400), ("7d", 604_800), ("2w", 1_209_600)]
)
def test_times_have_units(text: str, seconds: float) -> None:
    assert cli._seconds(text) == seconds


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--port", "http"], "laconic serve: port: "),
        (["serve", "--family", "/no/such/family"], "laconic serve: /no/such/family/family.json: "),
        (["savings", "--redis", "cache"], "laconic savings: redis: "),
    ],
)
def test_wrong_configuration_is_one_line_that_names_the_field(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(named)
    assert printed.count("\n") == 1


def test_help_names_both_commands_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    printed = capsys.readouterr().out
    assert "laconic serve --engine http://gpu1:8000" in printed
    assert "laconic savings --since 24h" in printed


def test_help_needs_neither_the_engine_nor_the_training_job() -> None:
    heavy = {"torch", "transformers", "trl", "peft", "vllm"}
    code = f"import sys; from gateway import cli, serve; print(*({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def run(*arguments: str) -> None:
    # A thread of its own: the command runs an event loop, and so does the test.
    failed: list[BaseException] = []

    def call() -> None:
        try:
            cli.main(arguments)
        except BaseException as error:  # noqa: BLE001  handed to the test
            failed.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert not failed, failed


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as done:
        cli.main(arguments)
    return done.value.code


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")] if "│" in line else []
