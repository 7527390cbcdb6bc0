"""How many tokens does an engine report? Figures that can be tokens, and sums of them. Pure.

Everything an engine says is untrusted: a figure is a whole number in range, or it is none.

tokens = prompt + reasoning + answer, where answer is everything generated that is not reasoning
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.events import Json, object_at

MOST_TOKENS = 2**53
"""Beyond this a number is no count of tokens, whatever the context."""


@dataclass(frozen=True)
class TokenUsage:
    """Tokens of one response, summed over its choices."""

    prompt: int = 0
    reasoning: int = 0
    answer: int = 0
    cached: int | None = None
    """Of the prompt, those that the engine had in its cache; None if it did not say."""


def figure(value: object, most: int = MOST_TOKENS) -> int | None:
    """The number of tokens, from 0 to `most`; None for anything else. 12.0 is 12; true and "12" are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        return None
    return int(value) if value == int(value) else None


def reasoning_of(usage: Json) -> object:
    """What the engine reported as reasoning tokens; None if it reported nothing."""
    return object_at(usage, "completion_tokens_details").get("reasoning_tokens")


def cached_of(usage: Json, prompt: int) -> int | None:
    """How much of the prompt the engine had in its cache; None if it reported nothing that can be true."""
    return figure(object_at(usage, "prompt_tokens_details").get("cached_tokens"), prompt)


def sum_choices(by_choice: Sequence[Json]) -> Json:
    """One usage for several choices that an engine reported on separately. They share their prompt.

    What is not reported for every choice is not in the sum.
    """
    if len(by_choice) == 1:
        return by_choice[0]
    total: Json = {"prompt_tokens": by_choice[0].get("prompt_tokens")}
    if (generated := _sum([usage.get("completion_tokens") for usage in by_choice])) is not None:
        total["completion_tokens"] = generated
        if (prompt := figure(total["prompt_tokens"])) is not None:
            total["total_tokens"] = prompt + generated
    if (reasoning := _sum([reasoning_of(usage) for usage in by_choice])) is not None:
        total["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return total


def add_tokens(usage: Json, *, generated: int, reasoning: int) -> Json:
    """The usage plus tokens that another checkpoint generated before. The prompt counts once.

    What is no figure stays what it is: a sum must not look like one.
    """
    total = {**usage}
    for name in ("completion_tokens", "total_tokens"):
        if (reported := figure(usage.get(name))) is not None:
            total[name] = reported + generated
    if (thought := figure(reasoning_of(usage))) is not None:
        details = object_at(usage, "completion_tokens_details")
        total["completion_tokens_details"] = {**details, "reasoning_tokens": thought + reasoning}
    return total


def add_cut(usage: Json, tokens: int) -> Json:
    """The usage of an answer plus the thinking that was cut off before it, which stood in the answer's prompt.

    The mark that ends the thinking is one token of that prompt. Whatever the engine takes for reasoning in the answer
    is answer. What it found in its cache is the prompt of a moment ago, so that is no figure of the request.
    """
    total = {**usage, "completion_tokens_details": {"reasoning_tokens": tokens}}
    total.pop("prompt_tokens_details", None)
    prompt, answer = figure(usage.get("prompt_tokens")), figure(usage.get("completion_tokens"))
    if prompt is not None and prompt > tokens + 1:
        total["prompt_tokens"] = prompt = prompt - tokens - 1
    else:
        total["prompt_tokens"] = prompt = None  # to be counted
    if answer is not None:
        total["completion_tokens"] = answer + tokens
        total["total_tokens"] = None if prompt is None else prompt + answer + tokens
    return total


def _sum(reported: Sequence[object]) -> int | None:
    figures = [tokens for value in reported if (tokens := figure(value)) is not None]
    return sum(figures) if len(figures) == len(reported) else None
