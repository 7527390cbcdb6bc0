"""Which decisions for other routers wait for their outcome? In Redis, for all gateways, without text.

    open      a decision, until its outcome is recorded or it expires
    claimed   its outcome has come, and some gateway writes the entry
    (done)    the entry is on its way to the ledger, and Redis forgets the decision

A gateway that is killed while it writes an entry leaves the decision claimed, and another one writes the entry. It is
the same one, and the ledger counts each id once. Expiry is by Redis' own clock, so a decision is never both reported
and given up.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import ValidationError
from redis.asyncio import Redis

from gateway.ledger.outcome import DECIDED, Decided, Outcome

log = logging.getLogger(__name__)

# The braces put all keys on one shard of a Redis cluster.
OPEN = "{laconic:decisions}:open"
CLAIMS = "{laconic:decisions}:claims"
DUE = "{laconic:decisions}:due"
HELD = "{laconic:decisions}:held"
KEYS = (OPEN, CLAIMS, DUE, HELD)
OPEN_SECONDS = 1800.0
"""How long an outcome is waited for."""
WRITE_SECONDS = 60.0
"""How long a gateway may take to write an entry before another one does."""
MAX_OPEN = 20_000
"""Most open decisions of a key. Each takes about a kilobyte."""
MAX_BATCH = 200

_OPEN = """
local open, _, due, held = unpack(KEYS)
local id, key, decided, expires, most = unpack(ARGV)
if tonumber(redis.call('HGET', held, key) or 0) >= tonumber(most) then return 0 end
redis.call('HSET', open, id, decided)
redis.call('ZADD', due, expires, id)
redis.call('HINCRBY', held, key, 1)
return 1
"""
_CLAIM = """
local open, claims, due = unpack(KEYS)
local id, outcome, seconds = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local decided = redis.call('HGET', open, id)
if not decided then return {'unknown'} end
local claim = redis.call('HGET', claims, id)
if claim then return {'claimed', claim} end
if now >= cjson.decode(decided).expires then return {'expired'} end
redis.call('HSET', claims, id, outcome)
redis.call('ZADD', due, now + seconds, id)
return {'new'}
"""
_TAKE = """
local open, claims, due = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, ARGV[2])) do
  redis.call('ZADD', due, now + ARGV[1], id)
  taken[#taken + 1] = {id, redis.call('HGET', open, id) or '', redis.call('HGET', claims, id) or ''}
end
return taken
"""
_CLOSE = """
local open, claims, due, held = unpack(KEYS)
redis.call('HDEL', claims, ARGV[1])
redis.call('ZREM', due, ARGV[1])
local decided = redis.call('HGET', open, ARGV[1])
if not decided then return 0 end
redis.call('HDEL', open, ARGV[1])
local key = cjson.decode(decided).entry.key
if redis.call('HINCRBY', held, key, -1) <= 0 then redis.call('HDEL', held, key) end
return 1
"""

State = Literal["unknown", "expired", "claimed", "new"]


@dataclass(frozen=True)
class Claim:
    """What became of an outcome."""

    state: State
    """`unknown`: the decision is not open any more. `claimed`: an outcome came before. `new`: this one counts."""
    outcome: Outcome | None = None
    """The one that came before."""


@dataclass(frozen=True)
class Due:
    """A decision whose entry is to be written now: it has expired, or whoever claimed it did not write it."""

    decided: Decided
    outcome: Outcome | None
    """None if it has expired."""


async def open_decision(redis: Redis, decided: Decided) -> bool:
    """Store a decision, and return whether its key may have one more.

    Raises:
        RedisError, OSError: Redis is down.
    """
    entry, line = decided.entry, DECIDED.dump_json(decided)
    script = redis.register_script(_OPEN)
    return bool(await script(keys=KEYS, args=[entry.id, entry.key, line, decided.expires, MAX_OPEN]))


async def find(redis: Redis, decision_id: str, key: str) -> Decided | None:
    """The decision, if it is open or claimed and was made for this key; its outcome may be too late.

    Raises:
        RedisError, OSError: Redis is down.
    """
    line = cast("str | None", await redis.hget(OPEN, decision_id))  # pyright: ignore[reportGeneralTypeIssues]
    decided = None if line is None else _parse(line)
    return decided if decided is not None and decided.entry.key == key else None


async def claim(redis: Redis, decision_id: str, outcome: Outcome) -> Claim:
    """Store the outcome of a decision, if it is the first one and not too late.

    Raises:
        RedisError, OSError: Redis is down.
    """
    script = redis.register_script(_CLAIM)
    arguments = [decision_id, outcome.model_dump_json(), WRITE_SECONDS]
    state, *first = cast("tuple[State, ...]", await script(keys=KEYS, args=arguments))
    return Claim(state, Outcome.model_validate_json(first[0]) if first else None)


async def take_due(redis: Redis) -> list[Due]:
    """Take some decisions whose entries are to be written now. Close each one afterwards.

    Raises:
        RedisError, OSError: Redis is down.
    """
    script = redis.register_script(_TAKE)
    taken = cast("list[list[str]]", await script(keys=KEYS, args=[WRITE_SECONDS, MAX_BATCH]))
    found: list[Due] = []
    for decision_id, decided, outcome in taken:
        if (parsed := _parse(decided)) is None:
            await close(redis, decision_id)
        else:
            found.append(Due(parsed, Outcome.model_validate_json(outcome) if outcome else None))
    return found


async def close(redis: Redis, decision_id: str) -> bool:
    """Forget a decision, whose entry is written, and return whether nobody else had.

    Raises:
        RedisError, OSError: Redis is down.
    """
    return bool(await redis.register_script(_CLOSE)(keys=KEYS, args=[decision_id]))


def _parse(line: str) -> Decided | None:
    """Parse a decision. Returns None if it cannot be read, because it is from another version."""
    try:
        return DECIDED.validate_json(line)
    except ValidationError as error:
        log.warning("skipping a decision that cannot be read: %s", error.errors(include_input=False)[0]["loc"])
        return None
