"""A tiny tokenizer and model with random weights, of the shipped base's architecture."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from training import base, tokenizer
from training.config import BaseStage

TINY = BaseStage(
    hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, mlp=64, vocabulary=400, steps=32, batch_tokens=512
)


@pytest.fixture(scope="session")
def spoken() -> PreTrainedTokenizerFast:
    return tokenizer.build(TINY.vocabulary, seed=0, prompts=300)


@pytest.fixture
def model(spoken: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    return base.new_model(TINY, spoken).eval()
