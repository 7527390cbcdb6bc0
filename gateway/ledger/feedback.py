"""How good were the answers? Scores of past requests, in Redis beside the ledger, without text.

A day's scores are a hash: by request id, what the ledger knows of the request and its score from each source. The day
is that of the request's arrival. Whose request it was is read from its entry, so only requests whose entries are still
in the ledger's stream can be scored. A repeated score replaces the one before.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, cast

from pydantic_core import to_json
from redis.asyncio import Redis

from gateway.ledger.entry import Entry
from gateway.ledger.ledger import PLACES, STREAM, Page, parse_line
from gateway.ledger.quality import Score
from gateway.ledger.savings import Cell, cell_of, had_draw

log = logging.getLogger(__name__)

FEEDBACK = "{{laconic:ledger}}:feedback:{day}"
MAX_AGE_DAYS = 7
"""How long after its arrival a request may be scored. Less than the ledger remembers ids."""
KEEP_DAYS = 90
MAX_SOURCES_A_REQUEST = 8
MAX_REQUESTS_A_DAY = 100_000
"""Most requests of a day that get scores."""
_DAY = 86_400

_RECORD = """
local requests, id, source = KEYS[1], ARGV[1], ARGV[2]
local before = redis.call('HGET', requests, id)
if not before and redis.call('HLEN', requests) >= tonumber(ARGV[5]) then return 'full' end
local request = before and cjson.decode(before) or cjson.decode(ARGV[4])
local replaced = request.scores[source] ~= nil
if not replaced then
  local sources = 0
  for _ in pairs(request.scores) do sources = sources + 1 end
  if sources >= tonumber(ARGV[6]) then return 'sources' end
end
request.scores[source] = tonumber(ARGV[3])
redis.call('HSET', requests, id, cjson.encode(request))
redis.call('EXPIRE', requests, ARGV[7])
return replaced and 'replaced' or 'new'
"""


class FullError(Exception):
    """There is no room for the score. The argument says what there is too much of: `requests` or `sources`."""


@dataclass(frozen=True)
class ScoredRequest:
    """A request with its scores in [0, 1] by source."""

    id: str
    time: float
    """When it arrived, in Unix seconds."""
    cell: Cell
    holdout: bool
    predicted: float | None
    """The success that the profile predicted of its choice; None if it predicted nothing."""
    scores: dict[str, float]


async def find_entry(redis: Redis, request_id: str, now: float) -> Entry | None:
    """The entry of a request that arrived in the last `MAX_AGE_DAYS`; None if there is none in the stream.

    Args:
        redis: a client of the ledger's Redis.
        request_id: the value of its header `x-request-id`.
        now: Unix seconds.
    """
    today = int(now // _DAY)
    pipeline = redis.pipeline(transaction=False)
    for day in range(today + 1, today - MAX_AGE_DAYS - 1, -1):
        pipeline.hget(PLACES.format(day=day), request_id)
    place = next((found for found in cast("list[str | None]", await pipeline.execute()) if found), None)
    if place is None:
        return None
    page = cast("Page", await redis.xrange(STREAM, min=place, max=place))
    entry = parse_line(page[0][1]["entry"]) if page else None
    return entry if entry is not None and entry.time >= now - MAX_AGE_DAYS * _DAY else None


async def record(redis: Redis, entry: Entry, source: str, score: float) -> bool:
    """Record a score, and return whether it replaces an earlier one of this source.

    Args:
        redis: a client of the ledger's Redis.
        entry: the request's.
        source: what the score comes from.
        score: in [0, 1].

    Raises:
        FullError: the request has scores from too many sources, or the day has too many requests with scores.
        RedisError, OSError: Redis is down.
    """
    _, *cell = cell_of(entry)
    request: dict[str, object] = {
        "time": round(entry.time, 3),  # a script in Lua keeps 14 digits
        "cell": cell,
        "holdout": entry.holdout,
        "predicted": entry.predicted_success,
        "scores": {},
    }
    first = to_json(request).decode()
    script = redis.register_script(_RECORD)
    limits = (MAX_REQUESTS_A_DAY, MAX_SOURCES_A_REQUEST, KEEP_DAYS * _DAY)
    outcome = await script(
        keys=[FEEDBACK.format(day=int(entry.time // _DAY))],
        args=[entry.id, source, repr(score), first, *limits],
    )
    if outcome in ("full", "sources"):
        raise FullError("requests" if outcome == "full" else "sources")
    return outcome == "replaced"


async def read_requests(redis: Redis, since: float) -> AsyncIterator[ScoredRequest]:
    """Yield the scored requests that arrived at `since` (Unix seconds) or later, day by day."""
    today = int(time.time() // _DAY)
    for day in range(max(int(since // _DAY), today - KEEP_DAYS), today + 2):
        name = FEEDBACK.format(day=day)
        scanned = cast("Any", redis).hscan_iter(name, count=1000)
        async for request_id, line in cast("AsyncIterator[tuple[str, str]]", scanned):
            request = _parse(request_id, line)
            if request is not None and request.time >= since:
                yield request


async def read_scores(redis: Redis, since: float) -> list[Score]:
    """The scores of requests that took part in a draw, from the hour of `since` (Unix seconds) on."""
    since_hour = int(since // 3600)
    return [
        Score(one.cell, one.holdout, one.predicted, source, score)
        async for one in read_requests(redis, since_hour * 3600.0)
        if one.predicted is not None and had_draw(one.cell.holdout_fraction)
        for source, score in one.scores.items()
    ]


def _parse(request_id: str, line: str) -> ScoredRequest | None:
    """Parse a scored request. Returns None if it cannot be read, because it is from another version."""
    try:
        raw: dict[str, Any] = json.loads(line)
        key, checkpoint, difficulty, fraction = raw["cell"]
        cell = Cell(int(raw["time"] // 3600), key, checkpoint, difficulty, fraction)
        return ScoredRequest(request_id, raw["time"], cell, raw["holdout"], raw.get("predicted"), raw["scores"])
    except (ValueError, KeyError, TypeError) as error:
        log.warning("skipping scores that cannot be read: %s", type(error).__name__)
        return None
