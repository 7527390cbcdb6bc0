"""What does the ledger record about a request? The entry, and its line of JSON. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from gateway.access.cost import Part, Spent, parts
from models.field import path_of
from models.prediction import Forecast

_Count = Annotated[int, Field(ge=0, le=2**53)]
_Tokens = Annotated[float, Field(ge=0, le=2**53)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

UNREPORTED = 0
"""The status of a request that another router never reported on (`gateway.ledger.outcome`)."""


@dataclass(frozen=True)
class Entry:
    """One request that has ended. It contains neither prompt nor answer."""

    id: str
    time: Annotated[float, Field(ge=0, lt=253_402_300_800)]
    """When the request arrived, in Unix seconds (before the year 10000)."""
    key: str
    """The name of the caller's key; empty without one."""
    checkpoint: str
    """The checkpoint that served; after an escalation, the one whose answer the caller got."""
    alpha: float | None
    decision: str
    choice: str
    """The checkpoint or escalation that was decided on, before a holdout or a fallback sent the request elsewhere."""
    holdout_fraction: float | None
    """The probability with which it was to be a holdout; None if it was not routed, 0 if there was no draw."""
    holdout: bool
    """Whether it was drawn as a holdout. The reference checkpoint served it unless its engine failed."""
    difficulty: float | None
    """0 to 1, see `models.profile`; None if the profile abstained, or if to it all prompts are equally difficult."""
    budget: _Count | None
    """The most reasoning tokens it may spend; None if unlimited."""
    choices: _Count
    """How many answers were requested (`n`). All token counts here are sums over them."""
    prompt_tokens: _Count
    reasoning_tokens: _Count
    answer_tokens: _Count
    predicted_tokens: _Tokens | None
    """Reasoning tokens expected of the checkpoint or escalation that served, under the budget."""
    reference_tokens: _Tokens | None
    """Reasoning tokens expected of the reference checkpoint under the same budget."""
    forecasts: dict[str, Forecast]
    """By checkpoint and escalation, for one choice; empty if the profile does not know such prompts."""
    finish_reason: str
    status: int
    """HTTP status; 499 if the caller left, `UNREPORTED` if another router never said."""
    error: str
    first_token_seconds: _Seconds | None
    total_seconds: _Seconds
    assumed: bool = False
    """Whether the reasoning tokens are predicted: the caller left before a non-streaming response was complete."""
    answered: bool = True
    """Whether the response had an answer: not only thinking, nor nothing. A failure may have begun one."""
    counting: Literal["reported", "repaired", "counted"] = "reported"
    """Whose the token counts are: the engine's, the engine's with corrections, or all counted by the gateway."""
    over_cap: bool = False
    """Whether the engine thought beyond the budget that it was given."""
    cached_tokens: _Count | None = None
    """Of the prompt tokens, those that the engine had in its prefix cache; None if it did not say."""
    conversation: Literal["none", "begun", "kept", "moved_up", "moved_down"] = "none"
    """What the choice did to the conversation's checkpoint; `none` if it was not routed as a turn of one."""
    abstention: Literal["none", "unfamiliar", "unreadable"] = "none"
    """Why the profile abstained: the prompt is unlike the fitting prompts, or not plain text. `none` if pinned."""

    counts: tuple[_Count, ...] = ()
    """What the profile counted in the prompt, in the order of `models.features.FEATURES`; empty if it read none."""
    easiness: float = 0.0
    """What the profile's reader added to the forest's value, in logits (`models.reader`)."""
    via: str = ""
    """The router that ran the request and reported its tokens, as it calls itself; empty if this gateway ran it."""
    team: str = ""
    """The team of the key, as it was then; empty without one."""
    first_checkpoint: str = ""
    """The checkpoint that thought first, if the request was escalated; else empty."""
    first_reasoning_tokens: _Count = 0
    """Of the reasoning tokens, its own."""
    first_answer_tokens: _Count = 0
    """Of the answer tokens, its own: nobody got to read them."""
    reference_answer_tokens: _Tokens | None = None
    """Answer tokens expected of the reference checkpoint; None if the profile does not predict answers."""

    @property
    def predicted_success(self) -> float | None:
        """What the profile predicted of its choice, in [0, 1]; None if it predicted nothing."""
        forecast = self.forecasts.get(self.choice)
        return None if forecast is None else forecast.success

    @property
    def is_reported(self) -> bool:
        """Whether it is known how the request ended. Of this gateway's own requests it always is."""
        return self.status != UNREPORTED

    @property
    def parts(self) -> list[Part]:
        """Which checkpoint spent what."""
        spent = Spent(self.prompt_tokens, self.cached_tokens or 0, self.reasoning_tokens, self.answer_tokens)
        first = (self.first_checkpoint, self.first_reasoning_tokens, self.first_answer_tokens)
        return parts(self.checkpoint, spent, *first)

    @property
    def succeeded(self) -> bool:
        """Whether the caller got an answer. Nothing else saves anything."""
        return self.status == 200 and self.answered


_ENTRY = TypeAdapter(Entry)


def dump(entry: Entry) -> str:
    """Serialize an entry as one line of JSON."""
    return _ENTRY.dump_json(entry).decode()


def parse(line: str | bytes) -> Entry:
    """Parse an entry from a line of JSON.

    Raises:
        ValueError: the line is torn or from another version; the message is one line.
    """
    try:
        return _ENTRY.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path_of(first['loc'])}: {first['msg']}") from None
