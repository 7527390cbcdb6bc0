import pytest

from models.family import Reasoning
from training.adopt.cost import all_thinking, split
from training.adopt.engine import Reply


def reply(content: str = "42", reasoning: str = "", tokens: int = 20, reported: int | None = None) -> Reply:
    return Reply(content, reasoning, "stop", 5, tokens, reported, 0.1)


@pytest.mark.parametrize(
    ("given", "answer", "reasoning_tokens"),
    [
        (reply(reasoning="think", reported=12), "42", 12),
        (reply(reasoning="t" * 30, content="a" * 10), "a" * 10, 15),
        (reply(content="<think>" + "t" * 30 + "</think>" + "a" * 10), "a" * 10, 15),
        (reply(content="t" * 30 + "</think>" + "a" * 10), "a" * 10, 15),
        (reply(content="<think>cut off"), "", 20),
        (reply(reported=0), "42", 0),
        (reply(reasoning="think", reported=0, content=""), "", 20),
        (reply(content=""), "", 0),
    ],
)
def test_reasoning_is_told_from_the_answer(given: Reply, answer: str, reasoning_tokens: int):
    parts = split(given, Reasoning())
    assert (parts.answer, parts.reasoning_tokens) == (answer, reasoning_tokens)
    assert parts.reasoning_tokens + parts.answer_tokens == given.completion_tokens


@pytest.mark.parametrize(
    ("content", "finish_reason", "reasoning_tokens"),
    [
        ("still thinking", "length", 20),
        ("t" * 30 + "</think>" + "a" * 10, "length", 15),
        ("<think>" + "t" * 30, "length", 20),
        ("42", "stop", 0),
    ],
)
def test_where_the_template_opens_the_thinking_a_reply_without_its_end_is_thinking(
    content: str, finish_reason: str, reasoning_tokens: int
):
    given = Reply(content, "", finish_reason, 5, 20, None, 0.1)
    assert split(all_thinking(given), Reasoning()).reasoning_tokens == reasoning_tokens


def test_without_marks_every_token_counts():
    parts = split(reply(content="step by step: 42"), None)
    assert (parts.answer, parts.reasoning_tokens, parts.answer_tokens) == ("step by step: 42", 20, 0)
