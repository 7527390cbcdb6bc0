"""What does a model answer if its thinking is ended at a budget, on an engine that cannot end it?

The gateway cuts the thinking off at the budget and lets another request write the answer (budget forcing, s1, arXiv
2501.19393, section 3.1). Here the first request is as long as the budget at most; what it began is continued.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from models.continued import LIMITS, continued
from training.adopt.cost import MARKS, begins
from training.adopt.engine import Engine, EngineError, Reply


class NotContinuedError(EngineError):
    """The engine starts over instead of continuing a message."""


async def chat(engine: Engine, body: Mapping[str, Any], budget: int, *, separated: bool) -> Reply:
    """Return the reply to a request with at most `budget` tokens of thinking.

    Args:
        engine: the engine.
        body: the request, without a cap. Its limits on the length hold for the whole reply.
        budget: in tokens, at least 1.
        separated: whether the engine puts thinking into a field of its own. Otherwise content is thinking up to the
            mark that ends it.

    Raises:
        EngineError: the engine refused a request, or does not continue messages.
    """
    limits = [body[name] for name in LIMITS if body.get(name)]
    without = {name: value for name, value in body.items() if name not in (*LIMITS, "min_tokens")}
    first = await engine.chat({**without, "max_tokens": min([budget, *limits])})
    if first.finish_reason != "length" or any(first.completion_tokens >= limit for limit in limits):
        return first
    thinking, answer = _parts(first, separated=separated)
    beginning = f"{MARKS.start}{thinking}{MARKS.end}{answer or ''}" if thinking or answer is None else answer
    spent = first.completion_tokens + (answer is None)  # with the mark behind the thinking
    second = await engine.chat(continued(body, beginning, spent))
    text = second.reasoning + second.content  # a parser may not know that the thinking has ended
    if (second.reasoning and second.content) or begins(text, MARKS) or MARKS.end in text:
        raise NotContinuedError(f"{engine.url}: starts over instead of continuing a message", 422)
    thought = first.reasoning_tokens
    if thought is None and answer is None:
        thought = first.completion_tokens
    return replace(
        second,
        content=(answer or "") + text,
        reasoning=thinking,
        prompt_tokens=first.prompt_tokens,
        completion_tokens=first.completion_tokens + second.completion_tokens,
        reasoning_tokens=thought,
        seconds=first.seconds + second.seconds,
    )


def _parts(reply: Reply, *, separated: bool) -> tuple[str, str | None]:
    """The thinking of a reply that was cut off, and the answer so far; None if it was still thinking."""
    if separated or reply.reasoning:
        return reply.reasoning, reply.content or None
    thinking, mark, answer = reply.content.partition(MARKS.end)
    return thinking.replace(MARKS.start, "", 1), answer if mark else None
