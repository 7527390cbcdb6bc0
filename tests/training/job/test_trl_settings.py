"""What TRL is told, and what is refused before anything starts."""

import copy
from types import SimpleNamespace

import pytest
import torch
from peft import get_peft_model

from training.config import FamilyStage
from training.errors import StageError
from training.job import trl_settings

STAGE = FamilyStage(steps=2, prompts_per_step=2, rollouts=4, max_tokens=12, lora_rank=2, save_every=1)


def test_several_processes_without_a_gpu_are_rejected_before_a_server_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(trl_settings, "processes", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(StageError, match=r"family\.engine: vllm samples for one process .*not for 2"):
        trl_settings.grpo_config(STAGE.model_copy(update={"engine": "vllm"}), 0.1, 0, tmp_path)


def test_the_engine_is_in_the_training_process_on_a_gpu_and_a_server_without(tmp_path, monkeypatch):
    stage = STAGE.model_copy(update={"engine": "vllm"})
    for gpu in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert trl_settings.samples_from_server(stage) is not gpu
        assert not trl_settings.samples_from_server(STAGE)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    settings = trl_settings.grpo_config(stage, 0.1, 0, tmp_path, positions=20)
    assert not settings.use_vllm
    assert settings.vllm_max_model_length == 20, "a model takes no more than its positions"


def test_an_adapter_on_the_upper_half_changes_no_layer_below(model):
    both = {}
    for layers in ("all", "upper_half"):
        adapted = get_peft_model(
            copy.deepcopy(model), trl_settings.adapter(STAGE.model_copy(update={"lora_layers": layers}), model)
        )
        names = [name for name, value in adapted.named_parameters() if value.requires_grad]
        both[layers] = {(name.split(".layers.")[1].split(".")[0], name.split(".")[-4]) for name in names}
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert both["all"] == {(layer, name) for layer in "01" for name in linear}
    assert both["upper_half"] == {("1", name) for name in linear}


def test_the_micro_batch_is_the_largest_that_divides_the_rollouts(tmp_path):
    for rollouts, micro in ((8, 8), (33, 11), (256, 32), (37, 1)):
        stage = FamilyStage(prompts_per_step=1, rollouts=rollouts)
        settings = trl_settings.grpo_config(stage, 0.1, 0, tmp_path)
        assert settings.per_device_train_batch_size == micro
        assert settings.generation_batch_size == rollouts


def test_kl_and_loss_are_what_the_recipe_says(tmp_path):
    for loss, kind in (("token_sum", "dr_grpo"), ("sequence_mean", "grpo")):
        settings = trl_settings.grpo_config(STAGE.model_copy(update={"loss": loss, "kl": 0.03}), 0.1, 0, tmp_path)
        assert settings.loss_type == kind
        assert settings.beta == 0.03
        assert settings.scale_rewards == "none"


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "ZeRO stage 3"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP"),
    ],
)
def test_weights_that_are_sharded_are_refused_in_one_line(monkeypatch, tmp_path, environment, named):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StageError, match=f"accelerate: {named} shards the weights.*ZeRO stage 2") as caught:
        trl_settings.grpo_config(STAGE, 0.1, 0, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_deepspeed_file_of_stage_three_is_refused_and_of_stage_two_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    file = tmp_path / "deepspeed.json"
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    file.write_text('{"zero_optimization": {"stage": 3}}')
    with pytest.raises(StageError, match="ZeRO stage 3"):
        trl_settings.require_whole_weights()
    file.write_text('{"zero_optimization": {"stage": 2}}')
    trl_settings.require_whole_weights()
