from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from gateway import cli
from gateway.ledger.ledger import SPOOL, Ledger
from tests.conftest import RedisServer
from tests.gateway.entries import entry
from tests.gateway.fakes import EASY, HARD


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
    book.put(entry(time=now - 3600, checkpoint="base", choice="base", reasoning_tokens=1500, decision="holdout"))
    book.put(entry(time=now - 7 * 86_400, checkpoint="alpha-0.4", reasoning_tokens=50, reference_tokens=60.0))
    await book.aclose()


async def with_holdouts(server: RedisServer, tmp_path: Path) -> None:
    """100 routed requests that spent 40 of 80 expected, and 50 holdouts that spent about 120."""
    book = Ledger(server.url, tmp_path)
    await book.start()
    for number in range(150):
        held = {
            "decision": "holdout",
            "checkpoint": "base",
            "choice": "alpha-0.2",
            "reasoning_tokens": 110 + number % 21,
        }
        book.put(entry(time=time.time(), **held if number % 3 == 0 else {}))
    await book.aclose()


async def test_savings_show_every_checkpoint_and_the_total(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await recorded(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url, "--price", "500000")
    printed = capsys.readouterr().out
    lines = {cells[0]: cells[1:] for cells in map(cells_of, printed.splitlines()) if cells}
    assert lines["alpha-0.4"] == ["2", "0", "0", "80", "160", "80", "50%", "40.00", "▇" * 12 + "░" * 12]
    assert lines["base"] == ["1", "0", "1", "1,500", "-", "-", "-", "-", ""]
    assert lines["total"] == ["3", "0", "1", "1,580", "160", "80", "50%", "40.00", ""]
    assert "30 routed requests have gone to the reference checkpoint" in " ".join(printed.split())


async def test_savings_that_can_be_measured_are_and_drift_is_said(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await with_holdouts(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url)
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"over 100 requests: [78],\d\d\d tokens saved \(95 % interval 7,\d\d\d to 8,\d\d\d\)", said)
    assert "estimate for those that were answered is 4,000: outside, so the profile has drifted" in said


@pytest.mark.parametrize("columns", ["80", "60"])
async def test_a_narrow_terminal_loses_no_figure(
    redis_server: RedisServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    columns: str,
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    book = Ledger(redis_server.url, tmp_path)
    await book.start()
    book.put(entry(time=time.time(), reasoning_tokens=1_234_567, reference_tokens=98_765_432.0))
    await book.aclose()
    run("savings", "--redis", redis_server.url)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= int(columns)
    columns_of = zip(*[line.strip("│").split("│") for line in printed.splitlines() if "│" in line], strict=True)
    joined = ["".join(cell.strip() for cell in column) for column in columns_of]
    assert any("98,765,432" in text for text in joined)


async def test_savings_since_leave_earlier_requests_out_and_come_as_json(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await recorded(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url, "--since", "24h", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed["total"]["requests"] == 2
    assert printed["by"] == "checkpoint"
    assert printed["groups"]["alpha-0.4"]["saved_tokens"] == 70.0


async def test_savings_come_as_rows_too(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await with_holdouts(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url, "--by", "difficulty", "--csv")
    rows = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [row["difficulty"] for row in rows] == ["0.2-0.4", "total"]
    assert rows[0]["requests"] == "150"
    assert float(rows[1]["measured_low"]) < float(rows[1]["measured_saved_tokens"]) < float(rows[1]["measured_high"])


async def test_replay_decides_again(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await with_holdouts(redis_server, tmp_path)
    run("replay", "--redis", redis_server.url, "--quality-tolerance", "0")
    lines = {cells[0]: cells[1:] for cells in map(cells_of, capsys.readouterr().out.splitlines()) if cells}
    assert lines["expected reasoning tokens"] == ["6,300", "12,000"]
    assert lines["saved against the reference"] == ["5,700 (48%)", "0 (0%)"]
    assert lines["expected success"] == ["0.940", "0.950"]
    assert lines["sent to base"] == ["0", "150"]
    assert lines["sent to alpha-0.2"] == ["150", "0"]


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_export_writes_every_entry(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    await recorded(redis_server, tmp_path)
    file = tmp_path / f"requests.{form}"
    run("export", str(file), "--redis", redis_server.url, "--since", "24h")
    assert capsys.readouterr().out == f"2 entries are in {file}\n"
    rows = (
        parquet.read_table(file).to_pylist()
        if form == "parquet"
        else list(map(json.loads, file.read_text().splitlines()))
    )
    assert [row["reasoning_tokens"] for row in rows] == [30, 1500]
    assert not file.with_name(f"{file.name}.part").exists()


async def test_export_onto_a_directory_names_the_file(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await recorded(redis_server, tmp_path)
    (tmp_path / "dir.jsonl").mkdir()
    with pytest.raises(AssertionError, match="SystemExit"):
        run("export", str(tmp_path / "dir.jsonl"), "--redis", redis_server.url)
    assert "dir.jsonl cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "named"), [("requests.xlsx", "ends neither in"), ("none/requests.jsonl", "there is no directory none")]
)
def test_export_to_what_cannot_be_written_is_refused(file: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("export", file) == 2
    assert named in capsys.readouterr().err


def test_route_explains_without_anything_running(family_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["route", EASY, "--family", str(family_dir), "--budget", "50"])
    printed = capsys.readouterr().out
    lines = {cells[0]: cells[1:] for cells in map(cells_of, printed.splitlines()) if cells}
    assert set(lines) == {"base", "alpha-0.1", "alpha-0.4 ◀"}
    assert "alpha-0.4 (routed): cheapest within 0.005 of the best success" in printed
    assert "budget 50 (--budget)" in printed
    cli.main(["route", EASY, "--family", str(family_dir), "--budget", "3", "--checkpoint", "base"])
    assert "base is not predicted to do it: the smallest feasible budget is" in capsys.readouterr().out
    assert exit_code("route", EASY, "--family", str(family_dir), "--budget", "") == 2
    assert "--budget must be a whole number" in capsys.readouterr().err


def test_route_comes_as_json_and_obeys_the_settings(family_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["route", HARD, "--family", str(family_dir), "--quality-tolerance", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["checkpoint"] == "alpha-0.4"
    cli.main(["route", HARD, "--family", str(family_dir), "--checkpoint", "alpha-0.1", "--json"])
    assert json.loads(capsys.readouterr().out)["decision"] == "pinned"


async def test_savings_tell_of_what_waits_in_the_spool(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "laconic"
    state.mkdir()
    (state / SPOOL).write_text("{}\n{}\n")
    run("savings", "--redis", redis_server.url)
    assert "Up to 2 more requests are on their way" in capsys.readouterr().out


def test_savings_without_a_ledger_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("savings") == 1
    assert "is `laconic serve` running?" in capsys.readouterr().err


@pytest.mark.parametrize("since", ["24", "h", "1y", "-1h", ""])
def test_a_time_that_is_none_is_refused(since: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("savings", f"--since={since}") == 2
    assert "--since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--port", "http"], "laconic serve: port: "),
        (["serve", "--family", "/no/such/family"], "laconic serve: /no/such/family/family.json: "),
        (["savings", "--redis", "cache"], "laconic savings: redis: "),
        (["savings", "--redis", "redis://cache:abc/0"], "laconic savings: redis: "),
        (["replay", "--quality-tolerance", "2"], "laconic replay: quality_tolerance: "),
        (["route", "1 + 1", "--budget", "lots"], "laconic route: --budget must be a whole number"),
        (["route", "1 + 1", "--checkpoint", "alpha-9"], "laconic route: --checkpoint: 'alpha-9' is none of "),
    ],
)
def test_wrong_configuration_is_one_line_that_names_the_field(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(named)
    assert printed.count("\n") == 1


def test_help_names_the_commands_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    printed = capsys.readouterr().out
    assert "laconic serve --engine http://gpu1:8000" in printed
    assert "laconic savings --since 24h" in printed


def test_help_needs_neither_the_engine_nor_the_training_job() -> None:
    heavy = {"torch", "transformers", "trl", "peft", "vllm"}
    code = f"import sys, gateway.cli, gateway.process.serve; print(*({heavy!r} & set(sys.modules)))"
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
