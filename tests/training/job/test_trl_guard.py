import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import trl.trainer.grpo_trainer
from trl import GRPOTrainer

from training import trainer
from training.config import FamilyStage
from training.errors import StageError
from training.job import trl_guard
from training.tasks.prompts import prompts

STAGE = FamilyStage(steps=1, prompts_per_step=1, rollouts=2, max_tokens=4, lora_rank=2)


def start(model, tokenizer, tmp_path, stage: FamilyStage = STAGE) -> None:
    trainer.train(model, tokenizer, stage, prompts("train", 0, 1), alpha=0.1, seed=0, work=tmp_path / "work")


def test_the_tested_release_is_the_pinned_one():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert f"trl=={trl_guard.TESTED}" in project["optional-dependencies"]["train"]


@pytest.mark.parametrize("method", trl_guard.METHODS)
def test_a_method_that_trl_renamed_is_named_before_anything_is_trained(model, tokenizer, tmp_path, monkeypatch, method):
    monkeypatch.delattr(GRPOTrainer, method)
    named = rf"GRPOTrainer( has no method |\.){method}"  # transformers' Trainer has a `_prepare_inputs` of its own
    with pytest.raises(StageError, match=rf"TRL [\d.]+: {named}.*; install trl==[\d.]+"):
        start(model, tokenizer, tmp_path)


def test_a_method_with_other_parameters_is_named_with_both(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", lambda self, inputs, completion_ids_list: None)
    message = (
        "GRPOTrainer._calculate_rewards takes (inputs, completion_ids_list)"
        " and not (inputs, prompts, completions, completion_ids_list)"
    )
    with pytest.raises(StageError, match=re.escape(message)) as refused:
        start(model, tokenizer, tmp_path)
    assert "\n" not in str(refused.value)


def test_an_attribute_that_trl_renamed_is_named(model, tokenizer, tmp_path, monkeypatch):
    construct = GRPOTrainer.__init__

    def renamed(self, *args, **kwargs):
        construct(self, *args, **kwargs)
        self._buffer = self.__dict__.pop("_buffered_inputs")

    monkeypatch.setattr(GRPOTrainer, "__init__", renamed)
    with pytest.raises(StageError, match="GRPOTrainer has no attribute _buffered_inputs"):
        start(model, tokenizer, tmp_path)


def test_vllm_without_a_temperature_to_set_is_named():
    present = dict.fromkeys(trl_guard.ATTRIBUTES) | {"_metrics": {"train": {}}, "use_vllm": True}
    with pytest.raises(StageError, match=r"no attribute vllm_generation\.temperature"):
        trl_guard.require_attributes(SimpleNamespace(**present))
    trl_guard.require_attributes(SimpleNamespace(**present, vllm_generation=SimpleNamespace(temperature=1.0)))


def test_a_forward_without_trl_s_temperature_stops_a_training_that_anneals(model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(trl.trainer.grpo_trainer, "add_fused_lm_head", lambda *_, **__: None)
    annealed = STAGE.model_copy(update={"last_temperature": 0.5})
    with pytest.raises(StageError, match=r"no free variable 'temperature'.*or leave family\.last_temperature out"):
        start(model, tokenizer, tmp_path, annealed)
