"""May this key spend that much now? Exact limits on requests, reasoning tokens and money, in Redis.

Before a request runs, the most reasoning tokens it can spend are reserved, and the most that it may cost if there is a
limit in money (`gateway/access/money.py`). When it ends, the reservation is replaced by the actual usage. Windows are
minutes, days and months (UTC) on Redis' own clock. In each window, across all gateways,

    spent + reserved <= limit

holds for all requests that were reserved: it is checked for each reservation, and a settlement adds no more than it
frees. In a new window spent is zero; open reservations carry over. A request counts in the window in which it is
settled. A reservation is a lease that its gateway renews; a lease that expires, after `LEASE_SECONDS`, is charged in
full in that window (`gateway/access/windows.py`). So a gateway that is killed, frozen or cut off from Redis never makes
a key spend more. It may make it spend less: what its requests did not use stays charged until the window ends, unless
a settlement comes within it.

Operations that are waiting at the same time go to Redis in one call. Nobody waits for Redis longer than `WAIT_SECONDS`.
While it is down, or slow several times in a row, `reserve` returns at once without a state. Such a request is not
checked. When Redis answers again, what it may spend is reserved without a check, and what it spent is counted.
Settlements wait until Redis is back, and survive a kill in a file (`gateway/access/journal.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from pydantic_core import to_json
from redis.exceptions import RedisError

from gateway.access import windows
from gateway.access.journal import Journal
from gateway.access.keys import Grant, Key
from gateway.access.money import Charge
from gateway.access.state import LimitState, rate_limit_error
from gateway.errors import BadRequestError
from gateway.request.budget import HEADER, Budget
from gateway.store import connect
from gateway.supervision import BackgroundTask

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.25
"""How long a request waits for Redis before it goes on without."""
SLOW_CALLS = 3
"""After so many calls in a row that took more than half of that, because a request may wait for two, Redis is down."""
RETRY_SECONDS = 1.0
MAX_BATCH = 200
GATHER_SECONDS = 0.02
MAX_WAITING = 100_000

_Waiting = tuple[dict[str, Any], "asyncio.Future[LimitState | None] | None"]
"""An operation for Redis, and who waits for its result."""


@dataclass(frozen=True)
class Reservation:
    """What is reserved for one request."""

    key: Key
    lease: str
    tokens: int
    money: int = 0
    """Billionths of the currency unit."""
    team: str = ""
    """The team that it is reserved for as well; empty if that has no limits."""

    @classmethod
    def of(cls, key: Key, request_id: str, tokens: int, money: int = 0, team: str = "") -> Reservation:
        """The reservation of a request, as each gateway finds it."""
        lease = f"{request_id}:{tokens}:{money}" if money else f"{request_id}:{tokens}"
        return cls(key, lease, tokens, money, team)


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
    tokens = choices * (longest if budget.tokens is None else min(budget.tokens, longest))
    if tokens > most and (budget.tokens is None or budget.is_open):
        each = most // choices
        return replace(budget, tokens=each, is_open=False), choices * each
    if tokens > most:
        raise BadRequestError(
            f"The key {key.name} may spend {most} reasoning tokens at a time, and this request could spend {tokens}:"
            f" set a smaller budget in {HEADER}, or ask for fewer choices.",
            budget.param,
            "budget_over_limit",
        )
    return budget, tokens


class Limiter:
    """Makes and settles one gateway's reservations in Redis."""

    def __init__(self, redis_url: str, state_dir: Path, worker: int = 0) -> None:
        """`worker` numbers the processes that share a state directory."""
        self._redis = connect(redis_url)
        self._run = self._redis.register_script(windows.SCRIPT)
        self._journal = Journal(state_dir, worker)
        self._waiting: deque[_Waiting] = deque()
        self._open: dict[str, Reservation] = {}
        self._unsent: set[str] = set()
        """The leases of running requests that Redis has not heard of, because it was down when they came."""
        self._wakeup = asyncio.Event()
        self._tasks: list[BackgroundTask] = []
        self._closing = False
        self._slow_calls = 0
        self.healthy = True
        """Whether Redis answers, and quickly."""

    @property
    def reserved(self) -> int:
        """Reasoning tokens that this gateway has reserved for running requests."""
        return sum(reservation.tokens for reservation in self._open.values())

    async def start(self) -> None:
        """Start the background tasks, beginning with what an earlier process could not settle. Redis need not be up."""
        for settlement in self._journal.read():
            self._send(settlement)
        self._tasks = [
            BackgroundTask("limits", self._keep_sending),
            BackgroundTask("renew leases", self._keep_renewing),
        ]

    async def aclose(self) -> None:
        """Send what is waiting, or leave it to the next process if Redis is down, and stop."""
        self._closing = True
        self._wakeup.set()
        if self._tasks:
            sending, renewing = self._tasks
            await renewing.stop()
            await sending.finish()
        self._journal.close(delivered=not self._settlements())
        await self._redis.aclose()

    async def reserve(
        self, key: Key, request_id: str, tokens: int, charge: Charge | None = None
    ) -> tuple[Reservation, LimitState | None]:
        """Count a request, and reserve tokens and what it may cost. The state is None if nothing was checked.

        Redis is down or slow then. `charge` is None without a limit in money.

        Raises:
            ApiError: 429 if a limit would be exceeded; nothing is reserved.
        """
        money, team = (0, "") if charge is None else (charge.most, charge.team)
        reservation = Reservation.of(key, request_id, tokens, money, team)
        if not self.healthy:
            self._open[reservation.lease] = reservation
            self._unsent.add(reservation.lease)
            return reservation, None
        answer: asyncio.Future[LimitState | None] = asyncio.get_running_loop().create_future()
        self._send({"kind": "reserve", **_fields(reservation), "accounts": _limits(key, charge)}, answer)
        try:
            state = answer.result() if await _done_within(WAIT_SECONDS, answer) else None
        except BaseException:  # the caller left, but the reservation may still be made
            self.settle(reservation, 0)
            raise
        if state is not None and state.refused:
            raise rate_limit_error(key, state, tokens, charge)
        self._open[reservation.lease] = reservation
        return reservation, state

    def settle(self, reservation: Reservation, spent: int, cost: int = 0) -> None:
        """Replace the reservation by the reasoning tokens and the money that were spent. Returns at once."""
        self._open.pop(reservation.lease, None)
        unsent = reservation.lease in self._unsent
        self._unsent.discard(reservation.lease)
        if not (reservation.tokens or reservation.money) or (unsent and not spent and not cost):
            return
        if len(self._waiting) >= MAX_WAITING:
            log.error(
                "%d tokens of key %s are not counted: too many operations wait for Redis", spent, reservation.key.name
            )
            return
        settlement = {"kind": "settle", "spent": spent, **_fields(reservation)}
        if reservation.money:
            settlement["cost"] = cost
        if not self.healthy:
            self._journal.write([settlement])
        self._send(settlement)

    def hand_over(self, reservation: Reservation) -> None:
        """Leave a reservation to whichever gateway settles it. If none does, its lease expires and is charged."""
        self._open.pop(reservation.lease, None)
        self._unsent.discard(reservation.lease)

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
        while self._waiting or not self.healthy:
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH, len(self._waiting)))]
            try:
                states, quick = await self._timed_call([op for op, _ in batch])
            except (RedisError, OSError) as error:
                self._give_up(batch, str(error) or type(error).__name__)
                return
            except Exception as error:
                self._give_up(batch, type(error).__name__)  # a bug must not lose settlements
                raise
            for (_, answer), state in zip(batch, states, strict=True):
                if answer is not None and not answer.done():
                    answer.set_result(state)
            self._slow_calls = 0 if quick else self._slow_calls + 1
            if self._slow_calls >= SLOW_CALLS:
                self._give_up([], f"{SLOW_CALLS} calls took more than {WAIT_SECONDS / 2:.3f} s")
            elif quick:
                self._resume()
            if self._journal.in_use and not any(op["kind"] == "settle" for op, _ in self._waiting):
                self._journal.clear()
            if not self.healthy and not self._waiting:
                return

    async def _timed_call(self, ops: list[dict[str, Any]]) -> tuple[list[LimitState], bool]:
        """The results of these operations, and whether Redis was quick."""
        calling = asyncio.create_task(self._call(ops))
        quick = await _done_within(WAIT_SECONDS / 2, calling)
        return await calling, quick

    async def _call(self, ops: list[dict[str, Any]]) -> list[LimitState]:
        names = [key.format(account) for op in ops for account in _accounts(op) for key in windows.KEYS]
        durations = (windows.LEASE_SECONDS, windows.REMEMBER_SETTLED_SECONDS, windows.STATE_SECONDS, windows.WILD_DAYS)
        whole = [{"accounts": [_NO_LIMITS for _ in _accounts(op)], **op} for op in ops]
        args = [to_json(whole), *durations, windows.MONTH_SECONDS]
        now, *results = cast("list[Any]", await self._run(keys=names, args=args))
        return [_state(float(now), *result) for result in results]

    def _give_up(self, batch: list[_Waiting], why: str) -> None:
        """Redis is down: nobody waits for it any more, and the settlements are kept for later."""
        if self.healthy:
            log.warning("Redis is down or slow, so limits are not checked: %s", why)
        self.healthy = False
        waiting = [*batch, *self._waiting]
        self._waiting = deque((op, None) for op, _ in waiting if op["kind"] == "settle")
        self._journal.write(self._settlements())
        for _, answer in waiting:
            if answer is not None and not answer.done():
                answer.set_result(None)

    def _settlements(self) -> list[dict[str, Any]]:
        return [op for op, _ in self._waiting if op["kind"] == "settle"]

    def _resume(self) -> None:
        """Redis answers: what running requests may spend is reserved now, though it cannot be refused any more."""
        if self.healthy:
            return
        log.info("Redis answers again, so limits are checked")
        self.healthy = True
        self._renew()

    async def _keep_renewing(self) -> None:
        while True:
            await asyncio.sleep(windows.RENEW_SECONDS)
            if self.healthy:
                self._renew()

    def _renew(self) -> None:
        for reservation in self._open.values():
            if reservation.tokens or reservation.money:
                self._send({"kind": "renew", **_fields(reservation)})
        self._unsent.clear()


async def _done_within(seconds: float, future: asyncio.Future[Any]) -> bool:
    """Whether a future is done within that time. A moment in which this process did not run counts once, not whole."""
    for _ in range(5):
        done, _ = await asyncio.wait([future], timeout=seconds / 5)
        if done:
            return True
    return False


_NO_LIMITS: dict[str, int] = {}


def _fields(reservation: Reservation) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "key": reservation.key.name,
        "lease": reservation.lease,
        "tokens": reservation.tokens,
    }
    if reservation.money:
        fields |= {"money": reservation.money, "team": reservation.team}
    return fields


def _accounts(op: dict[str, Any]) -> list[str]:
    """The accounts in Redis that an operation is about: the key's, and the team's if that has limits."""
    return [op["key"], windows.TEAM.format(op["team"])] if op.get("team") else [op["key"]]


def _limits(key: Key, charge: Charge | None) -> list[dict[str, int]]:
    """The limits of each account."""
    limits: list[dict[str, int | None]] = [
        {
            "requests": key.requests_per_minute,
            "minute_tokens": key.reasoning_tokens_per_minute,
            "day_tokens": key.reasoning_tokens_per_day,
        }
    ]
    if charge is not None:
        limits[0] |= {"day_money": charge.key_limits.per_day, "month_money": charge.key_limits.per_month}
        if charge.team:
            limits.append({"day_money": charge.team_limits.per_day, "month_money": charge.team_limits.per_month})
    return [{name: limit for name, limit in one.items() if limit is not None} for one in limits]


def _state(now: float, refused: str, by: int, *accounts: list[int]) -> LimitState:
    """The state of the account that refused, or of the key's."""
    is_team = bool(refused) and by > 1
    return LimitState(now, refused, *accounts[by - 1 if is_team else 0], is_team=is_team)
