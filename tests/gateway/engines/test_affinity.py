"""Which replica a conversation's turns go to, and when it is passed over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.engines.affinity import LOAD_FACTOR, SLACK, in_order
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, EVENTS, FakeEngine, Gateway, running, stream


@dataclass(frozen=True)
class Replica:
    url: str
    in_flight: int = 0


THREE = [Replica(f"http://gpu{number}:8000") for number in range(3)]
CONVERSATIONS = [f"{number:032x}" for number in range(3000)]


def test_conversations_are_spread_evenly_and_always_the_same_way() -> None:
    first = Counter(in_order(THREE, conversation)[0].url for conversation in CONVERSATIONS)
    assert min(first.values()) > 900
    assert first == Counter(in_order(THREE[::-1], conversation)[0].url for conversation in CONVERSATIONS)


def test_when_a_replica_goes_only_its_own_conversations_move() -> None:
    for conversation in CONVERSATIONS:
        before = in_order(THREE, conversation)
        gone = before[0]
        left = [replica for replica in THREE if replica is not THREE[0]]
        assert in_order(left, conversation)[0] == (before[1] if gone is THREE[0] else gone)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.uuids())
def test_no_replica_gets_more_than_its_share_while_another_is_free(loads: list[int], conversation: object) -> None:
    replicas = [Replica(f"http://gpu{at}:8000", load) for at, load in enumerate(loads)]
    chosen, *others = in_order(replicas, str(conversation))
    assert {chosen, *others} == set(replicas)
    mean = (sum(loads) + 1) / len(loads)
    assert chosen.in_flight + 1 <= LOAD_FACTOR * mean + 1 + SLACK


@pytest.fixture
async def pair(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, other: FakeEngine
) -> AsyncIterator[Gateway]:
    """A gateway in front of `engine` and `other`."""
    async with running(family_dir, redis_server.url, [engine.url, other.url]) as gateway:
        yield gateway


async def test_the_turns_of_a_conversation_go_to_one_replica_and_conversations_to_all(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    served: Counter[int] = Counter()
    for conversation in range(16):
        before = len(engine.bodies)
        for _ in range(3):
            response = await pair.ask(headers={"x-conversation-id": f"c{conversation}"})
            assert response.status_code == 200
        assert len(engine.bodies) - before in (0, 3)
        served[len(engine.bodies) - before] += 1
    assert len(served) == 2, served


async def test_a_conversation_leaves_a_replica_that_is_too_busy(
    pair: Gateway, engine: FakeEngine, other: FakeEngine
) -> None:
    go_on = asyncio.Event()

    async def hold(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await go_on.wait()
        return await stream(*EVENTS)(request, body)

    engine.script = other.script = hold
    named = {"x-conversation-id": "one"}
    asked = [asyncio.create_task(pair.ask(EASY, headers=named, stream=True)) for _ in range(8)]
    async with asyncio.timeout(60):
        while len(engine.bodies) + len(other.bodies) < 8:
            await asyncio.sleep(0.01)
    go_on.set()
    await asyncio.gather(*asked)
    assert min(len(engine.bodies), len(other.bodies)) >= 2
