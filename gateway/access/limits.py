"""May this key spend that much now? Requests and reasoning tokens per minute and day, counted in Redis, exactly.

Before a request runs, the most it can think is reserved; when it is over, what it did think takes the place of that.
Windows are Redis' own clock's minutes and days (UTC). In each of them, at any moment,

    spent + reserved <= limit

holds across all gateways: it is checked where a reservation is made, a settlement never adds more than it frees, and a
new window begins with nothing spent and the open reservations. A reservation is a lease that its gateway renews, so
what a killed gateway had reserved is free again after `LEASE_SECONDS`.

All that is due at one moment goes to Redis as one call. While Redis is away `reserve` answers at once that it is not
known, and settlements wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, cast

from pydantic_core import to_json
from redis.exceptions import RedisError

from gateway.access.keys import Grant, Key
from gateway.errors import ApiError, BadRequestError
from gateway.request.budget import HEADER, Budget
from gateway.store import connect

log = logging.getLogger(__name__)

LEASE_SECONDS = 120
RENEW_SECONDS = 30.0
SETTLED_SECONDS = 900
"""How long a settlement is remembered, by which one that is sent again is known: an outage of Redis may lie between."""
KEEP_SECONDS = 2 * 86_400
RETRY_SECONDS = 1.0
BATCH = 200
GATHER_SECONDS = 0.02
MAX_WAITING = 100_000

_STATE, _OPEN, _SETTLED = "{{laconic:limits}}:{}", "{{laconic:limits}}:{}:open", "{{laconic:limits}}:{}:settled"

_RUN = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local minute, day = math.floor(now / 60), math.floor(now / 86400)
local lease, remember, keep = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local answers = {tostring(now)}
for i, op in ipairs(cjson.decode(ARGV[1])) do
  local state, open, settled = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local read = redis.call('HMGET', state, 'minute', 'requests', 'minute_tokens', 'day', 'day_tokens', 'reserved')
  local requests, minute_tokens, day_tokens = 0, 0, 0
  if tonumber(read[1]) == minute then requests, minute_tokens = tonumber(read[2]), tonumber(read[3]) end
  if tonumber(read[4]) == day then day_tokens = tonumber(read[5]) end
  local reserved = tonumber(read[6]) or 0
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', open, '-inf', now)) do
    redis.call('ZREM', open, member)
    reserved = reserved - tonumber(string.match(member, '%d+$'))
  end

  local refused = ''
  if op.what == 'reserve' then
    if op.requests and requests + 1 > op.requests then
      refused = 'requests'
    elseif op.minute_tokens and minute_tokens + reserved + op.tokens > op.minute_tokens then
      refused = 'minute_tokens'
    elseif op.day_tokens and day_tokens + reserved + op.tokens > op.day_tokens then
      refused = 'day_tokens'
    else
      requests = requests + 1
      reserved = reserved + op.tokens
      if op.tokens > 0 then redis.call('ZADD', open, now + lease, op.lease) end
    end
  elseif op.what == 'settle' then
    redis.call('ZREMRANGEBYSCORE', settled, '-inf', now)
    if redis.call('ZADD', settled, 'NX', now + remember, op.lease) == 1 then
      if redis.call('ZREM', open, op.lease) == 1 then reserved = reserved - op.tokens end
      minute_tokens, day_tokens = minute_tokens + op.spent, day_tokens + op.spent
    end
  else  -- renew; a lease that lapsed while Redis could not be reached is taken again, for its request still runs
    if redis.call('ZADD', open, now + lease, op.lease) == 1 then reserved = reserved + op.tokens end
  end

  redis.call('HSET', state, 'minute', minute, 'requests', requests, 'minute_tokens', minute_tokens,
    'day', day, 'day_tokens', day_tokens, 'reserved', reserved)
  for _, key in ipairs({state, open, settled}) do redis.call('EXPIRE', key, keep) end
  answers[#answers + 1] = {refused, requests, minute_tokens, day_tokens, reserved}
end
return answers
"""


@dataclass(frozen=True)
class LimitState:
    """Where a key stood in its windows when a reservation was made or refused."""

    now: float
    """Redis' clock, Unix seconds."""
    refused: str
    """The window that had no room: `requests`, `minute_tokens`, `day_tokens`; empty where there was."""
    requests: int
    minute_tokens: int
    day_tokens: int
    reserved: int
    """Tokens of requests that are not over, this one included."""


@dataclass(frozen=True)
class Reservation:
    """What is held for one request."""

    key: Key
    lease: str
    tokens: int


def apply_key_limits(
    key: Grant, budget: Budget, *, max_tokens: int | None, context_tokens: int, choices: int
) -> tuple[Budget, int]:
    """The budget as the key can bear it, and the reasoning tokens to reserve: the most that all choices can think.

    Where the caller names no number, the cap is what the key may spend; a number that is more than that is refused.

    Raises:
        BadRequestError: the request alone might spend more than the key may in a whole window.
    """
    most = key.max_tokens_per_request
    if most is None:
        return budget, 0
    longest = context_tokens if max_tokens is None else min(max_tokens, context_tokens)
    if budget.tokens is None and longest * choices > most:
        budget = replace(budget, tokens=most // choices)
    tokens = choices * (longest if budget.tokens is None else min(budget.tokens, longest))
    if tokens > most:
        raise BadRequestError(
            f"The key {key.name} may spend {most} reasoning tokens at a time, and this request might take {tokens}:"
            f" name a smaller budget in {HEADER}, or ask for fewer choices.",
            budget.param,
            "budget_over_limit",
        )
    return budget, tokens


def rate_limit_headers(key: Grant, state: LimitState) -> dict[str, str]:
    """`x-ratelimit-*` as OpenAI's API has them; for tokens, those of the window with the least left."""
    found: dict[str, str] = {}
    minute_ends, day_ends = 60 - state.now % 60, 86_400 - state.now % 86_400
    if (limit := key.requests_per_minute) is not None:
        found |= _headers("requests", limit, limit - state.requests, minute_ends)
    windows = (
        (key.reasoning_tokens_per_minute, state.minute_tokens, minute_ends),
        (key.reasoning_tokens_per_day, state.day_tokens, day_ends),
    )
    left = [(limit - spent - state.reserved, limit, ends) for limit, spent, ends in windows if limit is not None]
    if left:
        remaining, limit, ends = min(left)
        found |= _headers("tokens", limit, remaining, ends)
    return found


def rate_limit_error(key: Grant, state: LimitState, tokens: int) -> ApiError:
    """The 429 for a reservation that was refused, with the time after which it may be granted."""
    if state.refused == "requests":
        message = f"The key {key.name} may send {key.requests_per_minute} requests a minute."
        wait = 60 - state.now % 60
    else:
        day = state.refused == "day_tokens"
        limit = key.reasoning_tokens_per_day if day else key.reasoning_tokens_per_minute
        spent = state.day_tokens if day else state.minute_tokens
        length = 86_400 if day else 60
        message = (
            f"The key {key.name} may spend {limit} reasoning tokens a {'day' if day else 'minute'}; {spent} are spent,"
            f" {state.reserved} reserved, and this request might take {tokens}."
        )
        # Where only running requests are in the way, one of them may be over at any moment.
        wait = 1 if limit is not None and spent + tokens <= limit else length - state.now % length
    return ApiError(
        429,
        message,
        kind="requests" if state.refused == "requests" else "tokens",
        code="rate_limit_exceeded",
        retry_after=math.ceil(wait),
        headers=rate_limit_headers(key, state),
    )


class Limiter:
    """Reserves and settles in Redis, for one gateway."""

    def __init__(self, redis_url: str) -> None:
        self._redis = connect(redis_url)
        self._run = self._redis.register_script(_RUN)
        self._waiting: deque[tuple[dict[str, Any], asyncio.Future[LimitState | None] | None]] = deque()
        self._open: dict[str, Reservation] = {}
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self.healthy = True
        """Redis took what it was last given."""

    @property
    def reserved(self) -> int:
        """Reasoning tokens that this gateway holds for requests which are not over."""
        return sum(reservation.tokens for reservation in self._open.values())

    async def start(self) -> None:
        """Begin; Redis need not be there."""
        self._tasks = [
            asyncio.create_task(self._keep_sending(), name="limits"),
            asyncio.create_task(self._keep_renewing(), name="renew leases"),
        ]

    async def aclose(self) -> None:
        """Send what is waiting, unless Redis is away, and stop."""
        self._closing = True
        self._news.set()
        if self._tasks:
            sending, renewing = self._tasks
            renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await renewing
            await sending
        await self._redis.aclose()

    async def reserve(self, key: Key, request_id: str, tokens: int) -> tuple[Reservation, LimitState | None]:
        """Count a request and hold tokens for it. Redis away: None, and nothing has been counted yet.

        Raises:
            ApiError: 429, a window has no room; nothing is held.
        """
        held = Reservation(key, f"{request_id}:{tokens}", tokens)
        if not self.healthy:
            return held, None
        limits = {
            "requests": key.requests_per_minute,
            "minute_tokens": key.reasoning_tokens_per_minute,
            "day_tokens": key.reasoning_tokens_per_day,
        }
        op = {name: limit for name, limit in limits.items() if limit is not None}
        answer: asyncio.Future[LimitState | None] = asyncio.get_running_loop().create_future()
        self._send({"what": "reserve", **op, **_named(held)}, answer)
        try:
            state = await answer
        except BaseException:  # the caller has left, and the reservation may be made all the same
            self.settle(held, 0)
            raise
        if state is not None and state.refused:
            raise rate_limit_error(key, state, tokens)
        if state is not None:
            self._open[held.lease] = held
        return held, state

    def settle(self, held: Reservation, spent: int) -> None:
        """The request is over and its choices have thought so much together. Returns at once."""
        self._open.pop(held.lease, None)
        if held.key.max_tokens_per_request is None:
            return
        if len(self._waiting) < MAX_WAITING:
            self._send({"what": "settle", "spent": spent, **_named(held)})
        else:
            log.error("%d tokens of key %s are not counted: too much is waiting for Redis", spent, held.key.name)

    def _send(self, op: dict[str, Any], answer: asyncio.Future[LimitState | None] | None = None) -> None:
        self._waiting.append((op, answer))
        if answer is not None:
            self._news.set()
        elif len(self._waiting) == 1:  # nobody waits for these; they go with the next reservation, or soon
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._news.set)

    async def _keep_sending(self) -> None:
        while not (self._closing and not (self._waiting and self.healthy)):
            if self.healthy:
                await self._news.wait()
                self._news.clear()
            elif not self._closing:
                await asyncio.sleep(RETRY_SECONDS)
            await self._send_all()

    async def _send_all(self) -> None:
        while True:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            try:
                if batch or not self.healthy:
                    states = await self._call([op for op, _ in batch])
                    for (_, answer), state in zip(batch, states, strict=True):
                        if answer is not None and not answer.done():
                            answer.set_result(state)
            except (RedisError, OSError) as error:
                if self.healthy:
                    log.warning("the limits' Redis is away: %s", error)
                self.healthy = False
                self._take_back(batch)
                return
            self.healthy = True
            if not self._waiting:
                return

    async def _call(self, ops: list[dict[str, Any]]) -> list[LimitState]:
        names = [key.format(op["key"]) for op in ops for key in (_STATE, _OPEN, _SETTLED)]
        arguments = [to_json(ops), LEASE_SECONDS, SETTLED_SECONDS, KEEP_SECONDS]
        now, *answers = cast("list[Any]", await self._run(keys=names, args=arguments))
        return [LimitState(float(now), *answer) for answer in answers]

    def _take_back(self, batch: list[tuple[dict[str, Any], asyncio.Future[LimitState | None] | None]]) -> None:
        """Nobody waits for a Redis that is away; but what was spent is still to be counted."""
        batch += self._waiting
        self._waiting.clear()
        for op, answer in batch:
            if answer is not None and not answer.done():
                answer.set_result(None)
            if op["what"] == "settle":
                self._waiting.append((op, None))

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for held in self._open.values():
                if held.tokens:
                    self._send({"what": "renew", **_named(held)})


def _named(held: Reservation) -> dict[str, Any]:
    return {"key": held.key.name, "lease": held.lease, "tokens": held.tokens}


def _headers(what: str, limit: int, remaining: int, resets: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(max(0, remaining)),
        f"x-ratelimit-reset-{what}": f"{math.ceil(resets)}s",
    }
