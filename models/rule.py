"""Which choice is the cheapest that is good enough? The routing rule on forecasts.

The gateway decides by it, and `laconic adopt` says beforehand what it would have decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, NamedTuple

from pydantic import Field

from models.profile import ChoicePrediction

_Tokens = Annotated[float, Field(ge=0, le=2**53)]


class Forecast(NamedTuple):
    """What the profile expects of one checkpoint, or of one escalation, under the request's limit."""

    success: Annotated[float, Field(ge=0, le=1)]
    """P(correct within the limit)."""
    tokens: _Tokens
    """Expected reasoning tokens of one completion (the request may ask for `n`)."""
    unlimited_tokens: _Tokens
    """Expected reasoning tokens of one completion without a limit."""


def forecasts_of(predictions: Mapping[str, ChoicePrediction], limit: int | None) -> dict[str, Forecast]:
    """The predictions under a limit, rounded as the ledger records them, so that a replay decides the same way."""
    forecasts: dict[str, Forecast] = {}
    for name, prediction in predictions.items():
        unlimited = round(prediction.expected_tokens(), 2)
        limited = unlimited if limit is None else round(prediction.expected_tokens(limit), 2)
        forecasts[name] = Forecast(round(prediction.p_correct_within(limit), 4), limited, unlimited)
    return forecasts


def good_enough(forecasts: Mapping[str, Forecast], tolerance: float) -> dict[str, Forecast]:
    """The forecasts whose success is within `tolerance` of the best."""
    threshold = max(forecast.success for forecast in forecasts.values()) - tolerance
    return {name: forecast for name, forecast in forecasts.items() if forecast.success >= threshold}


def cheapest_good_enough(forecasts: Mapping[str, Forecast], tolerance: float) -> str:
    """The rule: of the forecasts whose success is within `tolerance` of the best, the one with the fewest tokens."""
    good = good_enough(forecasts, tolerance)
    # A limit below every checkpoint's thinking makes the costs equal; the one that would think least then wins.
    return min(good, key=lambda name: (good[name].tokens, good[name].unlimited_tokens))
