"""Whose weights are measured, and to which question does an outcome belong?"""

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from tests.training.conftest import TINY
from training.base import train
from training.config import DenseReward, FamilyStage, Recipe
from training.job import checkpoints
from training.measure import budget_forced, evaluate, outcomes, served
from training.recipe_base import PretrainedBase
from training.rollouts.params import SamplingParams
from training.tasks.outcome import load, load_budget_forced
from training.tasks.prompts import prompts


@pytest.fixture
def recipe(tmp_path, tokenizer) -> Recipe:
    """A run whose base and adapter are on disk. The adapter is far from zero."""
    torch.manual_seed(0)
    base = train.new_model(TINY, tokenizer)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = Recipe(
        name="mine",
        description="d",
        run_dir=tmp_path / "run",
        base=PretrainedBase(model=str(tmp_path / "base"), context_tokens=64),
        family=FamilyStage(alphas=(0.2,), max_tokens=8),
    )
    lora = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(base, lora).save_pretrained(checkpoints.trained_path(recipe, "alpha-0.2"))
    return recipe


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(torch.tensor([[5, 6, 7, 8]])).logits


@pytest.fixture
def expected(recipe) -> dict[str, torch.Tensor]:
    """Logits of base and checkpoint, computed with PEFT's own adapter layers and nothing merged."""
    base = AutoModelForCausalLM.from_pretrained(recipe.base.model)
    by_name = {"base": logits(base)}
    by_name["alpha-0.2"] = logits(PeftModel.from_pretrained(base, checkpoints.trained_path(recipe, "alpha-0.2")))
    assert (by_name["base"] - by_name["alpha-0.2"]).abs().max() > 0.1
    return by_name


@pytest.mark.parametrize("name", ["base", "alpha-0.2"])
def test_the_named_checkpoint_is_measured_and_no_other(recipe, expected, name, monkeypatch, tmp_path):
    measured: list[torch.Tensor] = []

    def spy(model, tokenizer, **_):
        measured.append(logits(model))
        return []

    monkeypatch.setattr(evaluate, "sample_and_grade", spy)
    monkeypatch.setattr(budget_forced, "measure", spy)
    questions = prompts("heldout", 0, 2)
    outcomes.measure(recipe, name, questions, tmp_path / "outcomes.jsonl", SamplingParams(8, 1.0))
    outcomes.measure_budget_forced(recipe, name, questions, tmp_path / "budget-forced.jsonl")
    assert len(measured) == 2
    for own in measured:
        torch.testing.assert_close(own, expected[name], atol=1e-4, rtol=1e-4)


def test_a_published_adapter_is_measured_merged_into_its_base(recipe, expected):
    path = checkpoints.trained_path(recipe, "alpha-0.2")
    published = SimpleNamespace(kind="lora", path=path.name)
    model = checkpoints.load_published(path.parent, published, recipe.base.model)
    torch.testing.assert_close(logits(model), expected["alpha-0.2"], atol=1e-4, rtol=1e-4)


def answered(tokenizer, questions):
    """Completions that tell whose they are: question i thinks i + 1 tokens and answers with its own gold answer."""
    ids = evaluate.encoded(tokenizer, questions)
    question = {tuple(prompt): (i, questions[i].answer) for i, prompt in enumerate(ids)}
    assert len(question) == len(questions)

    def sample(_model, given, params, **_):
        completions = []
        for prompt in given:
            i, gold = next(value for key, value in question.items() if tuple(prompt[: len(key)]) == key)
            thought = prompt[len(ids[i]) :] or tokenizer.encode("7" * (i + 1))
            end = tokenizer.encode(
                f"{'' if len(prompt) > len(ids[i]) else '</think>'}\n\nThe answer is {gold}.<|im_end|>"
            )
            completions += [(end if len(prompt) > len(ids[i]) else [*thought, *end])] * params.samples
        return completions

    return sample


def test_outcomes_belong_to_their_questions(tokenizer, monkeypatch):
    questions = prompts("heldout", 0, 12)
    lengths = [len(ids) for ids in evaluate.encoded(tokenizer, questions)]
    assert lengths != sorted(lengths), "sampling sorts the questions by length, so the order has to be restored"
    monkeypatch.setattr(evaluate, "sample", answered(tokenizer, questions))
    rows = evaluate.sample_and_grade(None, tokenizer, questions, SamplingParams(99, 1.0, samples=2, seed=0))
    assert [row.prompt for row in rows] == [question.prompt for question in questions]
    for i, row in enumerate(rows):
        assert [outcome.correct for outcome in row.outcomes] == [True, True]
        assert [outcome.reasoning_tokens for outcome in row.outcomes] == [len(tokenizer.encode("7" * (i + 1)))] * 2


def test_budget_forced_outcomes_belong_to_their_questions(tokenizer, monkeypatch):
    questions = prompts("heldout", 0, 12)
    monkeypatch.setattr(budget_forced, "sample", answered(tokenizer, questions))
    answers = budget_forced.measure(None, tokenizer, questions, SamplingParams(99, 1.0, seed=0))
    assert sorted(answer.prompt for answer in answers) == sorted(question.prompt for question in questions)
    assert all(answer.correct for answer in answers)
    thought = {question.prompt: len(tokenizer.encode("7" * (i + 1))) for i, question in enumerate(questions)}
    assert all(answer.budget < thought[answer.prompt] for answer in answers)


def test_what_is_measured_is_saved_under_its_question(recipe, tokenizer, monkeypatch, tmp_path):
    questions = prompts("heldout", 0, 6)
    for module in (evaluate, budget_forced):
        monkeypatch.setattr(module, "sample", answered(tokenizer, questions))
    outcomes.measure(recipe, "base", questions, tmp_path / "base.jsonl", SamplingParams(99, 1.0, seed=0))
    outcomes.measure_budget_forced(recipe, "base", questions, tmp_path / "base.budget-forced.jsonl")
    rows, forced = load(tmp_path / "base.jsonl"), load_budget_forced(tmp_path / "base.budget-forced.jsonl")
    assert [row.prompt for row in rows] == [question.prompt for question in questions]
    assert all(row.accuracy == 1 for row in rows)
    assert all(answer.correct for answer in forced)
    assert json.loads((tmp_path / "base.jsonl.made-from.json").read_text())["prompts"] == 6


async def test_served_outcomes_belong_to_their_questions_whichever_answer_comes_first(monkeypatch):
    questions = prompts("heldout", 0, 5)
    sent: dict[tuple[str, int], dict] = {}

    async def create(*, messages, seed, **request):
        """Answer the later requests first. The answer is the question's own, and its usage tells the request's seed."""
        text = messages[0]["content"]
        sent[text, seed] = request
        await asyncio.sleep(0.01 * (20 - seed))
        gold = next(question.answer for question in questions if question.prompt == text)
        usage = SimpleNamespace(
            completion_tokens=seed + 9, completion_tokens_details=SimpleNamespace(reasoning_tokens=seed)
        )
        message = SimpleNamespace(content=f"The answer is {gold}.", reasoning="7")
        return SimpleNamespace(choices=[SimpleNamespace(message=message, finish_reason="stop")], usage=usage)

    @asynccontextmanager
    async def client(_url):
        yield SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))

    monkeypatch.setattr(served, "_client", client)
    rows = await served.sample_and_grade("url", "m", questions, SamplingParams(33, 0.7, samples=2, seed=4), budget=6)
    assert [row.prompt for row in rows] == [question.prompt for question in questions]
    for i, row in enumerate(rows):
        assert [outcome.correct for outcome in row.outcomes] == [True, True]
        assert [outcome.reasoning_tokens for outcome in row.outcomes] == [4 + 2 * i, 4 + 2 * i + 1]
    for request in sent.values():
        assert (request["max_tokens"], request["temperature"]) == (33, 0.7)
        assert request["extra_headers"] == {"X-Reasoning-Budget": "6"}


@torch.no_grad()
def test_what_a_first_episode_is_worth_is_read_where_it_ends(on_shipped, monkeypatch):
    """J_1 by hand: the gold answer's probability after the prompt, exactly the first episode, and the stop.

    The model is heated: as it ships, the answer's probability is 0 or 1 wherever in the thinking it is read.
    """
    model, tokenizer = checkpoints.load_base(on_shipped)
    train.fold_temperature(model, 4.0)
    questions = prompts("train", 5, 3)
    firsts = [f"\n{question.answer}+1-1={question.answer}\nso {question.answer}" for question in questions]
    order = sorted(range(3), key=lambda i: len(evaluate.encoded(tokenizer, questions)[i]))
    rest = "\n\ncheck step\n1+1=2\n</think>\n\nThe answer is 2.<|im_end|>"
    monkeypatch.setattr(evaluate, "sample", lambda *_, **__: [tokenizer.encode(firsts[i] + rest) for i in order])
    rows = evaluate.sample_and_grade(model, tokenizer, questions, SamplingParams(200, 1.0), first_episode=DenseReward())
    stop = tokenizer.encode("\n</think>\n\nThe answer is ")
    for prompt, first, question, row in zip(
        evaluate.encoded(tokenizer, questions), firsts, questions, rows, strict=True
    ):
        before, answer = [*prompt, *tokenizer.encode(first), *stop], tokenizer.encode(f"{question.answer}.")
        logp = model(torch.tensor([[*before, *answer]])).logits[0, len(before) - 1 : -1].float().log_softmax(-1)
        expected = logp.gather(1, torch.tensor(answer)[:, None]).sum().exp().item()
        assert row.outcomes[0].after_first == pytest.approx(expected, abs=5e-6)
        assert 0.001 < expected < 0.999
