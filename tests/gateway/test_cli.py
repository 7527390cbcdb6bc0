"""Do the `laconic` commands parse their arguments, use the settings, and report errors in one line?"""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gateway import cli
from gateway.commands.reports import route_report
from gateway.ledger.spool import SPOOL
from models.files import sha256
from models.floor import Certified, Floor
from models.profile import Profile
from tests.conftest import RedisServer
from tests.gateway.commands.running import bare_environment, cells_of, exit_code, record_three_requests, run
from tests.gateway.fakes import EASY, HARD


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare_environment(monkeypatch, tmp_path)


async def test_savings_since_a_time_skip_earlier_requests_and_print_json(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record_three_requests(redis_server, tmp_path)
    run("savings", "--redis", redis_server.url, "--since", "24h", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed["total"]["requests"] == 2
    assert printed["by"] == "checkpoint"
    assert printed["groups"]["alpha-0.4"]["saved_tokens"] == 70.0


def test_route_works_without_anything_running(family_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["route", EASY, "--family", str(family_dir), "--budget", "50"])
    printed = capsys.readouterr().out
    lines = {cells[0]: cells[1:] for cells in map(cells_of, printed.splitlines()) if cells}
    assert set(lines) == {"base", "alpha-0.1", "alpha-0.4 ◀"}
    assert "alpha-0.4 (routed): cheapest within 0.005 of the best success" in printed
    assert "Budget 50 (--budget)" in printed
    cli.main(["route", EASY, "--family", str(family_dir), "--budget", "3", "--checkpoint", "base"])
    assert "base is not predicted to answer within it; the smallest feasible budget is" in capsys.readouterr().out
    assert exit_code("route", EASY, "--family", str(family_dir), "--budget", "") == 2
    assert "--budget must be a whole number" in capsys.readouterr().err


def test_route_shows_answer_tokens_where_they_were_measured(
    family_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["route", EASY, "--family", str(family_dir), "--json"])
    explained = json.loads(capsys.readouterr().out)
    explained["checkpoints"]["alpha-0.1"]["answer_tokens"] = 32.5
    Console(width=120).print(route_report(explained))
    lines = {cells[0]: cells[1:] for cells in map(cells_of, capsys.readouterr().out.splitlines()) if cells}
    assert [lines[name][4] for name in ("base", "alpha-0.1")] == ["0.0", "32.5"]


def test_route_prints_json_and_uses_the_settings(family_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["route", HARD, "--family", str(family_dir), "--quality-tolerance", "1", "--json"])
    assert json.loads(capsys.readouterr().out)["checkpoint"] == "alpha-0.4"
    cli.main(["route", HARD, "--family", str(family_dir), "--checkpoint", "alpha-0.1", "--json"])
    assert json.loads(capsys.readouterr().out)["decision"] == "pinned"


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["table", "json"])
@pytest.mark.parametrize("buffered", [True, False], ids=["buffered", "unbuffered"])
def test_a_reader_that_has_enough_ends_a_command_quietly(family_dir: Path, more: list[str], buffered: bool) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "gateway.cli", "route", EASY, "--family", str(family_dir), *more]
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    try:
        ended = subprocess.run(command, check=False, env=environment, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


def test_a_command_runs_without_an_output() -> None:
    command = [sys.executable, "-m", "gateway.cli", "--version"]
    ended = subprocess.run(["/bin/sh", "-c", '"$@" >&-', "sh", *command], check=False, stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr.count(b"\n")) == (0, 1)  # the version, for argparse looks for another output


def test_tables_are_printed_where_not_every_character_can_be_written(family_dir: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "gateway.cli", "route", EASY, "--family", str(family_dir)],
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"alpha-0.4 ?" in ended.stdout  # an arrow on other terminals


def certifying(family_dir: Path, directory: Path, *floors: Floor) -> Path:
    """A copy of the family whose profile has these floors."""
    shutil.copytree(family_dir, directory)
    manifest = json.loads((directory / "family.json").read_text())
    profile = directory / manifest["profile"]
    profile.write_text(json.dumps(json.loads(profile.read_text()) | {"floors": [one.model_dump() for one in floors]}))
    manifest["files"][manifest["profile"]] = sha256(profile)
    (directory / "family.json").write_text(json.dumps(manifest))
    return directory


def test_route_says_the_floor_and_its_bound(
    family_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    careless = Certified(tolerance=1.0, kept=0.985, low=0.961, tokens=0.3)
    nothing = {"confidence": 0.95, "prompts": 400, "escalating": None}
    directory = certifying(
        family_dir,
        tmp_path / "family",
        Floor(floor=0.95, alone=careless, needed=None, **nothing),
        Floor(floor=0.99, alone=None, needed=1200, **nothing),
    )
    cli.main(["route", HARD, "--family", str(directory), "--quality-floor", "0.94"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "alpha-0.4 (routed): cheapest within 1 (certified to keep 0.95 of the reference's quality)" in printed
    assert "Quality floor 0.95: a tolerance of 1 is certified with 95 % confidence." in printed
    assert "On 400 prompts it kept 98.5 % of the accuracy of base (at least 96.1 %), for 30 % of its tokens." in printed
    cli.main(["route", EASY, "--family", str(directory), "--quality-floor", "0.99"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "base (abstained): no routing is certified to keep 0.99" in printed
    assert "so base serves; about 1,200 prompts would certify something, 400 did not." in printed
    cli.main(["route", HARD, "--family", str(directory), "--quality-floor", "0.95", "--json"])
    explained = json.loads(capsys.readouterr().out)["floor"]
    assert (explained["floor"], explained["certified"]["low"], explained["needed"]) == (0.95, 0.961, None)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--quality-floor", "0.9"], "quality_floor: the family's profile was not tested at any floor; fit it again"),
        (["--quality-floor", "0.9", "--quality-tolerance", "0.1"], "quality_floor: quality_tolerance is set, too"),
    ],
)
def test_a_floor_that_cannot_be_kept_is_refused(
    arguments: list[str], named: str, family_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["route", EASY], ["serve", "--engine", "http://127.0.0.1:1"]):
        assert exit_code(*command, "--family", str(family_dir), *arguments) == 2
        assert capsys.readouterr().err.startswith(f"laconic {command[0]}: {named}")


def test_a_floor_above_those_that_were_tested_is_refused(
    family_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    floor = Floor(floor=0.95, confidence=0.95, prompts=400, alone=None, escalating=None, needed=500)
    directory = certifying(family_dir, tmp_path / "family", floor)
    assert exit_code("route", EASY, "--family", str(directory), "--quality-floor", "0.99") == 2
    assert "was tested at 0.95 only" in capsys.readouterr().err


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("file", ["chat.json", "-"])
def test_route_explains_a_conversation(
    family_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, whole: bool, file: str
) -> None:
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "?"},
        {"role": "user", "content": EASY},
    ]
    raw = json.dumps({"model": "abacus", "messages": messages} if whole else messages)
    monkeypatch.chdir(family_dir.parent)
    Path("chat.json").write_text(raw)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw.encode())))
    predict = Profile.predict
    monkeypatch.setattr(Profile, "predict", lambda profile, text: predict(profile, HARD if "\n" in text else text))
    cli.main(["route", "--messages", file, "--family", str(family_dir), "--json"])
    explained = json.loads(capsys.readouterr().out)
    assert explained["checkpoint"] == "base", "to this profile, two turns together are hard"
    assert explained["conversation"] == {
        "turns": 2, "tool_results": 0, "read_with": 1, "last_checkpoint": None, "move": "none",
    }  # fmt: skip
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw.encode())))
    cli.main(["route", "--messages", file, "--family", str(family_dir)])
    assert "The last of 2 user turns, read alone and with 1 before it" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("{", "is not JSON"),
        ("[]", "--messages: messages: "),
        ('{"model": "abacus"}', "--messages: messages: "),
        ('[{"role": "user"}]', "--messages: messages[0].content: missing"),
        ('{"messages": [{"role": "user", "content": "?"}], "model": "gpt-4"}', "--messages: The model 'gpt-4'"),
        ('{"messages": [{"role": "user", "content": "?"}], "thinking_token_budget": "?"}', "--messages: thinking_tok"),
        ('{"messages": [{"role": "user", "content": "?"}], "surprise": 1}', "--messages: surprise"),
    ],
)
def test_route_says_what_is_wrong_with_messages(
    family_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, complaint: str
) -> None:
    (tmp_path / "chat.json").write_text(content)
    assert exit_code("route", "--messages", str(tmp_path / "chat.json"), "--family", str(family_dir)) == 2
    assert complaint in capsys.readouterr().err
    assert exit_code("route", "--messages", str(tmp_path / "none.json"), "--family", str(family_dir)) == 2
    assert "--messages: cannot read" in capsys.readouterr().err
    assert exit_code("route", EASY, "--messages", "-", "--family", str(family_dir)) == 2


async def test_savings_mention_requests_that_wait_in_the_spool(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "laconic"
    state.mkdir()
    (state / SPOOL).write_text("{}\n{}\n")
    run("savings", "--redis", redis_server.url)
    assert "Up to 2 more requests are not in Redis yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["serve", "--port", "http"], "laconic serve: port: "),
        (["serve", "--engine-args", "hermes"], "laconic serve: engine_args: 'hermes' is not a flag"),
        (["serve", "--engine-args=--seed 1", "--engine", "http://a:1"], "laconic serve: engine_args: is for the vLLM "),
        (["serve", "--judge", "j", "--family", "/no/such"], "laconic serve: judge: has no effect, because no answers "),
        (["serve", "--family", "/no/such/family"], "laconic serve: /no/such/family/family.json: "),
        (["savings", "--redis", "cache"], "laconic savings: redis: "),
        (["savings", "--redis", "redis://cache:abc/0"], "laconic savings: redis: "),
        (["replay", "--quality-tolerance", "2"], "laconic replay: quality_tolerance: "),
        (["route", "1 + 1", "--budget", "lots"], "laconic route: --budget must be a whole number"),
        (["route", "1 + 1", "--checkpoint", "alpha-9"], "laconic route: --checkpoint: 'alpha-9' is not one of "),
    ],
)
def test_wrong_configuration_is_reported_in_one_line_that_names_the_field(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code(*arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(named)
    assert printed.count("\n") == 1


def test_help_lists_the_commands_and_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    printed = capsys.readouterr().out
    assert "laconic serve --engine http://gpu1:8000" in printed
    assert "laconic savings --since 24h" in printed


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main([])
    assert "laconic serve --engine http://gpu1:8000" in capsys.readouterr().out


def test_a_port_in_use_is_said_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert exit_code("serve", "--port", str(port), "--engine", "http://127.0.0.1:1") == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"laconic serve: port: cannot listen on 127.0.0.1:{port} ")
    assert printed.endswith("; stop what listens there, or pass another --port\n")


def test_the_command_line_imports_neither_the_engine_nor_the_training_job() -> None:
    heavy = {"torch", "transformers", "trl", "peft", "vllm"}
    code = f"import sys, gateway.cli, gateway.process.serve; print(*({heavy!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
