"""Which of a response's text is reasoning, and which is the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.answer import counting
from gateway.answer.counting import TokenCounter
from gateway.answer.transcript import MAX_CHOICES, TextCount, Transcript
from models.family import Reasoning
from tests.gateway.fakes import event

MARKS = Reasoning()


@pytest.fixture(scope="module")
def counter(family_dir: Path) -> TokenCounter:
    return counting.load(family_dir / "base" / "tokenizer.json")


def count(counter: TokenCounter, finish: str | None = "stop", *, thinks: bool = True, **message: Any) -> TextCount:
    transcript = Transcript()
    transcript.add_response({"choices": [{"index": 0, "message": message, "finish_reason": finish}]})
    return transcript.count(counter, MARKS, thinks=thinks)


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning": "1 + 2", "content": "3"},
        {"reasoning_content": "1 + 2", "content": "3"},
        {"content": "<think>1 + 2</think>3"},
        {"content": "1 + 2</think>3"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "1 + 2"}]}, {"text": "3"}]},
    ],
)
def test_reasoning_is_found_wherever_engines_put_it(counter: TokenCounter, message: dict[str, Any]) -> None:
    assert count(counter, **message)[:2] == (counter.count("1 + 2"), counter.count("3"))


def test_thinking_that_was_cut_off_is_reasoning(counter: TokenCounter) -> None:
    assert count(counter, "length", content="\n<think>1 + 2")[:2] == (counter.count("\n1 + 2"), 0)
    assert count(counter, "length", content="1 + 2")[:2] == (counter.count("1 + 2"), 0)


@pytest.mark.parametrize(("reasons", "gave_up"), [(["length"], False), (["stop", "error"], True), ([], True)])
def test_an_engine_that_gives_up_sends_no_choice_or_says_so(reasons: list[str], gave_up: bool) -> None:
    choices = [{"index": i, "message": {"content": ""}, "finish_reason": reason} for i, reason in enumerate(reasons)]
    transcript = Transcript()
    transcript.add_response({"choices": choices})
    assert transcript.gave_up == gave_up


def test_content_that_was_cut_off_is_an_answer_if_there_was_no_thinking_to_cut(counter: TokenCounter) -> None:
    assert count(counter, "length", content="1 + 2", thinks=False).reasoning == 0
    assert count(counter, "length", content="The ans", reasoning="1 + 2").answer == counter.count("The ans")
    assert count(counter, "stop", content="I write <think> where I think").reasoning == 0


def test_a_mark_that_is_mentioned_is_a_word(counter: TokenCounter) -> None:
    answer = "Thinking ends with </think> in this format."
    assert count(counter, reasoning="1 + 2", content=answer)[:2] == (counter.count("1 + 2"), counter.count(answer))
    assert count(counter, content=answer, thinks=False)[:2] == (0, counter.count(answer))
    call = {"function": {"name": "write", "arguments": '{"text": "a</think>b"}'}}
    counted = count(counter, content="Look.", tool_calls=[call])
    assert counted[:2] == (0, counter.count("Look.") + counter.count('write{"text": "a</think>b"}'))


def test_tool_calls_are_part_of_the_answer(counter: TokenCounter) -> None:
    call = {"function": {"name": "add", "arguments": '{"a": 1}'}}
    assert count(counter, content=None, tool_calls=[call]).answer == counter.count('add{"a": 1}')


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": None},
        {"choices": ["x", {}]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [{"message": 1}]},
    ],
)
def test_a_response_of_unknown_shape_counts_as_nothing(counter: TokenCounter, answer: dict[str, Any]) -> None:
    transcript = Transcript()
    transcript.add_response(answer)
    assert transcript.count(counter, MARKS) == TextCount(0, 0, has_thought=False, answers=0)


@pytest.mark.parametrize("index", ["0", [], {}, None, 1.5])
def test_a_choice_with_an_invalid_index_is_counted(counter: TokenCounter, index: object) -> None:
    transcript = Transcript()
    transcript.add_response({"choices": [{"index": index, "message": {"content": "The answer is 3."}}]})
    assert transcript.count(counter, MARKS).answer > 0


def test_an_engine_cannot_make_up_choices_without_end() -> None:
    transcript = Transcript()
    for index in range(MAX_CHOICES + 100):
        transcript.add_response({"choices": [{"index": index, "message": {"content": "x"}}]})
    assert len(transcript._choices) == MAX_CHOICES


def test_an_event_may_have_its_data_on_several_lines(counter: TokenCounter) -> None:
    transcript = Transcript()
    one_line = event({"content": "3"})
    transcript.add_events(one_line.replace(b'"choices"', b'\ndata: "choices"') + event({}, "stop"))
    assert transcript.count(counter, MARKS).answer == counter.count("3")
