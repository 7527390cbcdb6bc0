"""A tiny tokenizer and model with random weights, and a small experiment on the shipped base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from training.base import train
from training.base.tokenizer import build
from training.config import EvaluateStage, FamilyStage, Recipe
from training.recipe_base import BaseStage, PretrainedBase

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


@pytest.fixture(scope="session")
def math(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions in MATH's format."""
    directory = tmp_path_factory.mktemp("math")

    def written(name: str, offset: int, count: int) -> None:
        questions = [
            {"problem": f"How much is {n} plus 1?", "answer": str(n + 1), "difficulty": float(n % 5 + 1)}
            for n in range(offset, offset + count)
        ]
        (directory / name).write_text(json.dumps(questions))

    written("train.json", 0, 8000)
    written("math500.json", 10_000, 500)
    return directory


@pytest.fixture
def on_math(math: Path, tmp_path: Path):
    """A shipped recipe with these questions, and changes to it, as a file."""

    def make(path: Path, **changes: dict[str, object]) -> Path:
        raw = yaml.safe_load(path.read_text())
        raw |= {"run_dir": str(tmp_path / "run"), "publish_to": str(tmp_path / "out")}
        raw["data"]["path"] = str(math)
        for section, fields in changes.items():
            raw[section] = raw[section] | fields if isinstance(fields, dict) else fields
        file = tmp_path / path.name
        file.write_text(yaml.safe_dump(raw))
        return file

    return make
