"""How much of its limits has each key used now? Read from Redis, for those who watch; nothing is counted here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from redis.asyncio import Redis

from gateway.access import windows

_FIELDS = (
    "minute", "requests", "minute_tokens", "day", "day_tokens", "reserved", "day_money", "month_money",
    "reserved_money",
)  # fmt: skip


@dataclass(frozen=True)
class Usage:
    """What one key has used in the windows of now."""

    requests: int
    """In this minute."""
    minute_tokens: int
    """Reasoning tokens spent in this minute."""
    day_tokens: int
    """Reasoning tokens spent in this day (UTC)."""
    reserved: int
    """Reasoning tokens that running requests may still spend."""
    day_money: int = 0
    """Spent in this day, in billionths of the currency unit, as all money here."""
    month_money: int = 0
    """Spent in this month (UTC)."""
    reserved_money: int = 0
    """What running requests may still cost."""


async def read_usage(redis: Redis, names: Sequence[str]) -> dict[str, Usage]:
    """The usage of keys by name. A key that has sent nothing lately has used nothing.

    Raises:
        RedisError, OSError: Redis is down.
    """
    pipeline = redis.pipeline(transaction=False)
    cast("Any", pipeline).time()
    for name in names:
        cast("Any", pipeline).hmget(windows.KEYS[0].format(name), _FIELDS)
    (seconds, _), *states = await pipeline.execute()
    return {name: usage_of(state, int(seconds)) for name, state in zip(names, states, strict=True)}


def usage_of(state: Sequence[str | None], now: int) -> Usage:
    """What a stored state, in the order of `_FIELDS`, says at `now` (Unix seconds, Redis' clock)."""
    of = dict(zip(_FIELDS, (int(float(field or 0)) for field in state), strict=True))
    # A window ahead of the clock still runs: the clock went back.
    today = now // 86_400
    in_minute, in_day = of["minute"] >= now // 60, of["day"] >= today
    in_month = in_day or _month(of["day"]) == _month(today)
    return Usage(
        of["requests"] if in_minute else 0,
        of["minute_tokens"] if in_minute else 0,
        of["day_tokens"] if in_day else 0,
        of["reserved"],
        of["day_money"] if in_day else 0,
        of["month_money"] if in_month else 0,
        of["reserved_money"],
    )


def _month(day: int) -> tuple[int, int]:
    """The month (UTC) of a day since 1970."""
    date = datetime.fromtimestamp(day * 86_400, UTC)
    return date.year, date.month
