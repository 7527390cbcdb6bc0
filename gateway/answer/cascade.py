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
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from gateway.answer.continuation import Continuation, Source, Wrapped, encoded
from gateway.answer.plain_event import logprobs_of, plain_run, without_logprobs
from gateway.answer.transcript import REASONING_FIELDS
from gateway.answer.usage import add_tokens
from gateway.events import (
    MAX_EVENT_BYTES,
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
        self.end_token = b'"token":' + json.dumps(end, ensure_ascii=False).encode()
        """How the end token begins in a plain event."""
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

    def add_run(self, run: bytes) -> None:
        """Measure a run of plain events in which the thinking does not end."""
        logprobs = logprobs_of(run)
        self.tokens += len(logprobs)
        if not self.ended:
            self.reasoning_tokens += len(logprobs)
            usual = min(logprobs) >= -_MOST_NATS and max(logprobs) <= 0
            self.surprisal += -math.fsum(logprobs) if usual else _surprisal(logprobs)

    def _measure(self, tokens: Sequence[Json]) -> None:
        self.surprisal += _surprisal([token.get("logprob") for token in tokens])


def _surprisal(logprobs: Sequence[object]) -> float:
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
        take = self._message.events if self._escalated else self._from_first
        events = take(self._buffer.feed(chunk))
        if self._buffer.size > MAX_EVENT_BYTES:  # the relay reports it
            return events + self._buffer.take()
        return events

    def _from_first(self, events: bytes) -> bytes:
        """Events without log probabilities; held back between the end of reasoning and the decision."""
        passed: list[bytes] = []
        start = 0
        while start < len(events):
            end, has_tokens = self._run(events, start)
            if end > start:
                piece = events if end - start == len(events) else events[start:end]
                if has_tokens:
                    piece = self._measured(piece)
            else:
                end = events.index(b"\n\n", start) + 2  # these events are complete
                piece = self._read(events[start:end])
            start = end
            if self._meter.ended and not self._decided:
                self._held += piece
            else:
                passed.append(piece)
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def _run(self, events: bytes, start: int) -> tuple[int, bool]:
        """Where the plain events end that say nothing of the thinking's end, and whether they have tokens."""
        if not self._message.begun or (run := plain_run(events, start)) is None:
            return start, False
        if self._meter.ended:
            return run.end, run.has_tokens
        if not run.is_reasoning:
            return start, False
        if not run.has_tokens or (mark := events.find(self._meter.end_token, start, run.end)) < 0:
            return run.end, run.has_tokens
        last = events.rfind(b"\n\n", start, mark)
        return (start if last < 0 else last + 2), True

    def _measured(self, run: bytes) -> bytes:
        if not self._decided:
            self._meter.add_run(run)
        return without_logprobs(run)

    def _read(self, event: bytes) -> bytes:
        """An event that is not plain, without log probabilities."""
        if self._message.begun and _says_nothing(event, ended=self._meter.ended):
            return event
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
        return event


def _says_nothing(event: bytes, *, ended: bool) -> bool:
    """Whether an event has neither anything to be measured nor log probabilities. `ended`: the thinking has ended."""
    if b"{" not in event or b'"choices":[]' in event:  # a comment, the end, or the usage
        return True
    return ended and _has_null_logprobs_alone(event)


def _has_null_logprobs_alone(data: bytes) -> bool:
    """Whether the one choice of an event or response has `"logprobs": null`. Text cannot look like it: JSON escapes."""
    nulls = data.count(b'"logprobs":null') + data.count(b'"logprobs": null')
    return data.count(b'"logprobs"') == data.count(b'"index"') == nulls == 1


async def escalated_response(upstream: Source, *, end: str, surprisal: float, escalate: Escalate) -> Source:
    """The same decision for a non-streaming response: the first, or the second with the reasoning and usage of both."""
    body = upstream.first_bytes
    if surprisal >= 0 and (b'"logprobs"' not in body or _has_null_logprobs_alone(body)):
        return upstream  # nothing can be measured, and nothing has to be removed
    response = parse_object(body)
    choices = objects(response.get("choices")) if response else []
    if response is None or not choices:
        return upstream
    meter = SurprisalMeter(end)
    for choice in choices:
        meter.add(_tokens(choice), has_answer=True)
        choice["logprobs"] = None
    upstream.first_bytes = _response(response, body)
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
