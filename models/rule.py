"""Which choice is the cheapest that is good enough? The routing rule on forecasts.

The gateway decides by it, and `laconic adopt` says beforehand what it would have decided.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from models.prediction import Forecast


def good_enough(forecasts: Mapping[str, Forecast], tolerance: float) -> dict[str, Forecast]:
    """The forecasts whose success is within `tolerance` of the best."""
    threshold = max(forecast.success for forecast in forecasts.values()) - tolerance
    return {name: forecast for name, forecast in forecasts.items() if forecast.success >= threshold}


def cheapest_good_enough(forecasts: Mapping[str, Forecast], tolerance: float) -> str:
    """The rule: of the forecasts whose success is within `tolerance` of the best, the one with the fewest tokens.

    Tokens of the answer count as those of the thinking do: they cost the same.
    """
    threshold = max([forecast.success for forecast in forecasts.values()]) - tolerance
    # A limit below every checkpoint's thinking makes the costs equal; the one that would think least then wins.
    cheapest, least = "", (math.inf, math.inf)
    for name, (success, tokens, unlimited, answer) in forecasts.items():
        if success >= threshold and (cost := (tokens + answer, unlimited)) < least:
            cheapest, least = name, cost
    return cheapest
