"""What did this response cost? The engine's usage, and token counts of the generated text where it reports too little.

tokens = prompt + reasoning + answer, where answer is everything generated that is not reasoning
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.answer.counting import TokenCounter
from gateway.events import Json, integer_at, object_at, objects, parse_object, string_at
from models.family import Reasoning

KEEP_BYTES = 262_144
"""Raw events that are kept before they are reduced to their text. Most streams are shorter and never are."""
REASONING_FIELDS = ("reasoning", "reasoning_content")
"""The message fields in which engines put reasoning; vLLM renamed the second to the first."""


@dataclass(frozen=True)
class TokenUsage:
    """Tokens of one response, summed over its choices."""

    prompt: int = 0
    reasoning: int = 0
    answer: int = 0

    @classmethod
    def of(cls, usage: Json) -> TokenUsage:
        """The figures of a completed usage object."""
        reasoning, generated = _reasoning_tokens(usage) or 0, integer_at(usage, "completion_tokens")
        return cls(integer_at(usage, "prompt_tokens"), reasoning, max(0, generated - reasoning))


class Transcript:
    """The text generated so far, by choice. Raw events are parsed only if their text is needed, which is rare."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._size = 0
        self._texts: defaultdict[int, list[str]] = defaultdict(lambda: ["", ""])
        """By choice: reasoning and content."""

    def add_events(self, events: bytes) -> None:
        """Add complete events of a stream, as they came."""
        self._events.append(events)
        self._size += len(events)
        if self._size > KEEP_BYTES:
            self._parse_events()

    def add_response(self, response: Json) -> None:
        """Add a non-streaming response's choices."""
        self._add(response, "message")

    def count(self, counter: TokenCounter, marks: Reasoning) -> TokenUsage:
        """Reasoning and answer tokens of the text. The prompt is not part of it and counts 0."""
        self._parse_events()
        reasoning_tokens = answer_tokens = 0
        for reasoning, content in self._texts.values():
            # An engine without a reasoning parser leaves the thinking at the front of the content.
            front, mark, rest = content.partition(marks.end)
            if mark or content.lstrip().startswith(marks.start):  # no end mark: the completion ended while thinking
                inline, answer = front.replace(marks.start, "", 1), rest
            else:
                inline, answer = "", content
            reasoning_tokens += counter.count(reasoning + inline)
            answer_tokens += counter.count(answer)
        return TokenUsage(0, reasoning_tokens, answer_tokens)

    def _parse_events(self) -> None:
        for line in b"".join(self._events).splitlines():
            if line.startswith(b"data:") and (event := parse_object(line[5:])) is not None:
                self._add(event, "delta")
        self._events.clear()
        self._size = 0

    def _add(self, response: Json, part: str) -> None:
        for choice in objects(response.get("choices")):
            message = object_at(choice, part)
            texts = self._texts[index_of(choice)]
            texts[0] += next((text for name in REASONING_FIELDS if (text := string_at(message, name))), "")
            texts[1] += string_at(message, "content")
            for call in objects(message.get("tool_calls")):
                texts[1] += "".join(string_at(object_at(call, "function"), name) for name in ("name", "arguments"))


def complete(
    usage: Json | None, transcript: Transcript, counter: TokenCounter, marks: Reasoning, prompt: Callable[[], str]
) -> Json:
    """The engine's usage, with `completion_tokens_details.reasoning_tokens` whether the engine reported it or not.

    Args:
        prompt: returns the text of the messages, counted if there is no usage at all. The chat template's own tokens
            are then missing from the count.
    """
    if usage is not None and _reasoning_tokens(usage) is not None:
        return usage
    counted = transcript.count(counter, marks)
    if usage is None:
        prompt_tokens = counter.count(prompt())
        generated = counted.reasoning + counted.answer
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": prompt_tokens + generated,
        }
    reasoning = min(counted.reasoning, integer_at(usage, "completion_tokens"))
    details = object_at(usage, "completion_tokens_details")
    return {**usage, "completion_tokens_details": {**details, "reasoning_tokens": reasoning}}


def sum_choices(by_choice: Sequence[Json]) -> Json:
    """One usage for several choices that an engine reported on separately. They share their prompt."""
    if len(by_choice) == 1:
        return by_choice[0]
    prompt = integer_at(by_choice[0], "prompt_tokens")
    generated = sum(integer_at(usage, "completion_tokens") for usage in by_choice)
    total: Json = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    reasoning = [tokens for usage in by_choice if (tokens := _reasoning_tokens(usage)) is not None]
    if len(reasoning) == len(by_choice):
        total["completion_tokens_details"] = {"reasoning_tokens": sum(reasoning)}
    return total


def add_tokens(usage: Json, *, generated: int, reasoning: int) -> Json:
    """The usage plus tokens that another checkpoint generated before. The prompt counts once."""
    total = {name: integer_at(usage, name) + generated for name in ("completion_tokens", "total_tokens")}
    if (reported := _reasoning_tokens(usage)) is None:
        return {**usage, **total}
    details = object_at(usage, "completion_tokens_details")
    return {**usage, **total, "completion_tokens_details": {**details, "reasoning_tokens": reported + reasoning}}


def hide_reasoning(response: Json, part: str) -> bool:
    """Remove the reasoning from a response's messages, or an event's deltas. Returns whether there was any."""
    parts = [message for choice in objects(response.get("choices")) for message in objects([choice.get(part)])]
    removed = [message.pop(name, None) for message in parts for name in REASONING_FIELDS]
    return any(removed)


def index_of(choice: Json) -> int:
    """A choice's index among several."""
    return integer_at(choice, "index")


def _reasoning_tokens(usage: Json) -> int | None:
    """What the engine reported; None if it did not."""
    tokens = object_at(usage, "completion_tokens_details").get("reasoning_tokens")
    return tokens if isinstance(tokens, int) else None
