"""What does Redis have for the dashboard? One reading, with a connection of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from redis.asyncio import Redis

from gateway.access.usage import read_usage
from gateway.dashboard.figures import Reading
from gateway.ledger import shadows
from gateway.ledger.entry import Entry
from gateway.ledger.feedback import read_scores
from gateway.ledger.ledger import CLOCK_SKEW_SECONDS, STREAM, Page, parse_line, read_books
from gateway.store import connect

MAX_ENTRIES = 2_000
"""Most entries of single requests that are read, the latest ones."""


async def read(redis_url: str, since: float, limited: Sequence[str], *, priced: bool = False) -> Reading:
    """Read the ledger from the hour of `since` (Unix seconds) on.

    Args:
        limited: the names of keys whose usage is read.
        priced: whether what was used is read, too, for its cost.

    Raises:
        RedisError, OSError: Redis is down.
    """
    redis = connect(redis_url, patient=True)
    try:
        snapshot, lines = await read_books(redis, since, priced=priced)
        return Reading(
            snapshot=snapshot,
            lines=lines,
            scores=await read_scores(redis, since),
            shadows=await shadows.read(redis, since),
            entries=await read_latest(redis, since),
            usage=await read_usage(redis, limited),
        )
    finally:
        await redis.aclose()


async def read_latest(redis: Redis, since: float, most: int = MAX_ENTRIES) -> list[Entry]:
    """The latest entries of requests that arrived at `since` (Unix seconds) or later, newest first."""
    start = str(max(0, int((since - CLOCK_SKEW_SECONDS) * 1000)))  # an entry is written after its request arrived
    page = cast("Page", await redis.xrevrange(STREAM, min=start, count=most))
    parsed = (parse_line(values["entry"]) for _, values in page)
    return [entry for entry in parsed if entry is not None and entry.time >= since]
