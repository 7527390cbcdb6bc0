"""What did this answer cost? The engine's usage first, and what it leaves out counted from the text it generated.

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
"""Raw events kept before they are boiled down to their text: most streams are shorter and never are."""


@dataclass(frozen=True)
class TokenUsage:
    """Tokens of one answer, all its choices together."""

    prompt: int = 0
    reasoning: int = 0
    answer: int = 0

    @classmethod
    def of(cls, usage: Json) -> TokenUsage:
        """The figures of a completed usage."""
        reasoning, generated = _reported(usage) or 0, integer_at(usage, "completion_tokens")
        return cls(integer_at(usage, "prompt_tokens"), reasoning, max(0, generated - reasoning))


class Transcript:
    """The text generated so far, by choice. Events are only kept; they are read when somebody asks, which is seldom."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._size = 0
        self._texts: defaultdict[int, list[str]] = defaultdict(lambda: ["", ""])

    def add_events(self, events: bytes) -> None:
        """Whole events of a stream, as they came."""
        self._events.append(events)
        self._size += len(events)
        if self._size > KEEP_BYTES:
            self._boil_down()

    def add_answer(self, answer: Json) -> None:
        """A whole answer's choices."""
        self._add(answer, "message")

    def count(self, counter: TokenCounter, marks: Reasoning) -> TokenUsage:
        """Reasoning and answer tokens of the text; the prompt's are not known here."""
        self._boil_down()
        reasoning = answer = 0
        for thought, said in self._texts.values():
            # An engine without a reasoning parser leaves the thinking at the front of what is said.
            front, mark, rest = said.partition(marks.end)
            if mark or said.lstrip().startswith(marks.start):  # without an end it was cut off while it thought
                inline, outward = front.replace(marks.start, "", 1), rest
            else:
                inline, outward = "", said
            reasoning += counter.count(thought + inline)
            answer += counter.count(outward)
        return TokenUsage(0, reasoning, answer)

    def _boil_down(self) -> None:
        for line in b"".join(self._events).splitlines():
            if line.startswith(b"data:") and (event := parse_object(line[5:])) is not None:
                self._add(event, "delta")
        self._events.clear()
        self._size = 0

    def _add(self, answer: Json, part: str) -> None:
        for choice in objects(answer.get("choices")):
            message = object_at(choice, part)
            texts = self._texts[index_of(choice)]
            texts[0] += string_at(message, "reasoning") or string_at(message, "reasoning_content")
            texts[1] += string_at(message, "content")
            for call in objects(message.get("tool_calls")):
                texts[1] += "".join(string_at(object_at(call, "function"), name) for name in ("name", "arguments"))


def complete(
    usage: Json | None, transcript: Transcript, counter: TokenCounter, marks: Reasoning, prompt: Callable[[], str]
) -> Json:
    """The engine's usage with `completion_tokens_details.reasoning_tokens` in it, whatever the engine reported.

    Args:
        prompt: its messages' text, counted where there is no usage at all; what the chat template adds is left out.
    """
    if usage is not None and _reported(usage) is not None:
        return usage
    counted = transcript.count(counter, marks)
    if usage is None:
        spoken = counter.count(prompt())
        generated = counted.reasoning + counted.answer
        usage = {"prompt_tokens": spoken, "completion_tokens": generated, "total_tokens": spoken + generated}
    reasoning = min(counted.reasoning, integer_at(usage, "completion_tokens"))
    details = object_at(usage, "completion_tokens_details")
    return {**usage, "completion_tokens_details": {**details, "reasoning_tokens": reasoning}}


def totalled(by_choice: Sequence[Json]) -> Json:
    """One usage for several choices, each of which an engine has reported on by itself; their prompt is the same."""
    if len(by_choice) == 1:
        return by_choice[0]
    prompt, generated = (
        integer_at(by_choice[0], "prompt_tokens"),
        sum(integer_at(one, "completion_tokens") for one in by_choice),
    )
    total: Json = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    reported = [tokens for one in by_choice if (tokens := _reported(one)) is not None]
    if len(reported) == len(by_choice):
        total["completion_tokens_details"] = {"reasoning_tokens": sum(reported)}
    return total


def added(usage: Json, *, generated: int, reasoning: int) -> Json:
    """A usage with tokens generated before, so many of them reasoning; the prompt is counted once."""
    total = {name: integer_at(usage, name) + generated for name in ("completion_tokens", "total_tokens")}
    if (reported := _reported(usage)) is None:
        return {**usage, **total}
    details = object_at(usage, "completion_tokens_details")
    return {**usage, **total, "completion_tokens_details": {**details, "reasoning_tokens": reported + reasoning}}


def hide_reasoning(answer: Json, part: str) -> bool:
    """Take the thinking out of an answer's messages or an event's deltas, and say whether there was any."""
    parts = [one for choice in objects(answer.get("choices")) for one in objects([choice.get(part)])]
    hidden = [one.pop(name, None) for one in parts for name in ("reasoning", "reasoning_content")]
    return any(hidden)


def index_of(choice: Json) -> int:
    """Which of several choices this is."""
    return integer_at(choice, "index")


def _reported(usage: Json) -> int | None:
    tokens = object_at(usage, "completion_tokens_details").get("reasoning_tokens")
    return tokens if isinstance(tokens, int) else None
