"""Rollouts by a real vLLM server on the CPU: whose weights sample, which tokens come back, and what a kill leaves."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.training.conftest import TINY
from training import trainer
from training.base import train as base_training
from training.config import FamilyStage
from training.errors import StageError
from training.job import checkpoints, trl_settings
from training.job.vllm_server import Server, ServerSettings
from training.recipe_base import BaseStage
from training.rollouts import engine as engines
from training.rollouts.drawer import Drawer
from training.rollouts.engine import Completion, Engine
from training.rollouts.merge import plain_weights
from training.rollouts.params import SamplingParams
from training.tasks.prompts import prompts

SMALL = BaseStage(**(TINY.model_dump() | {"hidden": 64, "head_dim": 32, "context_tokens": 256}))
STAGE = FamilyStage(
    steps=4, prompts_per_step=2, rollouts=4, max_tokens=12, lora_rank=4, lr=0.05, save_every=1, engine="vllm"
)
KILLED_AT = 2
"""The server is killed before it samples for the step after this many."""


@pytest.fixture(scope="module")
def base(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model on disk whose generation_config would change what is sampled, if it were applied."""
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    model = base_training.new_model(SMALL, tokenizer)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    settings = {"do_sample": True, "top_k": 2, "top_p": 0.5, "temperature": 0.2, "repetition_penalty": 1.3}
    (directory / "generation_config.json").write_text(json.dumps(settings))
    return directory


@dataclass(frozen=True)
class Step:
    """What one call of the engine was given and returned, and the adapter's weights at that time."""

    prompts: list[list[int]]
    completions: list[Completion]
    weights: dict[str, torch.Tensor]


@dataclass
class Run:
    """A training whose server was killed once, and which was then resumed."""

    steps: list[Step] = field(default_factory=list)
    failure: str = ""
    servers: dict[int, list[psutil.Process]] = field(default_factory=dict)
    """The processes of each server, by the process id of its watchdog."""
    ratios: list[torch.Tensor] = field(default_factory=list)
    trained: trainer.CheckpointTrainer | None = None


def _adapter_of(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if "lora_" in name}


def _watched(run: Run, patched: pytest.MonkeyPatch) -> None:
    """Record every step; kill the server once; reward every second rollout, so that there is something to learn."""
    rolled, sample, loss = (
        Drawer.sample,
        Engine.sample,
        trainer.CheckpointTrainer._compute_loss,
    )
    weights: list[dict[str, torch.Tensor]] = []

    def rolled_out(self: Any, model: Any, *rest: Any) -> Any:
        weights.append(_adapter_of(model))
        return rolled(self, model, *rest)

    def sampled(engine: Engine, rows: Any, params: SamplingParams, *, eos: int) -> list[Completion]:
        watchdog = psutil.Process(engine.server.pid)
        if watchdog.pid not in run.servers:
            run.servers[watchdog.pid] = [watchdog, *watchdog.children(recursive=True)]
        if len(run.steps) == KILLED_AT and len(run.servers) == 1:
            for process in watchdog.children():
                process.kill()
        completions = sample(engine, rows, params, eos=eos)
        run.steps.append(Step([list(row) for row in rows], completions, weights[-1]))
        return completions

    def computed(self: Any, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        run.ratios.append(inputs["importance_sampling_ratio"][inputs["completion_mask"].bool()])
        return loss(self, model, inputs)

    patched.setattr(Drawer, "sample", rolled_out)
    patched.setattr(Engine, "sample", sampled)
    patched.setattr(trainer.CheckpointTrainer, "_compute_loss", computed)
    patched.setattr(trainer, "outcome_reward", lambda rule, correct, *_, **__: torch.arange(len(correct)) % 2.0)
    for module in (engines, trl_settings):
        patched.setattr(module, "autocast_bf16", lambda: False)  # float32 on every machine


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    result, work = Run(), tmp_path_factory.mktemp("run") / "work"
    questions = prompts("train", 0, STAGE.steps * STAGE.prompts_per_step)

    def train() -> trainer.CheckpointTrainer:
        model, tokenizer = checkpoints.load_model(base), checkpoints.load_tokenizer(base)
        return trainer.train(model, tokenizer, STAGE, questions, alpha=0.1, seed=0, work=work)

    with pytest.MonkeyPatch.context() as patched:
        _watched(result, patched)
        with pytest.raises(StageError) as caught:
            train()
        result.failure = str(caught.value)
        result.trained = train()
    yield result
    shutil.rmtree(work)


def logprobs(run: Run, step: Step, weights: dict[str, torch.Tensor]) -> list[list[float]]:
    """log P of each sampled token by the trained model with these adapter weights."""
    assert run.trained is not None
    model = run.trained.accelerator.unwrap_model(run.trained.model).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name in weights:
                value.copy_(weights[name])
        rows = [prompt for prompt in step.prompts for _ in range(STAGE.rollouts)]
        result = []
        for prompt, completion in zip(rows, step.completions, strict=True):
            logits = model(input_ids=torch.tensor([prompt + completion.ids])).logits[0, len(prompt) - 1 : -1]
            result.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0].tolist())
        return result


def largest_difference(left: list[list[float]], right: list[list[float]]) -> float:
    return max(abs(a - b) for x, y in zip(left, right, strict=True) for a, b in zip(x, y, strict=True))


def test_each_step_samples_from_the_adapter_as_it_is_then(run):
    assert len(run.steps) == STAGE.steps
    for step in run.steps:
        sampled = [completion.logprobs for completion in step.completions]
        assert largest_difference(sampled, logprobs(run, step, step.weights)) < 1e-3
    last = run.steps[-1]
    stale = logprobs(run, last, run.steps[0].weights)
    assert largest_difference([completion.logprobs for completion in last.completions], stale) > 0.05


def test_the_adapter_changes_after_a_step_and_nothing_else_is_trained(run):
    first, last = run.steps[0].weights, run.steps[-1].weights
    assert all(value.abs().max() == 0 for name, value in first.items() if "lora_B" in name)
    assert all(value.abs().max() > 0 for name, value in last.items() if "lora_B" in name)


def test_the_loss_weighs_each_token_by_the_ratio_of_the_two_models(run):
    """The probabilities agree, so the ratios are 1; TRL computes them only for tokens that vLLM sampled."""
    assert run.ratios
    for ratio in run.ratios:
        assert ratio.sub(1).abs().max() < 1e-3


def test_completions_are_as_many_and_as_long_as_was_asked_for(run, tokenizer):
    for step in run.steps:
        assert len(step.prompts) == STAGE.prompts_per_step
        assert len(step.completions) == STAGE.prompts_per_step * STAGE.rollouts
        for completion in step.completions:
            assert len(completion.ids) == STAGE.max_tokens or completion.ids[-1] == tokenizer.eos_token_id
            assert tokenizer.eos_token_id not in completion.ids[:-1]
        assert len({tuple(completion.ids) for completion in step.completions}) > STAGE.rollouts


def test_a_killed_server_ends_the_stage_in_a_message_and_the_same_command_resumes(run):
    assert "it has ended" in run.failure
    assert "run the same command to resume" in run.failure
    assert "vllm.log" in run.failure
    assert len(run.servers) == 2
    before, after = run.steps[KILLED_AT - 1].weights, run.steps[KILLED_AT].weights
    assert any(not torch.equal(value, after[name]) for name, value in before.items()), "the second step is not lost"


def test_no_process_of_a_server_is_left(run):
    assert len(run.servers) == 2
    for processes in run.servers.values():
        assert len(processes) > 2
        assert not [process for process in processes if process.is_running()]


@pytest.fixture(scope="module")
def engine(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    settings = ServerSettings(model=base, context_tokens=256, dtype="float32", sequences=64)
    with engines.started(settings, tmp_path_factory.mktemp("work")) as running:
        yield running


def test_the_engine_samples_from_the_model_that_it_started_with(engine, base, tokenizer):
    """Its generation_config allows only the two likeliest tokens, and must not apply."""
    prompt = tokenizer.encode("1 + 2")
    params = SamplingParams(max_tokens=1, temperature=1.0, samples=64, seed=3)
    completions = engine.sample([prompt], params, eos=tokenizer.eos_token_id)
    assert len({completion.ids[0] for completion in completions}) > 8
    logits = checkpoints.load_model(base)(input_ids=torch.tensor([prompt])).logits[0, -1]
    expected = torch.log_softmax(logits, -1)
    for completion in completions:
        assert completion.logprobs == pytest.approx([expected[completion.ids[0]].item()], abs=1e-4)


def test_a_seed_repeats_a_draw_and_prompts_do_not_share_one(engine, tokenizer):
    prompt = tokenizer.encode("1 + 2")
    params = SamplingParams(max_tokens=8, temperature=1.0, samples=2, seed=5)
    first, again = (engine.sample([prompt, prompt], params, eos=tokenizer.eos_token_id) for _ in range(2))
    assert [completion.ids for completion in first] == [completion.ids for completion in again]
    assert len({tuple(completion.ids) for completion in first}) == 4


def test_the_end_token_of_the_call_ends_a_completion_and_is_part_of_it(engine, tokenizer):
    prompt = tokenizer.encode("1 + 2")
    greedy = SamplingParams(max_tokens=6, temperature=0.0)
    token = engine.sample([prompt], greedy, eos=tokenizer.eos_token_id)[0].ids[0]
    assert engine.sample([prompt], greedy, eos=token)[0].ids == [token]


def test_what_the_engine_refuses_is_told_in_one_line(engine, tokenizer, tmp_path):
    with pytest.raises(StageError, match=r"family\.max_tokens: 8 leave room for a prompt of 248 tokens .*has 249"):
        engine.sample([[7] * 249], SamplingParams(max_tokens=8, temperature=1.0), eos=tokenizer.eos_token_id)
    with pytest.raises(StageError, match=r"/v1/completions answered 400: "):
        engine.sample([[10**6]], SamplingParams(max_tokens=8, temperature=1.0), eos=tokenizer.eos_token_id)


def test_many_prompts_do_not_take_a_thread_and_a_socket_each(tmp_path):
    counting, running, peaks = threading.Lock(), set[int](), list[int]()

    def answer(request: httpx.Request) -> httpx.Response:
        with counting:
            running.add(id(request))
            peaks.append(len(running))
        time.sleep(0.3)
        with counting:
            running.remove(id(request))
        choice = {"index": 0, "token_ids": json.loads(request.content)["prompt"], "finish_reason": "stop"}
        return httpx.Response(200, json={"choices": [choice | {"logprobs": {"token_logprobs": [0.0]}}]})

    settings = ServerSettings(model=tmp_path, context_tokens=64, dtype="float32", sequences=64)
    client = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://vllm")
    fake = Engine(Server(client, tmp_path / "log", settings, 0), tmp_path)
    completions = fake.sample([[number] for number in range(600)], SamplingParams(8, 1.0), eos=2)
    assert [completion.ids for completion in completions] == [[number] for number in range(600)]
    assert max(peaks) <= engines.LARGEST_BATCH


def test_what_earlier_weights_computed_is_not_used_again(engine, base, tokenizer):
    """The same long prompt, whose keys and values vLLM had cached, under other weights."""
    prompt = tokenizer.encode("1 + 2") * 12
    params = SamplingParams(max_tokens=4, temperature=1.0, samples=2, seed=3)
    engine.sample([prompt], params, eos=tokenizer.eos_token_id)
    model = checkpoints.load_model(base)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.add_(torch.randn_like(weight) * weight.std())
        engine.load(plain_weights(model))
        for completion in engine.sample([prompt], params, eos=tokenizer.eos_token_id):
            logits = model(input_ids=torch.tensor([prompt + completion.ids])).logits[0, len(prompt) - 1 : -1]
            expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(completion.ids)[:, None])[:, 0]
            assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-4)
    assert not engine.directory.exists(), "a step's weights are not kept"


def test_more_prompts_with_seeds_than_one_batch_takes_do_not_end_the_server(engine):
    """A prompt that is computed in two parts ended it: vLLM turns its generator back, and a CPU's cannot be."""
    rows = [[number % 200 + 1] * 200 for number in range(64)]  # 12,800 tokens; a batch takes 4,096
    first, again = (engine.sample(rows, SamplingParams(4, 1.0, 1, 7), eos=2) for _ in range(2))
    assert [len(completion.ids) for completion in first] == [len(completion.ids) for completion in again]
    assert all(1 <= len(completion.ids) <= 4 for completion in first)
