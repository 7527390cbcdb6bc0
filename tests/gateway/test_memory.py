"""What is remembered of conversations: in Redis, for a while, and never in the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from gateway import memory
from gateway.memory import FIRST_SECONDS, KNOWN_SECONDS, Memory
from gateway.request.conversation import Conversation
from gateway.routing.conversation import LastTurn
from tests.conftest import RedisServer

KNOWN, FIRST = Conversation("aa", may_be_known=True), Conversation("aa", may_be_known=False)
TURN = LastTurn("base", 120, strained=True)
NAMES = frozenset({"base", "alpha-0.4"})


async def started(url: str) -> Memory:
    one = Memory(url, NAMES)
    await one.start()
    return one


@pytest.fixture
async def remembering(redis_server: RedisServer) -> AsyncIterator[Memory]:
    one = await started(redis_server.url)
    yield one
    await one.aclose()


async def in_redis(server: RedisServer) -> None:
    async with asyncio.timeout(60):
        while not server.client.keys("*conversations*"):
            await asyncio.sleep(0.01)


async def test_another_gateway_recalls_the_turn(remembering: Memory, redis_server: RedisServer) -> None:
    remembering.remember(KNOWN, TURN)
    assert await remembering.recall(KNOWN) == TURN, "at once, before Redis has it"
    await in_redis(redis_server)
    other = await started(redis_server.url)
    assert await other.recall(KNOWN) == TURN
    assert await other.recall(Conversation("bb", may_be_known=True)) is None
    await other.aclose()


@pytest.mark.parametrize(("conversation", "most"), [(KNOWN, KNOWN_SECONDS), (FIRST, FIRST_SECONDS)])
async def test_it_is_forgotten_after_a_while(
    remembering: Memory, redis_server: RedisServer, conversation: Conversation, most: int
) -> None:
    remembering.remember(conversation, TURN)
    await in_redis(redis_server)
    (key,) = redis_server.client.keys("*conversations*")
    assert most - 60 < redis_server.client.ttl(key) <= most


async def test_a_turn_that_cannot_have_one_before_it_asks_nobody(remembering: Memory) -> None:
    remembering.remember(FIRST, TURN)
    assert await remembering.recall(FIRST) is None


async def test_what_is_pending_is_written_when_the_gateway_stops(redis_server: RedisServer) -> None:
    one = await started(redis_server.url)
    one.remember(KNOWN, TURN)
    await one.aclose()
    assert len(redis_server.client.keys("*conversations*")) == 1


@pytest.mark.parametrize("stored", ["", "{", '{"checkpoint": "gone", "cached_tokens": 1}', '{"checkpoint": 5}'])
async def test_what_cannot_be_used_is_as_nothing(remembering: Memory, redis_server: RedisServer, stored: str) -> None:
    redis_server.client.set(memory.KEY.format(id=KNOWN.id), stored)
    assert await remembering.recall(KNOWN) is None


async def test_without_redis_nothing_is_remembered_and_nobody_waits(mortal_redis: RedisServer) -> None:
    mortal_redis.start()
    one = await started(mortal_redis.url)
    mortal_redis.kill()
    one.remember(KNOWN, TURN)
    assert await one.recall(Conversation("bb", may_be_known=True)) is None
    began = time.monotonic()
    for _ in range(200):
        assert await one.recall(Conversation("bb", may_be_known=True)) is None
    assert time.monotonic() - began < memory.PAUSE_SECONDS, "Redis is asked once, then left alone"
    await one.aclose()
