"""What did a request cost, and who says so? The one decision, from what was relayed and what was reported. Pure.

An engine's figures are untrusted. They stand if each is a whole number that the request could have, and if they do not
contradict each other or what was relayed:

- fewer tokens than events, or than the text can be;
- `reasoning_tokens: 0` beside relayed thinking, or more reasoning than completion tokens.

Then the text is counted, and a figure that is far below the count is replaced by it. One above it is believed: special
tokens leave no text, and some engines keep their thinking to themselves.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from gateway.answer.counting import TokenCounter
from gateway.answer.transcript import TextCount, Transcript
from gateway.answer.usage import TokenUsage, cached_of, figure, reasoning_of
from gateway.events import MAX_EVENT_BYTES, Json, object_at
from models.family import Reasoning

log = logging.getLogger("laconic")

FEW_TOKENS = 16
"""So few can be looked at closely."""

OVERSHOOT_TOKENS, OVERSHOOT_SHARE = 8, 0.05
"""How far an engine may think beyond its cap before that is a breach."""

BYTES_OF_A_TOKEN = 4096
"""More than an event has that is one token, with 20 log probabilities beside it."""

Counting = Literal["reported", "repaired", "counted"]
"""Whose the figures are: all the engine's; some of them, corrected or completed; all counted with our tokenizer."""


@dataclass(frozen=True)
class Terms:
    """What is known of a request before its response."""

    counter: TokenCounter
    marks: Reasoning
    prompt: Callable[[], str]
    """Returns what the model reads, to be counted without a figure. The chat template's own tokens are missing."""
    context_tokens: int
    """The most tokens that prompt and completion can have together."""
    max_tokens: int | None = None
    """The most tokens of one choice; None if the context is the only limit."""
    choices: int = 1
    thinks: bool = True
    """The checkpoint was free to think."""
    unmarked: bool = False
    """Nothing marks the model's thinking, so the ledger counts every generated token as reasoning."""
    cap: Callable[[], int | None] = lambda: None
    """Returns the cap on the reasoning tokens of one choice that the engine keeps; None if it keeps none."""
    cut: Callable[[], bool] = lambda: False
    """Returns whether the gateway has ended the thinking itself, whose tokens it has counted then."""
    discarded: Callable[[], int] = lambda: 0
    """Returns how many tokens an escalation's first checkpoint generated that nobody gets to read."""

    @property
    def most_generated(self) -> int:
        """The most tokens that all choices can have."""
        longest = self.context_tokens if self.max_tokens is None else min(self.max_tokens, self.context_tokens)
        return self.choices * longest + self.discarded()

    @property
    def most_sent(self) -> int:
        """The most bytes that a stream can have. Twice, because two checkpoints may have a share in it."""
        return MAX_EVENT_BYTES + 2 * BYTES_OF_A_TOKEN * self.most_generated


@dataclass(frozen=True)
class Cost:
    """What one response cost."""

    usage: Json
    """For the caller, with the same figures."""
    tokens: TokenUsage
    counting: Counting
    answered: bool
    """Every choice has an answer. Only an answer saves anything."""
    budget_hit: bool = False
    """The cap ended the thinking of at least one choice; the usage says so as well."""


@dataclass(frozen=True)
class _Figures:
    prompt: int | None
    generated: int | None
    reasoning: int | None


def cost_of(reported: object, transcript: Transcript, terms: Terms) -> Cost:
    """The cost of a response that has ended, however it ended.

    Args:
        reported: the engine's usage, of any type; None if there is none.
    """
    usage = cast("Json", reported) if isinstance(reported, dict) else {}
    figures = _figures(usage, terms)
    if figures.generated is not None and figures.reasoning is not None and not _in_doubt(figures, transcript, terms):
        generated, reasoning = figures.generated, figures.reasoning
        answered = transcript.has_answer(terms.choices, terms.marks)
    else:
        count = transcript.count(terms.counter, terms.marks, thinks=terms.thinks)
        generated, reasoning = _settled(figures, count, terms.discarded())
        generated = min(generated, terms.most_generated)
        reasoning = min(reasoning, generated)
        answered = count.answers >= terms.choices
    prompt = figures.prompt
    if prompt is None:
        prompt = min(terms.counter.count(terms.prompt()), terms.context_tokens)
    completed = _completed(usage, prompt, generated, reasoning)
    thinking = generated if terms.unmarked else reasoning
    tokens = TokenUsage(prompt, thinking, generated - thinking, cached_of(completed, prompt))
    own = (figures.prompt == prompt, figures.generated == generated, figures.reasoning == reasoning)
    counting: Counting = "repaired" if any(own) and not terms.cut() else "counted"
    if completed == usage and not _has_floats(usage) and not terms.cut():
        counting, completed = "reported", usage
    if hit := _is_hit(reasoning, transcript, terms):
        completed = {**completed, "budget_hit": True}
    return Cost(completed, tokens, counting, answered, hit)


def _is_hit(reasoning: int, transcript: Transcript, terms: Terms) -> bool:
    """Whether the cap ended the thinking. An engine that keeps a cap thinks up to it, and no further."""
    if terms.cut():
        return True
    cap = terms.cap()
    if not cap or reasoning < cap:
        return False
    if reasoning >= terms.choices * cap:
        return True
    return transcript.longest_thinking(terms.counter, terms.marks, thinks=terms.thinks) >= cap


def exceeds_cap(reasoning_tokens: int, cap: int | None, choices: int) -> bool:
    """Whether so much thinking was not an engine's usual overshoot of its cap on each choice.

    vLLM ends thinking at the cap, and by a few tokens later if the words that end it are several tokens. Counting text
    is off by a few tokens as well.
    """
    return cap is not None and reasoning_tokens > choices * (cap + OVERSHOOT_TOKENS) * (1 + OVERSHOOT_SHARE)


def overshoot(cap: int) -> int:
    """How many tokens beyond its cap an engine may think."""
    return math.floor((cap + OVERSHOOT_TOKENS) * (1 + OVERSHOOT_SHARE)) - cap


def cost_without_a_fault(reported: object, transcript: Transcript, terms: Terms) -> Cost:
    """The same, whatever happens: a request whose cost cannot be told must still be recorded."""
    try:
        return cost_of(reported, transcript, terms)
    except Exception:
        log.exception("the cost of a request cannot be told; it is recorded as nothing")
        return Cost({}, TokenUsage(), "counted", answered=False)


def is_plausible(usage: Json, terms: Terms) -> bool:
    """Whether each figure of a usage can be passed on; one that is missing can."""
    figures = _figures(usage, terms)
    names = [name for name in ("prompt_tokens", "completion_tokens") if name in usage]
    present = [usage[name] for name in names] + [value for value in (reasoning_of(usage),) if value is not None]
    valid = [value for value in (figures.prompt, figures.generated, figures.reasoning) if value is not None]
    return len(valid) >= len(present) and not _has_floats(usage)


def _figures(usage: Json, terms: Terms) -> _Figures:
    """What of the usage can be true by itself. A prompt has at least one token."""
    prompt = figure(usage.get("prompt_tokens"), terms.context_tokens)
    generated = figure(usage.get("completion_tokens"), terms.most_generated)
    reasoning = figure(reasoning_of(usage), terms.most_generated)
    if generated is not None and reasoning is not None and reasoning > generated:
        reasoning = None
    return _Figures(prompt or None, generated, reasoning)


def _in_doubt(figures: _Figures, transcript: Transcript, terms: Terms) -> bool:
    """Whether the figures may contradict what was relayed. Cheap: the text is not read."""
    assert figures.generated is not None
    assert figures.reasoning is not None
    thinking, generated = transcript.least_tokens(exact=figures.generated <= FEW_TOKENS)
    visible = figures.generated - terms.discarded()
    if not thinking:
        if not figures.reasoning and terms.thinks and transcript.mentions(terms.marks):
            return True  # a reasoning parser for other marks leaves the thinking in the content, and counts none
        visible -= figures.reasoning
    return figures.reasoning < thinking or visible < generated


def _settled(figures: _Figures, count: TextCount, discarded: int) -> tuple[int, int]:
    """Generated and reasoning tokens: the reported ones as far as they are near the counted ones."""
    reasoning, generated = figures.reasoning, figures.generated
    if reasoning is not None and count.has_thought and not (reasoning and _near(reasoning, count.reasoning)):
        reasoning = None
    hidden = discarded if count.has_thought else discarded + (reasoning or 0)
    visible = count.answer + count.reasoning if count.has_thought else count.answer
    if generated is not None and not _near(generated - hidden, visible):
        generated = None
    if generated is None:
        reasoning = count.reasoning if reasoning is None or count.has_thought else reasoning
        return visible + hidden if count.has_thought else count.answer + discarded + reasoning, reasoning
    if reasoning is None:
        return max(generated, visible + hidden), count.reasoning
    return generated, reasoning


def _near(reported: int, counted: int) -> bool:
    """Whether so few tokens can be this text, which a model may spell otherwise. More can be: some leave no text."""
    return reported >= 0.6 * counted - 3


def _completed(usage: Json, prompt: int, generated: int, reasoning: int) -> Json:
    """The usage with these figures. Details that are no figures are left out."""
    details = {
        name: _valid_details(object_at(usage, name), most)
        for name, most in (("prompt_tokens_details", prompt), ("completion_tokens_details", generated))
        if isinstance(usage.get(name), dict)
    }
    details["completion_tokens_details"] = {
        **details.get("completion_tokens_details", {}),
        "reasoning_tokens": reasoning,
    }
    return {
        **usage,
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        **details,
    }


def _valid_details(details: Json, most: int) -> Json:
    return {name: value for name, value in details.items() if value is None or figure(value, most) is not None}


def _has_floats(usage: Json) -> bool:
    values = [usage.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens")]
    return any(isinstance(value, float | bool) for value in (*values, reasoning_of(usage)))
