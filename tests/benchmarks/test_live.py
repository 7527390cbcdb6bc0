from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.live import Answer, Answers, Stack, drawn, paired, rounded
from benchmarks.recorded import recording, replaying
from tests.conftest import RedisServer
from tests.gateway.fakes import COMPLETION, EASY, FakeEngine, build_family, respond_with, running
from training.tasks.prompts import prompts
from training.tasks.question import Question

ANSWER = Answer(0, "req_1", "routed", correct=True, tokens=7, seconds=0.5)


def test_answers_are_kept_for_a_pass_that_was_interrupted(tmp_path: Path) -> None:
    answers = Answers(tmp_path / "pass" / "answers.jsonl")
    answers.add(ANSWER)
    answers.add(replace(ANSWER, number=4, correct=False))
    assert Answers(tmp_path / "pass" / "answers.jsonl").by_number == answers.by_number
    assert set(answers.by_number) == {0, 4}


def test_scores_are_drawn_with_the_share_of_each_difficulty() -> None:
    questions = prompts("heldout", 1, 3000)
    chosen = drawn(questions, {"easy": 0.9, "medium": 0.6, "hard": 0.0}, seed=0)
    counts = Counter(questions[number].difficulty for number in chosen)
    assert counts["easy"] / 1000 == pytest.approx(0.9, abs=0.04)
    assert counts["medium"] / 1000 == pytest.approx(0.6, abs=0.05)
    assert counts["hard"] == 0
    assert drawn(questions, {"easy": 0.9, "medium": 0.6, "hard": 0.0}, seed=0) == chosen


def test_a_paired_mean_has_the_interval_of_its_resamples() -> None:
    found = paired([0.0, 1.0] * 200)
    assert found["mean"] == 0.5
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    assert paired([1.0] * 5) == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_results_have_short_numbers_at_any_depth() -> None:
    assert rounded({"a": [1 / 3, {"b": (2 / 3, None, True, 7)}]}) == {"a": [0.33333, {"b": [0.66667, None, True, 7]}]}


async def test_a_caller_asks_is_graded_scores_and_reads_what_the_ledger_has(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    family = build_family(tmp_path / "abacus")
    right, wrong = Question(EASY, "3", "sum", "easy"), Question(EASY, "4", "sum", "easy")
    async with (
        FakeEngine(family).listening() as engine,
        running(tmp_path / "abacus", redis_server.url, [engine.url], holdout_fraction=0.5) as gateway,
    ):
        engine.script = respond_with(200, _completion("The answer is 3."))
        stack = Stack(gateway.url)
        known = Answers()
        known.add(replace(ANSWER, number=1))
        answers = await stack.ask([right, right, wrong], known)
        assert [one.correct for one in answers] == [True, True, False]
        assert answers[1] == replace(ANSWER, number=1)  # it was not asked again
        assert len({one.id for one in answers}) == 3
        assert answers[0].tokens == COMPLETION["usage"]["completion_tokens_details"]["reasoning_tokens"]
        await stack.score([answers[0], answers[2]], "verifier")
        report = await asyncio.to_thread(stack.savings, 2)
        sides = report["quality"]["sources"]["verifier"]
        assert sides["routed"]["scores"] + sides["holdout"]["scores"] == 2
        with pytest.raises(RuntimeError, match="404"):
            await stack.score([ANSWER], "verifier")


def _completion(text: str) -> dict[str, Any]:
    choice = COMPLETION["choices"][0] | {"message": COMPLETION["choices"][0]["message"] | {"content": text}}
    return COMPLETION | {"choices": [choice]}


async def test_what_an_engine_answered_is_given_again(tmp_path: Path) -> None:
    family = build_family(tmp_path / "abacus")
    path, name = tmp_path / "answers.jsonl", family.served_name("base")
    chat = {"model": name, "messages": [{"role": "user", "content": "What is 1 + 2?"}]}
    async with FakeEngine(family).listening() as engine, httpx.AsyncClient(timeout=10) as client:
        with recording(engine.url, path) as url:
            models = (await client.get(f"{url}/v1/models")).json()
            engine.script = respond_with(500, {"error": {"message": "out of memory"}})
            assert (await client.post(f"{url}/v1/chat/completions", json=chat)).status_code == 500  # and is not kept
            for text in ("The answer is 3.", "The answer is 4."):
                engine.script = respond_with(200, _completion(text))
                given = await client.post(f"{url}/v1/chat/completions", json=chat)
                assert given.json()["choices"][0]["message"]["content"] == text
        with replaying(path) as url:
            assert (await client.get(f"{url}/v1/models")).json() == models
            texts: set[str] = set()
            for _ in range(40):
                again = await client.post(f"{url}/v1/chat/completions", json=chat)
                texts.add(again.json()["choices"][0]["message"]["content"])
            other = await client.post(f"{url}/v1/chat/completions", json=chat | {"model": "another"})
    assert texts == {"The answer is 3.", "The answer is 4."}
    assert other.status_code == 404
