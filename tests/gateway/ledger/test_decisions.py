"""Do decisions wait in Redis for one outcome each, and is none of them forgotten?"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from gateway.ledger import decisions
from gateway.ledger.decisions import DUE, HELD, KEYS, OPEN
from gateway.ledger.outcome import Decided, Outcome, unreported
from tests.conftest import RedisServer, patient
from tests.gateway.entries import entry

OUTCOME = Outcome(model="alpha-0.2", prompt_tokens=20, reasoning_tokens=40, answer_tokens=5)
ANOTHER = Outcome(model="alpha-0.2", prompt_tokens=20, reasoning_tokens=1, answer_tokens=5)


def decided(key: str = "", seconds: float = 60.0) -> Decided:
    """A decision that expires in so many seconds."""
    of = unreported(entry(key=key), "envoy", 1000)
    return Decided(
        of, time.time() + seconds, None, 1000, reserved=None, money=0, team="", conversation=None, seconds=0.001
    )


@pytest.fixture
async def redis(redis_server: RedisServer) -> AsyncIterator[Redis]:
    client = patient(redis_server.url)
    yield client
    await client.aclose()


async def test_a_decision_is_found_by_its_key_alone_until_it_is_closed(redis: Redis) -> None:
    of = decided("mine")
    assert await decisions.open_decision(redis, of)
    assert await decisions.find(redis, of.entry.id, "mine") == of
    assert await decisions.find(redis, of.entry.id, "theirs") is None
    assert await decisions.find(redis, "req_0", "mine") is None
    for _ in range(2):
        await decisions.close(redis, of.entry.id)
    assert await redis.exists(*KEYS) == 0


async def test_the_first_outcome_counts(redis: Redis) -> None:
    of = decided()
    await decisions.open_decision(redis, of)
    claims = [await decisions.claim(redis, of.entry.id, one) for one in (OUTCOME, ANOTHER)]
    assert [(one.state, one.outcome) for one in claims] == [("new", None), ("claimed", OUTCOME)]
    await decisions.close(redis, of.entry.id)
    assert (await decisions.claim(redis, of.entry.id, OUTCOME)).state == "unknown"


async def test_an_outcome_that_comes_too_late_does_not_count(redis: Redis) -> None:
    of = decided(seconds=-0.001)
    await decisions.open_decision(redis, of)
    assert (await decisions.claim(redis, of.entry.id, OUTCOME)).state == "expired"
    (due,) = await decisions.take_due(redis)
    assert (due.decided, due.outcome) == (of, None)
    assert (await decisions.claim(redis, of.entry.id, OUTCOME)).state == "expired", "also while it is written"


async def test_what_is_due_is_taken_once_until_its_writer_had_its_time(redis: Redis) -> None:
    early, late = decided(seconds=-1), decided()
    for one in (early, late):
        await decisions.open_decision(redis, one)
    assert [one.decided for one in await decisions.take_due(redis)] == [early]
    assert await decisions.take_due(redis) == []
    place = await redis.zscore(DUE, early.entry.id)
    assert place is not None
    assert decisions.WRITE_SECONDS - 5 < place - time.time() < decisions.WRITE_SECONDS + 5


async def test_a_claimed_decision_is_due_again_with_its_outcome(redis: Redis) -> None:
    of = decided()
    await decisions.open_decision(redis, of)
    await decisions.claim(redis, of.entry.id, OUTCOME)
    assert await decisions.take_due(redis) == []
    await redis.zadd(DUE, {of.entry.id: 1.0})
    (due,) = await decisions.take_due(redis)
    assert (due.decided, due.outcome) == (of, OUTCOME)


async def test_each_key_has_its_own_room(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "MAX_OPEN", 2)
    mine = [decided("mine") for _ in range(3)]
    assert [await decisions.open_decision(redis, one) for one in mine] == [True, True, False]
    assert await decisions.open_decision(redis, decided("theirs"))
    assert await decisions.find(redis, mine[2].entry.id, "mine") is None
    await decisions.close(redis, mine[0].entry.id)
    assert await decisions.open_decision(redis, mine[2])
    assert await redis.hgetall(HELD) == {"mine": "2", "theirs": "1"}  # pyright: ignore[reportGeneralTypeIssues]


async def test_many_are_taken_in_batches(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decisions, "MAX_BATCH", 2)
    for _ in range(3):
        await decisions.open_decision(redis, decided(seconds=-1))
    assert [len(await decisions.take_due(redis)) for _ in range(3)] == [2, 1, 0]


async def test_what_another_version_stored_is_dropped_and_not_in_the_way(redis: Redis) -> None:
    of = decided("mine", seconds=-1)
    strange = replace(of, entry=replace(of.entry, id="req_strange"))
    for one in (of, strange):
        await decisions.open_decision(redis, one)
    line = decisions.DECIDED.dump_json(strange).decode().replace('"most_tokens":1000', '"most_tokens":"many"')
    await redis.hset(OPEN, "req_strange", line)  # pyright: ignore[reportGeneralTypeIssues]
    assert await decisions.find(redis, "req_strange", "mine") is None
    assert [one.decided for one in await decisions.take_due(redis)] == [of]
    await decisions.close(redis, of.entry.id)
    assert await redis.exists(*KEYS) == 0
