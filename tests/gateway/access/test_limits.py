"""Do limits hold exactly, across gateways, outages and callers who leave?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access import limits, windows
from gateway.access.keys import Key
from gateway.access.limits import Limiter
from gateway.access.money import Charge
from gateway.access.prices import MoneyLimits
from gateway.access.state import LimitState, rate_limit_headers
from gateway.errors import ApiError, BadRequestError
from gateway.request.budget import HEADER, Budget, leave_room
from tests.conftest import RedisServer
from tests.gateway.fakes import until


def key(**grant: Any) -> Key:
    return Key(**{"name": "team-a", "sha256": "0" * 64, "hint": "abcd", "created": 0.0, **grant})


@asynccontextmanager
async def running_limiter(server: RedisServer, state_dir: Path | None = None) -> AsyncIterator[Limiter]:
    with tempfile.TemporaryDirectory() as temporary:
        limiter = Limiter(server.url, state_dir or Path(temporary))
        await limiter.start()
        try:
            yield limiter
        finally:
            await limiter.aclose()


def redis_state(server: RedisServer, name: str = "team-a") -> dict[str, int]:
    return {str(field): int(value) for field, value in server.client.hgetall(windows.KEYS[0].format(name)).items()}


@pytest.fixture(autouse=True)
def _start_early_in_a_minute(redis_server: RedisServer) -> None:
    """Wait for the next minute near the end of one, so that a test stays within one window."""
    seconds, _ = redis_server.client.time()
    if seconds % 60 > 50:
        time.sleep(61 - seconds % 60)


async def test_requests_are_limited_per_minute(redis_server: RedisServer) -> None:
    mine = key(requests_per_minute=3)
    async with running_limiter(redis_server) as limiter:
        for sent in (1, 2, 3):
            _, state = await limiter.reserve(mine, f"r{sent}", 0)
            assert state is not None
            assert rate_limit_headers(mine, state)["x-ratelimit-remaining-requests"] == str(3 - sent)
        with pytest.raises(ApiError) as refused:
            await limiter.reserve(mine, "r4", 0)
        assert (refused.value.status, refused.value.kind) == (429, "requests")
        assert 0 < (refused.value.retry_after or 0) <= 60
        await limiter.reserve(key(name="team-b", requests_per_minute=3), "r5", 0)  # another key has its own count


async def test_a_settled_reservation_is_replaced_by_the_tokens_spent(redis_server: RedisServer) -> None:
    mine = key(reasoning_tokens_per_minute=100, reasoning_tokens_per_day=1000)
    async with running_limiter(redis_server) as limiter:
        first, _ = await limiter.reserve(mine, "r1", 60)
        with pytest.raises(ApiError) as refused:
            await limiter.reserve(mine, "r2", 60)
        assert refused.value.retry_after == 1  # only a running request is in the way
        assert (redis_state(redis_server)["reserved"], limiter.reserved) == (60, 60)
        limiter.settle(first, 15)
        second, state = await limiter.reserve(mine, "r3", 85)
        assert state is not None
        assert (state.requests, state.minute_tokens, state.reserved) == (2, 15, 85)
        limiter.settle(second, 80)
        with pytest.raises(ApiError, match="95 are spent") as refused:
            await limiter.reserve(mine, "r4", 6)
        assert (refused.value.retry_after or 0) > 0
    assert redis_state(redis_server)["reserved"] == 0


async def test_tokens_are_limited_per_day(redis_server: RedisServer) -> None:
    mine = key(reasoning_tokens_per_day=100)
    async with running_limiter(redis_server) as limiter:
        reservation, _ = await limiter.reserve(mine, "r1", 100)
        limiter.settle(reservation, 100)
        with pytest.raises(ApiError, match="per day") as refused:
            await limiter.reserve(mine, "r2", 1)
        assert 0 < (refused.value.retry_after or 0) <= 86_400


async def test_a_new_window_starts_with_the_open_reservations(redis_server: RedisServer) -> None:
    mine = key(reasoning_tokens_per_minute=100, reasoning_tokens_per_day=150)
    async with running_limiter(redis_server) as limiter:
        spent, _ = await limiter.reserve(mine, "r1", 60)
        limiter.settle(spent, 60)
        await limiter.reserve(mine, "r2", 40)
        redis_server.client.hincrby(windows.KEYS[0].format("team-a"), "minute", -1)  # a minute passes
        with pytest.raises(ApiError):
            await limiter.reserve(mine, "r3", 61)
        _, state = await limiter.reserve(mine, "r4", 50)
        assert state is not None
        assert (state.minute_tokens, state.day_tokens, state.reserved) == (0, 60, 90)


async def test_several_gateways_together_never_exceed_a_limit(redis_server: RedisServer) -> None:
    """Every request spends its whole reservation. In any order, no window exceeds its limit."""
    mine = key(reasoning_tokens_per_minute=50, requests_per_minute=10_000)
    async with running_limiter(redis_server) as one, running_limiter(redis_server) as two:
        spent, refused, reserved = 0, 0, 0

        async def ask(number: int) -> None:
            nonlocal spent, refused, reserved
            limiter = (one, two)[number % 2]
            try:
                reservation, state = await limiter.reserve(mine, f"r{number}", 1 + number % 7)
            except ApiError:
                refused += 1
                return
            assert state is not None
            assert state.minute_tokens + state.reserved <= 50
            reserved += 1
            await asyncio.sleep(0.001 * (number % 3))
            spent += reservation.tokens
            limiter.settle(reservation, reservation.tokens)

        await asyncio.gather(*(ask(number) for number in range(200)))
        assert refused + reserved == 200
        await until(lambda: redis_state(redis_server)["reserved"] == 0)
    assert spent == redis_state(redis_server)["minute_tokens"] <= 50
    assert spent > 40


async def test_a_settlement_sent_twice_counts_once(redis_server: RedisServer) -> None:
    mine = key(reasoning_tokens_per_minute=100)
    async with running_limiter(redis_server) as limiter:
        reservation, _ = await limiter.reserve(mine, "r1", 60)
        limiter.settle(reservation, 15)
        limiter.settle(reservation, 15)
    assert (redis_state(redis_server)["minute_tokens"], redis_state(redis_server)["reserved"]) == (15, 0)


async def test_a_caller_who_leaves_during_the_reservation_keeps_no_tokens_reserved(redis_server: RedisServer) -> None:
    mine = key(reasoning_tokens_per_minute=100)
    async with running_limiter(redis_server) as limiter:
        leaving = [asyncio.create_task(limiter.reserve(mine, f"r{i}", 10)) for i in range(10)]
        await asyncio.sleep(0)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        assert limiter.reserved == 0
    assert redis_state(redis_server)["reserved"] == redis_state(redis_server)["minute_tokens"] == 0


async def test_reservations_of_a_killed_gateway_are_charged_when_their_lease_expires(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = key(reasoning_tokens_per_minute=100)
    monkeypatch.setattr(windows, "LEASE_SECONDS", 0.2)
    monkeypatch.setattr(windows, "RENEW_SECONDS", 0.05)
    async with running_limiter(redis_server) as killed, running_limiter(redis_server) as other:
        await killed.reserve(mine, "r1", 90)
        await asyncio.sleep(0.5)  # more than a lease, but renewed
        with pytest.raises(ApiError, match="0 are spent, 90 are reserved"):
            await other.reserve(mine, "r2", 11)
        await killed._tasks[1].stop()  # the lease is not renewed any more
        await asyncio.sleep(0.4)
        with pytest.raises(ApiError, match="90 are spent, 0 are reserved"):
            await other.reserve(mine, "r3", 11)
        _, state = await other.reserve(mine, "r4", 10)
        assert state is not None
        assert (state.minute_tokens, state.reserved) == (90, 10)
        await asyncio.sleep(0.1)


def charge(most: int, **limits: Any) -> Charge:
    return Charge(most, "USD", **{"key_limits": MoneyLimits(per_day=100), **limits})


async def test_money_is_reserved_and_settled_and_the_error_names_the_limit(redis_server: RedisServer) -> None:
    mine = key(money_per_day=1e-6)
    async with running_limiter(redis_server) as limiter:
        reservation, _ = await limiter.reserve(mine, "r1", 0, charge(80))
        with pytest.raises(ApiError) as refused:
            await limiter.reserve(mine, "r2", 0, charge(21))
        assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "money_limit_exceeded", 1)
        assert "money_per_day" in refused.value.message
        assert "0.0000001 USD per day" in refused.value.message
        limiter.settle(reservation, 0, 30)
        _, state = await limiter.reserve(mine, "r3", 0, charge(70))
        assert state is not None
        assert (state.day_money, state.month_money, state.reserved_money) == (30, 30, 70)
        with pytest.raises(ApiError) as refused:
            await limiter.reserve(mine, "r4", 0, charge(71))
        assert 1 <= (refused.value.retry_after or 0) <= 86_400


async def test_a_team_s_limit_is_shared_by_its_keys_and_named(redis_server: RedisServer) -> None:
    team = {"key_limits": MoneyLimits(), "team": "research", "team_limits": MoneyLimits(per_month=100)}
    async with running_limiter(redis_server) as one, running_limiter(redis_server) as two:
        spent, _ = await one.reserve(key(team="research"), "r1", 0, charge(60, **team))
        one.settle(spent, 0, 60)
        await until(lambda: redis_state(redis_server, "@research").get("month_money") == 60)
        with pytest.raises(ApiError, match=r"The team research may spend .* per month \(per_month\)") as refused:
            await two.reserve(key(name="team-b", team="research"), "r2", 0, charge(41, **team))
        assert 1 < (refused.value.retry_after or 0) <= 31 * 86_400
        await two.reserve(key(name="team-b", team="research"), "r3", 0, charge(40, **team))


async def test_money_that_was_spent_while_redis_was_away_survives_a_kill(
    mortal_redis: RedisServer, tmp_path: Path
) -> None:
    team = {"team": "research", "team_limits": MoneyLimits(per_month=1000)}
    mortal_redis.start()
    killed = Limiter(mortal_redis.url, tmp_path)
    await killed.start()
    reserved, _ = await killed.reserve(key(team="research"), "r1", 0, charge(100, **team))
    mortal_redis.kill()
    killed.settle(reserved, 0, 25)
    await until(lambda: not killed.healthy)
    for task in killed._tasks:
        await task.stop()  # killed: nothing is closed
    mortal_redis.start()
    async with running_limiter(mortal_redis, tmp_path):
        await until(lambda: redis_state(mortal_redis)["day_money"] == 25)
        for name in ("team-a", "@research"):
            state = redis_state(mortal_redis, name)
            assert (state["month_money"], state["reserved_money"]) == (25, 0)


async def test_without_redis_nobody_waits_and_usage_is_counted_later(mortal_redis: RedisServer) -> None:
    mine = key(reasoning_tokens_per_day=100)
    mortal_redis.start()
    async with running_limiter(mortal_redis) as limiter:
        before, _ = await limiter.reserve(mine, "r1", 30)
        mortal_redis.kill()
        limiter.settle(before, 10)
        during, state = await limiter.reserve(mine, "r2", 30)
        assert state is None
        assert not limiter.healthy
        limiter.settle(during, 20)
        mortal_redis.start()
        await until(lambda: limiter.healthy and bool(redis_state(mortal_redis)))
        _, state = await limiter.reserve(mine, "r3", 70)
        assert state is not None
        assert (state.day_tokens, state.reserved) == (30, 70)


@given(
    budget=st.none() | st.integers(0, 2000),
    max_tokens=st.none() | st.integers(1, 2000),
    answer_tokens=st.none() | st.integers(0, 2000),
    choices=st.integers(1, 5),
    per_window=st.tuples(*[st.none() | st.integers(1, 5000)] * 2),
)
def test_the_reservation_is_the_most_reasoning_tokens_the_request_can_spend(
    budget: int | None,
    max_tokens: int | None,
    answer_tokens: int | None,
    choices: int,
    per_window: tuple[int | None, int | None],
) -> None:
    minute, day = per_window
    mine = key(reasoning_tokens_per_minute=minute, reasoning_tokens_per_day=day)
    requested = leave_room(Budget(budget, HEADER), max_tokens, answer_tokens)
    try:
        capped, tokens = limits.apply_key_limits(
            mine, requested, max_tokens=max_tokens, context_tokens=1024, choices=choices
        )
    except BadRequestError:
        assert budget is not None  # a request without a number is capped, not rejected
        assert choices * budget > min(limit for limit in (minute, day) if limit is not None)
        return
    if minute is None and day is None:
        assert (capped, tokens) == (requested, 0)
        return
    longest = min(1024, max_tokens or 1024)
    most_reasoning_tokens = choices * (longest if capped.tokens is None else min(capped.tokens, longest))
    assert most_reasoning_tokens <= tokens <= min(limit for limit in (minute, day) if limit is not None)
    assert budget is None or capped.tokens == requested.tokens
    assert capped.tokens is None or requested.tokens is None or capped.tokens <= requested.tokens


def test_the_token_headers_describe_the_window_with_the_fewest_tokens_left() -> None:
    mine = key(requests_per_minute=10, reasoning_tokens_per_minute=100, reasoning_tokens_per_day=120)
    state = LimitState(86_400 * 20_000 + 75.0, "", 4, 10, 90, 20, minute=1440 * 20_000 + 1)
    assert rate_limit_headers(mine, state) == {
        "x-ratelimit-limit-requests": "10",
        "x-ratelimit-remaining-requests": "6",
        "x-ratelimit-reset-requests": "45s",
        "x-ratelimit-limit-tokens": "120",
        "x-ratelimit-remaining-tokens": "10",
        "x-ratelimit-reset-tokens": "86325s",
    }
    assert rate_limit_headers(key(), state) == {}


async def test_a_settlement_after_the_charge_gives_back_what_was_not_spent(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an outage of Redis, or after the gateway was frozen: the lease expired, and the request went on."""
    monkeypatch.setattr(windows, "LEASE_SECONDS", 0.3)
    monkeypatch.setattr(windows, "RENEW_SECONDS", 0.7)
    mine = key(reasoning_tokens_per_day=1000)
    async with running_limiter(redis_server) as limiter:
        reservation, _ = await limiter.reserve(mine, "r1", 900)
        await asyncio.sleep(1.0)  # it is renewed, too late
        with pytest.raises(ApiError, match="900 are spent, 0 are reserved"):
            await limiter.reserve(mine, "r2", 101)
        for _ in range(2):  # sent twice, it counts once
            limiter.settle(reservation, 800)
        other, state = await limiter.reserve(mine, "r3", 200)
        assert state is not None
        assert (state.day_tokens, state.reserved) == (800, 200)
        limiter.settle(other, 0)
    assert (redis_state(redis_server)["reserved"], redis_state(redis_server)["day_tokens"]) == (0, 800)


async def test_what_was_admitted_during_an_outage_is_reserved_and_counted_after_it(mortal_redis: RedisServer) -> None:
    mine = key(reasoning_tokens_per_day=100)
    async with running_limiter(mortal_redis) as limiter:
        unchecked, state = await limiter.reserve(mine, "r1", 70)
        assert state is None
        await until(lambda: not limiter.healthy)
        given_up, _ = await limiter.reserve(mine, "r2", 20)
        limiter.settle(given_up, 0)
        mortal_redis.start()
        await until(lambda: limiter.healthy and redis_state(mortal_redis).get("reserved") == 70)
        with pytest.raises(ApiError, match="0 are spent, 70 are reserved"):
            await limiter.reserve(mine, "r3", 31)
        limiter.settle(unchecked, 60)
        await until(lambda: redis_state(mortal_redis)["day_tokens"] == 60)
        assert redis_state(mortal_redis)["reserved"] == 0


async def test_settlements_that_wait_for_redis_survive_a_kill(mortal_redis: RedisServer, tmp_path: Path) -> None:
    mine = key(reasoning_tokens_per_day=1000)
    mortal_redis.start()
    killed = Limiter(mortal_redis.url, tmp_path)
    await killed.start()
    reserved = [(await killed.reserve(mine, f"r{number}", 100))[0] for number in range(4)]
    await until(lambda: redis_state(mortal_redis)["reserved"] == 400)
    mortal_redis.kill()
    killed.settle(reserved[0], 10)  # it is on its way when Redis turns out to be away
    await until(lambda: not killed.healthy)
    for reservation in reserved[1:3]:
        killed.settle(reservation, 10)
    for task in killed._tasks:
        await task.stop()  # killed: nothing is closed
    journal = tmp_path / "limits.0.jsonl"
    assert (len(journal.read_text().splitlines()), journal.stat().st_mode & 0o777) == (3, 0o600)

    for turn in range(2):  # a start while Redis is away writes nothing twice
        if turn:
            mortal_redis.start()
        async with running_limiter(mortal_redis, tmp_path) as limiter:
            if turn:
                await until(lambda: redis_state(mortal_redis)["day_tokens"] == 30)
                assert redis_state(mortal_redis)["reserved"] == 100, "the request that ran when the gateway was killed"
            else:
                await until(lambda: not limiter.healthy)
        assert journal.exists() == (not turn)
        assert turn or len(journal.read_text().splitlines()) == 3
