"""How does thinking end at its budget if the engine does not see to that? The gateway ends it, and the answer follows.

This is the budget forcing of s1 (arXiv 2501.19393, section 3.1): thinking is cut off at the budget, the mark that ends
it is put behind it, and the model writes its answer from there. The thinking is relayed as long as it is within the
budget, by the gateway's own count. Then the engine's connection is closed, so that it stops. Another request continues
the message. All that it generates is the answer, wherever a reasoning parser puts it: the parser may not know that the
thinking has ended.

If thinking ends within its budget, everything behind it passes unread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from gateway.answer.continuation import Continuation, Source, Wrapped, complete_events, encoded
from gateway.answer.thinking import CONTENT, Step, Thinking
from gateway.answer.transcript import REASONING_FIELDS
from gateway.answer.usage import add_cut
from gateway.events import (
    MAX_EVENT_BYTES,
    EventBuffer,
    Json,
    data_of,
    encode_event,
    object_at,
    objects,
    parse_object,
    string_at,
)
from models.family import Reasoning

DONE_DATA = b"[DONE]"
DONE = b"data: " + DONE_DATA + b"\n\n"


@dataclass(frozen=True)
class Cut:
    """A thinking that the gateway has ended."""

    thinking: str
    tokens: int
    """By the gateway's own count."""


Continue = Callable[[Cut], Awaitable[Source | None]]
"""Opens the response that continues the message behind its thinking; None if the engine cannot do that."""


@dataclass
class _Held:
    """What has come of the thinking and has not been relayed."""

    events: list[bytes] = field(default_factory=list[bytes])
    role: Json = field(default_factory=dict[str, object])
    logprobs: list[Json] = field(default_factory=list[Json])
    size: int = 0

    def add(self, event: bytes, choice: Json) -> None:
        self.events.append(event)
        self.size += len(event)
        delta = object_at(choice, "delta")
        self.role = self.role or {name: delta[name] for name in ("role",) if name in delta}
        self.logprobs += objects(object_at(choice, "logprobs").get(CONTENT))

    def take(self) -> bytes:
        events = b"".join(self.events)
        self.__init__()
        return events


class ForcedStream(Wrapped):
    """One response whose thinking is within its budget. Used like `Upstream`."""

    def __init__(
        self,
        upstream: Source,
        thinking: Thinking,
        marks: Reasoning,
        *,
        count: Callable[[str], int],
        proceed: Continue,
        restarted: Callable[[], None] | None,
        learned: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """
        Args:
            upstream: a stream of one choice.
            thinking: measures it against its budget.
            marks: stand around the thinking in the content.
            count: counts tokens.
            proceed: continues the message.
            restarted: called if the engine thinks again instead of continuing the message, which ends then. None if a
                mark in the answer is no sign of that, because the caller wrote it.
            learned: called with whether the template opens the thinking, as soon as that is clear.
        """
        super().__init__(upstream)
        self._thinking, self._marks = thinking, marks
        self._count, self._proceed, self._restarted, self._learned = count, proceed, restarted, learned
        self._message = Continuation(self._change, look_for=tuple(f'"{name}"'.encode() for name in REASONING_FIELDS))
        self._buffer = EventBuffer()
        self._held = _Held()
        self._relayed_characters = 0
        """Of the thinking."""
        self._relayed_front = False
        self._envelope: Json = {}
        """The event in which the thinking has exceeded its budget."""
        self._take: Callable[[bytes], bytes] = self._from_first
        self._front: str | None = ""
        """The beginning of the answer as long as it may be the mark that opens thinking; then None."""
        self.cut: Cut | None = None
        """The thinking, if the gateway has ended it."""
        self._is_cut_off = False
        """The message goes on in another response, which has not been asked for yet."""
        self._over = False
        self.first_bytes = self._process(upstream.first_bytes)

    async def read(self) -> bytes:
        """Return the next events, waiting for at least one; b"" at the end.

        Raises:
            TimeoutError, OSError: the engine sent nothing for too long, or died.
        """
        while not self._over:
            if self._is_cut_off:
                self._is_cut_off = False
                if events := await self._go_on():
                    return events
                continue
            if not (chunk := await self._upstream.read()):
                return self._held.take() + self._buffer.take()
            if events := self._process(chunk):
                return events
        return b""

    def _process(self, chunk: bytes) -> bytes:
        if self._take == self._through:
            events = self._buffer.feed(chunk)
            return events + self._buffer.take() if self._buffer.size > MAX_EVENT_BYTES else events
        out: list[bytes] = []
        for event in complete_events(self._buffer, chunk):
            if self._is_cut_off or self._over:
                break
            out.append(self._take(event))
        return b"".join(out)

    def _through(self, event: bytes) -> bytes:
        return event

    def _from_first(self, event: bytes) -> bytes:
        """An event of the thinking, as long as that is within its budget."""
        parsed = parse_object(data_of(event))
        if parsed is None:
            return event
        self._message.begin(parsed)
        choices = objects(parsed.get("choices"))
        if not choices:
            return event
        choice = choices[0]
        step = self._thinking.add(object_at(choice, "delta"), finished=bool(choice.get("finish_reason")))
        self._held.add(event, choice)
        if step is Step.UNCLEAR and self._held.size > MAX_EVENT_BYTES:
            step = Step.EXCEEDED
        match step:
            case Step.UNCLEAR:
                return b""
            case Step.GOES_ON:
                self._relayed_characters = self._thinking.length
                self._relayed_front = bool(self._thinking.front)
                return self._held.take()
            case Step.ENDED:
                if (opened := self._thinking.opened_by_template) is not None:
                    self._learned(opened)
                self._take = self._through
                return self._held.take()
            case Step.EXCEEDED:
                return self._cut_off(parsed)

    def _cut_off(self, parsed: Json) -> bytes:
        """End the thinking here. Returns what of it the caller has not got yet."""
        whole = self._thinking.within_limit()
        if self._relayed_characters > len(whole):
            whole = self._thinking.beginning(self._relayed_characters)
        self.cut = Cut(whole, self._count(whole))
        self._envelope = {**parsed, "usage": None} if "usage" in parsed else parsed
        self._is_cut_off, self._take = True, self._from_second
        rest = whole[self._relayed_characters :]
        name = self._thinking.field
        if name == CONTENT:  # the marks are part of the text
            rest = ("" if self._relayed_front else self._thinking.front) + rest + self._marks.end
        tokens = _first_tokens(self._held.logprobs, len(rest))
        logprobs = {CONTENT: tokens} if tokens else None
        delta = {**self._held.role, **({name: rest} if rest else {})}
        self._held = _Held()
        return self._event(delta, logprobs=logprobs) if delta else b""

    async def _go_on(self) -> bytes:
        self._upstream.close()
        assert self.cut is not None
        second = await self._proceed(self.cut)
        if second is None:
            return self._end()
        self._upstream, self._buffer = second, EventBuffer()
        return self._process(second.first_bytes)

    def _from_second(self, event: bytes) -> bytes:
        """An event of the answer. It waits while it may be the mark that opens thinking."""
        event = self._message.event(event)
        if self._restarted is None:
            return event
        if self._front is None:
            return self._end(restarted=True) if self._marks.end.encode() in event else event
        parsed = parse_object(data_of(event)) or {}
        for choice in objects(parsed.get("choices")):
            self._front += string_at(object_at(choice, "delta"), CONTENT)
        front = self._front.lstrip()
        if front.startswith(self._marks.start) or self._marks.end in front:
            return self._end(restarted=True)
        self._held.add(event, {})
        ended = data_of(event) == DONE_DATA or any(c.get("finish_reason") for c in objects(parsed.get("choices")))
        if front and self._marks.start.startswith(front) and not ended and self._held.size < MAX_EVENT_BYTES:
            return b""
        if front or ended:
            self._front = None
        return self._held.take()

    def _end(self, *, restarted: bool = False) -> bytes:
        """End the message behind its thinking, as if its length had been limited."""
        self._over = True
        self._upstream.close()
        if restarted and self._restarted is not None:
            self._restarted()
        self._held = _Held()
        return self._event({}, finish_reason="length") + DONE

    def _event(self, delta: Json, *, logprobs: Json | None = None, finish_reason: str | None = None) -> bytes:
        (choice, *_) = objects(self._envelope["choices"])
        choice = {name: value for name, value in choice.items() if name != "stop_reason"}
        choice |= {"delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        event = {**self._envelope, "choices": [choice]}
        return encoded(event, b"") or encode_event({"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})

    def _change(self, event: Json) -> None:
        """Make an event of the second response one of the answer."""
        for choice in objects(event.get("choices")):
            delta = object_at(choice, "delta")
            thought = [delta.pop(name) for name in REASONING_FIELDS if name in delta]
            if text := next((text for text in thought if isinstance(text, str) and text), ""):
                delta[CONTENT] = text + string_at(delta, CONTENT)
        if isinstance(usage := event.get("usage"), dict) and self.cut is not None:
            event["usage"] = add_cut(usage, self.cut.tokens)  # pyright: ignore[reportUnknownArgumentType]


def _first_tokens(tokens: list[Json], characters: int) -> list[Json]:
    """The tokens within so many characters."""
    for at, token in enumerate(tokens):
        characters -= len(string_at(token, "token"))
        if characters < 0:
            return tokens[:at]
    return tokens
