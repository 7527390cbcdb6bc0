"""What do callers with keys see over HTTP? Access, the checkpoints they may use, and the limits they meet."""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from gateway import store
from gateway.access import keys
from gateway.access.keys import Grant
from tests.conftest import RedisServer
from tests.gateway.access.test_limits import redis_state
from tests.gateway.fakes import (
    EASY,
    EVENTS,
    HARD,
    UNFAMILIAR,
    FakeEngine,
    Gateway,
    answer,
    error,
    event,
    forever,
    running,
    stream,
    until,
)


async def create_key(gateway: Gateway, name: str = "team-a", **grant: Any) -> dict[str, str]:
    """Create a key, and return the header that sends it."""
    secret, _ = await keys.create(gateway.keyring.redis, Grant(name=name, **grant))
    await gateway.keyring.refresh()
    return {"authorization": f"Bearer {secret}"}


async def test_after_the_first_key_every_caller_needs_one(gateway: Gateway) -> None:
    paths = ("/v1/models", "/v1/models/abacus", "/v1/savings", "/metrics")
    for path in paths:
        assert (await gateway.client.get(path)).status_code == 200
    assert (await gateway.ask(EASY)).status_code == 200
    mine = await create_key(gateway)
    for path in paths:
        refused = await gateway.client.get(path)
        assert (refused.status_code, error(refused)["code"]) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
    assert (await gateway.ask(EASY)).status_code == 401
    assert (await gateway.ask(EASY, headers=mine)).status_code == 200
    assert (await gateway.client.get("/v1/models", headers=mine)).status_code == 200
    for path in ("/health/live", "/health/ready"):  # probes have no key
        assert (await gateway.client.get(path)).status_code == 200
    assert [entry.key for entry in await gateway.entries(2)] == ["", "team-a"]


async def test_shared_data_is_for_admin_keys_only(gateway: Gateway) -> None:
    mine, boss = await create_key(gateway), await create_key(gateway, "boss", admin=True)
    chat = {"model": "abacus", "messages": [{"role": "user", "content": EASY}]}
    for method, path in (
        ("GET", "/v1/savings"), ("GET", "/metrics"), ("POST", "/v1/route"), ("GET", "/v1/keys"),
    ):  # fmt: skip
        refused = await gateway.client.request(method, path, json=chat, headers=mine)
        assert (refused.status_code, error(refused)["code"]) == (403, "not_allowed")
        assert (await gateway.client.request(method, path, json=chat, headers=boss)).status_code == 200


async def test_the_official_client_raises_its_own_error_classes(gateway: Gateway) -> None:
    mine = await create_key(gateway, requests_per_minute=1)
    secret = mine["authorization"].removeprefix("Bearer ")
    chat: Any = {"model": "abacus", "messages": [{"role": "user", "content": EASY}]}
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=secret, max_retries=0) as client:
        raw = await client.chat.completions.with_raw_response.create(**chat)
        assert raw.headers["x-ratelimit-remaining-requests"] == "0"
        with pytest.raises(openai.RateLimitError) as limited:
            await client.chat.completions.create(**chat)
        assert 0 < int(limited.value.response.headers["retry-after"]) <= 60
        assert limited.value.code == "rate_limit_exceeded"
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_a_key_may_be_limited_to_some_checkpoints(gateway: Gateway, engine: FakeEngine) -> None:
    mine = await create_key(gateway, checkpoints=("alpha-0.1",))
    routed = await gateway.ask(HARD, headers=mine)
    assert (routed.headers["x-laconic-checkpoint"], engine.bodies[-1]["model"]) == ("alpha-0.1", "abacus/alpha-0.1")
    refused = await gateway.ask(EASY, headers=mine, model="abacus/base")
    assert (refused.status_code, error(refused)["param"]) == (403, "model")
    assert (await gateway.ask(EASY, headers=mine, model="abacus/alpha-0.1")).status_code == 200


async def test_a_caller_who_leaves_a_non_streaming_request_is_charged_the_predicted_tokens(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    """A non-streaming response reports its usage only at the end. Leaving earlier must not make it free."""
    mine = await create_key(gateway, reasoning_tokens_per_day=10_000)

    async def think(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        await forever(request)
        raise AssertionError

    engine.script = think
    for prompt, most in ((EASY, 1000), (UNFAMILIAR, 1000), (UNFAMILIAR, 30)):
        engine.busy.clear()
        engine.idle.clear()
        asking = asyncio.create_task(gateway.ask(prompt, headers={**mine, "x-reasoning-budget": str(most)}))
        await engine.busy.wait()
        asking.cancel()
        await asyncio.wait([asking])
        await engine.idle.wait()
    booked = await gateway.entries(3)
    assert all(one.assumed and one.status == 499 for one in booked)
    assert booked[0].predicted_tokens is not None
    assert booked[0].reasoning_tokens == math.ceil(booked[0].predicted_tokens)
    assert booked[1].reasoning_tokens == 100, "the prompt is unfamiliar, so the measured mean of the base is charged"
    assert booked[2].reasoning_tokens == 30, "at most the budget"
    engine.script = answer
    after = await gateway.ask(EASY, headers={**mine, "x-reasoning-budget": "5"})
    spent = 10_000 - int(after.headers["x-ratelimit-remaining-tokens"])
    assert spent == sum(one.reasoning_tokens for one in booked) + 5


async def test_an_explanation_respects_the_limits_of_the_key(gateway: Gateway) -> None:
    mine = await create_key(gateway, admin=True, reasoning_tokens_per_day=50, checkpoints=("base", "alpha-0.1"))
    chat = {"model": "abacus", "messages": [{"role": "user", "content": HARD}]}
    policy = {**mine, "x-reasoning-budget-policy": "reject"}
    explained = (await gateway.client.post("/v1/route", json=chat, headers=policy)).json()
    assert (explained["budget"]["tokens"], explained["budget"]["refused"]) == (50, True)
    refused = await gateway.ask(HARD, headers=policy)
    assert (refused.status_code, error(refused)["param"]) == (400, "X-Reasoning-Budget")
    assert str(explained["budget"]["smallest_feasible"]) in error(refused)["message"]


async def test_a_key_without_the_reference_is_never_a_holdout(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path, holdout_fraction=1.0) as gateway:
        mine = await create_key(gateway, checkpoints=("alpha-0.1", "alpha-0.4"))
        assert (await gateway.ask(EASY, headers=mine)).headers["x-laconic-decision"] == "routed"
        assert (await gateway.ask(UNFAMILIAR, headers=mine)).headers["x-laconic-checkpoint"] == "alpha-0.1"


async def test_a_key_has_a_default_budget_that_the_caller_may_override(gateway: Gateway) -> None:
    mine = await create_key(gateway, default_budget="7")
    assert (await gateway.ask(EASY, headers=mine)).headers["x-laconic-budget"] == "7"
    named = await gateway.ask(EASY, headers={**mine, "x-reasoning-budget": "50"})
    assert named.headers["x-laconic-budget"] == "50"


async def test_a_request_without_a_budget_is_capped_at_what_the_key_may_spend(
    gateway: Gateway, engine: FakeEngine
) -> None:
    mine = await create_key(gateway, reasoning_tokens_per_minute=90)
    capped = await gateway.ask(EASY, headers=mine)
    assert (capped.headers["x-laconic-budget"], engine.bodies[-1]["thinking_token_budget"]) == ("90", 90)
    # The fake engine reports four reasoning tokens.
    after = await gateway.ask(EASY, headers={**mine, "x-reasoning-budget": "86"})
    assert after.status_code == 200
    beyond = await gateway.ask(EASY, headers={**mine, "x-reasoning-budget": "91"})
    assert (beyond.status_code, error(beyond)["code"]) == (400, "budget_over_limit")
    assert error(beyond)["param"] == "X-Reasoning-Budget"


@pytest.mark.parametrize("streamed", [False, True])
async def test_two_hundred_concurrent_requests_never_exceed_the_limit_of_the_key(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer, streamed: bool
) -> None:
    """Each request may spend one reasoning token and spends it. The key allows fifty."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "completion_tokens_details": {"reasoning_tokens": 1}}
    reasoning_tokens = 0

    async def think(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal reasoning_tokens
        reasoning_tokens += body["thinking_token_budget"]
        await asyncio.sleep(0.02)
        if body.get("stream"):
            return await stream(event({"content": "3"}, "stop"), event(usage=usage), EVENTS[-1])(request, body)
        return web.json_response({"choices": [{"index": 0, "message": {"content": "3"}}], "usage": usage})

    engine.script = think
    mine = await create_key(gateway, reasoning_tokens_per_day=50)
    headers = {**mine, "x-reasoning-budget": "1"}
    async with httpx.AsyncClient(base_url=gateway.url, limits=httpx.Limits(max_connections=None), timeout=60) as client:
        body = {"model": "abacus", "messages": [{"role": "user", "content": EASY}], "stream": streamed}
        posts = (client.post("/v1/chat/completions", json=body, headers=headers) for _ in range(200))
        statuses = [response.status_code for response in await asyncio.gather(*posts)]
    assert (statuses.count(200), statuses.count(429)) == (50, 150)
    assert reasoning_tokens == 50
    await until(lambda: redis_state(redis_server)["reserved"] == 0)
    assert (redis_state(redis_server)["day_tokens"], gateway.limiter.reserved) == (50, 0)
    assert len(await gateway.entries(50)) == 50  # rejected requests appear in the metrics, not in the ledger


async def test_callers_who_leave_a_stream_free_their_reservation_and_pay_for_the_tokens_so_far(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    mine = await create_key(gateway, reasoning_tokens_per_minute=10_000)
    engine.script = stream(event({"reasoning": "1 + 2 = 3"}), then=forever)
    chat = {"model": "abacus", "messages": [{"role": "user", "content": EASY}], "stream": True}
    for _ in range(3):
        async with gateway.client.stream("POST", "/v1/chat/completions", json=chat, headers=mine) as response:
            async for _ in response.aiter_bytes():
                break
    booked = await gateway.entries(3)
    await until(lambda: redis_state(redis_server)["reserved"] == 0)
    spent = sum(entry.reasoning_tokens for entry in booked)
    assert spent > 0
    assert redis_state(redis_server)["minute_tokens"] == spent
    engine.script = answer


async def test_the_operator_chooses_whether_keys_with_limits_are_served_without_redis(
    family_dir: Path, mortal_redis: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    mortal_redis.start()
    redis = store.connect(mortal_redis.url)
    limited, _ = await keys.create(redis, Grant(name="limited", requests_per_minute=100))
    free, _ = await keys.create(redis, Grant(name="free"))
    await redis.aclose()
    for choice, status in (("open", 200), ("closed", 503)):
        async with running(
            family_dir, mortal_redis.url, [engine.url],
            state_dir=tmp_path / choice, limits_when_store_is_down=choice,
        ) as gateway:  # fmt: skip
            mortal_redis.kill()
            response = await gateway.ask(EASY, headers={"authorization": f"Bearer {limited}"})
            assert response.status_code == status
            if status == 503:
                assert error(response)["code"] == "limits_unavailable"
            assert (await gateway.ask(EASY, headers={"authorization": f"Bearer {free}"})).status_code == 200
            mortal_redis.start()


async def test_keys_are_created_listed_and_revoked_over_http(gateway: Gateway) -> None:
    first = await gateway.client.post("/v1/keys", json={"name": "sneaky", "admin": True})
    assert (first.status_code, error(first)["code"]) == (
        403,
        "not_allowed",
    )  # otherwise any web page could create the first key
    boss = await create_key(gateway, "boss", admin=True)
    grant = {"name": "team-b", "requests_per_minute": 2, "checkpoints": ["alpha-0.4"]}
    created = await gateway.client.post("/v1/keys", json=grant, headers=boss)
    assert created.status_code == 201
    secret = created.json()["key"]
    theirs = {"authorization": f"Bearer {secret}"}
    assert (await gateway.ask(EASY, headers=theirs)).headers["x-laconic-checkpoint"] == "alpha-0.4"
    listed = await gateway.client.get("/v1/keys", headers=boss)
    assert [key["name"] for key in listed.json()["data"]] == ["boss", "team-b"]
    assert secret not in listed.text
    assert "sha256" not in listed.text
    again = await gateway.client.post("/v1/keys", json=grant, headers=boss)
    assert (again.status_code, error(again)["code"]) == (409, "key_exists")
    assert (await gateway.client.delete("/v1/keys/team-b", headers=boss)).json() == {"name": "team-b", "revoked": True}
    assert (await gateway.ask(EASY, headers=theirs)).status_code == 401
    assert (await gateway.client.delete("/v1/keys/team-b", headers=boss)).status_code == 404


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{", None), (b"[]", None), (b'{"name": "a b"}', "name"), (b'{"name": "a", "limit": 1}', "limit"),
        (b'{"name": "a", "requests_per_minute": "9"}', "requests_per_minute"),
        (b'{"name": "a", "checkpoints": ["nobody"]}', "checkpoints"),
        (b'{"name": "a", "default_budget": "-4"}', "default_budget"),
    ],
)  # fmt: skip
async def test_an_invalid_grant_is_a_400_that_names_the_field(gateway: Gateway, body: bytes, param: str | None) -> None:
    boss = await create_key(gateway, "boss", admin=True)
    refused = await gateway.client.post("/v1/keys", content=body, headers=boss)
    assert (refused.status_code, error(refused)["param"]) == (400, param)


async def test_no_secret_is_in_logs_metrics_or_errors(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    boss = await create_key(gateway, "boss", admin=True, requests_per_minute=2)
    secret = boss["authorization"].removeprefix("Bearer ")
    responses = [await gateway.ask(EASY, headers=boss) for _ in range(3)]
    responses += [await gateway.ask(EASY, headers={"authorization": f"Bearer {secret}x"})]
    responses += [await gateway.client.get("/metrics", headers=boss)]
    assert [response.status_code for response in responses] == [200, 200, 429, 401, 200]
    everything = caplog.text + "".join(response.text + str(response.headers) for response in responses)
    assert secret not in everything
    assert keys.digest(secret) not in everything


async def test_a_key_created_again_after_redis_lost_all_keys_is_valid(
    gateway: Gateway, redis_server: RedisServer
) -> None:
    old = await create_key(gateway)
    redis_server.client.flushall()
    assert (await gateway.ask(EASY, headers=old)).status_code == 200  # a Redis that lost its data changes nothing yet
    new = await create_key(gateway)
    assert (await gateway.ask(EASY, headers=new)).status_code == 200
    assert (await gateway.ask(EASY, headers=old)).status_code == 401
