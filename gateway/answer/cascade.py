"""Was a checkpoint sure of its thinking, and what if not? An answer that may give way to another checkpoint's.

The engine is asked for the probability of each token. Thinking goes on to the caller as it comes, without them; where
it ends, its surprisal decides whether its answer follows. If not, another checkpoint is asked the same with what is
left of the budget, and its thinking and its answer follow in the same stream; the usage is that of both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from gateway.answer.usage import added
from gateway.engines.pool import Upstream
from gateway.events import MAX_EVENT_BYTES, Json, data_of, encode_event, object_at, objects, parse_object, split_events

_THOUGHT = ("reasoning", "reasoning_content")


class Thinking:
    """Thinking as it comes, and how unsure of itself it is."""

    def __init__(self, end: str) -> None:
        """`end` is the token that ends it."""
        self._end = end
        self.surprisal = 0.0
        """-log P of what was thought, the end included, in nats. An engine that does not tell is taken to be sure."""
        self.reasoning_tokens = 0
        self.tokens = 0
        """With those of the answer."""
        self.ended = False

    def add(self, tokens: Sequence[Json], *, answers: bool) -> None:
        """Take some more tokens as engines report them; `answers`: there is more than thinking in what came."""
        self.tokens += len(tokens)
        if self.ended:
            return
        ends = next((at for at, token in enumerate(tokens) if token.get("token") == self._end), None)
        self.ended = answers or ends is not None
        if ends is not None:
            self.reasoning_tokens += ends
            self._surprise(tokens[: ends + 1])
        elif not answers:
            self.reasoning_tokens += len(tokens)
            self._surprise(tokens)

    def _surprise(self, tokens: Sequence[Json]) -> None:
        found = (token.get("logprob") for token in tokens)
        self.surprisal -= math.fsum(value for value in found if isinstance(value, int | float))


Escalate = Callable[[Thinking], Awaitable[Upstream | None]]
"""Gets another answer begun after this thinking; None where that cannot be done, and the first one has to do."""


class EscalatingStream:
    """A stream from an engine, as `Upstream` is one, that gives way to another where its thinking was unsure."""

    def __init__(self, upstream: Upstream, *, end: str, surprisal: float, escalate: Escalate) -> None:
        """`surprisal` is the most that sure thinking has; `end` is the token that ends it."""
        self._upstream, self._surprisal, self._escalate = upstream, surprisal, escalate
        self._thinking = Thinking(end)
        self._decided = self._moved = False
        self._rest = self._held = self._last_thought = b""
        self.first = self._through(upstream.first)
        """What has come and may go on; perhaps nothing."""

    @property
    def relayed(self) -> bool:
        """The caller has had all that matters of it."""
        return self._upstream.relayed

    @relayed.setter
    def relayed(self, relayed: bool) -> None:
        self._upstream.relayed = relayed

    async def more(self) -> bytes:
        """What has come after that, waiting for something; nothing at the end.

        Raises:
            TimeoutError, OSError: the engine has been silent for too long, or died.
        """
        while True:
            if self._thinking.ended and not self._decided:
                self._decided = True
                if events := await self._decide():
                    return events
            if not (chunk := await self._upstream.more()):
                rest, self._rest = self._rest, b""
                return rest
            if events := self._through(chunk):
                return events

    def close(self) -> None:
        """Be done with it."""
        self._upstream.close()

    async def _decide(self) -> bytes:
        if self._thinking.surprisal > self._surprisal and (second := await self._escalate(self._thinking)) is not None:
            self._upstream.close()
            self._upstream, self._moved, self._rest = second, True, b""
            return self._last_thought + self._through(second.first)
        return self._held

    def _through(self, chunk: bytes) -> bytes:
        events, self._rest = split_events(self._rest + chunk)
        if len(self._rest) > MAX_EVENT_BYTES:  # the relay will say so
            events, self._rest = [*events, self._rest], b""
        return b"".join(map(self._of_second if self._moved else self._of_first, events))

    def _of_first(self, event: bytes) -> bytes:
        """The event without probabilities; where thinking has ended and nothing is decided, it is kept back."""
        parsed = parse_object(data_of(event))
        thinks = not self._thinking.ended
        if parsed is not None and (choices := objects(parsed.get("choices"))):
            choice = choices[0]
            delta = object_at(choice, "delta")
            answers = bool(delta.get("content") or delta.get("tool_calls") or choice.get("finish_reason"))
            self._thinking.add(_tokens(choice), answers=answers)
            choice["logprobs"] = None
            event = encode_event(parsed)
            if thinks and self._thinking.ended:
                self._last_thought = _thought_alone(parsed, delta)
        if self._thinking.ended and not self._decided:
            self._held += event
            return b""
        return event

    def _of_second(self, event: bytes) -> bytes:
        """The event as one of the same message, its usage with what was spent before."""
        if b'"usage"' not in event and b'"role"' not in event:
            return event
        parsed = parse_object(data_of(event))
        if parsed is None:
            return event
        for choice in objects(parsed.get("choices")):
            object_at(choice, "delta").pop("role", None)  # clients put a message together by adding its parts up
        _add_usage(parsed, self._thinking)
        return encode_event(parsed)


Answer = Upstream | EscalatingStream
"""An engine's response that has begun."""


async def escalated(upstream: Upstream, *, end: str, surprisal: float, escalate: Escalate) -> Upstream:
    """The same for a whole answer: this one, or another with the thinking and the usage of both."""
    answer = parse_object(upstream.first)
    choices = objects(answer.get("choices")) if answer else []
    if answer is None or not choices:
        return upstream
    thinking = Thinking(end)
    for choice in choices:
        thinking.add(_tokens(choice), answers=True)
        choice["logprobs"] = None
    upstream.first = json.dumps(answer).encode()
    if thinking.surprisal <= surprisal or (second := await escalate(thinking)) is None:
        return upstream
    upstream.close()
    if (better := parse_object(second.first)) is not None:
        _add_usage(better, thinking)
        for choice in objects(better.get("choices")):
            _think_first(object_at(choices[0], "message"), object_at(choice, "message"))
        second.first = json.dumps(better).encode()
    return second


def _tokens(choice: Json) -> list[Json]:
    return objects(object_at(choice, "logprobs").get("content"))


def _thought_alone(event: Json, delta: Json) -> bytes:
    """What was thought in the event in which an answer begins; nothing where that is nothing."""
    thought = {name: delta[name] for name in _THOUGHT if delta.get(name)}
    if not thought:
        return b""
    return encode_event(
        {**event, "choices": [{**objects(event["choices"])[0], "delta": thought, "finish_reason": None}]}
    )


def _think_first(before: Json, message: Json) -> None:
    for name in _THOUGHT:
        if isinstance(thought := before.get(name), str):
            message[name] = thought + (message.get(name) or "")


def _add_usage(answer: Json, before: Thinking) -> None:
    if isinstance(usage := answer.get("usage"), dict):
        answer["usage"] = added(cast("Json", usage), generated=before.tokens, reasoning=before.reasoning_tokens)
