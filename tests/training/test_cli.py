import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from training.cli import app, main

run = CliRunner().invoke


@pytest.mark.parametrize("command", typer.main.get_command(app).commands)
def test_the_help_of_every_command_has_an_example(command):
    result = run(app, [command, "--help"], terminal_width=200)
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5
    assert f"laconic-train {command}" in result.output.partition("Usage")[2].partition("\n")[2]


def test_prompts_are_printed_as_jsonl():
    result = run(app, ["prompts", "--split", "heldout", "--seed", "3", "--count", "12"])
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 12
    assert all(set(row) == {"prompt", "answer", "task", "difficulty"} for row in rows)


def test_prompts_can_be_of_one_kind_only():
    result = run(app, ["prompts", "--task", "missing", "--count", "5"])
    assert {json.loads(line)["task"] for line in result.stdout.splitlines()} == {"missing"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
        (
            ["prompts", "--task", "product", "--difficulty", "easy", "--count", "9000"],
            "--count: heldout has only about",
        ),
        (["measure", "nowhere", "--checkpoint", "base"], "is this a family's directory?"),
        (["card", "nowhere"], "training.json: cannot be read"),
    ],
)
def test_a_failure_is_reported_in_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["laconic-train", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("training.stages.base", interrupted)
    monkeypatch.setattr("sys.argv", ["laconic-train", "base", "training/recipes/abacus.yaml"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert "interrupted" in capsys.readouterr().err


def test_measuring_on_more_prompts_than_there_are_names_the_option(on_math, monkeypatch, capsys):
    recipe = on_math(Path("training/recipes/qwen3-1.7b.yaml"))
    arguments = ["measure", "models/abacus", "--checkpoint", "base", "--recipe", str(recipe)]
    monkeypatch.setattr("sys.argv", ["laconic-train", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert "questions in the heldout split; --prompts needs 900" in " ".join(capsys.readouterr().err.split())
