import re

import pytest
from openai.types.chat import ChatCompletion

from training.errors import StageError
from training.measure import served
from training.rollouts.params import SamplingParams
from training.tasks.question import Question


def completion(content="The answer is 42.", *, finish="stop", reasoning="\n6*7=42\n", details=True):
    usage = {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 29}
    if details:
        usage["completion_tokens_details"] = {"reasoning_tokens": 12}
    message = {"role": "assistant", "content": content, "reasoning": reasoning}
    choice = {"index": 0, "finish_reason": finish, "message": message, "logprobs": None}
    return ChatCompletion.model_validate(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    )


def test_a_correct_answer_counts_the_tokens_of_its_usage():
    outcome = served.outcome(completion(), "42")
    assert (outcome.correct, outcome.finished, outcome.reasoning_tokens, outcome.tokens) == (True, True, 12, 20)


@pytest.mark.parametrize("wrong", [{"content": "The answer is 41."}, {"content": None}, {"finish": "length"}])
def test_a_wrong_missing_or_truncated_answer_is_incorrect(wrong):
    assert not served.outcome(completion(**wrong), "42").correct


@pytest.mark.parametrize(
    ("reasoning", "episodes"),
    [(None, 1), ("", 1), ("\n6*7=42\nso 42\n", 1), ("6*7=42\n\ncheck\n7*6=42\n \nonce more\n\n", 3)],
)
def test_episodes_are_separated_by_blank_lines(reasoning, episodes):
    assert served.outcome(completion(reasoning=reasoning), "42").episodes == episodes


def test_usage_without_reasoning_tokens_is_rejected_and_names_the_model():
    with pytest.raises(ValueError, match="the usage of m does not report reasoning tokens"):
        served.outcome(completion(details=False), "42")


async def test_a_refused_connection_names_the_url(monkeypatch):
    monkeypatch.setattr(served, "RETRIES", 0)
    questions = [Question("What is 6 times 7?", "42", "product", "easy")]
    with pytest.raises(StageError, match=re.escape("http://127.0.0.1:9/v1: Connection error")):
        await served.sample_and_grade(
            "http://127.0.0.1:9/v1", "abacus/base", questions, SamplingParams(320, 1.0, samples=2, seed=0)
        )
