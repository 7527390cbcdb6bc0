"""A tiny tokenizer and model with random weights, and a small experiment on the shipped base."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from training.base import train
from training.base.tokenizer import build
from training.config import BaseStage, EvaluateStage, FamilyStage, PretrainedBase, Recipe

TINY = BaseStage(
    hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp=64, vocabulary=400, steps=32, batch_tokens=512
)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build(TINY.vocabulary, seed=0, prompts=300)


@pytest.fixture
def model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return train.new_model(TINY, tokenizer).eval()


@pytest.fixture
def on_shipped(tmp_path: Path) -> Recipe:
    """An experiment's recipe on the shipped base."""
    return Recipe(
        name="mine",
        description="d",
        run_dir=tmp_path / "experiments" / "mine",
        base=PretrainedBase(model="models/abacus/base", context_tokens=1024),
        family=FamilyStage(steps=1, prompts_per_step=1, rollouts=2, max_tokens=40, alphas=(0.1,), reward="l2t"),
        evaluate=EvaluateStage(prompts=3, samples=1),
    )
