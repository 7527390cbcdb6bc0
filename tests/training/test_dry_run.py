"""A recipe for GPUs is tried without a GPU, weights or a network; `plan` refuses what `run` refuses, and quickly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from training import cli, config, dry_run
from training.recipe_base import ColdStart, PretrainedBase

ON_CPUS = ("abacus", "qwen2.5-coder-0.5b")
RECIPES = [path for path in sorted(Path("training/recipes").glob("*.yaml")) if path.stem not in ON_CPUS]
GPUS = {"qwen3-1.7b": 8, "r1-distill-1.5b": 8, "r1-distill-1.5b-lora": 1, "r1-distill-7b": 16}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_gpu_recipe_reads_its_data_builds_its_model_and_names_its_command(path, on_math):
    file, gpus = on_math(path), GPUS[path.stem]
    shown = CliRunner().invoke(cli.app, ["run", str(file), "--dry-run", "--gpus", str(gpus)])
    assert shown.exit_code == 0, shown.output
    found = dry_run.dry_run(config.load(file), file, gpus)
    stage = config.load(file).family
    assert found.questions == stage.steps * stage.prompts_per_step
    assert found.rollouts == stage.prompts_per_step * stage.rollouts
    assert found.trained == found.parameters if stage.tune == "full" else found.trained < found.parameters / 20
    assert f"{found.parameters:,} parameters" in shown.output
    assert found.first.prompt.startswith("How much is")
    assert found.first.prompt.endswith(r"within \boxed{}.")
    assert not (file.parent / "run").exists(), "nothing is written"
    assert found.commands[-1] == f"laconic-train run {file}"
    for command in found.commands:
        assert command in shown.output
    expected = {1: None, 8: "accelerate/8-gpus.yaml", 16: "accelerate/2-nodes.yaml"}[gpus]
    assert (expected is None) == (len(found.commands) == 1)
    assert expected is None or expected in found.commands[0]


def test_another_number_of_gpus_is_part_of_the_command():
    recipe, path = config.load(RECIPES[0]), Path("r.yaml")
    assert "--num_processes 4 " in dry_run.commands(recipe, path, 4)[0]
    assert "--num_processes 32 --num_machines 4 " in dry_run.commands(recipe, path, 32)[0]


def test_a_base_that_is_made_first_has_a_command_of_its_own(tmp_path):
    path = Path("r.yaml")
    scratch = config.load(Path("training/recipes/abacus.yaml"))
    assert dry_run.commands(scratch, path, 8)[0] == "laconic-train base r.yaml"
    cold = config.load(RECIPES[0]).model_copy(
        update={"base": PretrainedBase(model="someone/model", cold_start=ColdStart())}
    )
    assert dry_run.commands(cold, path, 8)[0] == "laconic-train cold-start r.yaml"
    assert dry_run.commands(cold, path, 1) == ("laconic-train run r.yaml",)


def test_with_a_base_on_disk_the_batch_is_tokenized(on_math):
    base = {"model": "models/abacus/base", "context_tokens": 1024}
    file = on_math(RECIPES[0], base=base, family={"max_tokens": 320, "tune": "lora", "reward": "alpha", "dense": None})
    raw = yaml.safe_load(file.read_text())
    raw["base"] = base
    file.write_text(yaml.safe_dump(raw))
    found = dry_run.dry_run(config.load(file), file, 1)
    assert found.longest_prompt is not None
    assert 20 < found.longest_prompt < 200


def test_the_model_of_a_dry_run_has_no_weights(on_math, monkeypatch):
    made = []
    monkeypatch.setattr(
        dry_run.AutoModelForCausalLM,
        "from_config",
        lambda *arguments, make=dry_run.AutoModelForCausalLM.from_config: made.append(make(*arguments)) or made[-1],
    )
    file = on_math(RECIPES[0])
    dry_run.dry_run(config.load(file), file, 8)
    assert {weight.device for weight in made[0].parameters()} == {torch.device("meta")}
