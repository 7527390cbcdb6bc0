"""How much may a request think, and who may answer it? Budgets, keys and families together, over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import family as families
from tests.conftest import RedisServer
from tests.gateway.access.test_access import create_key
from tests.gateway.fakes import EASY, HARD, UNFAMILIAR, FakeEngine, Gateway, error, running
from tests.gateway.test_budget_forcing import forced

MEASURED = {"cap": "thinking_token_budget", "answer_tokens": 30}
BUDGET = {"x-reasoning-budget": "10"}
REJECT = {"x-reasoning-budget-policy": "reject"}
DEBUG = {"x-laconic-debug": "true"}
CHAT = {"model": "abacus", "messages": [{"role": "user", "content": HARD}]}


@pytest.mark.parametrize("budget", [None, "auto", "max"])
async def test_without_a_number_the_key_caps_the_thinking_though_max_tokens_leaves_more(
    tmp_path: Path, redis_server: RedisServer, engine: FakeEngine, budget: str | None
) -> None:
    directory = forced(tmp_path / "abacus", **MEASURED)
    async with running(directory, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        mine = await create_key(gateway, reasoning_tokens_per_minute=200)
        headers = mine if budget is None else mine | {"x-reasoning-budget": budget}
        response = await gateway.ask(EASY, headers=headers, max_tokens=4096)
        assert (response.status_code, response.headers["x-laconic-budget"]) == (200, "200")
        beyond = await gateway.ask(EASY, headers=headers | {"x-reasoning-budget": "4066"}, max_tokens=4096)
        assert error(beyond)["code"] == "budget_over_limit", "this is a number that the caller asked for"


@pytest.mark.parametrize("budget", [{}, {"x-reasoning-budget": "max"}, {"x-reasoning-budget": "5000"}])
async def test_the_policy_reject_blames_max_tokens_for_what_it_leaves_beside_a_measured_answer(
    tmp_path: Path, redis_server: RedisServer, engine: FakeEngine, budget: dict[str, str]
) -> None:
    directory = forced(tmp_path / "abacus", **MEASURED)
    async with running(directory, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        headers = REJECT | budget
        refused = error(await gateway.ask(HARD, headers=headers, max_tokens=40))
        assert (refused["code"], refused["param"]) == ("budget_infeasible", "max_tokens")
        assert "within the 10 reasoning tokens that max_tokens leaves beside an answer" in refused["message"]
        least = int(refused["message"].rstrip(".").split()[-1])
        assert (await gateway.ask(HARD, headers=headers, max_tokens=least)).status_code == 200
        assert (await gateway.ask(HARD, headers=headers, max_tokens=least - 1)).status_code == 400
        asked = error(await gateway.ask(HARD, headers=REJECT | BUDGET, max_tokens=40))
        assert asked["param"] == "X-Reasoning-Budget", "more max_tokens would not help a budget of 10"


async def test_a_key_for_a_checkpoint_that_the_family_lost_uses_its_others_or_is_told(gateway: Gateway) -> None:
    some = await create_key(gateway, checkpoints=("gone", "alpha-0.1"))
    none = await create_key(gateway, "team-b", checkpoints=("gone",))
    for prompt in (EASY, UNFAMILIAR):  # the second one would go to the reference, or to its neighbour
        assert (await gateway.ask(prompt, headers=some)).headers["x-laconic-checkpoint"] == "alpha-0.1"
        refused = await gateway.ask(prompt, headers=none)
        assert (refused.status_code, error(refused)["code"]) == (403, "not_allowed")
        assert "gone, and abacus has only base, alpha-0.1, alpha-0.4" in error(refused)["message"]


async def test_a_budget_that_nothing_can_keep_changes_no_forecast_and_is_named_as_ignored(
    tmp_path: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    directory = forced(tmp_path / "abacus", cap="none")
    async with running(directory, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        free = await gateway.ask(HARD, headers=DEBUG)
        assert "x-laconic-ignored" not in free.headers
        for more in (BUDGET, BUDGET | REJECT):
            asked = await gateway.ask(HARD, headers=DEBUG | more)
            assert (asked.status_code, asked.headers["x-laconic-budget"]) == (200, "unlimited")
            assert asked.headers["x-laconic-ignored"] == "X-Reasoning-Budget"
            assert asked.headers["x-laconic-predictions"] == free.headers["x-laconic-predictions"]
        streamed = await gateway.ask(HARD, stream=True, thinking_token_budget=10)
        assert streamed.headers["x-laconic-ignored"] == "thinking_token_budget"
        explained = (await gateway.client.post("/v1/route", json=CHAT, headers=BUDGET | REJECT)).json()["budget"]
        assert (explained["tokens"], explained["feasible"], explained["refused"]) == (None, True, False)
        expected = {entry.reference_tokens for entry in await gateway.entries(4)}
        assert len(expected) == 1, "savings are measured against what the reference would really think"
        short = await gateway.ask(HARD, headers=DEBUG | BUDGET, max_tokens=40)
        assert short.headers["x-laconic-predictions"] != free.headers["x-laconic-predictions"], "max_tokens does end it"
        none = await gateway.ask(HARD, headers={"x-reasoning-budget": "0"})
        assert engine.bodies[-1]["chat_template_kwargs"] == {"enable_thinking": False}
        assert "x-laconic-ignored" not in none.headers


async def test_a_budget_that_nothing_can_keep_reserves_what_the_request_may_really_spend(
    tmp_path: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    directory = forced(tmp_path / "abacus", cap="none")
    async with running(directory, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        mine = await create_key(gateway, reasoning_tokens_per_minute=3, default_budget="1")
        assert (await gateway.ask(EASY, headers=mine)).status_code == 200  # it takes four, and is charged three
        assert (await gateway.ask(EASY, headers=mine)).status_code == 429
        assert (await gateway.ask(EASY, headers=mine | {"x-reasoning-budget": "1"})).status_code == 429
        (entry,) = await gateway.entries()
        assert entry.budget is None


async def test_a_budget_counts_if_one_checkpoint_keeps_it(
    tmp_path: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    directory = forced(tmp_path / "abacus", cap="none")
    family = families.load(directory)
    base = family.checkpoint("base").model_copy(update={"cap": "thinking_token_budget"})
    families.save(family.model_copy(update={"checkpoints": (base, *family.checkpoints[1:])}), directory)
    async with running(directory, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        asked = await gateway.ask(EASY, model="abacus/base", headers=BUDGET)
        assert (asked.headers["x-laconic-budget"], engine.bodies[-1]["thinking_token_budget"]) == ("10", 10)
        assert "x-laconic-ignored" not in asked.headers
        other = await gateway.ask(EASY, model="abacus/alpha-0.1", headers=BUDGET)
        assert other.headers["x-laconic-budget"] == "unlimited"
        assert other.headers["x-laconic-ignored"] == "X-Reasoning-Budget"
