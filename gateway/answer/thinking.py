"""Where is the thinking in a stream, and is there more of it than its limit? Pure.

Thinking comes in a field of its own (`reasoning`, `reasoning_content`), or at the front of the content. There its end
mark ends it, and its start mark may be missing, because the template opened the thinking. Either mark may come in
pieces.
"""

from __future__ import annotations

from enum import Enum, auto

from gateway.answer.counting import EXACT_CHARACTERS, TokenCounter
from gateway.answer.transcript import REASONING_FIELDS
from gateway.events import Json, string_at
from models.family import Reasoning

CONTENT = "content"
_TAIL_CHARACTERS = 2048
"""How much of a growing text is counted again and again."""
_MOST_WHITE_SPACE = 256
"""In front of the thinking."""
_MARGIN = 8
"""More than the tokens of a text grow by, besides one for each further byte, because its last token is split anew."""


class Step(Enum):
    """What an event of a stream means for its thinking."""

    GOES_ON = auto()
    """The thinking goes on within its limit, or nothing has begun yet."""
    UNCLEAR = auto()
    """The next event will tell: a mark has come in part, or the engine may be about to end the thinking."""
    ENDED = auto()
    """The thinking has ended, or there is none."""
    EXCEEDED = auto()
    """There is more of it than its limit."""


class Growing:
    """A text that grows, and its tokens. Not all of it is counted again for each piece."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self._settled: list[str] = []
        self._settled_tokens = 0
        """Of the text before the tail."""
        self._tail = ""
        self._tail_tokens = self._uncounted_bytes = 0
        self.length = 0
        """In characters."""

    def add(self, text: str) -> None:
        """Append a piece."""
        self._tail += text
        self._uncounted_bytes += len(text.encode(errors="replace"))
        self.length += len(text)

    def exceeds(self, limit: int) -> bool:
        """Whether it has more tokens than that. A token has a byte at least, so most of the time nothing is counted."""
        if self._settled_tokens + self._tail_tokens + self._uncounted_bytes + _MARGIN <= limit:
            return False
        self._tail_tokens, self._uncounted_bytes = self._counter.count(self._tail), 0
        return self._settled_tokens + self._tail_tokens > limit

    def prefix(self, limit: int) -> str:
        """The beginning of the text with at most so many tokens."""
        begin = "".join(self._settled)
        text = begin + self._counter.prefix(self._tail, limit - self._settled_tokens)
        return self._counter.prefix(text, limit) if len(text) <= EXACT_CHARACTERS else text

    def beginning(self, characters: int) -> str:
        """The first characters."""
        return ("".join(self._settled) + self._tail)[:characters]

    def settle(self) -> None:
        """Count the older part for good: the text has not exceeded its limit. A line's end is a token's end."""
        if len(self._tail) <= _TAIL_CHARACTERS:
            return
        half = len(self._tail) // 2
        at = max(self._tail.rfind("\n", 0, half), self._tail.rfind(" ", 0, half) - 1) + 1 or half
        self._settled.append(self._tail[:at])
        self._settled_tokens += self._counter.count(self._tail[:at])
        self._tail = self._tail[at:]
        self._tail_tokens = self._counter.count(self._tail)


class Thinking:
    """The thinking of one choice, delta by delta."""

    def __init__(
        self, counter: TokenCounter, marks: Reasoning, limit: int, *, opened: bool = True, tolerance: int = 0
    ) -> None:
        """
        Args:
            counter: counts the tokens.
            marks: stand around the thinking in the content.
            limit: the most tokens of thinking.
            opened: content without marks is thinking until its end mark comes; otherwise it is an answer.
            tolerance: tokens beyond the limit that the engine may need to end the thinking itself.
        """
        self._marks, self._limit, self._opened, self._tolerance = marks, limit, opened, tolerance
        self._text = Growing(counter)
        self.field = ""
        """The delta's field that has it; empty as long as nothing has come."""
        self.front: str = ""
        """What stands before the thinking in the content: its start mark, if the model writes it."""
        self._fronted = self._ended_by_mark = False
        """Where the thinking begins in the content is known."""
        self._torn: str = ""
        """The end of the content so far, which may be the beginning of a mark."""

    @property
    def opened_by_template(self) -> bool | None:
        """Whether the thinking is in the content without a start mark; None if that is not clear."""
        if self.field in REASONING_FIELDS or self.front:
            return False
        return True if self._ended_by_mark else None

    @property
    def length(self) -> int:
        """How many characters of thinking have come."""
        return self._text.length

    def within_limit(self) -> str:
        """As much of the thinking as its limit allows."""
        return self._text.prefix(self._limit)

    def beginning(self, characters: int) -> str:
        """The first characters of the thinking."""
        return self._text.beginning(characters)

    def add(self, delta: Json, *, finished: bool) -> Step:
        """Take the next delta. `finished`: it has the finish reason. Call it until it says `ENDED` or `EXCEEDED`."""
        field = next((name for name in REASONING_FIELDS if string_at(delta, name)), "")
        content = string_at(delta, CONTENT)
        finished = finished or bool(delta.get("tool_calls") or delta.get("function_call"))
        if field and (self.field != CONTENT or not (self._fronted or self._torn.strip())):
            self.field = field
            self._text.add(string_at(delta, field))
        if self.field not in ("", CONTENT) or not (content or self._torn):
            return self._judged(ended=finished or bool(content.strip()))
        return self._add_content(content, finished=finished)

    def _add_content(self, content: str, *, finished: bool) -> Step:
        content = self._torn + content
        self.field, self._torn = CONTENT, ""
        if not self._fronted:
            stripped = content.lstrip()
            if stripped.startswith(self._marks.start):
                begin = len(content) - len(stripped) + len(self._marks.start)
                self.front, content = content[:begin], content[begin:]
            elif self._marks.start.startswith(stripped) and not finished and len(content) <= _MOST_WHITE_SPACE:
                self._torn = content
                return Step.UNCLEAR if content else Step.GOES_ON
            elif not self._opened:
                return Step.ENDED
            self._fronted = True
        thinking, end, _ = content.partition(self._marks.end)
        if finished and not end and not self.front and not self._text.length:
            return Step.ENDED  # the whole of an answer
        if not end and not finished:
            whole = len(thinking)
            thinking = thinking[: whole - torn_mark(thinking, self._marks.end)]
            self._torn = content[len(thinking) :]
        self._ended_by_mark = bool(end)
        self._text.add(thinking)
        step = self._judged(ended=bool(end) or finished)
        return Step.UNCLEAR if step is Step.GOES_ON and self._torn else step

    def _judged(self, *, ended: bool) -> Step:
        if not self._text.exceeds(self._limit):
            self._text.settle()
            return Step.ENDED if ended else Step.GOES_ON
        if self._text.exceeds(self._limit + self._tolerance):
            return Step.EXCEEDED
        return Step.ENDED if ended else Step.UNCLEAR


def torn_mark(text: str, mark: str) -> int:
    """How many characters at the end of the text may be the beginning of the mark."""
    return next((size for size in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:size])), 0)
