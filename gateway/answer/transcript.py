"""What did the caller get to read? The text of one response, by choice, and what its size says about its tokens.

Raw events are parsed only if their text is needed, which is rare. Until then, searches for a few words tell how many
tokens the events can hold at least and at most.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from gateway.answer.counting import TokenCounter
from gateway.events import (
    GIVEN_UP,
    Json,
    data_of,
    integer_at,
    line_of,
    object_at,
    objects,
    parse_object,
    split_events,
    string_at,
)
from models.family import Reasoning

KEEP_BYTES = 262_144
"""Raw events that are kept before they are reduced to their text. Most streams are shorter and never are."""
REASONING_FIELDS = ("reasoning", "reasoning_content")
"""The message fields in which engines put reasoning; vLLM renamed the second to the first."""
MAX_CHOICES = 1024
"""How many choices are told apart; an engine may number them as it likes."""
MAX_FINISH_REASON = 64

# Quotes inside a JSON string are escaped, so generated text cannot look like one of these fields.
_ANSWER = re.compile(
    rb'"content"\s*:\s*"(?:\\[nrt]|[ ])*+(?:[^"\\ ]|\\[^nrt])|"(?:tool_calls|function_call)"\s*:\s*\[?\s*\{'
)
_REASONING = tuple(f'"{name}"'.encode() for name in REASONING_FIELDS)
_NOTHING = re.compile(rb'"\w+"\s*:\s*(?:null|"")')
_GAVE_UP = re.compile(rb'"finish_reason"\s*:\s*"(?:error|abort)"')
_ENVELOPE = 512
"""More bytes than an event has around its text, if it has no log probabilities."""


class TextCount(NamedTuple):
    """A response's text, counted."""

    reasoning: int
    answer: int
    has_thought: bool
    """Some reasoning is more than white space."""
    answers: int
    """How many choices have an answer."""


@dataclass
class _Choice:
    reasoning: list[str] = field(default_factory=list[str])
    content: list[str] = field(default_factory=list[str])
    calls: list[str] = field(default_factory=list[str])
    finish_reason: str = ""

    def split(self, marks: Reasoning, *, thinks: bool, complete: bool) -> tuple[str, str]:
        """Reasoning and answer.

        An engine without a reasoning parser leaves the thinking at the front of the content. The template may have
        opened it, so only its end is sure to be there, and not even that if the completion was cut off. Where
        reasoning came apart, or none was asked for, a mark is a word like any other.
        """
        reasoning, content = "".join(self.reasoning), "".join(self.content)
        opened = content.lstrip().startswith(marks.start)
        if reasoning.strip() or not (thinks or opened):
            return reasoning, content
        thinking, end, rest = content.partition(marks.end)
        cut_off = self.finish_reason == "length" or not (self.finish_reason or complete)
        if end or opened or (cut_off and not self.calls):
            return reasoning + thinking.replace(marks.start, "", 1), rest
        return reasoning, content


class Transcript:
    """The text generated so far, by choice."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._size = self._pieces = 0
        self._choices: dict[int, _Choice] = {}
        self._complete = False
        """It is a non-streaming response, which cannot have broken off."""

    def add_events(self, events: bytes) -> None:
        """Add complete events of a stream, as they came."""
        self._events.append(events)
        self._size += len(events)
        self._pieces += 1
        if self._size > KEEP_BYTES:
            self._parse_events()

    def add_response(self, response: Json) -> None:
        """Add a non-streaming response's choices."""
        self._complete = True
        self._add(response, "message")

    @property
    def finish_reasons(self) -> list[str]:
        """The finish reasons of the choices that have ended."""
        self._parse_events()
        return [choice.finish_reason for choice in self._choices.values() if choice.finish_reason]

    @property
    def gave_up(self) -> bool:
        """Whether the engine gave up, or sent no choice at all. An answer that its length cut off did arrive."""
        self._parse_events()
        return not self._choices or any(choice.finish_reason in GIVEN_UP for choice in self._choices.values())

    def least_tokens(self, *, exact: bool) -> tuple[int, int]:
        """The fewest tokens that the reasoning can have been, 0 if none was relayed; and reasoning and answer together.

        Args:
            exact: read the text, which is worth it if there is little of it.
        """
        if exact or self._choices or not self._events:
            return self._least_of_text()
        raw = self._raw()
        # Mostly one event came at a time; else count them.
        pieces = self._pieces if len(raw) <= _ENVELOPE * self._pieces else raw.count(b"\n\n")
        lasts = [raw.rfind(name) for name in _REASONING]
        last = max(lasts)
        generated = _least(pieces, pieces - 8, len(raw))
        thinking = sum(raw.count(name) for name, at in zip(_REASONING, lasts, strict=True) if at >= 0)
        if last >= 0 and _NOTHING.match(raw, last):
            thinking -= _nulls(raw)
        if thinking <= 0:
            return 0, generated
        end = raw.find(b"\n\n", last)
        return _least(thinking, max(1, thinking - 2), end), generated

    def mentions(self, marks: Reasoning) -> bool:
        """Whether the marks of thinking are in the content."""
        if self._events and not self._choices:
            raw = self._raw()
            return marks.end.encode() in raw or marks.start.encode() in raw
        self._parse_events()
        texts = ["".join(choice.content) for choice in self._choices.values()]
        return any(marks.end in text or marks.start in text for text in texts)

    def has_answer(self, choices: int, marks: Reasoning) -> bool:
        """Whether each of so many choices has an answer, if the engine's figures say which of its text is reasoning."""
        if choices == 1 and not self._choices and self._events:
            raw = self._raw()
            thought = _last_reasoning(raw)  # the answer comes behind it
            may_be_inline = thought < 0 and marks.start.encode() in raw
            if not may_be_inline and (_ANSWER.search(raw, max(0, thought)) or _ANSWER.search(raw)):
                return _GAVE_UP.match(raw, max(0, raw.rfind(b'"finish_reason"'))) is None
        self._parse_events()
        return self._answers(marks, thinks=False) >= choices

    def answer(self, marks: Reasoning, *, thinks: bool) -> str:
        """The text of the first choice's answer, without its thinking; "" without a choice."""
        self._parse_events()
        choice = next(iter(self._choices.values()), None)
        return "" if choice is None else choice.split(marks, thinks=thinks, complete=self._complete)[1]

    def count(self, counter: TokenCounter, marks: Reasoning, *, thinks: bool = True) -> TextCount:
        """Count the text with a tokenizer.

        Args:
            thinks: the checkpoint was free to think; otherwise content is only thinking if it says so at its start.
        """
        self._parse_events()
        reasoning_tokens = answer_tokens = 0
        has_thought = False
        for choice in self._choices.values():
            reasoning, answer = choice.split(marks, thinks=thinks, complete=self._complete)
            has_thought = has_thought or bool(reasoning.strip())
            reasoning_tokens += counter.count(reasoning)
            answer_tokens += counter.count(answer) + counter.count("".join(choice.calls))
        return TextCount(reasoning_tokens, answer_tokens, has_thought, self._answers(marks, thinks=thinks))

    def longest_thinking(self, counter: TokenCounter, marks: Reasoning, *, thinks: bool) -> int:
        """The tokens of the choice that has thought most, counted."""
        self._parse_events()
        thoughts = (choice.split(marks, thinks=thinks, complete=self._complete)[0] for choice in self._choices.values())
        return max(map(counter.count, thoughts), default=0)

    def _answers(self, marks: Reasoning, *, thinks: bool) -> int:
        return sum(
            choice.finish_reason not in GIVEN_UP
            and bool(choice.calls or choice.split(marks, thinks=thinks, complete=self._complete)[1].strip())
            for choice in self._choices.values()
        )

    def _raw(self) -> bytes:
        self._events = [b"".join(self._events)]
        return self._events[0]

    def _least_of_text(self) -> tuple[int, int]:
        self._parse_events()
        thinking = sum(_size(choice.reasoning) for choice in self._choices.values())
        rest = sum(_size(choice.content) + _size(choice.calls) for choice in self._choices.values())
        thought = any(text.strip() for choice in self._choices.values() for text in choice.reasoning)
        return _least_of_size(thinking) if thought else 0, _least_of_size(thinking + rest)

    def _parse_events(self) -> None:
        if not self._events:
            return
        for event in split_events(self._raw())[0]:
            if (parsed := parse_object(data_of(event))) is not None:
                self._add(parsed, "delta")
        self._events.clear()
        self._size = 0

    def _add(self, response: Json, part: str) -> None:
        for choice in objects(response.get("choices")):
            index = index_of(choice)
            if index not in self._choices and len(self._choices) >= MAX_CHOICES:
                continue
            message, text = object_at(choice, part), self._choices.setdefault(index, _Choice())
            text.finish_reason = line_of(choice.get("finish_reason"), MAX_FINISH_REASON) or text.finish_reason
            content, thinking = _content(message.get("content"))
            text.reasoning.append(
                next((value for name in REASONING_FIELDS if (value := string_at(message, name))), thinking)
            )
            text.content += (content, string_at(message, "refusal"))
            functions = [object_at(call, "function") for call in objects(message.get("tool_calls"))]
            for function in (*functions, object_at(message, "function_call")):
                text.calls += [value for name in ("name", "arguments") if (value := string_at(function, name))]


def index_of(choice: Json) -> int:
    """A choice's index among several."""
    return integer_at(choice, "index")


def _content(content: object) -> tuple[str, str]:
    """The text of a message's content, and the thinking in it, if it comes in parts."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else "", ""
    parts = objects(cast("list[object]", content))
    texts = [part for part in parts if not str(part.get("type", "")).startswith(("think", "reason"))]
    thinking = [part for part in parts if part not in texts]
    return "".join(_part_text(part) for part in texts), "".join(_part_text(part) for part in thinking)


def _part_text(part: Json) -> str:
    for name in ("text", "thinking", "reasoning"):
        if isinstance(value := part.get(name), list):
            return "".join(string_at(item, "text") for item in objects(cast("list[object]", value)))
        if isinstance(value, str):
            return value
    return ""


def _last_reasoning(raw: bytes) -> int:
    """Where the last reasoning field begins; -1 if there is none."""
    return max(map(raw.rfind, _REASONING))


def _nulls(raw: bytes) -> int:
    """How many reasoning fields hold nothing."""
    return sum(raw.count(name + value) for name in _REASONING for value in (b":null", b": null", b':""', b': ""'))


def _least(pieces: int, least: int, size: int) -> int:
    """Of a stream: an engine sends at least one token with each event, and few tokens do not make much text."""
    return max(least, (size - _ENVELOPE * (pieces + 1)) // 32)


def _least_of_size(size: int) -> int:
    """Of a text: a token has four characters on average."""
    return max(int(size > 0), size // 6 - 4)


def _size(texts: Iterable[str]) -> int:
    return sum(map(len, texts))
