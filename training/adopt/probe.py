"""What can this engine do? Asked of the engine itself: its models, its context, its thinking, and whether a cap holds.

A cap is measured, not believed: engines ignore fields that they do not know, and some ignore those that they do. A
request is sent without a cap until one thinks long enough, then again with each way to cap it. The first way that ends
the thinking in time is the engine's.

Thinking that no mark ends cannot be told from an answer, so a budget for it is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from models import endpoint
from models.family import Reasoning
from models.overrides import CAPS, Cap, with_cap, with_overrides
from training.adopt import cost, forced
from training.adopt.cost import MARKS, begins
from training.adopt.engine import Engine, EngineError, Reply
from training.adopt.levels import Level
from training.adopt.prompts import Request
from training.errors import StageError

CAP_TOKENS = 16
OVERSHOOT = 8
"""Tokens beyond the cap that an engine may need to end the thinking in words."""
MAX_TRIALS = 5
MAX_TOKENS = 1024
"""The longest completion of a trial: enough to see that thinking goes on beyond the cap."""
LONG_TRIALS = 2
LONG_TOKENS = 8192
"""If all trials are cut off before a mark is seen, so many are sent again, and may be so long."""


@dataclass(frozen=True)
class Facts:
    """What an engine does with one model."""

    context_tokens: int | None
    """None if the engine does not say."""
    marks: Reasoning | None
    """The marks around the thinking; None if the model thinks in its answer, so that nothing marks the end."""
    separates_reasoning: bool
    opens_thinking: bool
    """Whether the content begins in the midst of the thinking, because the template has opened it."""
    reports_reasoning_tokens: bool
    cap: Cap

    def lines(self) -> list[str]:
        """The facts as sentences."""
        context = f"{self.context_tokens:,} tokens" if self.context_tokens else "not reported; set --context-tokens"
        if self.marks is None:
            thinking = "none that is marked: every generated token counts as reasoning"
        else:
            where = "in a field of its own" if self.separates_reasoning else f"in the content, up to {self.marks.end}"
            counted = "reported" if self.reports_reasoning_tokens else "not reported, so estimated from the text"
            thinking = f"{where}; its tokens are {counted}"
        caps = {
            "forced": "no field caps the thinking; the gateway ends it itself",
            "none": "cannot be capped, because nothing marks the end of the thinking",
        }
        return [f"context: {context}", f"thinking: {thinking}", f"cap: {caps.get(self.cap, f'`{self.cap}` holds')}"]


async def probe(
    engine: Engine, levels: Sequence[Level], requests: Sequence[Request], *, cap: Cap | None, needs_cap: bool
) -> Facts:
    """Find out what the engine does with the last level's model, which thinks most.

    Args:
        engine: the engine.
        levels: each level's model must be among those that the engine lists, if it lists any.
        requests: the first ones are tried.
        cap: how the engine takes a cap, if that is known; it is then not tried.
        needs_cap: whether a level has a budget, so that thinking must be seen to be capped.

    Raises:
        StageError: the engine cannot be reached, does not serve a level's model, or refuses every request; or a level
            has a budget that cannot hold.
    """
    listed = await engine.models()
    if listed is not None:
        for level in levels:
            if level.model not in listed:
                near = endpoint.nearest(level.model, listed)
                meant = f"; did you mean {near!r}?" if near else ""
                raise StageError(
                    f"{engine.url}: does not serve {level.model!r} (level {level.name});"
                    f" it lists {endpoint.shown(listed)}{meant}"
                )
    if needs_cap and cap == "none":
        raise StageError("--cap none: then no budget can hold; leave the budgets out of --levels")
    level = levels[-1]
    trials = await _trials(engine, level, requests[:MAX_TRIALS])
    separated = any(trial.separated for trial in trials)
    seen = separated or any(trial.inline for trial in trials) or cap not in (None, "none")
    if needs_cap and not seen:
        raise StageError(_unmarked(engine, trials))
    context = (listed or {}).get(level.model, {}).get("max_model_len")
    return Facts(
        context_tokens=context if isinstance(context, int) and context > 0 else None,
        marks=MARKS if seen else None,
        separates_reasoning=separated,
        opens_thinking=any(trial.opened for trial in trials) and not separated,
        reports_reasoning_tokens=any(trial.reply.reasoning_tokens is not None for trial in trials),
        cap=cap or await _working_cap(engine, level, trials, needs_cap=needs_cap) if seen else "none",
    )


@dataclass(frozen=True)
class _Trial:
    request: Request
    reply: Reply

    @property
    def separated(self) -> bool:
        return bool(self.reply.reasoning.strip())

    @property
    def opened(self) -> bool:
        """Whether the content begins in the midst of the thinking."""
        return not self.reply.reasoning and MARKS.end in self.reply.content and not self._begins

    @property
    def inline(self) -> bool:
        return self.opened or (not self.reply.reasoning and self._begins)

    @property
    def _begins(self) -> bool:
        return begins(self.reply.content, MARKS)

    def tokens(self, *, opened: bool) -> int:
        """Tokens of thinking; `opened` says whether content begins in the midst of it."""
        return cost.split(cost.all_thinking(self.reply) if opened else self.reply, MARKS).reasoning_tokens


async def _trials(engine: Engine, level: Level, requests: Sequence[Request]) -> list[_Trial]:
    """Each request's reply, and longer ones to the first if all were cut off before any mark."""
    trials = await asyncio.gather(*(_tried(engine, level, request, {}) for request in requests))
    if any(trial.separated or trial.inline or trial.reply.finish_reason != "length" for trial in trials):
        return trials
    fields = {"max_tokens": LONG_TOKENS}
    try:
        longer = await asyncio.gather(*(_tried(engine, level, one, fields) for one in requests[:LONG_TRIALS]))
    except EngineError as error:
        if error.status in (400, 422):  # the context may be shorter
            return trials
        raise
    return [*longer, *trials[LONG_TRIALS:]]


async def _tried(engine: Engine, level: Level, request: Request, fields: Mapping[str, Any]) -> _Trial:
    body = {"model": level.model, "messages": [*request.messages], "max_tokens": MAX_TOKENS, **fields}
    return _Trial(request, await engine.chat(with_overrides(body, level.overrides)))


def _unmarked(engine: Engine, trials: Sequence[_Trial]) -> str:
    cut = all(trial.reply.finish_reason == "length" for trial in trials)
    after = ", although each was as long as a trial may be," if cut else ""
    return (
        f"{engine.url}: none of the replies to the first {len(trials)} prompts{after} marks the end of its thinking, so"
        " no budget can hold; leave the budgets out of --levels, or name the cap with --cap if thinking is marked"
    )


async def _working_cap(engine: Engine, level: Level, trials: Sequence[_Trial], *, needs_cap: bool) -> Cap:
    """The first field that ends the thinking in time; `forced` if none does.

    Raises:
        StageError: a budget is wanted, and the engine neither caps the thinking nor continues a message behind it.
    """
    opened = any(trial.opened for trial in trials)
    long = [trial.request for trial in trials if trial.tokens(opened=opened) > 2 * CAP_TOKENS + OVERSHOOT]
    if not long and not needs_cap:
        return "forced"
    if not long:
        raise StageError(
            f"{engine.url}: no answer to the first {len(trials)} prompts thinks for {2 * CAP_TOKENS + OVERSHOOT}"
            " tokens, so whether a cap holds cannot be seen; put a harder prompt first, or name the cap with --cap"
        )
    for cap in CAPS:
        if cap in ("forced", "none"):
            continue
        try:
            fields = with_cap({}, cap, CAP_TOKENS)
            capped = await asyncio.gather(*(_tried(engine, level, request, fields) for request in long[:2]))
        except EngineError as error:
            if error.status in (400, 422):
                continue
            raise
        if all(trial.tokens(opened=opened) <= CAP_TOKENS + OVERSHOOT for trial in capped):
            return cap
    if needs_cap:
        await _check_that_messages_continue(engine, level, long[0], separated=any(trial.separated for trial in trials))
    return "forced"


async def _check_that_messages_continue(engine: Engine, level: Level, request: Request, *, separated: bool) -> None:
    body = {"model": level.model, "messages": [*request.messages], "max_tokens": MAX_TOKENS}
    try:
        await forced.chat(engine, with_overrides(body, level.overrides), CAP_TOKENS, separated=separated)
    except EngineError as error:
        if error.status not in (400, 415, 422):
            raise
        raise StageError(
            f"{engine.url}: no field caps the thinking, and the engine does not continue a message whose thinking has"
            f" ended, so no answer follows a budget; leave out the levels with a budget. It said: {error}"
        ) from None
