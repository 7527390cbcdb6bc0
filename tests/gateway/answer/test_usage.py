from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.answer import counting, usage
from gateway.answer.counting import TokenCounter
from gateway.answer.usage import TokenUsage, Transcript
from models.family import Reasoning
from tests.gateway.fakes import COMPLETION, USAGE


@pytest.fixture(scope="module")
def counter(family_dir: Path) -> TokenCounter:
    return counting.load(family_dir / "base" / "tokenizer.json")


def complete(counter: TokenCounter, reported: Any, answer: dict[str, Any] = COMPLETION) -> dict[str, Any]:
    transcript = Transcript()
    transcript.add_response(answer)
    return usage.complete(reported, transcript, counter, Reasoning(), lambda: "prompt")


def response_with(**message: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": message}]}


def test_reported_reasoning_tokens_are_kept(counter: TokenCounter) -> None:
    assert complete(counter, USAGE) is USAGE
    assert TokenUsage.of(USAGE) == TokenUsage(prompt=17, reasoning=4, answer=5)


@pytest.mark.parametrize("details", [{}, {"completion_tokens_details": None}, {"completion_tokens_details": {"x": 1}}])
def test_unreported_reasoning_tokens_are_counted(counter: TokenCounter, details: dict[str, Any]) -> None:
    completed = complete(counter, {"prompt_tokens": 17, "completion_tokens": 30, **details})
    assert completed["completion_tokens_details"]["reasoning_tokens"] == counter.count("1 + 2 = 3")
    assert TokenUsage.of(completed).answer == 30 - counter.count("1 + 2 = 3")


def test_counted_reasoning_never_exceeds_the_generated_tokens(counter: TokenCounter) -> None:
    completed = complete(counter, {"completion_tokens": 2})
    assert completed["completion_tokens_details"]["reasoning_tokens"] == 2


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning": "1 + 2", "content": "3"},
        {"reasoning_content": "1 + 2", "content": "3"},
        {"content": "<think>1 + 2</think>3"},
        {"content": "1 + 2</think>3"},
    ],
)
def test_reasoning_is_found_in_every_field_that_engines_use(counter: TokenCounter, message: dict[str, Any]) -> None:
    completed = complete(counter, None, response_with(**message))
    assert TokenUsage.of(completed) == TokenUsage(counter.count("prompt"), counter.count("1 + 2"), counter.count("3"))


def test_truncated_thinking_counts_as_reasoning(counter: TokenCounter) -> None:
    completed = complete(counter, None, response_with(content="\n<think>1 + 2"))
    assert TokenUsage.of(completed) == TokenUsage(counter.count("prompt"), counter.count("\n1 + 2"), 0)
    mentioned = complete(counter, None, response_with(content="I write <think> where I think"))
    assert TokenUsage.of(mentioned).reasoning == 0


def test_tool_calls_are_part_of_the_answer(counter: TokenCounter) -> None:
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    completed = complete(counter, None, response_with(content=None, tool_calls=[call]))
    assert TokenUsage.of(completed).answer == counter.count('add{"a": 1}')


@pytest.mark.parametrize(
    "answer", [{}, {"choices": None}, {"choices": ["x", {}]}, response_with(content=5), {"choices": [{"message": 1}]}]
)
def test_a_response_of_unknown_shape_counts_as_zero(counter: TokenCounter, answer: dict[str, Any]) -> None:
    assert TokenUsage.of(complete(counter, None, answer)).reasoning == 0


@pytest.mark.parametrize("index", ["0", [], {}, None, 1.5])
def test_a_choice_with_an_invalid_index_is_counted(counter: TokenCounter, index: object) -> None:
    transcript = Transcript()
    transcript.add_response({"choices": [{"index": index, "message": {"content": "The answer is 3."}}]})
    assert transcript.count(counter, Reasoning()).answer > 0
