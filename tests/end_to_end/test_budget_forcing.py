"""A real vLLM that cannot cap the thinking: the gateway ends it at the budget, and the answer follows."""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from openai import OpenAI

from gateway.answer import counting
from gateway.answer.counting import TokenCounter
from gateway.process import embedded
from gateway.process.embedded import free_port
from models import family as families
from models.files import hash_files
from tests.end_to_end.conftest import FAMILY_DIR, Stack, launched, metric_total, until
from training.tasks.prompts import prompts
from training.tasks.verify import is_correct

BUDGETS = (16, 32, 64, 128)
ANSWERS = 96
AT_ONCE = 8


@dataclass(frozen=True)
class Answer:
    """What a caller gets."""

    budget: int
    reasoning: str
    content: str
    usage: dict[str, Any]
    streamed: bool
    hit_header: bool
    correct: bool


@pytest.fixture(scope="module")
def forced_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The family, adopted from an engine without caps."""
    directory = tmp_path_factory.mktemp("forced") / "abacus"
    (directory / "base").mkdir(parents=True)
    family = families.load(FAMILY_DIR, verify=False)
    for name in ("profile.json", "base/tokenizer.json"):
        (directory / name).write_bytes((FAMILY_DIR / name).read_bytes())
    served = [
        one.model_copy(
            update={
                "kind": "served", "model": "abacus/base", "cap": "forced", "alpha": None, "path": None, "files": {},
                "answer_tokens": 12,
            }
        )
        for one in family.checkpoints
    ]  # fmt: skip
    files = hash_files(directory, "profile.json") | hash_files(directory, "base/tokenizer.json")
    adopted = {"schema_version": 2, "base": None, "files": files, "checkpoints": tuple(served)}
    families.save(family.model_copy(update=adopted), directory)
    return directory


@pytest.fixture(scope="module")
def counter(forced_dir: Path) -> TokenCounter:
    return counting.load(forced_dir / "base/tokenizer.json")


@pytest.fixture(scope="module")
def bare_engine(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """A vLLM that serves the base without a reasoning parser."""
    directory, port = tmp_path_factory.mktemp("bare"), free_port()
    family = families.load(FAMILY_DIR, verify=False)
    alone = family.model_copy(update={"checkpoints": (family.base_checkpoint,)})
    program = embedded.engine(alone, FAMILY_DIR, port, directory)
    at = program.command.index("--reasoning-parser")
    command = [*program.command[:at], *program.command[at + 2 :]]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **program.environment})
    url = f"http://127.0.0.1:{port}"

    def is_up() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        try:
            return httpx.get(f"{url}/v1/models").status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(is_up, "vLLM did not start")
        yield url
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def bare(bare_engine: str, forced_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """A gateway in front of it."""
    arguments = ("--engine", bare_engine, "--family", str(forced_dir))
    with launched(tmp_path_factory.mktemp("state"), *arguments) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def parsing(stack: Stack, forced_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """A gateway in front of a vLLM with a reasoning parser, whose own cap it does not use."""
    arguments = ("--engine", stack.engine_url, "--family", str(forced_dir))
    with launched(tmp_path_factory.mktemp("state"), *arguments) as gateway:
        yield gateway


def ask(client: OpenAI, budget: int, question: str, gold: str, *, stream: bool, **more: Any) -> Answer:
    """One answer of the base under a budget. Without a reasoning parser the thinking is in the content."""
    chat: dict[str, Any] = {"model": "abacus/base", "messages": [{"role": "user", "content": question}], **more}
    chat |= {"extra_headers": {"X-Reasoning-Budget": str(budget)}}
    hit_header = False
    if stream:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        events = list(cast("Any", client.chat.completions.create(**chat, **options)))
        deltas = [choice.delta for event in events for choice in event.choices]
        reasoning = "".join(getattr(delta, "reasoning", None) or "" for delta in deltas)
        content = "".join(delta.content or "" for delta in deltas)
        assert len({(event.id, event.created, event.model) for event in events}) == 1
        assert sum(delta.role is not None for delta in deltas) == 1
        usage = events[-1].usage.model_dump()
    else:
        raw = client.chat.completions.with_raw_response.create(**chat)
        hit_header = raw.headers.get("x-laconic-budget-hit") == "true"
        completion = cast("Any", raw.parse())
        message = completion.choices[0].message
        reasoning, content = getattr(message, "reasoning", None) or "", message.content or ""
        usage = completion.usage.model_dump()
    if not reasoning:
        reasoning, _, content = content.rpartition("</think>")
        reasoning = reasoning.removeprefix("<think>")
    return Answer(budget, reasoning, content, usage, stream, hit_header, is_correct(content, gold))


def ask_all(client: OpenAI, number: int) -> list[Answer]:
    """So many answers, streamed and not, under each of the budgets in turn."""
    questions = prompts("validation", 7, number)

    def one(at: int) -> Answer:
        question = questions[at]
        budget, stream = BUDGETS[at % len(BUDGETS)], at % 8 < 4
        return ask(client, budget, question.prompt, question.answer, stream=stream, temperature=1.0, seed=at)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, range(number)))


def check(answers: list[Answer], counter: TokenCounter) -> None:
    """Each thinks within its budget, has an answer, and says whether its budget was hit."""
    for answer in answers:
        thought = counter.count(answer.reasoning)
        assert thought <= answer.budget
        assert re.search(r"The answer is \S", answer.content), answer
        assert "<think>" not in answer.content
        details = answer.usage["completion_tokens_details"]
        assert details["reasoning_tokens"] <= answer.budget
        assert answer.usage["completion_tokens"] > details["reasoning_tokens"] or not thought
        hit = answer.usage.get("budget_hit", False)
        assert answer.hit_header == (hit and not answer.streamed)
        if hit:
            assert details["reasoning_tokens"] >= answer.budget - 4  # a character may be several tokens
    assert {answer.usage.get("budget_hit", False) for answer in answers} == {True, False}


def test_without_a_reasoning_parser_no_answer_has_more_reasoning_than_its_budget(
    bare: Stack, bare_engine: str, counter: TokenCounter
) -> None:
    before = metric_total(bare_engine, "vllm:request_success_total")
    answers = ask_all(bare.sdk, ANSWERS)
    check(answers, counter)
    report(answers, metric_total(bare_engine, "vllm:request_success_total") - before)
    forced = sum(answer.usage.get("budget_hit", False) for answer in answers)
    assert metric_total(bare.url, "laconic_forced_budgets_total") == forced
    assert metric_total(bare.url, "laconic_cap_breaches_total") == 0
    assert metric_total(bare.url, "laconic_engine_not_continued_total") == 0


def test_with_a_reasoning_parser_the_answer_is_content_and_the_thinking_is_reasoning(
    parsing: Stack, counter: TokenCounter
) -> None:
    answers = ask_all(parsing.sdk, 40)
    check(answers, counter)
    assert all("</think>" not in answer.content for answer in answers)
    assert all(answer.reasoning for answer in answers)


def test_hidden_reasoning_stays_hidden_and_the_answer_is_whole(bare: Stack) -> None:
    for stream in (True, False):
        hidden = {"include_reasoning": False}
        answer = ask(bare.sdk, 16, "What is 47 * 86?", "4042", stream=stream, extra_body=hidden)
        assert not answer.reasoning
        assert answer.content.strip().startswith("The answer is")
        assert answer.usage["budget_hit"]


def test_a_budget_of_zero_has_an_answer_at_once(bare: Stack) -> None:
    for stream in (True, False):
        answer = ask(bare.sdk, 0, "What is 4 + 8?", "12", stream=stream)
        assert not answer.reasoning.strip()
        assert "The answer is" in answer.content


def test_max_tokens_leaves_the_room_that_answers_were_measured_to_need(bare: Stack, counter: TokenCounter) -> None:
    random.seed(1)
    for stream in (True, False):
        answer = ask(bare.sdk, 400, "What is 47 * 86 + 12 * 9?", "4150", stream=stream, max_tokens=40)
        assert counter.count(answer.reasoning) <= 28
        assert "The answer is" in answer.content
        assert answer.usage["completion_tokens"] <= 40


def report(answers: list[Answer], requests: float) -> None:
    """Print what is asserted nowhere: how often a budget was hit, and how many answers are right."""
    for budget in BUDGETS:
        some = [answer for answer in answers if answer.budget == budget]
        hit = sum(answer.usage.get("budget_hit", False) for answer in some)
        print(f"budget {budget}: {len(some)} answers, {hit} hit, {sum(answer.correct for answer in some)} right")
    print(f"{len(answers)} answers took {requests:.0f} finished requests")
