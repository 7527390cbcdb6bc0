"""The plan's numbers of weights are those of the models that transformers and PEFT build."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from tests.training.conftest import TINY
from training import cli, config
from training.base import train
from training.config import BaseStage, Data, Recipe
from training.job import planning

RECIPES = [path for path in sorted(Path("training/recipes").glob("*.yaml")) if "abacus" not in path.name]


@pytest.fixture
def recipe(tmp_path):
    return Recipe(name="mine", description="d", run_dir=tmp_path, publish_to=tmp_path / "out", base=TINY)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_plan_counts_the_weights_of_a_shipped_recipe_s_model(path):
    stage = config.load(path).base
    assert not isinstance(stage, BaseStage)
    assert stage.architecture
    with torch.device("meta"):
        sizes = stage.architecture.model_dump()
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(sizes.pop("model_type"), **sizes))
    assert planning.parameters(stage.architecture) == sum(p.numel() for p in model.parameters())


def test_the_plan_counts_the_weights_of_the_adapter(model, recipe):
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM"))
    expected = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert planning.adapter_parameters(planning.architecture(TINY), 3) == expected


def test_the_plan_counts_the_weights_of_a_base_trained_from_scratch(tokenizer):
    model = train.new_model(TINY, tokenizer)
    sizes = planning.architecture(TINY).model_copy(update={"vocab_size": len(tokenizer)})
    assert planning.parameters(sizes) == sum(p.numel() for p in model.parameters())


def changed(recipe, **family):
    return recipe.model_copy(update={"family": recipe.family.model_copy(update=family)})


def test_settings_that_make_a_run_smaller_make_its_plan_smaller(recipe):
    a = planning.architecture(TINY)
    full = planning.estimate(changed(recipe, tune="full"), a, gpus=2)
    assert planning.estimate(recipe, a, gpus=2).bytes < full.bytes, "LoRA"
    assert planning.estimate(changed(recipe, tune="full"), a, gpus=2, shard=True).bytes < full.bytes, "sharding"
    assert planning.estimate(changed(recipe, tune="full", gradient_checkpointing=True), a, gpus=2).bytes < full.bytes
    assert planning.estimate(changed(recipe, steps=1), a).operations < planning.estimate(recipe, a).operations


def test_the_dense_reward_and_every_alpha_are_counted(recipe):
    a = planning.architecture(TINY)
    plain, one = planning.estimate(recipe, a), planning.estimate(changed(recipe, alphas=(0.1,)), a)
    assert plain.tokens["sampled"] == 4 * one.tokens["sampled"] == 4 * 32 * 32 * 8 * 320
    assert "probed" not in plain.tokens
    assert planning.estimate(changed(recipe, reward="l2t"), a).tokens["probed"] > plain.tokens["trained on"]


def test_the_command_prints_whether_the_run_fits_and_needs_no_network():
    shown = CliRunner().invoke(cli.app, ["plan", "training/recipes/r1-distill-7b.yaml", "--gpus", "16", "--shard"])
    assert shown.exit_code == 0
    assert "7,615,616,512" in shown.output
    assert "fits in 80 GiB" in shown.output
    small = CliRunner().invoke(cli.app, ["plan", "training/recipes/r1-distill-7b.yaml", "--gpu-gib", "24"])
    assert "DOES NOT FIT" in small.output
    many = CliRunner().invoke(cli.app, ["plan", "training/recipes/r1-distill-7b.yaml", "--gpus", "100000"])
    assert (many.exit_code, "--gpus: 100000 processes cannot share" in many.output) == (2, True)


def test_data_needs_a_path_unless_it_is_arithmetic():
    with pytest.raises(ValueError, match="is needed"):
        Data(task="math")
    with pytest.raises(ValueError, match="must be absent"):
        Data(path=Path("x"))
