"""Who may call, and what may each caller do? Keys in Redis: creating, listing and revoking them.

A key's secret is shown once, when the key is created. Redis stores its SHA-256. A slow hash is not needed, because a
secret of 256 random bits cannot be guessed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, NamedTuple, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)
from redis.asyncio import Redis

from gateway.access.prices import DECIMALS, MOST, TEAM, MoneyLimits, limits_of
from gateway.request.budget import validate_budget
from models.family import Family

log = logging.getLogger(__name__)

# The braces put both keys on one shard of a Redis cluster.
KEYS = "{laconic:keys}:by-name"
VERSION = "{laconic:keys}:version"
PREFIX = "sk-laconic-"
AT_ONCE = 500
"""Keys that are parsed in one piece: a few milliseconds."""

# The first version comes from the clock, so that after Redis loses its data, versions still exceed those gateways know.
_CREATE = """
if redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2]) == 0 then return 0 end
if redis.call('EXISTS', KEYS[2]) == 0 then
  local time = redis.call('TIME')
  redis.call('SET', KEYS[2], string.format('%.0f', time[1] * 1e6 + time[2]))
end
return redis.call('INCR', KEYS[2])
"""
_REVOKE = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
return redis.call('INCR', KEYS[2])
"""

_Count = Annotated[int, Field(gt=0, le=2**53, strict=True)]
_Money = Annotated[
    Decimal,
    Field(gt=0, le=MOST, decimal_places=DECIMALS, allow_inf_nan=False),
    PlainSerializer(float, return_type=float, when_used="unless-none"),  # with so few digits it is read back exactly
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": MOST, "multipleOf": 10**-DECIMALS}),
]
"""In the unit of the prices' currency."""


class Grant(BaseModel):
    """What a key allows. None means no limit, and for `checkpoints` all of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Whose key it is. The ledger and the savings are grouped by it."""
    team: str | None = Field(default=None, pattern=TEAM)
    """Whom its usage is shown to and charged with; teams' limits are in the prices file."""
    admin: bool = Field(default=False, strict=True)
    """Whether it may also read savings, explanations and metrics, and create and revoke keys."""
    requests_per_minute: _Count | None = None
    reasoning_tokens_per_minute: _Count | None = None
    reasoning_tokens_per_day: _Count | None = None
    money_per_day: _Money | None = None
    money_per_month: _Money | None = None
    max_concurrency: _Count | None = None
    """The requests that it may have in flight at once, in one worker."""
    default_budget: Annotated[str, AfterValidator(validate_budget)] | None = None
    """The budget of requests that name none; None for the operator's default."""
    checkpoints: tuple[str, ...] | None = Field(default=None, min_length=1)

    @property
    def max_tokens_per_request(self) -> int | None:
        """The most reasoning tokens that one request can spend, or None without a token limit."""
        limits = (self.reasoning_tokens_per_minute, self.reasoning_tokens_per_day)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def has_limits(self) -> bool:
        """Whether requests with this key must be counted in Redis, whatever they cost."""
        return self.requests_per_minute is not None or self.max_tokens_per_request is not None

    @property
    def may_cost(self) -> bool:
        """Whether the key or its team may have a limit in money."""
        return self.team is not None or self.money_per_day is not None or self.money_per_month is not None

    @cached_property
    def money(self) -> MoneyLimits:
        """What the key may spend in money."""
        return limits_of(self.money_per_day, self.money_per_month)


def check_checkpoints(grant: Grant, family: Family) -> None:
    """Check that the family has all checkpoints of a grant.

    Raises:
        ValueError: it lacks one of them.
    """
    names = [checkpoint.name for checkpoint in family.checkpoints]
    if unknown := sorted(set(grant.checkpoints or ()) - set(names)):
        raise ValueError(f"checkpoints: {unknown[0]!r} is not one of {', '.join(names)}")


class Key(Grant):
    """A grant, with the hash of its secret."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    hint: str
    """The secret's last characters, so that its owner can recognise it."""
    created: float
    """Unix seconds."""

    def public(self) -> dict[str, Any]:
        """The fields that may be shown."""
        return self.model_dump(mode="json", exclude={"sha256"})


class KeyTable(NamedTuple):
    """All keys. `version` grows with every change, and is 0 only if there has never been a key."""

    version: int
    keys: tuple[Key, ...]


class KeyExistsError(ValueError):
    """A key with that name already exists."""


async def create(redis: Redis, grant: Grant) -> tuple[str, Key]:
    """Create a key and return its secret, which is stored nowhere.

    Raises:
        KeyExistsError: there is a key with that name; revoke it first.
        RedisError, OSError: Redis is down.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    key = Key(**grant.model_dump(), sha256=digest(secret), hint=secret[-4:], created=time.time())
    if not await _run(redis, _CREATE, key.name, key.model_dump_json(exclude_none=True)):
        raise KeyExistsError(f"a key named {key.name!r} already exists; revoke it first, or choose another name")
    return secret, key


async def revoke(redis: Redis, name: str) -> bool:
    """Revoke a key, and return whether it existed. Gateways reject it within a second or two.

    Raises:
        RedisError, OSError: Redis is down.
    """
    return bool(await _run(redis, _REVOKE, name))


async def version(redis: Redis) -> int:
    """The version of the keys, which grows with every change."""
    return int(await redis.get(VERSION) or 0)


class Reader:
    """Reads all keys, and parses those that have changed since it read them before."""

    def __init__(self) -> None:
        self._parsed: dict[str, Key | None] = {}

    async def load(self, redis: Redis) -> KeyTable:
        """Load all keys, sorted by name. A key that cannot be read is skipped, so it gives nobody access.

        Raises:
            RedisError, OSError: Redis is down.
        """
        pipeline = redis.pipeline(transaction=True)
        pipeline.get(VERSION)
        pipeline.hgetall(KEYS)
        version_text, records = cast("tuple[str | None, dict[str, str]]", await pipeline.execute())
        parsed: dict[str, Key | None] = {}
        for number, (_, record) in enumerate(sorted(records.items()), start=1):
            parsed[record] = self._parsed[record] if record in self._parsed else _parse(record)
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)  # streams go on meanwhile
        self._parsed = parsed
        return KeyTable(int(version_text or 0), tuple(key for key in parsed.values() if key is not None))


async def load(redis: Redis) -> KeyTable:
    """Load all keys once, as `Reader.load` does.

    Raises:
        RedisError, OSError: Redis is down.
    """
    return await Reader().load(redis)


def digest(secret: str) -> str:
    """The hash that identifies a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _parse(record: str) -> Key | None:
    try:
        return Key.model_validate_json(record)
    except ValidationError as error:
        # Without the input, which contains the hash.
        log.error("a key cannot be read and is skipped: %s", error.errors(include_input=False)[0]["loc"])
        return None


async def _run(redis: Redis, script: str, *arguments: str) -> int:
    return int(await redis.eval(script, 2, KEYS, VERSION, *arguments))  # pyright: ignore[reportUnknownMemberType, reportGeneralTypeIssues]
