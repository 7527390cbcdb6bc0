"""Which choice is the cheapest that is good enough? The routing rule on forecasts.

The gateway decides by it, and `laconic adopt` says beforehand what it would have decided.
"""

from __future__ import annotations

from collections.abc import Mapping

from models.prediction import Forecast


def good_enough(forecasts: Mapping[str, Forecast], tolerance: float) -> dict[str, Forecast]:
    """The forecasts whose success is within `tolerance` of the best."""
    threshold = max(forecast.success for forecast in forecasts.values()) - tolerance
    return {name: forecast for name, forecast in forecasts.items() if forecast.success >= threshold}


def cheapest_good_enough(forecasts: Mapping[str, Forecast], tolerance: float) -> str:
    """The rule: of the forecasts whose success is within `tolerance` of the best, the one with the fewest tokens."""
    threshold = max([forecast.success for forecast in forecasts.values()]) - tolerance
    # A limit below every checkpoint's thinking makes the costs equal; the one that would think least then wins.
    good = [
        (forecast.tokens, forecast.unlimited_tokens) for forecast in forecasts.values() if forecast.success >= threshold
    ]
    least = min(good)
    return next(
        name
        for name, forecast in forecasts.items()
        if forecast.success >= threshold and (forecast.tokens, forecast.unlimited_tokens) == least
    )
