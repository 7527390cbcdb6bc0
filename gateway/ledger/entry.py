"""What is known of one request when it is over? The ledger's entry, and the line of JSON as which it is kept. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from gateway.routing.rule import Forecast
from models.field import path_of

_Count = Annotated[int, Field(ge=0, le=2**53)]
_Tokens = Annotated[float, Field(ge=0, le=2**53)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Entry:
    """One request, settled. No prompt and no answer."""

    id: str
    time: Annotated[float, Field(ge=0, lt=253_402_300_800)]
    """Unix seconds, before the year 10000, at which the request came in."""
    key: str
    """The caller's key, empty where there is none."""
    checkpoint: str
    """The one that served; after second thoughts the one whose answer the caller got."""
    alpha: float | None
    decision: str
    choice: str
    """What was decided on, a checkpoint or second thoughts, before a holdout or a fallback moved it elsewhere."""
    holdout_fraction: float | None
    """With which probability it was to be a holdout; None where nothing was routed, 0 where there was no draw."""
    holdout: bool
    """Whether it was drawn; the reference checkpoint served it unless its engine failed."""
    difficulty: float | None
    budget: _Count | None
    """Reasoning tokens it might spend; None is unlimited."""
    choices: _Count
    """Answers asked for (`n`); all tokens here are those of all of them."""
    prompt_tokens: _Count
    reasoning_tokens: _Count
    answer_tokens: _Count
    predicted_tokens: _Tokens | None
    """Reasoning tokens expected of what served, second thoughts included, under the budget."""
    reference_tokens: _Tokens | None
    """Reasoning tokens expected of the reference checkpoint under the same budget."""
    forecasts: dict[str, Forecast]
    """By checkpoint and second thoughts, for one choice; empty where the profile did not know the prompt."""
    finish_reason: str
    status: int
    """HTTP status; 499 means that the caller left."""
    error: str
    first_token_seconds: _Seconds | None
    total_seconds: _Seconds
    assumed: bool = False
    """Reasoning tokens are those predicted: the caller left before a whole answer came, and nobody counted."""


_ENTRY = TypeAdapter(Entry)


def dump(entry: Entry) -> str:
    """The entry as one line of JSON."""
    return _ENTRY.dump_json(entry).decode()


def parse(line: str | bytes) -> Entry:
    """The entry that a line holds.

    Raises:
        ValueError: the line is torn, or of another version; the message is one line.
    """
    try:
        return _ENTRY.validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path_of(first['loc'])}: {first['msg']}") from None
