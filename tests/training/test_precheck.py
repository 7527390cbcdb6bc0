"""`laconic-train plan` refuses what `run` refuses, with the same words, within seconds and without torch."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from training import checks, cli, config, precheck
from training.errors import StageError
from training.job import trl_settings

RECIPE = Path("training/recipes/r1-distill-1.5b-lora.yaml")


def planned(file: Path) -> dict[str, object]:
    """How `plan` ends in a process of its own: its message, its seconds of CPU time, and whether it loaded torch."""
    script = (
        "import contextlib, io, json, sys, time; from training import cli;"
        f"sys.argv = ['laconic-train', 'plan', {str(file)!r}]; said = io.StringIO(); code = 0\n"
        "try:\n"
        "    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()): cli.main()\n"
        "except SystemExit as error: code = error.code\n"
        "print(json.dumps([code, said.getvalue(), time.process_time(), 'torch' in sys.modules]))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    code, message, seconds, torch_loaded = json.loads(run.stdout.splitlines()[-1])
    return {"code": code, "message": message, "seconds": seconds, "torch": torch_loaded}


Change = Callable[[dict[str, Any], Path], object]
"""Breaks a recipe whose base is in the directory that it is given."""


def _without(pattern: str) -> Change:
    return lambda _, base: [file.unlink() for file in base.glob(pattern)]


def _with(section: str, **fields: object) -> Change:
    return lambda recipe, _: recipe[section].update(fields)


def _written(name: str, change: Callable[[str], str]) -> Change:
    return lambda _, base: [file.write_text(change(file.read_text())) for file in base.glob(name)]


def _closing_its_thinking(recipe: dict[str, Any], base: Path) -> None:
    recipe["base"]["cold_start"] = {"questions": 20, "prompts": 8}
    template = "{{ messages[0].content }}{% if add_generation_prompt %}<think></think>{% endif %}"
    (base / "chat_template.jinja").write_text(template)


def _in_a_file(field: str) -> Change:
    def change(recipe: dict[str, Any], base: Path) -> None:
        (base.parent / "file").write_text("")
        recipe[field] = str(base.parent / "file" / "mine")

    return change


BROKEN: dict[str, tuple[Change, str]] = {
    "base without weights": (_without("*.safetensors"), r"\*\.safetensors is missing"),
    "base with half of its weights": (
        lambda _, base: (base / "model.safetensors").write_bytes(b"x" * 100),
        "cannot be read as safetensors",
    ),
    "base without a config": (_without("config.json"), "config.json: cannot be read"),
    "base without a tokenizer": (_without("tokenizer.json"), "tokenizer.json is missing"),
    "base with half of a tokenizer": (_written("tokenizer.json", lambda text: text[:99]), "tokenizer cannot be loaded"),
    "base without markers": (
        _written("tokenizer*.json", lambda text: text.replace("</think>", "</thing>")),
        "no token </think>",
    ),
    "base without an end of its answers": (
        _written("tokenizer_config.json", lambda text: text.replace('"eos_token"', '"other"')),
        "no eos_token",
    ),
    "base without a chat template": (_without("chat_template.jinja"), "no chat template"),
    "cold start of a template that closes the thinking": (_closing_its_thinking, "closes the thinking by itself"),
    "cold start on too few questions": (
        _with("base", cold_start={"prompts": 100_000}),
        "data.path: .* questions in the validation split; base.cold_start.prompts needs 100000",
    ),
    "cold start with answers that would be graded as wrong": (
        _with("base", cold_start={"answer": "It is not {}1."}),
        "base.cold_start.answer: .*would be graded as wrong",
    ),
    "base that is a path to nothing": (_with("base", model="./no/such/base"), "base.model: .* is not a directory"),
    "too many tokens of context": (
        _with("base", context_tokens=2048),
        "base.context_tokens: 2048 is more than the 1024 positions",
    ),
    "data that are missing": (_with("data", path="no-data"), "data.path: .*is missing"),
    "an answer that would be graded as wrong": (
        _with("family", reward="l2t", dense={"answer": "It is not {}1."}),
        "dense.answer: .*would be graded as wrong",
    ),
    "a rank above the layers": (
        _with("family", reward="l2t", dense={"proxy_rank": 4000}),
        "family.dense.proxy_rank: 4000 is more than the rank",
    ),
    "a rank above vLLM's": (_with("family", lora_rank=1000), "family.lora_rank: 1000 is more than vLLM serves, 512"),
    "more held-out questions than there are": (
        _with("evaluate", prompts=5000),
        "data.path: .* questions in the heldout split; evaluate.prompts needs 5000",
    ),
    "a run directory in a file": (_in_a_file("run_dir"), "run_dir: .* is a file"),
    "a family in a file": (_in_a_file("publish_to"), "publish_to: .* is a file"),
    "no place for the family": (lambda recipe, _: recipe.pop("publish_to"), "publish_to: missing"),
}


@pytest.fixture
def user_recipe(on_math, tmp_path):
    """A user's recipe on a base of their own, with a change, as a file."""

    def make(change: Change) -> Path:
        base = tmp_path / "base"
        shutil.copytree("models/abacus/base", base)
        path = on_math(RECIPE, family={"max_tokens": 320, "tune": "lora", "engine": "transformers"})
        recipe = yaml.safe_load(path.read_text())
        recipe["base"] = {"model": str(base), "context_tokens": 1024}
        change(recipe, base)
        path.write_text(yaml.safe_dump(recipe))
        return path

    return make


def refuse(recipe: config.Recipe) -> None:
    """What `run` starts with."""
    precheck.check_target(recipe)
    checks.check(recipe)


@pytest.mark.parametrize("name", BROKEN)
def test_plan_refuses_what_run_refuses_in_the_same_words(user_recipe, name):
    change, message = BROKEN[name]
    file = user_recipe(change)
    with pytest.raises(StageError, match=message) as by_run:
        refuse(config.load(file))
    by_plan = CliRunner().invoke(cli.app, ["plan", str(file)]).exception
    assert isinstance(by_plan, StageError)
    assert str(by_plan) == str(by_run.value)


@pytest.mark.parametrize("name", ["base without markers", "more held-out questions than there are"])
def test_a_refusal_takes_less_than_three_seconds_and_no_torch(user_recipe, name):
    """The first is found early. The second is found last, after every other check."""
    change, message = BROKEN[name]
    found = planned(user_recipe(change))
    assert found["code"] == 2
    assert re.search(message, str(found["message"]))
    assert not found["torch"]
    assert found["seconds"] < 3


def test_a_recipe_that_runs_is_planned_without_torch(user_recipe):
    file = user_recipe(lambda *_: None)
    checks.check(config.load(file))
    found = planned(file)
    assert found == {"code": 0, "message": "", "torch": False, "seconds": found["seconds"]}


def test_a_base_that_learns_its_marks_in_a_cold_start_needs_none(user_recipe):
    def unmarked(recipe: dict[str, Any], base: Path) -> None:
        recipe["base"]["cold_start"] = {"questions": 20, "prompts": 8}
        for name in ("*.json", "*.jinja"):
            _written(name, lambda text: text.replace("think>", "thing>"))(recipe, base)

    file = user_recipe(unmarked)
    checks.check(config.load(file))
    assert CliRunner().invoke(cli.app, ["plan", str(file)]).exit_code == 0


def test_the_tables_are_printed_although_the_data_are_missing(user_recipe):
    file = user_recipe(_with("data", path="no-data"))
    shown = CliRunner().invoke(cli.app, ["plan", str(file)])
    assert isinstance(shown.exception, StageError)
    assert "the whole family" in shown.output


def test_plan_refuses_a_number_of_processes_that_run_refuses(on_math, monkeypatch):
    file = on_math(RECIPE)
    message = "family: 32 prompts_per_step x 8 rollouts do not divide over 3 processes"
    assert str(CliRunner().invoke(cli.app, ["plan", str(file), "--gpus", "3"]).exception) == message
    monkeypatch.setattr(trl_settings, "processes", lambda: type("Three", (), {"num_processes": 3}))
    with pytest.raises(StageError, match=message):
        trl_settings.grpo_config(config.load(file).family, 0.1, 0, file.parent)
