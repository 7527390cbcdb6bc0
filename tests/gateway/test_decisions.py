"""Does another router get the decision that a chat request would get, with our draw, and may it have it?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.access import keys
from gateway.access.keys import Grant
from gateway.ledger import decisions
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, HARD, UNFAMILIAR, FakeEngine, Gateway, build_family, error, running
from tests.gateway.served import SERVED_MODEL, build_served_family


async def decide(
    gateway: Gateway, prompt: str = EASY, headers: dict[str, str] | None = None, **more: object
) -> httpx.Response:
    """Ask for a decision. `more` overrides and adds fields."""
    body: dict[str, object] = {
        "model": "abacus", "messages": [{"role": "user", "content": prompt}], "router": "litellm", **more,
    }  # fmt: skip
    return await gateway.client.post("/v1/decisions", json=body, headers=headers)


async def key(gateway: Gateway, **grant: Any) -> dict[str, str]:
    secret, _ = await keys.create(gateway.keyring.redis, Grant(**grant))
    await gateway.keyring.refresh()
    return {"authorization": f"Bearer {secret}"}


async def test_a_decision_says_who_answers_under_which_cap_and_why(gateway: Gateway, engine: FakeEngine) -> None:
    response = await decide(gateway, headers={"x-reasoning-budget": "40"}, temperature=0.5)
    assert response.status_code == 200
    decision = response.json()
    assert decision.pop("reason").startswith("cheapest within 0.005 of the best success")
    assert decision.pop("expires") > 1_700_000_000
    assert decision == {
        "id": response.headers["x-request-id"],
        "object": "decision",
        "checkpoint": "alpha-0.4",
        "model": "abacus/alpha-0.4",
        "alpha": 0.4,
        "decision": "routed",
        "holdout": False,
        "choice": "alpha-0.4",
        "difficulty": decision["difficulty"],
        "conversation": "begun",
        "cap": 40,
        "expected_tokens": decision["expected_tokens"],
        "predicted_success": decision["predicted_success"],
        "set": {"model": "abacus/alpha-0.4", "thinking_token_budget": 40},
        "drop": [],
    }
    assert 0 < decision["expected_tokens"] < 40
    assert 0.9 < decision["predicted_success"] <= 1
    assert engine.bodies == [], "the router runs the request"


@pytest.mark.parametrize("prompt", [EASY, HARD, UNFAMILIAR])
async def test_the_choice_is_that_of_a_chat_request(gateway: Gateway, prompt: str) -> None:
    decision = (await decide(gateway, prompt)).json()
    chat = (await gateway.ask(prompt)).headers
    assert (decision["checkpoint"], decision["decision"]) == (
        chat["x-laconic-checkpoint"], chat["x-laconic-decision"],
    )  # fmt: skip


async def test_a_pinned_checkpoint_is_decided_on(gateway: Gateway) -> None:
    decision = (await decide(gateway, HARD, model="abacus/alpha-0.1")).json()
    assert (decision["checkpoint"], decision["decision"], decision["holdout"]) == ("alpha-0.1", "pinned", False)


async def test_the_holdout_is_drawn_here(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path, holdout_fraction=1) as gateway:
        decision = (await decide(gateway)).json()
        assert (decision["checkpoint"], decision["choice"], decision["holdout"]) == ("base", "alpha-0.4", True)
        assert decision["decision"] == "holdout"
        without = (await decide(gateway, checkpoints=["alpha-0.1", "alpha-0.4"])).json()
        assert (without["checkpoint"], without["holdout"]) == ("alpha-0.4", False), "no reference, no draw"


async def test_a_router_says_what_it_can_reach(gateway: Gateway, engine: FakeEngine) -> None:
    """Then it does not matter what this gateway's engines serve."""
    engine.serves = ["abacus/base"]
    await gateway.probe()
    assert (await decide(gateway)).json()["checkpoint"] == "base"
    assert (await decide(gateway, checkpoints=["alpha-0.1", "base"])).json()["checkpoint"] == "alpha-0.1"
    assert (await decide(gateway, UNFAMILIAR, checkpoints=["alpha-0.4"])).json()["checkpoint"] == "alpha-0.4"


async def test_there_are_no_escalations(redis_server: RedisServer, engine: FakeEngine, tmp_path: Path) -> None:
    """They happen inside an answer, which this gateway does not see."""
    build_family(tmp_path / "abacus", escalations=True)
    async with running(tmp_path / "abacus", redis_server.url, [engine.url], state_dir=tmp_path / "state") as gateway:
        assert (await gateway.ask(HARD)).headers["x-laconic-escalation"] == "base"
        assert (await decide(gateway, HARD)).json()["choice"] == "base"


async def test_what_has_to_change_in_the_routers_request_is_said(gateway: Gateway) -> None:
    """A budget in another dialect leaves, and thinking that is forbidden is forbidden the engine's way."""
    decision = (await decide(gateway, reasoning_effort="none", stream=True, include_reasoning=False)).json()
    assert decision["cap"] == 0
    assert decision["drop"] == ["reasoning_effort"]
    assert decision["set"] == {
        "model": decision["model"],
        "thinking_token_budget": 0,
        "chat_template_kwargs": {"enable_thinking": False},
        "stream_options": {"include_usage": True},
    }


async def test_levels_of_a_served_model_are_told_apart_by_their_fields(
    redis_server: RedisServer, family_dir: Path, tmp_path: Path
) -> None:
    family = build_served_family(tmp_path / "abacus")
    engine = FakeEngine(family)
    engine.serves = [SERVED_MODEL]
    async with (
        engine.listening(),
        running(tmp_path / "abacus", redis_server.url, [engine.url], state_dir=tmp_path / "state") as gateway,
    ):
        decision = (await decide(gateway, headers={"x-reasoning-budget": "40"})).json()
        assert (decision["checkpoint"], decision["model"]) == ("alpha-0.4", SERVED_MODEL)
        assert decision["set"] == {"model": SERVED_MODEL, "thinking_token_budget": 40}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("router", None), ("router", ""), ("router", "Lite LLM"), ("router", 7), ("router", "x" * 65),
        ("checkpoints", []), ("checkpoints", "base"), ("checkpoints", ["base", "alpha-9"]), ("checkpoints", [1]),
        ("messages", []), ("priority", 3), ("n", 0), ("model", "nobody"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(gateway: Gateway, field: str, value: object) -> None:
    response = await decide(gateway, **{field: value})  # pyright: ignore[reportArgumentType]
    assert response.status_code in (400, 404)
    assert str(error(response)["param"]).startswith(field)
    assert field in error(response)["message"]


async def test_a_router_must_say_who_it_is(gateway: Gateway) -> None:
    response = await gateway.client.post("/v1/decisions", json={"model": "abacus", "messages": [{"role": "user"}]})
    assert (response.status_code, error(response)["param"]) == (400, "router")


async def test_a_pinned_checkpoint_must_be_one_that_the_router_can_reach(gateway: Gateway) -> None:
    response = await decide(gateway, model="abacus/base", checkpoints=["alpha-0.1"])
    assert (response.status_code, error(response)["param"]) == (400, "model")


async def test_a_budget_that_is_too_small_is_refused_as_for_a_chat(gateway: Gateway) -> None:
    headers = {"x-reasoning-budget": "1", "x-reasoning-budget-policy": "reject"}
    response = await decide(gateway, HARD, headers)
    assert (response.status_code, error(response)["code"]) == (400, "budget_infeasible")


async def test_a_key_is_needed_and_its_checkpoints_hold(gateway: Gateway) -> None:
    mine = await key(gateway, name="mine", checkpoints=("alpha-0.1", "alpha-0.4"))
    assert (await decide(gateway)).status_code == 401
    assert (await decide(gateway, HARD, mine)).json()["checkpoint"] == "alpha-0.1"
    offered = await decide(gateway, HARD, mine, checkpoints=["base", "alpha-0.4"])
    assert offered.json()["checkpoint"] == "alpha-0.4"
    refused = await decide(gateway, HARD, mine, checkpoints=["base"])
    assert (refused.status_code, error(refused)["param"]) == (403, "checkpoints")


async def test_a_decision_counts_as_a_request_of_its_key(gateway: Gateway) -> None:
    mine = await key(gateway, name="mine", requests_per_minute=2)
    remaining = [(await decide(gateway, EASY, mine)).headers["x-ratelimit-remaining-requests"] for _ in range(2)]
    assert remaining == ["1", "0"]
    refused = await decide(gateway, EASY, mine)
    assert (refused.status_code, error(refused)["code"]) == (429, "rate_limit_exceeded")


async def test_what_the_request_may_think_is_reserved(gateway: Gateway) -> None:
    mine = await key(gateway, name="mine", reasoning_tokens_per_day=100)
    budget = mine | {"x-reasoning-budget": "60"}
    assert (await decide(gateway, EASY, budget)).headers["x-ratelimit-remaining-tokens"] == "40"
    assert (await decide(gateway, EASY, budget)).status_code == 429
    assert gateway.limiter.reserved == 0, "no gateway renews what another one may settle"


async def test_a_decision_that_fails_reserves_nothing(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: object) -> bool:
        raise ConnectionError

    mine = await key(gateway, name="mine", reasoning_tokens_per_day=100)
    budget = mine | {"x-reasoning-budget": "60"}
    with monkeypatch.context() as broken:
        broken.setattr(decisions, "open_decision", down)
        refused = await decide(gateway, EASY, budget)
        assert (refused.status_code, error(refused)["code"]) == (503, "store_unavailable")
    assert (await decide(gateway, EASY, budget)).status_code == 200


async def test_a_key_may_have_only_so_many_open_decisions(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = await key(gateway, name="mine"), await key(gateway, name="theirs")
    monkeypatch.setattr(decisions, "MAX_OPEN", 1)
    assert (await decide(gateway, EASY, mine)).status_code == 200
    full = await decide(gateway, EASY, mine)
    assert (full.status_code, error(full)["code"], full.headers["retry-after"]) == (429, "decisions_full", "60")
    assert (await decide(gateway, EASY, theirs)).status_code == 200


async def test_no_text_is_stored(gateway: Gateway, redis_server: RedisServer) -> None:
    await decide(gateway, "What is Zanzibar 1 + 2?", user="Nebuchadnezzar", stop=["Quetzalcoatl"])
    stored = str(redis_server.client.hgetall(decisions.OPEN))
    assert "litellm" in stored
    assert not [word for word in ("Zanzibar", "Nebuchadnezzar", "Quetzalcoatl") if word in stored]
    assert sorted(redis_server.client.keys("{laconic:decisions}*")) == sorted(
        [decisions.OPEN, decisions.DUE, decisions.HELD]
    )


async def test_the_error_for_a_wrong_method_names_the_right_one(gateway: Gateway) -> None:
    response = await gateway.client.get("/v1/decisions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
