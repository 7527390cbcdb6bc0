from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import shipped_family
from gateway.request import question
from gateway.request.budget import Budget, most_thinking
from gateway.request.engine_body import cap_of, capped, capped_by_length, continued, engine_body, shortened
from models import family as families
from models.family import Checkpoint, Reasoning

MODEL = "abacus/alpha-0.4"
TRAINED = families.load(shipped_family(), verify=False).checkpoint("alpha-0.4")


def parse(**changes: Any) -> question.Question:
    body = {"model": "abacus", "messages": [{"role": "user", "content": "1 + 2?"}], **changes}
    return question.parse(json.dumps(body).encode())


def sent(
    tokens: int | None = None, *, logprobs: bool = False, checkpoint: Checkpoint = TRAINED, **changes: Any
) -> dict[str, Any]:
    """What the engine gets for a body with these changes, under this cap."""
    asked = parse(**changes)
    cap = cap_of(asked, Budget(tokens, "X-Reasoning-Budget"), checkpoint)
    body = engine_body(asked, checkpoint, MODEL, cap, logprobs=logprobs)
    return body if cap is None else capped(body, checkpoint, cap)[0]


def served(**fields: Any) -> Checkpoint:
    """A checkpoint that an engine serves under a name of its own."""
    return Checkpoint(name="level", kind="served", model="Qwen/Qwen3-8B", frontier=TRAINED.frontier, **fields)


def test_the_engine_gets_its_own_name_for_the_checkpoint_and_the_rest_unchanged() -> None:
    assert sent(tools=[], seed=7) == parse(tools=[], seed=7).body | {"model": MODEL}


@pytest.mark.parametrize(
    "field",
    [
        {"thinking_token_budget": 9},
        {"reasoning": {"max_tokens": 9}},
        {"thinking": {"type": "enabled", "budget_tokens": 9}},
        {"reasoning_effort": "low"},
        {"output_config": {"effort": "low"}},
        {"thinking_config": {"thinking_budget": 9}},
        {"google": {"thinking_config": {"thinking_budget": 9}}},
        {"extra_body": {"google": {"thinking_config": {"thinking_budget": 9}}}},
        {"thinking_budget": 9},
        {"enable_thinking": False},
        {"custom_params": {"thinking_budget": 9}},
        {"thinking_budget_tokens": 9},
        {"reasoning_budget": 9},
    ],
)
def test_every_spelling_of_a_budget_becomes_the_one_cap(field: dict[str, Any]) -> None:
    assert sent(64, **field) == sent(64)
    assert sent(64)["thinking_token_budget"] == 64
    assert "thinking_token_budget" not in sent(None, **field)


def test_a_budget_of_zero_also_closes_the_thinking_in_the_template() -> None:
    assert sent(0, chat_template_kwargs={"a": 1})["chat_template_kwargs"] == {"enable_thinking": False, "a": 1}
    assert "chat_template_kwargs" not in sent(1)


def test_a_larger_budget_overrules_a_template_that_forbids_thinking() -> None:
    assert sent(8, chat_template_kwargs={"enable_thinking": False, "a": 1})["chat_template_kwargs"] == {"a": 1}


def test_the_template_s_own_switch_follows_the_cap() -> None:
    """DeepSeek's templates call it `thinking`."""
    assert sent(0, chat_template_kwargs={"thinking": True})["chat_template_kwargs"] == {
        "enable_thinking": False,
        "thinking": False,
    }
    assert sent(0, chat_template_kwargs={"enable_thinking": True})["chat_template_kwargs"] == {"enable_thinking": False}
    assert sent(8, chat_template_kwargs={"thinking": False, "a": 1})["chat_template_kwargs"] == {"a": 1}
    assert sent(8, chat_template_kwargs={"thinking": True})["chat_template_kwargs"] == {"thinking": True}


def test_a_stream_is_always_asked_for_its_usage() -> None:
    assert sent(stream=True)["stream_options"] == {"include_usage": True}
    options = {"include_usage": False, "continuous_usage_stats": True}
    assert sent(stream=True, stream_options=options)["stream_options"] == options | {"include_usage": True}
    assert "stream_options" not in sent()


def test_hidden_reasoning_is_still_asked_for_so_that_it_can_be_counted() -> None:
    assert sent(include_reasoning=False)["include_reasoning"] is True


def test_probabilities_are_asked_for_only_if_an_escalation_may_follow() -> None:
    assert sent(logprobs=True)["logprobs"] is True
    assert "logprobs" not in sent()


limits = st.none() | st.integers(1, 200)


@given(budget=limits, max_tokens=limits, reasoning=st.integers(0, 100), answer=st.integers(0, 100))
def test_what_the_first_checkpoint_used_is_taken_from_both_limits(
    budget: int | None, max_tokens: int | None, reasoning: int, answer: int
) -> None:
    asked = parse() if max_tokens is None else parse(max_tokens=max_tokens)
    remaining = shortened(asked, Budget(budget, "reasoning_effort"), reasoning, reasoning + answer)
    left = math.inf if max_tokens is None else max_tokens - reasoning - answer
    room = math.inf if left == math.inf else most_thinking(int(left))
    exhausted = left <= 0 if budget is None else min(budget - reasoning, room) <= 0
    assert (remaining is None) == exhausted
    if remaining is not None:
        question_left, budget_left = remaining
        assert budget_left.tokens == (None if budget is None else min(budget - reasoning, room))
        assert question_left.max_tokens == (None if max_tokens is None else max_tokens - reasoning - answer)
        assert question_left.body.get("max_tokens") == question_left.max_tokens


@pytest.mark.parametrize(
    ("budget", "given", "limits"),
    [
        (50, {}, {"max_tokens": 50}),
        (50, {"max_tokens": 20}, {"max_tokens": 20}),
        (50, {"max_tokens": 90}, {"max_tokens": 50}),
        (50, {"max_completion_tokens": 90}, {"max_completion_tokens": 50}),
        (50, {"max_tokens": 10, "max_completion_tokens": 90}, {"max_tokens": 10, "max_completion_tokens": 50}),
        (0, {"max_tokens": 90}, {"max_tokens": 90}),  # the template's empty thinking is the cap
        (0, {}, {}),
    ],
)
def test_without_a_cap_on_thinking_the_completion_is_no_longer_than_the_cap(
    budget: int, given: dict[str, int], limits: dict[str, int]
) -> None:
    assert capped_by_length({"model": MODEL, **given}, budget) == {"model": MODEL, **limits}


@pytest.mark.parametrize(
    ("budget", "answer_tokens", "max_tokens", "cap"),
    [
        (None, 30, 100, 70),
        (50, 30, 100, 50),
        (90, 30, 100, 70),
        (None, 30, 20, 0),  # the answer has it all
        (None, None, 100, None),  # not measured: nothing is cut off by a guess
        (None, 30, None, None),
    ],
)
def test_under_max_tokens_the_cap_leaves_the_room_that_answers_were_measured_to_need(
    budget: int | None, answer_tokens: int | None, max_tokens: int | None, cap: int | None
) -> None:
    asked = parse() if max_tokens is None else parse(max_tokens=max_tokens)
    checkpoint = served(answer_tokens=answer_tokens)
    assert cap_of(asked, Budget(budget, "X-Reasoning-Budget"), checkpoint) == cap
    unmarked = served(answer_tokens=answer_tokens, cap="none")
    assert cap_of(asked, Budget(budget, "X-Reasoning-Budget"), unmarked) == budget  # its thinking is its answer


def test_a_message_is_continued_behind_its_thinking_with_what_is_left_of_its_length() -> None:
    body = continued(sent(max_tokens=100, min_tokens=20, seed=7), " 1 + 2", 15, Reasoning())
    message = {"role": "assistant", "content": "<think> 1 + 2</think>"}
    assert body == sent(max_tokens=84, min_tokens=4, seed=7) | {
        "messages": [*parse().body["messages"], message],
        "add_generation_prompt": False,
        "continue_final_message": True,
    }
    assert continued(sent(max_completion_tokens=10), "", 15, Reasoning())["max_completion_tokens"] == 1


def test_a_served_checkpoint_puts_its_overrides_into_the_request() -> None:
    overrides = {
        "body": {"reasoning_effort": "low", "chat_template_kwargs": {"enable_thinking": False}},
        "defaults": {"temperature": 0.6, "top_p": 0.9},
        "system": "Be brief.",
    }
    body = sent(checkpoint=served(overrides=overrides), temperature=0.1, reasoning_effort="high")
    assert body["reasoning_effort"] == "low"
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert (body["temperature"], body["top_p"]) == (0.1, 0.9)
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


@pytest.mark.parametrize(("asked", "own", "cap"), [(64, None, 64), (None, 32, 32), (64, 32, 32), (16, 32, 16)])
def test_the_lower_cap_of_caller_and_checkpoint_holds(asked: int | None, own: int | None, cap: int) -> None:
    assert sent(asked, checkpoint=served(budget=own))["thinking_token_budget"] == cap


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        ("custom_params.thinking_budget", {"custom_params": {"thinking_budget": 9}}),
        ("thinking_budget_tokens", {"thinking_budget_tokens": 9}),
        ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": 9}}),
        ("forced", {}),
        ("none", {}),
    ],
)
def test_a_cap_is_sent_as_the_checkpoint_s_engine_takes_it(cap: str, expected: dict[str, Any]) -> None:
    body = sent(9, checkpoint=served(cap=cap))
    assert body == parse().body | {"model": MODEL} | expected
