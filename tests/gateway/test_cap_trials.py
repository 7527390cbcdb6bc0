"""Engines that do not keep their caps are not trusted, until a trial shows that they do. Over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, FakeEngine, Gateway, event, respond_with, running, silent, stream, until
from tests.gateway.test_budget_forcing import (
    ANSWER,
    BUDGET,
    DONE,
    FIRST,
    HEADERS,
    SECOND,
    THOUGHT,
    ask,
    both,
    is_second,
    read,
)


@pytest.fixture
async def capped(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway in front of an engine that takes a cap and ignores it."""
    engine.script = ignores_caps
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        yield gateway


async def ignores_caps(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if body.get("stream"):
        return await stream(*(SECOND if is_second(body) else FIRST))(request, body)
    message = {"role": "assistant", "reasoning": "".join(THOUGHT), "content": ANSWER}
    return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


async def keeps_caps(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Three tokens of thinking for each piece."""
    thought = THOUGHT[: body["thinking_token_budget"] // 3]
    pieces = [FIRST[0], *(event({"reasoning": piece}) for piece in thought), event({"content": ANSWER})]
    return await stream(*pieces, event({}, "stop"), DONE)(request, body)


async def trial_is_due(gateway: Gateway) -> None:
    for replica in gateway.engines._replicas:
        replica.caps._may_try_at = 0.0


def asked_for_caps(engine: FakeEngine) -> list[bool]:
    return ["thinking_token_budget" in body for body in engine.bodies]


@both
async def test_an_engine_that_did_not_keep_its_cap_is_forced_until_a_trial_shows_that_it_does(
    capped: Gateway, engine: FakeEngine, streamed: bool
) -> None:
    count = capped.services.counter.count
    assert count(read(await ask(capped, streamed=streamed))["reasoning"]) > 2 * BUDGET
    assert read(await ask(capped, streamed=streamed))["usage"]["budget_hit"]
    assert asked_for_caps(engine) == [True, False, False]
    await trial_is_due(capped)
    trial = read(await ask(capped, streamed=streamed))  # it fails, and its caller notices nothing
    assert (count(trial["reasoning"]), trial["content"]) == (BUDGET, ANSWER)
    assert asked_for_caps(engine)[3:] == [True, False]
    assert [entry.over_cap for entry in await capped.entries(3)] == [True, False, True]
    (state,) = (await capped.client.get("/health/ready")).json()["engines"]
    assert (state["over_cap"], state["caps_hold"]) == (2, False)
    await trial_is_due(capped)
    engine.script = keeps_caps
    assert read(await ask(capped, streamed=streamed))["usage"]["budget_hit"]
    (state,) = (await capped.client.get("/health/ready")).json()["engines"]
    assert state["caps_hold"]
    del engine.bodies[:]
    assert read(await ask(capped, streamed=True))["content"] == ANSWER
    assert asked_for_caps(engine) == [True]


async def test_a_trial_that_ends_before_its_cap_shows_nothing(capped: Gateway, engine: FakeEngine) -> None:
    await ask(capped, streamed=True)
    await trial_is_due(capped)
    engine.script = stream(FIRST[0], event({"reasoning": "3"}), event({"content": ANSWER}), event({}, "stop"), DONE)
    await ask(capped, streamed=True)
    (state,) = (await capped.client.get("/health/ready")).json()["engines"]
    assert not state["caps_hold"]
    assert capped.engines.owes_trial("base")


async def test_a_trial_that_is_refused_or_left_shows_nothing(capped: Gateway, engine: FakeEngine) -> None:
    await ask(capped, streamed=True)
    await trial_is_due(capped)
    engine.script = respond_with(400, {"error": {"message": "temperature must be positive"}})
    assert (await ask(capped, streamed=True)).status_code == 400
    assert asked_for_caps(engine) == [True, True]
    assert capped.engines.owes_trial("base")

    engine.script = silent
    body = {"model": "abacus/base", "messages": [{"role": "user", "content": EASY}], "stream": True}
    with pytest.raises(httpx.ReadTimeout):
        await capped.client.post("/v1/chat/completions", json=body, headers=HEADERS, timeout=0.3)
    await until(lambda: not engine.running)
    assert asked_for_caps(engine) == [True, True, True]
    assert capped.engines.owes_trial("base")


async def test_a_second_replica_that_keeps_caps_is_asked_instead(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, other: FakeEngine, tmp_path: Path
) -> None:
    engine.script, other.script = ignores_caps, keeps_caps
    urls = [engine.url, other.url]
    async with running(family_dir, redis_server.url, urls, state_dir=tmp_path, conversations=False) as gateway:
        while not engine.bodies:
            await ask(gateway, streamed=True)
        for _ in range(5):
            await ask(gateway, streamed=True)
        assert len(engine.bodies) == 1
        assert all(asked_for_caps(other))
