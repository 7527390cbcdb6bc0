"""Is a limit in money kept from the reservation to the settlement, for keys and teams, and never silently ignored?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.access import keys, prices, windows
from gateway.access.keys import Grant
from tests.conftest import RedisServer
from tests.gateway.answer.test_cascade import SECOND, UNCONFIDENT, script_by_model
from tests.gateway.fakes import (
    EASY,
    HARD,
    FakeEngine,
    Gateway,
    build_family,
    error,
    running,
    silent,
    stream,
    until,
)
from tests.gateway.prices import write_prices

# 17 prompt, 4 reasoning and 5 answer tokens of alpha-0.4, in billionths.
COST = 17 * 1000 + 4 * 3000 + 5 * 2000


@pytest.fixture
async def priced(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway with prices."""
    file = write_prices(tmp_path)
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path, prices=file) as gateway:
        yield gateway


async def key(gateway: Gateway, name: str = "app-1", **grant: Any) -> dict[str, str]:
    secret, _ = await keys.create(gateway.keyring.redis, Grant(name=name, **grant))
    await gateway.keyring.refresh()
    return {"authorization": f"Bearer {secret}"}


def state(server: RedisServer, account: str = "app-1") -> dict[str, int]:
    return {str(name): int(value) for name, value in server.client.hgetall(windows.KEYS[0].format(account)).items()}


@pytest.mark.parametrize("streams", [False, True])
async def test_what_a_request_cost_replaces_what_was_reserved(
    priced: Gateway, redis_server: RedisServer, streams: bool
) -> None:
    headers = await key(priced, money_per_day=1)
    assert (await priced.ask(EASY, headers=headers, stream=streams)).status_code == 200
    await until(lambda: state(redis_server).get("day_money") == COST)
    assert (state(redis_server)["month_money"], state(redis_server)["reserved_money"]) == (COST, 0)


async def test_while_a_request_runs_the_most_that_it_may_cost_is_reserved(
    priced: Gateway, redis_server: RedisServer, engine: FakeEngine
) -> None:
    engine.script = silent
    headers = await key(priced, money_per_day=1)
    body = {"model": "abacus/alpha-0.4", "max_tokens": 100, "n": 2}
    asked = asyncio.create_task(priced.ask(EASY, headers=headers | {"x-reasoning-budget": "30"}, **body))
    await until(lambda: state(redis_server).get("reserved_money", 0) > 0)
    prompt = state(redis_server)["reserved_money"] - 2 * (30 * 3000 + 70 * 2000)
    assert 17 * 1000 < prompt <= 1024 * 1000, "a longer prompt than it has, and no more than the context"
    asked.cancel()
    await until(lambda: state(redis_server)["reserved_money"] == 0)


async def test_a_spent_limit_is_a_429_that_the_openai_client_understands_and_that_names_it(
    priced: Gateway, redis_server: RedisServer
) -> None:
    headers = await key(priced, money_per_month=0.0045)
    limits: dict[str, Any] = {"max_tokens": 16}
    statuses = [(await priced.ask(EASY, headers=headers, model="abacus/alpha-0.4", **limits)).status_code]
    while statuses[-1] == 200:
        await until(lambda: state(redis_server)["reserved_money"] == 0)
        response = await priced.ask(EASY, headers=headers, model="abacus/alpha-0.4", **limits)
        statuses.append(response.status_code)
    assert len(statuses) > 20
    assert state(redis_server)["month_money"] <= 4_500_000
    assert int(response.headers["retry-after"]) > 0
    said = error(response)
    assert (said["type"], said["code"]) == ("insufficient_quota", "money_limit_exceeded")
    assert "money_per_month" in said["message"]
    assert "USD" in said["message"]
    secret = headers["authorization"].removeprefix("Bearer ")
    async with openai.AsyncOpenAI(base_url=f"{priced.url}/v1", api_key=secret, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as refused:
            await client.chat.completions.create(
                model="abacus/alpha-0.4", messages=[{"role": "user", "content": EASY}], **limits
            )
    assert refused.value.code == "money_limit_exceeded"


async def test_a_team_s_limit_holds_for_its_keys_together(priced: Gateway, redis_server: RedisServer) -> None:
    one, two = await key(priced, "app-1", team="research"), await key(priced, "app-2", team="research")
    assert (await priced.ask(EASY, headers=one)).status_code == 200
    await until(lambda: state(redis_server, "@research").get("month_money") == COST)
    assert (await priced.ask(EASY, headers=two)).status_code == 200
    await until(lambda: state(redis_server, "@research").get("month_money") == 2 * COST)
    redis_server.client.hset(windows.KEYS[0].format("@research"), "month_money", 49_999_999)
    refused = await priced.ask(EASY, headers=two)
    assert (refused.status_code, error(refused)["code"]) == (429, "money_limit_exceeded")
    assert "The team research" in error(refused)["message"]
    assert (await priced.ask(EASY, headers=await key(priced, "app-3", team="sales"))).status_code == 200


async def test_a_request_that_alone_could_pass_the_limit_is_a_400_that_says_what_to_set(priced: Gateway) -> None:
    headers = await key(priced, money_per_day=0.001)
    response = await priced.ask(EASY, headers=headers)
    assert response.status_code == 400
    assert (error(response)["param"], error(response)["code"]) == ("max_tokens", "budget_over_limit")
    assert "money_per_day" in error(response)["message"]


async def test_a_gateway_without_prices_refuses_keys_with_limits_in_money(gateway: Gateway) -> None:
    admin = await key(gateway, "boss", admin=True)
    response = await gateway.client.post("/v1/keys", json={"name": "a", "money_per_month": 5}, headers=admin)
    assert (response.status_code, error(response)["param"]) == (400, "money_per_month")
    headers = await key(gateway, money_per_day=5)
    response = await gateway.ask(EASY, headers=headers)
    assert (response.status_code, error(response)["code"]) == (503, "prices_missing")
    assert (await gateway.ask(EASY, headers=await key(gateway, "app-2", team="research"))).status_code == 200


async def test_a_caller_who_leaves_pays_for_the_prompt_that_was_read(
    priced: Gateway, redis_server: RedisServer, engine: FakeEngine
) -> None:
    engine.script = silent
    headers = await key(priced, money_per_day=1)
    prompt = f"{EASY} " + "What is the answer? " * 50
    asked = asyncio.create_task(priced.ask(prompt, headers=headers, model="abacus/alpha-0.4", max_tokens=100))
    await engine.busy.wait()
    asked.cancel()
    await until(lambda: state(redis_server).get("day_money", 0) > 0)
    assert state(redis_server)["day_money"] > 200 * 1000


async def test_an_escalation_is_charged_both_prompts_and_each_checkpoint_s_tokens(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    family = build_family(tmp_path / "abacus", escalations=True)
    file = write_prices(tmp_path)
    async with (
        FakeEngine(family).listening() as engine,
        running(tmp_path / "abacus", redis_server.url, [engine.url], state_dir=tmp_path, prices=file) as gateway,
    ):
        engine.script = script_by_model(stream(*UNCONFIDENT), stream(*SECOND))
        headers = await key(gateway, money_per_day=1, team="sales")
        await gateway.ask(HARD, headers=headers, stream=True)
        (entry,) = await gateway.entries()
        assert (entry.first_checkpoint, entry.first_reasoning_tokens, entry.team) == ("alpha-0.4", 3, "sales")
        assert entry.first_answer_tokens <= 2
        first_cost = 17 * 1000 + 3 * 3000 + entry.first_answer_tokens * 2000
        second_cost = 17 * 10_000 + 20 * 30_000 + (entry.answer_tokens - entry.first_answer_tokens) * 20_000
        await until(lambda: state(redis_server).get("day_money", 0) > 0)
        assert state(redis_server)["day_money"] == first_cost + second_cost


async def test_no_more_is_charged_than_was_reserved(
    priced: Gateway, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prices were reloaded meanwhile."""
    headers = await key(priced, money_per_day=1)
    before = priced.services.prices.current
    assert before is not None
    dear = prices.PriceList("USD", dict.fromkeys(before.checkpoints, prices.Price(10**12, 10**12, 10**12, 10**12)))
    settle, reserve = priced.limiter.settle, priced.limiter.reserve

    async def reserving(*arguments: Any) -> Any:
        reserved = await reserve(*arguments)
        priced.services.prices.current = dear
        return reserved

    monkeypatch.setattr(priced.limiter, "reserve", reserving)
    charged: list[tuple[int, int]] = []
    monkeypatch.setattr(
        priced.limiter, "settle", lambda one, spent, cost: (charged.append((cost, one.money)), settle(one, spent, cost))
    )
    await priced.ask(EASY, headers=headers)
    assert charged[0][0] == charged[0][1] > 0


async def test_another_routers_request_is_reserved_and_billed_like_our_own(
    priced: Gateway, redis_server: RedisServer
) -> None:
    headers = await key(priced, money_per_day=1)
    body = {"model": "abacus/alpha-0.4", "messages": [{"role": "user", "content": EASY}], "router": "litellm"}
    decided = (await priced.client.post("/v1/decisions", json=body, headers=headers)).json()
    await until(lambda: state(redis_server).get("reserved_money", 0) > 0)
    tokens = {"prompt_tokens": 17, "reasoning_tokens": 4, "answer_tokens": 5}
    outcome = {"decision_id": decided["id"], "model": decided["model"], "finish_reason": "stop", **tokens}
    assert (await priced.client.post("/v1/outcomes", json=outcome, headers=headers)).status_code == 200
    await until(lambda: state(redis_server).get("day_money") == COST)
    assert state(redis_server)["reserved_money"] == 0
