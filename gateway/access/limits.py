"""May this key spend that much now? Exact limits on requests and reasoning tokens per minute and day, in Redis.

Before a request runs, the most reasoning tokens it can spend are reserved. When it ends, the reservation is replaced by
the actual usage. Windows are minutes and days (UTC) on Redis' own clock. In each window, across all gateways,

    spent + reserved <= limit

holds as long as no lease of a running request expires: it is checked for each reservation, and a settlement adds no
more than it frees. In a new window spent is zero; open reservations carry over. A reservation is a lease that its
gateway renews, so the reservations of a killed gateway expire after `LEASE_SECONDS`. If Redis is out of reach for that
long, leases of running requests expire, too; they are then reserved or charged again without a check.

Operations that are waiting at the same time go to Redis in one call. While Redis is down, `reserve` returns at once
without a state, and settlements wait until Redis is back.
"""

from __future__ import annotations

import asyncio
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
from gateway.supervision import BackgroundTask

log = logging.getLogger(__name__)

LEASE_SECONDS = 120
RENEW_SECONDS = 30.0
REMEMBER_SETTLED_SECONDS = 900
"""How long a settlement is remembered, so that it counts once even if it is sent again after an outage of Redis."""
STATE_SECONDS = 2 * 86_400
RETRY_SECONDS = 1.0
MAX_BATCH = 200
GATHER_SECONDS = 0.02
MAX_WAITING = 100_000

_STATE, _OPEN, _SETTLED = "{{laconic:limits}}:{}", "{{laconic:limits}}:{}:open", "{{laconic:limits}}:{}:settled"

_LIMITS_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local minute, day = math.floor(now / 60), math.floor(now / 86400)
local lease, remember, state_seconds = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local results = {tostring(now)}
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
  if op.kind == 'reserve' then
    if op.max_requests and requests + 1 > op.max_requests then
      refused = 'requests'
    elseif op.max_minute_tokens and minute_tokens + reserved + op.tokens > op.max_minute_tokens then
      refused = 'minute_tokens'
    elseif op.max_day_tokens and day_tokens + reserved + op.tokens > op.max_day_tokens then
      refused = 'day_tokens'
    else
      requests = requests + 1
      reserved = reserved + op.tokens
      if op.tokens > 0 then redis.call('ZADD', open, now + lease, op.lease) end
    end
  elseif op.kind == 'settle' then
    redis.call('ZREMRANGEBYSCORE', settled, '-inf', now)
    if redis.call('ZADD', settled, 'NX', now + remember, op.lease) == 1 then
      if redis.call('ZREM', open, op.lease) == 1 then reserved = reserved - op.tokens end
      minute_tokens, day_tokens = minute_tokens + op.spent, day_tokens + op.spent
    end
  else  -- renew; a lease that expired while Redis was unreachable is reserved again, because its request still runs
    if redis.call('ZADD', open, now + lease, op.lease) == 1 then reserved = reserved + op.tokens end
  end

  redis.call('HSET', state, 'minute', minute, 'requests', requests, 'minute_tokens', minute_tokens,
    'day', day, 'day_tokens', day_tokens, 'reserved', reserved)
  for _, key in ipairs({state, open, settled}) do redis.call('EXPIRE', key, state_seconds) end
  results[#results + 1] = {refused, requests, minute_tokens, day_tokens, reserved}
end
return results
"""


@dataclass(frozen=True)
class LimitState:
    """The usage of a key in the current windows, when a reservation was made or refused."""

    now: float
    """Redis' clock, Unix seconds."""
    refused: str
    """The limit that would be exceeded: `requests`, `minute_tokens` or `day_tokens`; empty if none."""
    requests: int
    minute_tokens: int
    day_tokens: int
    reserved: int
    """Reasoning tokens reserved by running requests, including this one."""


@dataclass(frozen=True)
class Reservation:
    """The reasoning tokens that are reserved for one request."""

    key: Key
    lease: str
    tokens: int


def apply_key_limits(
    key: Grant, budget: Budget, *, max_tokens: int | None, context_tokens: int, choices: int
) -> tuple[Budget, int]:
    """Return the budget that fits the key's limits, and the most reasoning tokens that all choices can spend together.

    A request without a number of tokens is capped at what the key may spend. A number above that is rejected.

    Raises:
        BadRequestError: the request alone could spend more than the key may in a whole window.
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
            f"The key {key.name} may spend {most} reasoning tokens at a time, and this request could spend {tokens}:"
            f" set a smaller budget in {HEADER}, or ask for fewer choices.",
            budget.param,
            "budget_over_limit",
        )
    return budget, tokens


def rate_limit_headers(key: Grant, state: LimitState) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*` headers. Those for tokens describe the window with the fewest tokens left."""
    result: dict[str, str] = {}
    minute_ends, day_ends = 60 - state.now % 60, 86_400 - state.now % 86_400
    if (limit := key.requests_per_minute) is not None:
        result |= _headers("requests", limit, limit - state.requests, minute_ends)
    windows = (
        (key.reasoning_tokens_per_minute, state.minute_tokens, minute_ends),
        (key.reasoning_tokens_per_day, state.day_tokens, day_ends),
    )
    remaining_by_window = [
        (limit - spent - state.reserved, limit, ends) for limit, spent, ends in windows if limit is not None
    ]
    if remaining_by_window:
        remaining, limit, ends = min(remaining_by_window)
        result |= _headers("tokens", limit, remaining, ends)
    return result


def rate_limit_error(key: Grant, state: LimitState, tokens: int) -> ApiError:
    """The 429 for a refused reservation, with the seconds after which to retry."""
    if state.refused == "requests":
        message = f"The key {key.name} may send {key.requests_per_minute} requests per minute."
        wait = 60 - state.now % 60
    else:
        day = state.refused == "day_tokens"
        limit = key.reasoning_tokens_per_day if day else key.reasoning_tokens_per_minute
        spent = state.day_tokens if day else state.minute_tokens
        window, length = ("day", 86_400) if day else ("minute", 60)
        message = (
            f"The key {key.name} may spend {limit} reasoning tokens per {window}: {spent} are spent,"
            f" {state.reserved} are reserved, and this request could spend {tokens}."
        )
        # If only the reservations of running requests are in the way, retry soon: one of them may end at any moment.
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
    """Makes and settles one gateway's reservations in Redis."""

    def __init__(self, redis_url: str) -> None:
        self._redis = connect(redis_url)
        self._run = self._redis.register_script(_LIMITS_SCRIPT)
        self._waiting: deque[tuple[dict[str, Any], asyncio.Future[LimitState | None] | None]] = deque()
        self._open: dict[str, Reservation] = {}
        self._wakeup = asyncio.Event()
        self._tasks: list[BackgroundTask] = []
        self._closing = False
        self.healthy = True
        """Whether the last call to Redis succeeded."""

    @property
    def reserved(self) -> int:
        """Reasoning tokens that this gateway has reserved for running requests."""
        return sum(reservation.tokens for reservation in self._open.values())

    async def start(self) -> None:
        """Start the background tasks. Redis need not be up."""
        self._tasks = [
            BackgroundTask("limits", self._keep_sending),
            BackgroundTask("renew leases", self._keep_renewing),
        ]

    async def aclose(self) -> None:
        """Send what is waiting unless Redis is down, and stop."""
        self._closing = True
        self._wakeup.set()
        if self._tasks:
            sending, renewing = self._tasks
            await renewing.stop()
            await sending.finish()
        await self._redis.aclose()

    async def reserve(self, key: Key, request_id: str, tokens: int) -> tuple[Reservation, LimitState | None]:
        """Count a request and reserve tokens for it. The state is None, and nothing is counted, while Redis is down.

        Raises:
            ApiError: 429 if a limit would be exceeded; nothing is reserved.
        """
        reservation = Reservation(key, f"{request_id}:{tokens}", tokens)
        if not self.healthy:
            return reservation, None
        limits = {
            "max_requests": key.requests_per_minute,
            "max_minute_tokens": key.reasoning_tokens_per_minute,
            "max_day_tokens": key.reasoning_tokens_per_day,
        }
        op = {name: limit for name, limit in limits.items() if limit is not None}
        answer: asyncio.Future[LimitState | None] = asyncio.get_running_loop().create_future()
        self._send({"kind": "reserve", **op, **_fields(reservation)}, answer)
        try:
            state = await answer
        except BaseException:  # the caller left, but the reservation may still be made
            self.settle(reservation, 0)
            raise
        if state is not None and state.refused:
            raise rate_limit_error(key, state, tokens)
        if state is not None:
            self._open[reservation.lease] = reservation
        return reservation, state

    def settle(self, reservation: Reservation, spent: int) -> None:
        """Replace the reservation by the reasoning tokens that all choices spent. Returns at once."""
        self._open.pop(reservation.lease, None)
        if reservation.key.max_tokens_per_request is None:
            return
        if len(self._waiting) < MAX_WAITING:
            self._send({"kind": "settle", "spent": spent, **_fields(reservation)})
        else:
            log.error(
                "%d tokens of key %s are not counted: too many operations wait for Redis", spent, reservation.key.name
            )

    def _send(self, op: dict[str, Any], answer: asyncio.Future[LimitState | None] | None = None) -> None:
        self._waiting.append((op, answer))
        if answer is not None:
            self._wakeup.set()
        elif len(self._waiting) == 1:  # nobody waits for it: it goes with the next reservation, or soon
            asyncio.get_running_loop().call_later(GATHER_SECONDS, self._wakeup.set)

    async def _keep_sending(self) -> None:
        while not (self._closing and not (self._waiting and self.healthy)):
            if self.healthy:
                await self._wakeup.wait()
                self._wakeup.clear()
            elif not self._closing:
                await asyncio.sleep(RETRY_SECONDS)
            await self._send_all()

    async def _send_all(self) -> None:
        while True:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            try:
                if batch or not self.healthy:
                    states = await self._call([op for op, _ in batch])
                    for (_, answer), state in zip(batch, states, strict=True):
                        if answer is not None and not answer.done():
                            answer.set_result(state)
            except (RedisError, OSError) as error:
                if self.healthy:
                    log.warning("Redis is down, so limits cannot be counted: %s", error)
                self.healthy = False
                self._keep_settlements(batch)
                return
            self.healthy = True
            if not self._waiting:
                return

    async def _call(self, ops: list[dict[str, Any]]) -> list[LimitState]:
        names = [key.format(op["key"]) for op in ops for key in (_STATE, _OPEN, _SETTLED)]
        arguments = [to_json(ops), LEASE_SECONDS, REMEMBER_SETTLED_SECONDS, STATE_SECONDS]
        now, *states = cast("list[Any]", await self._run(keys=names, args=arguments))
        return [LimitState(float(now), *state) for state in states]

    def _keep_settlements(self, batch: list[tuple[dict[str, Any], asyncio.Future[LimitState | None] | None]]) -> None:
        """After a failed call: answer all reservations without a state, and keep the settlements for later."""
        batch += self._waiting
        self._waiting.clear()
        for op, answer in batch:
            if answer is not None and not answer.done():
                answer.set_result(None)
            if op["kind"] == "settle":
                self._waiting.append((op, None))

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            for reservation in self._open.values():
                if reservation.tokens:
                    self._send({"kind": "renew", **_fields(reservation)})


def _fields(reservation: Reservation) -> dict[str, Any]:
    return {"key": reservation.key.name, "lease": reservation.lease, "tokens": reservation.tokens}


def _headers(what: str, limit: int, remaining: int, resets: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(max(0, remaining)),
        f"x-ratelimit-reset-{what}": f"{math.ceil(resets)}s",
    }
