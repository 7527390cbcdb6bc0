"""Was the first checkpoint confident enough, and what follows if not? A response that may escalate.

*Cascade* is the literature's word for this: a cheap model first, a costlier one if it is not confident.

The engine reports each token's log probability. Reasoning is streamed to the caller immediately, with the log
probabilities removed. When the reasoning ends, its surprisal decides whether the first checkpoint's answer follows. If
the surprisal is too high, the second checkpoint gets the same question with what remains of the budget. Its reasoning
and answer follow in the same stream, and the usage is the sum of both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import cast

from gateway.answer.continuation import Continuation, Source, Wrapped, complete_events, encoded
from gateway.answer.plain_event import PlainEvent, read_plain
from gateway.answer.transcript import REASONING_FIELDS
from gateway.answer.usage import add_tokens
from gateway.events import (
    EventBuffer,
    Json,
    UnreadableError,
    data_of,
    encode_json,
    object_at,
    objects,
    parse_object,
)


class SurprisalMeter:
    """Sums the surprisal of a checkpoint's reasoning under its own distribution, token by token."""

    def __init__(self, end: str) -> None:
        """`end` is the token that ends thinking."""
        self._end = end
        self._end_json = json.dumps(end, ensure_ascii=False)[1:-1].encode()
        self.surprisal = 0.0
        """-log P of the thinking with its end token, in nats. Tokens without a log probability add nothing."""
        self.reasoning_tokens = 0
        self.tokens = 0
        """All tokens so far, those of the answer included."""
        self.ended = False
        """The thinking has ended."""

    def add(self, tokens: Sequence[Json], *, has_answer: bool) -> None:
        """Measure the tokens of one event. `has_answer`: the same event already contains answer content."""
        self.tokens += len(tokens)
        if self.ended:
            return
        end = next((at for at, token in enumerate(tokens) if token.get("token") == self._end), None)
        self.ended = has_answer or end is not None
        if end is not None:
            self.reasoning_tokens += end
            self._measure(tokens[: end + 1])
        elif not has_answer:
            self.reasoning_tokens += len(tokens)
            self._measure(tokens)

    def add_plain(self, event: PlainEvent) -> bool:
        """Measure an event of thinking that goes on. Returns False, and measures nothing, if the thinking ends here."""
        if not event.is_reasoning or any(token == self._end_json for token, _ in event.tokens):
            return False
        self.tokens += len(event.tokens)
        self.reasoning_tokens += len(event.tokens)
        self.surprisal += _surprisal(logprob for _, logprob in event.tokens)
        return True

    def _measure(self, tokens: Sequence[Json]) -> None:
        self.surprisal += _surprisal(token.get("logprob") for token in tokens)


def _surprisal(logprobs: Iterable[object]) -> float:
    """The sum of -log P. What is no log probability adds nothing, and none adds more than vLLM's least one."""
    return math.fsum(min(-p, _MOST_NATS) for p in logprobs if isinstance(p, int | float) and p <= 0)


_MOST_NATS = 9999.0


Escalate = Callable[[SurprisalMeter], Awaitable[Source | None]]
"""Opens the second checkpoint's response; None if that is not possible: keep the first."""


class EscalatingStream(Wrapped):
    """The first checkpoint's stream; the second's takes over if the first was not confident. Used like `Upstream`."""

    def __init__(self, upstream: Source, *, end: str, surprisal: float, escalate: Escalate) -> None:
        """`surprisal` is the threshold above which it escalates; `end` is the token that ends thinking."""
        super().__init__(upstream)
        self._threshold, self._escalate = surprisal, escalate
        self._meter = meter = SurprisalMeter(end)
        self._decided = self._escalated = False
        self._message = Continuation(lambda event: _add_usage(event, meter))
        self._buffer = EventBuffer()
        self._held = b""
        """Events of the first checkpoint's answer that came before the decision."""
        self._last_thinking = b""
        """The thinking in the event in which the first checkpoint's answer begins."""
        self.first_bytes = self._process(upstream.first_bytes)
        """The bytes received so far that may go to the caller; perhaps none."""

    async def read(self) -> bytes:
        """Return the next events, waiting for at least one; b"" at the end.

        Raises:
            TimeoutError, OSError: the engine sent nothing for too long, or died.
        """
        while True:
            if self._meter.ended and not self._decided:
                self._decided = True
                if events := await self._decide():
                    return events
            if not (chunk := await self._upstream.read()):
                return self._buffer.take()
            if events := self._process(chunk):
                return events

    async def _decide(self) -> bytes:
        if self._meter.surprisal > self._threshold and (second := await self._escalate(self._meter)) is not None:
            self._upstream.close()
            self._upstream, self._escalated, self._buffer = second, True, EventBuffer()
            return self._last_thinking + self._process(second.first_bytes)
        return self._held

    def _process(self, chunk: bytes) -> bytes:
        take = self._message.event if self._escalated else self._from_first
        return b"".join(map(take, complete_events(self._buffer, chunk)))

    def _from_first(self, event: bytes) -> bytes:
        """The event without log probabilities; held back between the end of reasoning and the decision."""
        if (
            self._message.begun
            and (plain := read_plain(event)) is not None
            and (self._decided or (not self._meter.ended and self._meter.add_plain(plain)))
        ):
            return plain.event
        parsed = parse_object(data_of(event))
        was_thinking = not self._meter.ended
        if parsed is not None:
            self._message.begin(parsed)
        if parsed is not None and (choices := objects(parsed.get("choices"))):
            choice = choices[0]
            delta = object_at(choice, "delta")
            has_answer = bool(delta.get("content") or delta.get("tool_calls") or choice.get("finish_reason"))
            self._meter.add(_tokens(choice), has_answer=has_answer)
            choice["logprobs"] = None
            event = encoded(parsed, event)
            if was_thinking and self._meter.ended:
                self._last_thinking = _thinking_only(parsed, delta)
        if self._meter.ended and not self._decided:
            self._held += event
            return b""
        return event


async def escalated_response(upstream: Source, *, end: str, surprisal: float, escalate: Escalate) -> Source:
    """The same decision for a non-streaming response: the first, or the second with the reasoning and usage of both."""
    response = parse_object(upstream.first_bytes)
    choices = objects(response.get("choices")) if response else []
    if response is None or not choices:
        return upstream
    meter = SurprisalMeter(end)
    for choice in choices:
        meter.add(_tokens(choice), has_answer=True)
        choice["logprobs"] = None
    upstream.first_bytes = _response(response, upstream.first_bytes)
    if meter.surprisal <= surprisal or (second := await escalate(meter)) is None:
        return upstream
    upstream.close()
    if (better := parse_object(second.first_bytes)) is not None:
        _add_usage(better, meter)
        for choice in objects(better.get("choices")):
            _prepend_thinking(object_at(choices[0], "message"), object_at(choice, "message"))
        second.first_bytes = _response(better, second.first_bytes)
    return second


def _response(parsed: Json, body: bytes) -> bytes:
    try:
        return encode_json(parsed)
    except UnreadableError:
        return body


def _tokens(choice: Json) -> list[Json]:
    return objects(object_at(choice, "logprobs").get("content"))


def _thinking_only(event: Json, delta: Json) -> bytes:
    """The event reduced to its thinking; nothing if it has none."""
    thinking = {name: delta[name] for name in REASONING_FIELDS if delta.get(name)}
    if not thinking:
        return b""
    choice = {**objects(event["choices"])[0], "delta": thinking, "finish_reason": None}
    return encoded({**event, "choices": [choice]}, b"")


def _prepend_thinking(first_message: Json, second_message: Json) -> None:
    """Put the first message's thinking before the second's."""
    for name in REASONING_FIELDS:
        if isinstance(thinking := first_message.get(name), str):
            second_message[name] = thinking + (second_message.get(name) or "")


def _add_usage(response: Json, first_meter: SurprisalMeter) -> None:
    if isinstance(usage := response.get("usage"), dict):
        response["usage"] = add_tokens(
            cast("Json", usage), generated=first_meter.tokens, reasoning=first_meter.reasoning_tokens
        )
