"""What is measured is sampled by vLLM where training samples there: from the checkpoint's own weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.training.conftest import TINY
from training.base import train as base_training
from training.config import FamilyStage, Recipe
from training.job import trl_settings
from training.measure.drawing import Draws, draws
from training.recipe_base import BaseStage, PretrainedBase
from training.rollouts import engine
from training.rollouts.params import SamplingParams
from training.rollouts.sample import sample

SMALL = BaseStage(**(TINY.model_dump() | {"hidden": 64, "head_dim": 32, "context_tokens": 256}))


def model(tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    return base_training.new_model(SMALL, tokenizer)


@pytest.fixture(scope="module")
def recipe(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    directory = tmp_path_factory.mktemp("base")
    model(tokenizer, 0).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    base = PretrainedBase(model=str(directory), context_tokens=256)
    family = FamilyStage(engine="vllm", max_tokens=12)
    run_dir: Path = tmp_path_factory.mktemp("run")
    return Recipe(name="small", description="d", run_dir=run_dir, base=base, family=family)


@pytest.fixture(scope="module")
def served(recipe: Recipe) -> Iterator[Draws]:
    with pytest.MonkeyPatch.context() as patched, draws(recipe) as drawn:
        patched.setattr(engine, "autocast_bf16", lambda: False)  # as exact as the model in this process
        yield drawn


@pytest.mark.parametrize("seed", [0, 1], ids=["the base", "other weights"])
def test_vllm_samples_what_the_model_would(
    served: Draws, tokenizer: PreTrainedTokenizerFast, seed: int, recipe: Recipe
) -> None:
    measured = model(tokenizer, seed)
    prompts = [tokenizer.encode(text) for text in ("1 + 2", "What is 3 * 4?")]
    eos: int = tokenizer.eos_token_id
    greedy = SamplingParams(max_tokens=12, temperature=0.0)  # its embeddings are tied: the output's are new as well
    draw = served.of(measured)
    assert draw is not None
    ours: list[list[float]] = []
    theirs: list[list[float]] = []
    progress: list[int] = []
    expected = sample(measured, prompts, greedy, eos=eos, surprisals=ours)
    assert draw(prompts, greedy, eos=eos, surprisals=theirs, on_batch=progress.append) == expected
    assert progress == [1, 2]
    for mine, its in zip(ours, theirs, strict=True):
        assert its == pytest.approx(mine, abs=1e-3), "at temperature 1, although the draw was greedy"


def test_a_draw_without_a_seed_goes_on_from_the_last_one(served: Draws, tokenizer: PreTrainedTokenizerFast) -> None:
    draw = served.of(model(tokenizer, 0))
    assert draw is not None
    prompts, eos = [tokenizer.encode("1 + 2")], tokenizer.eos_token_id
    seeded = SamplingParams(max_tokens=12, temperature=1.0, samples=2, seed=5)
    unseeded = SamplingParams(max_tokens=12, temperature=1.0, samples=2)
    first = [draw(prompts, params, eos=eos) for params in (seeded, unseeded)]
    again = [draw(prompts, params, eos=eos) for params in (seeded, unseeded)]
    assert first == again
    assert first[0] != first[1]


@pytest.mark.parametrize(("sampler", "gpu"), [("transformers", False), ("vllm", True)])
def test_elsewhere_the_model_in_this_process_samples(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, sampler: str, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trl_settings.torch.cuda, "is_available", lambda: gpu)
    family = recipe.family.model_copy(update={"engine": sampler})
    with draws(recipe.model_copy(update={"family": family})) as drawn:
        assert drawn.of(model(tokenizer, 0)) is None
