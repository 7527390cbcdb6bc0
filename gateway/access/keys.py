"""Who may call, and what is each allowed? The keys as Redis has them: made, listed and revoked.

A key's secret is shown once, when it is made. What is stored is its SHA-256, which is enough for 256 random bits: there
is nothing to guess, so nothing for a slow hash to protect.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from typing import Annotated, Any, NamedTuple, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from redis.asyncio import Redis

from gateway.request.budget import word
from models.family import Family

log = logging.getLogger(__name__)

# The braces put both on one shard of a cluster.
KEYS = "{laconic:keys}:by-name"
VERSION = "{laconic:keys}:version"
PREFIX = "sk-laconic-"

# The first change is numbered by the clock: a Redis that was emptied goes on above what gateways have seen of it.
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


class Grant(BaseModel):
    """What a key allows. None is no limit; all checkpoints where none is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Who it is given to; the ledger and the savings go by it."""
    admin: bool = False
    """May also see savings, explanations and metrics, and make and revoke keys."""
    requests_per_minute: _Count | None = None
    reasoning_tokens_per_minute: _Count | None = None
    reasoning_tokens_per_day: _Count | None = None
    default_budget: Annotated[str, AfterValidator(word)] | None = None
    """Of requests that name none; None leaves it to the operator's default."""
    checkpoints: tuple[str, ...] | None = Field(default=None, min_length=1)

    @property
    def max_tokens_per_request(self) -> int | None:
        """What a single request could spend at most."""
        limits = (self.reasoning_tokens_per_minute, self.reasoning_tokens_per_day)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def has_limits(self) -> bool:
        """Whether anything has to be counted."""
        return self.requests_per_minute is not None or self.max_tokens_per_request is not None


def check_checkpoints(grant: Grant, family: Family) -> None:
    """Raises ValueError where a checkpoint is none of the family's."""
    names = [checkpoint.name for checkpoint in family.checkpoints]
    if unknown := sorted(set(grant.checkpoints or ()) - set(names)):
        raise ValueError(f"checkpoints: {unknown[0]!r} is none of {', '.join(names)}")


class Key(Grant):
    """A grant with the secret's fingerprint."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    hint: str
    """The secret's last characters, by which its owner knows it again."""
    created: float
    """Unix seconds."""

    def public(self) -> dict[str, Any]:
        """What may be shown."""
        return self.model_dump(exclude={"sha256"})


class Table(NamedTuple):
    """All keys. `version` grows with every change and is 0 only while there has never been a key."""

    version: int
    keys: tuple[Key, ...]


class KeyExistsError(ValueError):
    """There is a key of that name already."""


async def create(redis: Redis, grant: Grant) -> tuple[str, Key]:
    """Make a key; the secret is returned here and nowhere else.

    Raises:
        KeyExistsError: revoke the old one first.
        RedisError, OSError: Redis is away.
    """
    secret = PREFIX + secrets.token_urlsafe(32)
    key = Key(**grant.model_dump(), sha256=digest(secret), hint=secret[-4:], created=time.time())
    if not await _run(redis, _CREATE, key.name, key.model_dump_json()):
        raise KeyExistsError(f"there is a key named {key.name!r} already; revoke it first, or take another name")
    return secret, key


async def revoke(redis: Redis, name: str) -> bool:
    """Take a key back; gateways refuse it within a second or two. False where there is none of that name.

    Raises:
        RedisError, OSError: Redis is away.
    """
    return bool(await _run(redis, _REVOKE, name))


async def version(redis: Redis) -> int:
    """Another number after every change, always a larger one."""
    return int(await redis.get(VERSION) or 0)


async def load(redis: Redis) -> Table:
    """All keys, in the order of their names. One that cannot be read is left out, and so admits nobody.

    Raises:
        RedisError, OSError: Redis is away.
    """
    pipeline = redis.pipeline(transaction=True)
    pipeline.get(VERSION)
    pipeline.hgetall(KEYS)
    changes, records = cast("tuple[str | None, dict[str, str]]", await pipeline.execute())
    return Table(int(changes or 0), tuple(key for _, record in sorted(records.items()) if (key := _parse(record))))


def digest(secret: str) -> str:
    """The fingerprint under which a secret is known."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _parse(record: str) -> Key | None:
    try:
        return Key.model_validate_json(record)
    except ValidationError as error:
        # Without the input: it has the fingerprint in it.
        log.error("a key cannot be read and is left out: %s", error.errors(include_input=False)[0]["loc"])
        return None


async def _run(redis: Redis, script: str, *arguments: str) -> int:
    return int(await redis.eval(script, 2, KEYS, VERSION, *arguments))  # pyright: ignore[reportUnknownMemberType, reportGeneralTypeIssues]
