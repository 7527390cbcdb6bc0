"""What is left of a key's limits, and of its team's? What Redis has counted, its headers and refusals. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from gateway.access.cost import BILLIONTHS
from gateway.access.keys import Grant
from gateway.access.money import Charge
from gateway.access.prices import MoneyLimits
from gateway.errors import ApiError, BadRequestError

_DAY = 86_400


@dataclass(frozen=True)
class LimitState:
    """The usage of a key or a team in the current windows, when a reservation was made or refused."""

    now: float
    """Redis' clock, Unix seconds."""
    refused: str
    """The limit that would be exceeded: `requests`, `minute_tokens`, `day_tokens`, `day_money` or `month_money`; empty
    if none."""
    requests: int
    minute_tokens: int
    day_tokens: int
    reserved: int
    """Reasoning tokens reserved by running requests, including this one."""
    minute: int
    """The current minute, counted from 1970. It is ahead of the clock if that went back."""
    day_money: int = 0
    """Billionths of the currency unit, like the other two."""
    month_money: int = 0
    reserved_money: int = 0
    is_team: bool = False
    """Whether these are the team's."""

    @property
    def minute_ends(self) -> float:
        """Seconds until the minute is over."""
        return (self.minute + 1) * 60 - self.now

    @property
    def day_ends(self) -> float:
        """Seconds until the day is over."""
        return (self.minute // 1440 + 1) * _DAY - self.now

    @property
    def month_ends(self) -> float:
        """Seconds until the month is over."""
        today = datetime.fromtimestamp(self.minute * 60, UTC)
        following = datetime(today.year + today.month // 12, today.month % 12 + 1, 1, tzinfo=UTC)
        return following.timestamp() - self.now


def rate_limit_headers(key: Grant, state: LimitState) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*` headers. Those for tokens describe the window with the fewest tokens left."""
    result: dict[str, str] = {}
    if (limit := key.requests_per_minute) is not None:
        result |= _headers("requests", limit, limit - state.requests, state.minute_ends)
    windows = (
        (key.reasoning_tokens_per_minute, state.minute_tokens, state.minute_ends),
        (key.reasoning_tokens_per_day, state.day_tokens, state.day_ends),
    )
    remaining_by_window = [
        (limit - spent - state.reserved, limit, ends) for limit, spent, ends in windows if limit is not None
    ]
    if remaining_by_window:
        remaining, limit, ends = min(remaining_by_window)
        result |= _headers("tokens", limit, remaining, ends)
    return result


def rate_limit_error(key: Grant, state: LimitState, tokens: int, charge: Charge | None = None) -> ApiError:
    """The 429 for a refused reservation, with the seconds after which to retry."""
    if charge is not None and state.refused in ("day_money", "month_money"):
        return _money_error(key, state, charge)
    if state.refused == "requests":
        message = f"The key {key.name} may send {key.requests_per_minute} requests per minute."
        wait = state.minute_ends
    else:
        day = state.refused == "day_tokens"
        limit = key.reasoning_tokens_per_day if day else key.reasoning_tokens_per_minute
        spent = state.day_tokens if day else state.minute_tokens
        window, ends = ("day", state.day_ends) if day else ("minute", state.minute_ends)
        message = (
            f"The key {key.name} may spend {limit} reasoning tokens per {window}: {spent} are spent,"
            f" {state.reserved} are reserved, and this request could spend {tokens}."
        )
        # If only the reservations of running requests are in the way, retry soon: one of them may end at any moment.
        wait = 1 if limit is not None and spent + tokens <= limit else ends
    return ApiError(
        429,
        message,
        kind="requests" if state.refused == "requests" else "tokens",
        code="rate_limit_exceeded",
        retry_after=math.ceil(wait),
        headers=rate_limit_headers(key, state),
    )


def _money_error(key: Grant, state: LimitState, charge: Charge) -> ApiError:
    """The 429 for a limit in money; it names the limit."""
    limits = charge.team_limits if state.is_team else charge.key_limits
    whose = f"The team {charge.team}" if state.is_team else f"The key {key.name}"
    day = state.refused == "day_money"
    window, spent, ends = (
        ("day", state.day_money, state.day_ends) if day else ("month", state.month_money, state.month_ends)
    )
    limit = (limits.per_day if day else limits.per_month) or 0
    of_team = "per_" if state.is_team else "money_per_"
    return ApiError(
        429,
        f"{whose} may spend {amount(limit)} {charge.currency} per {window} ({of_team}{window}): {amount(spent)} are"
        f" spent, {amount(state.reserved_money)} are reserved, and this request could cost {amount(charge.most)}.",
        kind="insufficient_quota",
        code="money_limit_exceeded",
        retry_after=1 if spent + charge.most <= limit else math.ceil(ends),
        headers={} if state.is_team else rate_limit_headers(key, state),
    )


def least_limit(charge: Charge) -> tuple[str, int] | None:
    """The limit that this request alone would pass, by its name and in billionths; None if there is none."""
    limits: list[tuple[str, MoneyLimits]] = [("money_", charge.key_limits), (f"{charge.team}'s ", charge.team_limits)]
    for whose, one in limits:
        for window, limit in (("per_day", one.per_day), ("per_month", one.per_month)):
            if limit is not None and charge.most > limit:
                return f"{whose}{window}", limit
    return None


def require_below_limits(charge: Charge, field: str) -> None:
    """
    Raises:
        BadRequestError: this request alone could cost more than may be spent in a whole window.
    """
    if (passed := least_limit(charge)) is not None:
        name, limit = passed
        raise BadRequestError(
            f"This request could cost {amount(charge.most)} {charge.currency}, and {name} is {amount(limit)}: set a"
            f" smaller {field}, or ask for fewer choices.",
            field,
            "budget_over_limit",
        )


def amount(billionths: int) -> str:
    """An amount in currency units, with two decimals or as many as it has."""
    value = Decimal(billionths) / BILLIONTHS
    text = f"{value:.9f}".rstrip("0")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals:0<2}"


def _headers(what: str, limit: int, remaining: int, resets: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(max(0, remaining)),
        f"x-ratelimit-reset-{what}": f"{math.ceil(resets)}s",
    }
