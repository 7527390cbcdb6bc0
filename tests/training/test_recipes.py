"""What do the recipes for GPUs train, and do their launch configurations start?"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.commands import launch
from accelerate.utils.launch import prepare_deepspeed_cmd_env

from training import config

RECIPES = [
    path
    for path in sorted(Path("training/recipes").glob("*.yaml"))
    if path.stem not in ("abacus", "qwen2.5-coder-0.5b")
]
LAUNCH = Path("training/recipes/accelerate")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_gpu_recipe_trains_no_reward_that_the_experiments_found_harmful(path):
    """The charge for information and the paper's credit cost accuracy: docs/experiments/README.md."""
    stage = config.load(path).family
    dense = stage.dense_reward
    if dense is None:
        assert stage.reward == "alpha"
        return
    shipped = config.load(Path("training/recipes/abacus.yaml")).family.dense_reward
    assert shipped is not None
    assert not dense.charges_information
    names = ("charge", "credit", "compression_weight", "progress_weight")
    assert [getattr(dense, name) for name in names] == [getattr(shipped, name) for name in names]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_gpu_recipe_names_its_paper_and_what_it_does_not_take_from_it(path):
    comment = " ".join(line.strip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    assert "arXiv 250" in comment
    assert "Not: " in comment


def test_the_tamed_experiments_are_l2t_with_every_taming_at_three_weights_and_in_96_steps():
    experiments = Path("training/recipes/experiments")
    plain = config.load(experiments / "l2t.yaml").family
    for weight in (0.1, 0.2, 0.6):
        stage = config.load(experiments / f"l2t-rao-{weight}.yaml").family
        assert stage.dense is not None
        assert stage.dense == config.DenseReward(
            compression_weight=weight, score="rao", per="token", winsorise=0.99, scale="running"
        )
        assert stage.model_copy(update={"dense": None, "steps": plain.steps}) == plain
        assert stage.steps == 96


def test_the_redundancy_experiment_is_l2t_tokens_charged_by_certainty():
    experiments = Path("training/recipes/experiments")
    plain = config.load(experiments / "l2t-tokens.yaml").family
    stage = config.load(experiments / "l2t-redundant.yaml").family
    assert stage.dense is not None
    assert stage.dense.redundancy == "certainty"
    assert stage.model_copy(update={"dense": stage.dense.model_copy(update={"redundancy": "none"})}) == plain


def launched(monkeypatch: pytest.MonkeyPatch, file: str, *arguments: str) -> SimpleNamespace:
    """What `accelerate launch` would hand to its DeepSpeed launcher, and the command that this would start."""
    handed = []
    monkeypatch.setattr(launch, "is_deepspeed_available", lambda: True)
    monkeypatch.setattr(launch, "deepspeed_launcher", handed.append)
    line = ["--config_file", str(LAUNCH / file), *arguments, "-m", "training.cli", "family", "recipe.yaml"]
    launch.launch_command(launch.launch_command_parser().parse_args(line))
    command, environment = prepare_deepspeed_cmd_env(handed[0])
    return SimpleNamespace(command=command, environment=environment, arguments=handed[0])


def test_two_nodes_start_with_one_command_on_each_and_no_hostfile(monkeypatch):
    """DeepSpeed's default launcher starts the other node over SSH, from a hostfile that nobody has written."""
    where = ("--machine_rank", "1", "--main_process_ip", "10.0.0.1", "--main_process_port", "29500")
    started = launched(monkeypatch, "2-nodes.yaml", *where)
    assert started.command is None, "torch's launcher, not the program deepspeed"
    arguments = started.arguments
    assert (arguments.nnodes, arguments.nproc_per_node, arguments.node_rank) == ("2", "8", 1)
    assert (arguments.rdzv_backend, arguments.rdzv_endpoint) == ("static", "10.0.0.1:29500")
    assert started.environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "2"


def test_one_node_starts_a_process_for_each_gpu(monkeypatch):
    started = launched(monkeypatch, "8-gpus.yaml")
    assert started.command is None
    assert started.arguments.nproc_per_node == "8"
    assert started.environment["ACCELERATE_MIXED_PRECISION"] == "bf16"
