"""What does the ledger record of a request that another router ran? The decision's entry, and the outcome on it. Pure.

A decision is stored as the entry that is recorded if its outcome never comes. Such an entry must never look better than
any report could, or whoever leaves out its costly requests would seem to save more:

    routed     the most reasoning tokens that could have been reported, and not less than is expected of the reference
    holdout    none, because long holdouts are what savings are measured against

So each missing report lowers the savings, the estimated and the measured ones. Its tokens are `assumed`: with many of
them, nothing is measured (`gateway.ledger.savings`). A report is counted by intention to treat, on the side of the draw
that it was decided to be on, whatever answered in the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gateway.answer.cost import exceeds_cap
from gateway.errors import BadRequestError
from gateway.ledger.entry import UNREPORTED, Entry
from gateway.request.conversation import Conversation

OTHER = "other"
"""What the ledger calls a model that is none of the family's checkpoints."""
_Tokens = Annotated[int, Field(ge=0, le=2**53)]


class Outcome(BaseModel):
    """What a router reports of a request. Tokens are sums over all choices, and nothing in it is text."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    model: Annotated[str, Field(min_length=1, max_length=256)]
    """What answered, or failed to: a checkpoint, its name as a model, or a model that is not the family's."""
    status: Annotated[int, Field(ge=200, le=599)] = 200
    """The HTTP status of the response: 200, or from 400 on if it failed."""
    finish_reason: Annotated[str, Field(pattern=r"^[a-z_]{0,32}$")] = ""
    prompt_tokens: _Tokens
    cached_tokens: _Tokens | None = None
    """Of the prompt tokens, those that the engine had in its prefix cache; None if it did not say."""
    reasoning_tokens: _Tokens
    answer_tokens: _Tokens
    """All generated tokens that are no reasoning."""


@dataclass(frozen=True)
class Decided:
    """One decision for another router, until its outcome is recorded."""

    entry: Entry
    """The entry of a request that nobody reports on; its `checkpoint` is the one that was decided on."""
    expires: float
    """Unix seconds. From then on, no outcome is accepted."""
    cap: Annotated[int, Field(ge=0)] | None
    """The most tokens that each choice may think; None for no cap."""
    most_tokens: Annotated[int, Field(ge=0)]
    """The most tokens that all choices can have together."""
    reserved: Annotated[int, Field(ge=0)] | None
    """The reasoning tokens that are reserved for the key; None if it has no limits."""
    money: Annotated[int, Field(ge=0)]
    """Billionths of the currency unit that are reserved for it."""
    team: str
    """The team that they are reserved for as well; empty if that has no limits."""
    conversation: Conversation | None
    seconds: Annotated[float, Field(ge=0)]
    """What the decision took."""


DECIDED = TypeAdapter(Decided)


def unreported(entry: Entry, router: str, most_tokens: int) -> Entry:
    """The entry of a decision that nobody reports on.

    Args:
        entry: of the request as it was decided, without tokens.
        most_tokens: the most that all choices can have.
    """
    worst = max(most_tokens, math.ceil(entry.reference_tokens or 0.0))
    return replace(
        entry,
        status=UNREPORTED,
        error="unreported",
        reasoning_tokens=0 if entry.holdout else worst,
        assumed=True,
        answered=False,
        via=router,
    )


def check(decided: Decided, outcome: Outcome) -> None:
    """Check that an outcome can be one of this decision.

    Raises:
        BadRequestError: a figure contradicts the request or another figure; names the field.
    """
    if 200 < outcome.status < 400:
        raise _wrong("status", "must be 200, or 400 to 599 for a request that failed")
    if outcome.status == 200 and not outcome.prompt_tokens:
        raise _wrong("prompt_tokens", "an answered request has at least one")
    if outcome.cached_tokens is not None and outcome.cached_tokens > outcome.prompt_tokens:
        raise _wrong("cached_tokens", f"at most the {outcome.prompt_tokens} prompt_tokens can be cached")
    most = decided.most_tokens
    if outcome.reasoning_tokens > most:
        raise _wrong("reasoning_tokens", f"this request can generate {most} tokens at most")
    if outcome.reasoning_tokens + outcome.answer_tokens > most:
        raise _wrong("answer_tokens", f"with the reasoning_tokens, this request can generate {most} tokens at most")


def reported(
    decided: Decided, outcome: Outcome, now: float, *, checkpoint: str, alpha: float | None, marked: bool
) -> Entry:
    """The entry of a request with its outcome.

    Args:
        outcome: a checked one.
        now: Unix seconds.
        checkpoint: what answered, by its name in the family; `OTHER` if it is not in it.
        alpha: that checkpoint's.
        marked: the family marks its thinking. If not, every generated token counts as reasoning.
    """
    entry = decided.entry
    reasoning, answer = _split(outcome, marked)
    generated = outcome.reasoning_tokens + outcome.answer_tokens
    predicted, decision = entry.predicted_tokens, entry.decision
    if checkpoint != entry.checkpoint:
        forecast = entry.forecasts.get(checkpoint)
        predicted, decision = (forecast.tokens * entry.choices if forecast else None), "fallback"
    return replace(
        entry,
        checkpoint=checkpoint,
        alpha=alpha,
        decision=decision,
        predicted_tokens=predicted,
        prompt_tokens=outcome.prompt_tokens,
        cached_tokens=outcome.cached_tokens,
        reasoning_tokens=reasoning,
        answer_tokens=answer,
        finish_reason=outcome.finish_reason,
        status=outcome.status,
        error="" if outcome.status == 200 else "failed at the router",
        total_seconds=max(now - entry.time, 0.0),
        assumed=False,
        answered=outcome.status == 200 and (answer if marked else generated) >= entry.choices,
        counting="reported",
        over_cap=exceeds_cap(reasoning, decided.cap, entry.choices),
    )


def difference(entry: Entry, outcome: Outcome, *, checkpoint: str, marked: bool) -> str | None:
    """The first field in which an outcome differs from the one that was recorded; None if they are the same."""
    reasoning, answer = _split(outcome, marked)
    figures = {
        "model": (entry.checkpoint, checkpoint),
        "status": (entry.status, outcome.status),
        "finish_reason": (entry.finish_reason, outcome.finish_reason),
        "prompt_tokens": (entry.prompt_tokens, outcome.prompt_tokens),
        "cached_tokens": (entry.cached_tokens, outcome.cached_tokens),
        "reasoning_tokens": (entry.reasoning_tokens, reasoning),
        "answer_tokens": (entry.answer_tokens, answer),
    }
    return next((field for field, (recorded, now) in figures.items() if recorded != now), None)


def _split(outcome: Outcome, marked: bool) -> tuple[int, int]:
    """Reasoning and answer tokens, as the ledger counts them."""
    if marked:
        return outcome.reasoning_tokens, outcome.answer_tokens
    return outcome.reasoning_tokens + outcome.answer_tokens, 0


def _wrong(field: str, what: str) -> BadRequestError:
    return BadRequestError(f"{field}: {what}", field)
