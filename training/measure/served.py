"""What does a served checkpoint answer? Its completions over the OpenAI API, judged as our own samples are."""

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
"""Requests under way; an engine makes a batch of them."""
RETRIES = 6
"""Of a request that finds no engine ready; a quarter of a minute in all."""


async def sample_and_grade(
    url: str,
    model: str,
    prompts: Sequence[Question],
    params: SamplingParams,
    *,
    budget: int | None = None,
    on_batch: Callable[[int], None] = lambda _: None,
) -> list[Graded]:
    """Ask every prompt `params.samples` times and judge the answers; tokens are those of the response's usage.

    Args:
        url: where the API is, e.g. http://127.0.0.1:8080/v1; its key is OPENAI_API_KEY's, if it wants one.
        model: the name it is served under.
        prompts: what to ask.
        params: how to sample. A truncated completion is incorrect. The seed is the first request's; each further
            request adds 1.
        budget: what each request may think, in tokens; sent as the header X-Reasoning-Budget.
        on_batch: takes how many are done.

    Raises:
        StageError: a request failed, or its usage says nothing of reasoning tokens; names the address.
    """
    limit, done = asyncio.Semaphore(AT_ONCE), 0

    async def ask(client: openai.AsyncOpenAI, number: int, question: Question) -> Outcome:
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
            tasks = [group.create_task(ask(client, number, question)) for number, question in enumerate(repeated)]
    except ExceptionGroup as failed:
        known, others = failed.split((openai.APIError, ValueError))
        if others or not known:
            raise
        raise StageError(f"{url}: {known.exceptions[0]}") from None
    found = [task.result() for task in tasks]
    return [
        Graded(p.prompt, p.task, p.difficulty, tuple(found[i * params.samples : (i + 1) * params.samples]))
        for i, p in enumerate(prompts)
    ]


def _client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=url, api_key=os.environ.get("OPENAI_API_KEY", "none"), max_retries=RETRIES)


def outcome(completion: Any, gold: str) -> Outcome:
    """Grader one chat completion; episodes are its thinking's parts between blank lines.

    Raises:
        ValueError: its usage does not tell reasoning tokens apart.
    """
    choice, usage = completion.choices[0], completion.usage
    if usage is None or usage.completion_tokens_details is None:
        raise ValueError(f"{completion.model} does not tell reasoning tokens apart in its usage")
    thinking = getattr(choice.message, "reasoning", None) or ""
    finished = choice.finish_reason == "stop"
    return Outcome(
        correct=finished and is_correct(choice.message.content or "", gold),
        reasoning_tokens=usage.completion_tokens_details.reasoning_tokens or 0,
        tokens=usage.completion_tokens,
        episodes=len(re.split(r"\n\s*\n", thinking.strip())),
        finished=finished,
    )
