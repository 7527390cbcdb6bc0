"""How much may a request think, and who may answer it? Budgets, keys and families together, over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import RedisServer
from tests.gateway.access.test_access import create_key
from tests.gateway.fakes import EASY, FakeEngine, error, running
from tests.gateway.test_budget_forcing import forced

MEASURED = {"cap": "thinking_token_budget", "answer_tokens": 30}


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
