"""What does a served checkpoint answer? Completions over the OpenAI API, graded like those of a loaded model."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import openai

from training.errors import StageError
from training.rollouts.params import SamplingParams
from training.tasks.outcome import Graded, Outcome
from training.tasks.question import Question
from training.tasks.verify import is_correct

AT_ONCE = 32
"""Requests in flight at once; the engine batches them."""
RETRIES = 6
"""Retries of a request while no engine is ready; about 15 seconds in all."""


async def sample_and_grade(
    url: str,
    model: str,
    prompts: Sequence[Question],
    params: SamplingParams,
    *,
    budget: int | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> list[Graded]:
    """Send every prompt `params.samples` times and grade the answers. Token counts are those of the response's usage.

    Args:
        url: base URL of the API, e.g. http://127.0.0.1:8080/v1. A key, if needed, is read from OPENAI_API_KEY.
        model: the name that the checkpoint is served under.
        prompts: the questions to send.
        params: how to sample. A truncated completion is incorrect. The seed is the first request's; each further
            request adds 1.
        budget: reasoning tokens that each request may use; sent as the header X-Reasoning-Budget.
        on_batch: receives the number of completions so far.

    Raises:
        StageError: a request failed, or its usage does not report reasoning tokens. Names the URL.
    """
    limit, done = asyncio.Semaphore(AT_ONCE), 0

    async def send(client: openai.AsyncOpenAI, number: int, question: Question) -> Outcome:
        nonlocal done
        async with limit:
            completion = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question.prompt}],
                temperature=params.temperature,
                max_tokens=params.max_tokens,
                seed=None if params.seed is None else params.seed + number,
                extra_headers={} if budget is None else {"X-Reasoning-Budget": str(budget)},
            )
        done += 1
        on_batch(done)
        return outcome(completion, question.answer)

    repeated = [question for question in prompts for _ in range(params.samples)]
    try:
        async with _client(url) as client, asyncio.TaskGroup() as group:
            tasks = [group.create_task(send(client, number, question)) for number, question in enumerate(repeated)]
    except ExceptionGroup as failed:
        expected, others = failed.split((openai.APIError, ValueError))
        if others or not expected:
            raise
        raise StageError(f"{url}: {expected.exceptions[0]}") from None
    outcomes = [task.result() for task in tasks]
    return [
        Graded(p.prompt, p.task, p.difficulty, tuple(outcomes[i * params.samples : (i + 1) * params.samples]))
        for i, p in enumerate(prompts)
    ]


def _client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=RETRIES)


def outcome(completion: Any, gold: str) -> Outcome:
    """The outcome of one chat completion. Episodes are the parts of its thinking between blank lines.

    Raises:
        ValueError: its usage does not report reasoning tokens.
    """
    choice, usage = completion.choices[0], completion.usage
    if usage is None or usage.completion_tokens_details is None:
        raise ValueError(f"the usage of {completion.model} does not report reasoning tokens")
    thinking = getattr(choice.message, "reasoning", None) or ""
    finished = choice.finish_reason == "stop"
    return Outcome(
        correct=finished and is_correct(choice.message.content or "", gold),
        reasoning_tokens=usage.completion_tokens_details.reasoning_tokens or 0,
        tokens=usage.completion_tokens,
        episodes=len(re.split(r"\n\s*\n", thinking.strip())),
        finished=finished,
    )
