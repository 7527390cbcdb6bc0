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


@pytest.mark.parametrize(
    ("changes", "processes", "message"),
    [
        ({"tune": "full"}, 1, r"family\.tune: full .*tune: lora"),
        ({}, 2, r"family\.engine: vllm samples for one process .*not for 2"),
        ({"lora_rank": 1000}, 1, r"family\.lora_rank: 1000 is more than vLLM takes, 512"),
    ],
)
def test_what_vllm_cannot_sample_without_a_gpu_is_rejected_before_anything_starts(
    tmp_path, monkeypatch, changes, processes, message
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(trl_settings, "processes", lambda: SimpleNamespace(num_processes=processes))
    stage = STAGE.model_copy(update={"engine": "vllm", **changes})
    with pytest.raises(StageError, match=message):
        trl_settings.grpo_config(stage, 0.1, 0, tmp_path)


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
