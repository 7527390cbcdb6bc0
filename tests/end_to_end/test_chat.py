"""What does a caller with the official SDK get? Correct answers, and no more reasoning than the budget allows."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import openai
import pytest

from tests.end_to_end.conftest import Stack
from training.tasks import prompts as source
from training.tasks.problems import Difficulty

LONG = "What is 12 + 35 - 8?"
QUESTIONS = {
    LONG: 39,
    "What is 47 - 8?": 39,
    "17+5": 22,
    "How much is 6 times 7?": 42,
    "Mia has 12 apples. She gives away 5. How many apples are left?": 7,
    "What must be added to 14 to get 30?": 16,
}
EASY = source.prompts("heldout", 7, 24, difficulty="easy")
CHECKPOINTS = ["base", "alpha-0", "alpha-0.05", "alpha-0.1", "alpha-0.2", "alpha-0.4"]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 400}


def chat(prompt: str = LONG, **more: Any) -> dict[str, Any]:
    return {"model": "abacus", "messages": [{"role": "user", "content": prompt}], "max_tokens": 60} | more


def number(text: str | None) -> int | None:
    """The last whole number in an answer."""
    numbers = re.findall(r"-?\d+", text or "")
    return int(numbers[-1]) if numbers else None


def reasoning_tokens(usage: Any) -> int:
    return usage.completion_tokens_details.reasoning_tokens


@pytest.mark.parametrize("prompt", QUESTIONS)
def test_an_easy_question_is_answered_correctly_with_separate_reasoning(stack: Stack, prompt: str) -> None:
    completion = stack.sdk.chat.completions.create(**chat(prompt, **GREEDY))
    message = completion.choices[0].message
    assert number(message.content) == QUESTIONS[prompt]
    assert message.reasoning  # pyright: ignore[reportAttributeAccessIssue]
    assert "think>" not in f"{message.content}{message.reasoning}"  # pyright: ignore[reportAttributeAccessIssue]
    assert completion.usage is not None
    assert 0 < reasoning_tokens(completion.usage) < completion.usage.completion_tokens


@pytest.mark.parametrize("prompt", QUESTIONS)
def test_a_stream_has_the_content_of_the_non_streaming_response(stack: Stack, prompt: str) -> None:
    complete = stack.sdk.chat.completions.create(**chat(prompt, **GREEDY))
    stream = stack.sdk.chat.completions.create(
        **chat(prompt, **GREEDY), stream=True, stream_options={"include_usage": True}
    )
    pieces, usage = [], None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces += [("reasoning", text)] if (text := getattr(choice.delta, "reasoning", None)) else []
            pieces += [("content", choice.delta.content)] if choice.delta.content else []
    kinds = [kind for kind, _ in pieces]
    assert kinds == sorted(kinds, reverse=True), "all reasoning comes before the answer"
    assert kinds.count("reasoning") > 1, "the reasoning is streamed, not sent in one piece"
    assert "".join(text for kind, text in pieces if kind == "content") == complete.choices[0].message.content
    assert reasoning_tokens(usage) == reasoning_tokens(complete.usage)


async def test_most_concurrent_easy_questions_are_answered_correctly(stack: Stack) -> None:
    """0.8 is far below the accuracy on the model card, so that the test does not fail by chance."""
    async with stack.async_sdk as sdk:
        answers = await asyncio.gather(*(sdk.chat.completions.create(**chat(p.prompt, **GREEDY)) for p in EASY))
    correct = [number(a.choices[0].message.content) == int(p.answer) for a, p in zip(answers, EASY, strict=True)]
    assert sum(correct) >= 0.8 * len(EASY)


def test_a_stream_has_no_usage_unless_the_caller_asks_for_it(stack: Stack) -> None:
    chunks = list(stack.sdk.chat.completions.create(**chat(), stream=True))
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_a_small_budget_caps_the_reasoning_and_leaves_an_answer(stack: Stack) -> None:
    for headers in ({"X-Reasoning-Budget": "5"}, {"x-reasoning-budget": "1"}):
        completion = stack.sdk.chat.completions.create(**chat(), extra_headers=headers)
        assert reasoning_tokens(completion.usage) <= int(*headers.values())
        assert completion.choices[0].message.content


def test_a_small_budget_caps_the_reasoning_of_a_stream(stack: Stack) -> None:
    stream = stack.sdk.chat.completions.create(
        **chat(), stream=True, stream_options={"include_usage": True}, extra_headers={"X-Reasoning-Budget": "5"}
    )
    chunks = list(stream)
    assert reasoning_tokens(chunks[-1].usage) <= 5
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@pytest.mark.parametrize("budget", ["none", "0"])
def test_a_zero_budget_gives_an_answer_without_reasoning(stack: Stack, budget: str) -> None:
    completion = stack.sdk.chat.completions.create(**chat(), extra_headers={"X-Reasoning-Budget": budget})
    message = completion.choices[0].message
    assert reasoning_tokens(completion.usage) == 0
    assert not (getattr(message, "reasoning", None) or "").strip()
    assert message.content


@pytest.mark.parametrize("budget", ["-1", "abc", "1.5", "", "5 tokens", "1e3"])
def test_a_malformed_budget_is_rejected_and_names_the_header(stack: Stack, budget: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        stack.sdk.chat.completions.create(**chat(), extra_headers={"X-Reasoning-Budget": budget})
    assert (refused.value.param or "").lower() == "x-reasoning-budget"
    assert "X-Reasoning-Budget" in refused.value.message


@pytest.mark.parametrize(
    ("body", "limit"),
    [
        ({"thinking_token_budget": 5}, 5),
        ({"reasoning": {"max_tokens": 5}}, 5),
        ({"reasoning": {"effort": "none"}}, 0),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, 5),
        ({"reasoning_effort": "none"}, 0),
    ],
)
def test_the_body_may_set_the_budget(stack: Stack, body: dict[str, Any], limit: int) -> None:
    completion = stack.sdk.chat.completions.create(**chat(), extra_body=body)
    assert reasoning_tokens(completion.usage) <= limit
    assert completion.choices[0].message.content


def test_less_effort_never_means_more_reasoning(stack: Stack) -> None:
    spent = [
        reasoning_tokens(
            stack.sdk.chat.completions.create(**chat(model="abacus/base", **GREEDY), reasoning_effort=effort).usage
        )
        for effort in ("minimal", "low", "medium", "high", "xhigh")
    ]
    assert spent == sorted(spent)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_can_be_pinned(stack: Stack, name: str) -> None:
    raw = stack.sdk.chat.completions.with_raw_response.create(**chat(model=f"abacus/{name}"))
    assert (raw.headers["x-laconic-checkpoint"], raw.headers["x-laconic-decision"]) == (name, "pinned")
    assert raw.parse().model == f"abacus/{name}"


def served_by(stack: Stack, prompt: str) -> str:
    """The checkpoint that answered, and the escalation target in the headers."""
    raw = stack.sdk.chat.completions.with_raw_response.create(**chat(prompt, max_tokens=400))
    assert raw.headers["x-laconic-decision"] == "routed"
    return f"{raw.headers['x-laconic-checkpoint']} {raw.headers.get('x-laconic-escalation')}"


def test_easy_and_hard_questions_go_to_different_checkpoints(stack: Stack) -> None:
    easy = {served_by(stack, prompt) for prompt in ("What is 17 + 5?", "What is 7 times 8?", "What is 9 - 4?")}
    hard = {
        served_by(stack, prompt)
        for prompt in (
            "What is 48 + 37 - 19 + 52 - 33 + 71?",
            "What is 84 - 27 + 66 - 15 + 9 - 31?",
            "What is 25 + 7 * 63 - 18?",
        )
    }
    assert not easy & hard


def test_hard_questions_go_to_longer_reasoning_or_an_escalation(stack: Stack) -> None:
    def share(difficulty: Difficulty) -> float:
        rows = source.prompts("heldout", 11, 24, difficulty=difficulty)
        return sum(served_by(stack, row.prompt) != "alpha-0.4 None" for row in rows) / len(rows)

    assert share("hard") > share("easy") + 0.2


def test_every_model_is_listed_with_its_measurements(stack: Stack) -> None:
    listed = {model.id: model.model_dump() for model in stack.sdk.models.list()}
    names = [stack.family.served_name(checkpoint.name) for checkpoint in stack.family.checkpoints]
    assert list(listed) == ["abacus", *names]
    assert all({"accuracy", "reasoning_tokens"} <= listed[name].keys() for name in names)
    assert stack.sdk.models.retrieve(names[1]).id == names[1]


def test_an_unknown_model_is_not_found(stack: Stack) -> None:
    with pytest.raises(openai.NotFoundError, match="abacus/alpha-9"):
        stack.sdk.chat.completions.create(**chat(model="abacus/alpha-9"))


def test_a_prompt_longer_than_the_context_is_a_bad_request(stack: Stack) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        stack.sdk.chat.completions.create(**chat("What is 1" + " + 1" * stack.family.context_tokens + "?"))
    assert refused.value.code == "context_length_exceeded"


def test_openai_parameters_reach_the_engine(stack: Stack) -> None:
    completion = stack.sdk.chat.completions.create(**chat(seed=7), n=2, logprobs=True, top_logprobs=2)
    assert len(completion.choices) == 2
    assert all(choice.logprobs is not None and choice.logprobs.content for choice in completion.choices)


def test_the_gateway_is_ready_and_exports_metrics(stack: Stack) -> None:
    stack.sdk.chat.completions.create(**chat())
    ready = httpx.get(f"{stack.url}/health/ready")
    assert (ready.status_code, ready.json()["missing_checkpoints"]) == (200, [])
    assert httpx.get(f"{stack.url}/health/live").status_code == 200
    assert "laconic_requests_total{" in httpx.get(f"{stack.url}/metrics").text


def test_every_checkpoint_reasons_in_a_mixed_batch_as_it_does_alone(stack: Stack) -> None:
    """One engine serves all checkpoints in one batch. With greedy sampling, only rounding in a batch may differ."""

    async def reasoning(requests: list[tuple[str, str]]) -> dict[tuple[str, str], str]:
        async def one(sdk: openai.AsyncOpenAI, checkpoint: str, prompt: str) -> str:
            completion = await sdk.chat.completions.create(**chat(prompt, **GREEDY, model=f"abacus/{checkpoint}"))
            return completion.choices[0].message.reasoning or ""  # pyright: ignore[reportAttributeAccessIssue]

        async with stack.async_sdk as sdk:
            return dict(zip(requests, await asyncio.gather(*(one(sdk, *request) for request in requests)), strict=True))

    by_checkpoint = {name: [(name, question.prompt) for question in EASY[:12]] for name in CHECKPOINTS}
    mixed = asyncio.run(reasoning([pair for pairs in zip(*by_checkpoint.values(), strict=True) for pair in pairs]))
    for name, requests in by_checkpoint.items():
        alone = asyncio.run(reasoning(requests))
        assert sum(alone[pair] == mixed[pair] for pair in requests) >= 0.75 * len(requests), name


async def test_reasoning_with_low_confidence_is_escalated(stack: Stack) -> None:
    """Compares with the log-probabilities of the same request to the first checkpoint: greedy, so nearly the same."""
    concurrency, hard = asyncio.Semaphore(16), source.prompts("heldout", 11, 60, difficulty="hard")

    async def escalated(sdk: openai.AsyncOpenAI, http: httpx.AsyncClient, prompt: str) -> tuple[bool, bool] | None:
        """Whether it was escalated, and whether it should have been; None if it could not be escalated or compared."""
        async with concurrency:
            raw = await sdk.chat.completions.with_raw_response.create(**chat(prompt, **GREEDY))
            if "x-laconic-escalation" not in raw.headers:
                return None
            route = await http.post(f"{stack.url}/v1/route", json=chat(prompt, **GREEDY))
            plan = route.json()["escalation"]
            alone = chat(prompt, **GREEDY, model=f"abacus/{plan['first']}", logprobs=True)
            first = await sdk.chat.completions.create(**alone)
        first_choice, completion = first.choices[0], raw.parse()
        thinking = completion.choices[0].message.reasoning  # pyright: ignore[reportAttributeAccessIssue]
        if not thinking.startswith(first_choice.message.reasoning):  # pyright: ignore[reportAttributeAccessIssue]
            return None
        assert completion.choices[0].logprobs is None
        assert first_choice.logprobs is not None
        tokens = first_choice.logprobs.content or []
        end = [token.token for token in tokens].index("</think>")
        was_escalated = raw.headers["x-laconic-checkpoint"] == plan["second"]
        assert (reasoning_tokens(completion.usage) > end) == was_escalated
        return was_escalated, -sum(token.logprob for token in tokens[: end + 1]) > plan["surprisal"]

    async with stack.async_sdk as sdk, httpx.AsyncClient(timeout=600) as http:
        outcomes = await asyncio.gather(*(escalated(sdk, http, question.prompt) for question in hard))
    pairs = [pair for pair in outcomes if pair is not None]
    assert len(pairs) >= 20
    assert sum(actual == expected for actual, expected in pairs) >= 0.95 * len(pairs)
    assert 2 <= sum(actual for actual, _ in pairs) <= 0.5 * len(pairs)
