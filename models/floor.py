"""How much of the reference's quality does routing keep for certain, and which tolerances do? As a profile stores it.

A *floor* is a share of the reference's accuracy. It is certified for a way to route if kept quality below the floor
would have been shown by the fitting prompts with a probability of 95 %. `training.profile.floor` certifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Share = Annotated[float, Field(ge=0, le=1)]


class Certified(BaseModel):
    """One way to route that keeps the floor. Figures are cross-validated, over the fitting prompts."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    tolerance: _Share
    """The quality tolerance to route at."""
    kept: Annotated[float, Field(ge=0)]
    """Routed accuracy as a share of the reference's."""
    low: Annotated[float, Field(ge=0)]
    """The one-sided lower confidence bound of `kept`, for this way alone; never below the floor."""
    tokens: Annotated[float, Field(ge=0)]
    """Routed reasoning tokens as a share of the reference's."""


class Floor(BaseModel):
    """What keeps a floor. A way that is None is not certified: there the reference must serve."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    floor: Annotated[float, Field(gt=0, le=1)]
    confidence: _Share
    """That everything certified here keeps the floor; of one floor, not of all at once."""
    prompts: Annotated[int, Field(ge=0)]
    """Fitting prompts that it was tested on."""
    alone: Certified | None
    """Routing between checkpoints."""
    escalating: Certified | None
    """Routing between checkpoints and escalations."""
    needed: Annotated[int, Field(ge=0)] | None
    """About how many prompts would certify something; None if something is certified, or no number would do."""

    @property
    def is_certified(self) -> bool:
        """Whether anything but the reference may serve."""
        return self.alone is not None or self.escalating is not None

    def way(self, *, may_escalate: bool) -> Certified | None:
        """The certified way that spends least, of those that the request's form allows."""
        ways = [way for way in (self.alone, self.escalating if may_escalate else None) if way is not None]
        return min(ways, key=lambda way: way.tokens, default=None)


def at_least(floors: Sequence[Floor], floor: float) -> Floor | None:
    """The lowest of the stored floors that implies this one; None if all of them are lower."""
    return min((one for one in floors if one.floor >= floor), key=lambda one: one.floor, default=None)
