"""What is measured is sampled by vLLM where training samples there: from the checkpoint's own weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests.training.conftest import TINY
from training.base import train as base_training
from training.config import FamilyStage, Recipe
from training.job import trl_settings
from training.job.vllm_server import Server, ServerSettings
from training.measure import drawing
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


def test_an_answer_has_room_behind_thinking_of_any_length(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[int, int]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        sent.append((len(body["prompt"]), body["max_tokens"]))
        choice = {"index": 0, "token_ids": [2], "finish_reason": "stop", "logprobs": {"token_logprobs": [0.0]}}
        return httpx.Response(200, json={"choices": [choice]})

    @contextmanager
    def started(settings: ServerSettings, _: Path) -> Iterator[engine.Engine]:
        client = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://vllm")
        yield engine.Engine(Server(client, tmp_path / "log", settings, 0), tmp_path)

    monkeypatch.setattr(drawing, "started", started)
    monkeypatch.setattr(engine.Engine, "load", lambda *_: None)
    monkeypatch.setattr(drawing, "LONGEST_PROMPT", 20)
    for max_tokens in (100, 200):
        family = recipe.family.model_copy(update={"max_tokens": max_tokens})
        with draws(recipe.model_copy(update={"family": family})) as drawn:
            draw = drawn.of(model(tokenizer, 0))
            assert draw is not None
            assert draw([[5] * (20 + max_tokens)], SamplingParams(max_tokens, 0.0), eos=2) == [[2]]
    # 20 + 200 + 200 tokens are more than the 256 positions of the model: there, its context ends the answer.
    assert sent == [(120, 100), (220, 36)]


@pytest.mark.parametrize(("sampler", "gpu"), [("transformers", False), ("vllm", True)])
def test_elsewhere_the_model_in_this_process_samples(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, sampler: str, gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trl_settings.torch.cuda, "is_available", lambda: gpu)
    family = recipe.family.model_copy(update={"engine": sampler})
    with draws(recipe.model_copy(update={"family": family})) as drawn:
        assert drawn.of(model(tokenizer, 0)) is None
