"""The plan's numbers of weights are those of the models that transformers and PEFT build."""

from pathlib import Path
from typing import get_args

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
from trl import GRPOConfig
from trl.kernels import chunked_logprob
from trl.trainer import utils
from typer.testing import CliRunner

from tests.training.conftest import TINY
from training import cli, config
from training.base import train
from training.config import Data, DenseReward, Recipe
from training.deciding import tried
from training.job import planning
from training.recipe_base import Architecture, BaseStage
from training.recipe_deciding import Deciding

RECIPES = [
    path
    for path in sorted(Path("training/recipes").glob("*.yaml"))
    if path.stem not in ("abacus", "qwen2.5-coder-0.5b")
]


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


@pytest.mark.parametrize("kind", get_args(Architecture.model_fields["model_type"].annotation))
def test_the_plan_counts_the_weights_of_every_architecture_that_it_takes(kind):
    sizes = planning.architecture(TINY).model_dump() | {"model_type": kind}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**sizes))
        adapted = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM"))
    own = sum(p.numel() for name, p in adapted.named_parameters() if "lora_" not in name)
    architecture = Architecture.model_validate(sizes)
    assert planning.parameters(architecture) == own
    expected = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert planning.adapter_parameters(architecture, 3) == expected


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


def test_deciding_is_counted_at_every_alpha_but_0(recipe):
    a, l2t = planning.architecture(TINY), changed(recipe, reward="l2t", alphas=(0.0, 0.2, 0.4))
    plain, plan = (
        planning.estimate(each, a) for each in (l2t, changed(l2t, deciding=Deciding(questions=100, epochs=2)))
    )
    assert plan.tokens["tried"] == 2 * 100 * (1 + tried.TRIES) * l2t.family.max_tokens
    assert plan.tokens["decided on"] == 2 * 100 * 2 * 3 * (planning.PROMPT_TOKENS + l2t.family.max_tokens)
    before = planning.estimate(changed(l2t, deciding=Deciding(questions=100, epochs=2, when="before")), a)
    assert before.tokens["tried"] == plan.tokens["tried"] / 2, "the base's tries serve both alphas"
    assert before.tokens["decided on"] == plan.tokens["decided on"]
    assert plan.operations > plain.operations
    assert plan.fewest_operations > plain.fewest_operations
    assert planning.TRIES == tried.TRIES


def plan_of(file: Path, *options: str):
    return CliRunner().invoke(cli.app, ["plan", str(file), *options])


def test_the_command_prints_whether_the_run_fits_and_needs_no_network(on_math):
    file = on_math(Path("training/recipes/r1-distill-7b.yaml"))
    shown = plan_of(file, "--gpus", "16", "--shard")
    assert shown.exit_code == 0
    assert "7,615,616,512" in shown.output
    assert "fits in 80 GiB" in shown.output
    assert "DOES NOT FIT" in plan_of(file, "--gpu-gib", "24").output
    many = plan_of(file, "--gpus", "100000")
    assert "--gpus: 100000 processes cannot share" in str(many.exception)


def test_vllm_s_share_and_the_tiles_of_the_loss_are_trl_s_own():
    assert GRPOConfig.__dataclass_fields__["vllm_gpu_memory_utilization"].default == planning.VLLM_SHARE
    assert planning._TILE_TOKENS == chunked_logprob.TOKEN_CHUNK_SIZE
    assert planning._TILE_VOCABULARY == utils._CHUNKED_LOGPROB_CHUNK_SIZE


def test_the_tile_of_logits_is_not_the_whole_vocabulary_of_all_tokens(recipe):
    a = planning.architecture(TINY).model_copy(update={"vocab_size": 150_000})
    tile = 4 * 4096 * 32768
    for rows in (32, 64):
        planned = planning.estimate(changed(recipe, micro_batch=rows, alphas=(0.1,)), a).memory["head of the loss"]
        assert planned == tile + 4 * a.hidden_size * rows * (256 + 320)


def test_vllm_gets_a_share_of_the_gpu_and_is_refused_if_its_weights_do_not_fit_into_it(recipe, on_math):
    a = planning.architecture(TINY)
    sampled = planning.estimate(changed(recipe, engine="vllm"), a, gpu_gib=40)
    assert sampled.memory["vLLM's share of the GPU"] == 0.3 * 40 * 2**30
    assert "rollout cache" not in sampled.memory
    assert not sampled.refused
    file = on_math(Path("training/recipes/r1-distill-7b.yaml"))
    small = config.load(file)
    assert small.base.architecture
    plan = planning.estimate(small, small.base.architecture, gpus=16, shard=True, gpu_gib=48)
    assert "vLLM needs" in plan.refused
    assert "DOES NOT FIT" in plan_of(file, "--gpus", "16", "--shard", "--gpu-gib", "48").output


def test_deepspeed_trains_a_bfloat16_copy_and_shards_the_float32_weights(recipe):
    a = planning.architecture(TINY)
    whole = planning.estimate(changed(recipe, tune="full"), a, gpus=4).memory
    sharded = planning.estimate(changed(recipe, tune="full"), a, gpus=4, shard=True).memory
    count = planning.parameters(a)
    assert whole["weights"] == 4 * count
    assert "DeepSpeed's float32 weights" not in whole
    assert sharded["weights"] == 2 * count
    assert sharded["DeepSpeed's float32 weights"] == sharded["gradients"] == count
    assert sharded["optimizer"] == 2 * count


def test_probes_take_what_a_packed_pass_may_take(recipe):
    a = planning.architecture(TINY)
    memory = planning.estimate(changed(recipe, reward="l2t"), a).memory
    assert memory["probes"] == 2**30
    less = planning.estimate(changed(recipe, reward="l2t", dense=DenseReward(memory_gib=0.5)), a).memory
    assert less["probes"] == 2**29
    long = changed(recipe, reward="l2t", max_tokens=16384, dense=DenseReward(memory_gib=0.5))
    assert planning.estimate(long, a).memory["probes"] > 16384**2 * 4 * (1 + a.num_attention_heads), "one rollout fits"


def test_hours_are_a_range_whose_upper_end_counts_attention(recipe):
    a = planning.architecture(TINY)
    plan = planning.estimate(recipe, a)
    least, most = plan.hours(2, 100)
    assert 0 < least < plan.operations / (2 * 100e12 * 3600) < most
    assert plan.hours(4, 100) == pytest.approx((least / 2, most / 2))
    short, long = (planning.estimate(changed(recipe, max_tokens=tokens), a) for tokens in (4000, 8000))
    assert long.operations > 2.5 * short.operations, "attention is quadratic"
    assert long.fewest_operations < 2.1 * short.fewest_operations


def test_what_takes_minutes_does_not_read_as_nothing(recipe):
    plan = planning.estimate(recipe, planning.architecture(TINY))

    def printed(tflops: float) -> dict[str, str]:
        work = planning.tables(plan, gpus=1, gpu_gib=80, tflops=tflops, price=3)[1]
        return dict(list(zip(*(column.cells for column in work.columns), strict=True))[-2:])

    assert list(printed(200).values()) == ["less than 0.1", "less than 1"]
    least, most = plan.hours(1, 1e-6)
    assert list(printed(1e-6).values()) == [f"{least:,.1f} to {most:,.1f}", f"{3 * least:,.0f} to {3 * most:,.0f}"]


def test_a_long_prompt_is_estimated_from_the_questions():
    assert planning.long_prompt_tokens(["x" * 300] * 99 + ["x" * 3000]) == 132
    assert planning.long_prompt_tokens(["x" * 3000]) == 1032


def test_data_needs_a_path_unless_it_is_arithmetic():
    with pytest.raises(ValueError, match="is needed"):
        Data(task="math")
    with pytest.raises(ValueError, match="must be absent"):
        Data(path=Path("x"))
