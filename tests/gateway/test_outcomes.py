"""Does what another router reports become one ledger entry, for the key that asked, with clear errors?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.access import keys
from gateway.access.keys import Grant
from gateway.ledger import decisions, feedback
from gateway.ledger.outcome import Outcome
from gateway.outcomes import Outcomes
from models.features import counts_of
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, HARD, FakeEngine, Gateway, error, running, until
from tests.gateway.served import SERVED_MODEL, build_served_family

TOKENS = {"prompt_tokens": 20, "reasoning_tokens": 18, "answer_tokens": 6}


async def decide(gateway: Gateway, prompt: str = EASY, headers: dict[str, str] | None = None, **more: object) -> Any:
    """A decision."""
    body = {"model": "abacus", "messages": [{"role": "user", "content": prompt}], "router": "litellm", **more}
    response = await gateway.client.post("/v1/decisions", json=body, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


async def report(
    gateway: Gateway, decision: Any, headers: dict[str, str] | None = None, **more: object
) -> httpx.Response:
    """Report what was decided on as answered. `more` overrides and adds fields."""
    body = {"decision_id": decision["id"], "model": decision["model"], **TOKENS, "finish_reason": "stop", **more}
    return await gateway.client.post("/v1/outcomes", json=body, headers=headers)


async def key(gateway: Gateway, **grant: Any) -> dict[str, str]:
    secret, _ = await keys.create(gateway.keyring.redis, Grant(**grant))
    await gateway.keyring.refresh()
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture
async def drawing(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    """A gateway that draws every second request."""
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path, holdout_fraction=0.5) as gateway:
        yield gateway


async def expire(gateway: Gateway) -> None:
    """Let all decisions be due, as if their time was over."""
    redis: Any = gateway.services.ledger.redis
    for name, line in (await redis.hgetall(decisions.OPEN)).items():
        decided = decisions.DECIDED.validate_json(line)
        await redis.hset(decisions.OPEN, name, line.replace(f'"expires":{decided.expires!r}', '"expires":1.0'))
        await redis.zadd(decisions.DUE, {name: 1.0})


def counted(gateway: Gateway) -> tuple[float, dict[str, float]]:
    """How many requests the metrics have, and how many decisions by what became of them."""
    found = text_string_to_metric_families(gateway.services.metrics.exposition().decode())
    samples = [sample for family in found for sample in family.samples]
    events = {one.labels["event"]: one.value for one in samples if one.name == "laconic_decisions_total"}
    return sum(one.value for one in samples if one.name == "laconic_requests_total"), events


async def test_an_outcome_is_an_entry_like_the_gateways_own(gateway: Gateway) -> None:
    decision = await decide(gateway, headers={"x-reasoning-budget": "40"})
    response = await report(gateway, decision, cached_tokens=16)
    assert response.status_code == 200
    assert response.json() == {
        "decision_id": decision["id"], "checkpoint": "alpha-0.4", "decision": "routed", "holdout": False,
        "over_cap": False, "repeated": False,
    }  # fmt: skip
    (entry,) = await gateway.entries()
    assert (entry.id, entry.via, entry.status, entry.finish_reason) == (decision["id"], "litellm", 200, "stop")
    assert (entry.prompt_tokens, entry.cached_tokens, entry.reasoning_tokens, entry.answer_tokens) == (20, 16, 18, 6)
    assert (entry.checkpoint, entry.choice, entry.alpha, entry.budget) == ("alpha-0.4", "alpha-0.4", 0.4, 40)
    assert (entry.counts, entry.conversation) == (counts_of(EASY, {"what", "is", "hard"}), "begun")
    assert entry.total_seconds > 0
    assert await gateway.services.ledger.redis.exists(*decisions.KEYS) == 0, "nothing of it is left"


async def test_reported_requests_are_saved_and_measured_as_the_gateways_own(drawing: Gateway) -> None:
    """Thinking of alternating length, so that holdouts are informative."""
    for number in range(150):
        decision = await decide(drawing)
        tokens = (100 if decision["holdout"] else 20) + number % 7
        await report(drawing, decision, reasoning_tokens=tokens, score=1, source="verifier")
    await drawing.entries(150)
    answer = (await drawing.client.get("/v1/savings?by=day")).json()
    total = answer["total"]
    assert (total["requests"], total["unreported"]) == (150, 0)
    assert 45 < total["holdout"] < 105
    measured = total["measured"]
    assert measured["saved_tokens"] == pytest.approx(80 * measured["requests"], rel=0.05)
    assert measured["low"] > 0
    assert answer["quality"]["sources"]["verifier"]["routed"]["scores"] == measured["requests"]
    assert sum(answer["drift"]["fifths"]) == 150


async def test_a_request_in_which_another_model_answered_stays_on_its_side(drawing: Gateway) -> None:
    while not (decision := await decide(drawing))["holdout"]:
        await report(drawing, decision)
    answer = (await report(drawing, decision, model="gpt-5")).json()
    assert (answer["checkpoint"], answer["decision"], answer["holdout"]) == ("other", "fallback", True)
    answer = (await report(drawing, await decide(drawing, model="abacus/base"), model="alpha-0.1")).json()
    assert (answer["checkpoint"], answer["decision"]) == ("alpha-0.1", "fallback")


async def test_a_level_that_shares_its_models_name_is_the_decided_one(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    engine = FakeEngine(build_served_family(tmp_path / "abacus"))
    engine.serves = [SERVED_MODEL]
    async with (
        engine.listening(),
        running(tmp_path / "abacus", redis_server.url, [engine.url], state_dir=tmp_path / "state") as gateway,
    ):
        assert (await report(gateway, await decide(gateway))).json()["checkpoint"] == "alpha-0.4"
        assert (await report(gateway, await decide(gateway, HARD))).json()["checkpoint"] == "base"


async def test_a_failure_is_reported_with_its_status(gateway: Gateway) -> None:
    nothing = {"prompt_tokens": 0, "reasoning_tokens": 0, "answer_tokens": 0, "finish_reason": ""}
    assert (await report(gateway, await decide(gateway), status=503, **nothing)).status_code == 200
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error, entry.succeeded, entry.assumed) == (503, "failed at the router", False, False)


@pytest.mark.parametrize("later", [False, True], ids=["at once", "when the ledger has it"])
async def test_the_same_outcome_again_changes_nothing(gateway: Gateway, later: bool) -> None:
    decision = await decide(gateway)
    await report(gateway, decision)
    if later:
        await gateway.entries()
    repeated = await report(gateway, decision)
    assert (repeated.status_code, repeated.json()["repeated"]) == (200, True)
    different = await report(gateway, decision, reasoning_tokens=1)
    assert (different.status_code, error(different)["code"]) == (409, "outcome_differs")
    assert error(different)["param"] == "reasoning_tokens"
    (entry,) = await gateway.entries()
    assert entry.reasoning_tokens == 18


async def test_of_outcomes_at_the_same_time_one_counts(gateway: Gateway) -> None:
    decision = await decide(gateway)
    responses = await asyncio.gather(*(report(gateway, decision, reasoning_tokens=tokens) for tokens in range(1, 9)))
    assert sorted(response.status_code for response in responses) == [200] + [409] * 7
    await asyncio.sleep(0.2)
    assert len(await gateway.entries()) == 1


async def test_only_the_key_that_asked_may_report(gateway: Gateway) -> None:
    mine, boss = await key(gateway, name="mine"), await key(gateway, name="boss", admin=True)
    decision = await decide(gateway, EASY, mine)
    refused = await report(gateway, decision, boss)
    unknown = await report(gateway, decision | {"id": "req_0"}, boss)
    assert refused.status_code == unknown.status_code == 404, "nobody learns which ids there are"
    assert error(refused)["message"].replace(decision["id"], "req_0") == error(unknown)["message"]
    assert error(refused)["param"] == "decision_id"
    assert (await report(gateway, decision)).status_code == 401
    assert (await report(gateway, decision, mine)).status_code == 200
    assert (await report(gateway, decision, boss)).status_code == 404, "nor once it is in the ledger"


async def test_a_chat_request_has_no_outcome_to_report(gateway: Gateway) -> None:
    chat = (await gateway.ask()).headers["x-request-id"]
    await gateway.entries()
    refused = await report(gateway, {"id": chat, "model": "base"})
    assert (refused.status_code, error(refused)["code"]) == (404, "decision_not_found")


async def test_a_decision_without_an_outcome_is_recorded_as_unreported(gateway: Gateway) -> None:
    decision = await decide(gateway, max_tokens=200)
    sweeper = Outcomes(gateway.services)
    assert await sweeper.sweep() == 0
    await expire(gateway)
    late = await report(gateway, decision)
    assert (late.status_code, error(late)["code"], error(late)["param"]) == (410, "decision_expired", "decision_id")
    assert [await sweeper.sweep() for _ in range(2)] == [1, 0]
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error, entry.reasoning_tokens, entry.assumed) == (0, "unreported", 200, True)
    assert error(await report(gateway, decision))["code"] == "decision_expired", "also once it is swept"
    total = (await gateway.client.get("/v1/savings")).json()["total"]
    assert (total["requests"], total["unreported"], total["failed"]) == (1, 1, 0)
    assert total["saved_tokens"] < 0
    assert await gateway.services.ledger.redis.exists(*decisions.KEYS) == 0


async def test_an_entry_that_a_killed_gateway_did_not_write_is_written_by_another(gateway: Gateway) -> None:
    decision = await decide(gateway)
    redis = gateway.services.ledger.redis
    await decisions.claim(redis, decision["id"], Outcome(model="alpha-0.4", **TOKENS, finish_reason="stop"))
    assert (await report(gateway, decision, reasoning_tokens=3)).status_code == 409
    assert (await report(gateway, decision)).json()["repeated"]
    assert await Outcomes(gateway.services).sweep() == 0, "its gateway has a minute"
    await expire(gateway)
    assert await Outcomes(gateway.services).sweep() == 1
    (entry,) = await gateway.entries()
    assert (entry.status, entry.reasoning_tokens) == (200, 18)


async def test_a_running_gateway_sweeps(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.outcomes.SWEEP_SECONDS", 0.01)
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        await decide(gateway)
        await expire(gateway)
        (entry,) = await gateway.entries()
        assert not entry.is_reported
        await until(lambda: counted(gateway) == (1, {"issued": 1, "reported": 0, "unreported": 1}))


@pytest.mark.parametrize("reported", [True, False])
async def test_metrics_count_an_outcome_once_though_redis_fails_while_it_is_closed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, reported: bool
) -> None:
    async def down(*_: object) -> None:
        raise ConnectionError

    decision, sweeper = await decide(gateway), Outcomes(gateway.services)
    with monkeypatch.context() as failing:
        failing.setattr(decisions, "close", down)
        if reported:
            assert (await report(gateway, decision)).status_code == 200
        await expire(gateway)
        with pytest.raises(ConnectionError):
            await sweeper.sweep()
    await expire(gateway)
    assert await sweeper.sweep() == 1
    assert counted(gateway) == (1, {"issued": 1, "reported": int(reported), "unreported": int(not reported)})
    assert len(await gateway.entries()) == 1


async def test_an_outcome_that_another_gateway_has_closed_is_not_counted_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = await decide(gateway)
    close = decisions.close

    async def late(redis: Any, decision_id: str) -> bool:
        await close(redis, decision_id)
        return await close(redis, decision_id)

    monkeypatch.setattr(decisions, "close", late)
    assert (await report(gateway, decision)).status_code == 200
    assert counted(gateway) == (0, {"issued": 1, "reported": 0, "unreported": 0})


async def test_what_was_spent_replaces_what_was_reserved(gateway: Gateway) -> None:
    mine = await key(gateway, name="mine", reasoning_tokens_per_day=100)
    budget = mine | {"x-reasoning-budget": "60"}
    decision = await decide(gateway, EASY, budget)
    await report(gateway, decision, mine, reasoning_tokens=25)
    body = {"model": "abacus", "messages": [{"role": "user", "content": EASY}], "router": "litellm"}
    remaining, decided = 0, 0
    while remaining < 60:  # the settlement is sent behind the response
        response = await gateway.client.post("/v1/decisions", json=body, headers=mine | {"x-reasoning-budget": "1"})
        assert response.status_code == 200, "it was not sent"
        remaining, decided = int(response.headers["x-ratelimit-remaining-tokens"]), decided + 1
    assert remaining == 100 - 25 - decided


async def test_a_turn_is_remembered_for_the_next_decision(gateway: Gateway) -> None:
    headers = {"x-conversation-id": "chat-17"}
    await report(gateway, await decide(gateway, HARD, headers))
    assert (await decide(gateway, HARD, headers))["conversation"] == "kept"


async def test_a_score_may_come_with_the_outcome(gateway: Gateway) -> None:
    decision = await decide(gateway)
    assert (await report(gateway, decision, score=0.5, source="verifier")).status_code == 200
    assert (await report(gateway, decision, score=1, source="verifier")).json()["repeated"]
    later = {"request_id": decision["id"], "score": 0, "source": "thumbs"}
    assert (await gateway.client.post("/v1/feedback", json=later)).status_code == 200
    scored = [one.scores async for one in feedback.read_requests(gateway.services.ledger.redis, 0)]
    assert scored == [{"verifier": 1.0, "thumbs": 0.0}]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decision_id", ""), ("decision_id", "req 1"), ("decision_id", None), ("model", ""), ("model", "x" * 257),
        ("status", 201), ("status", "200"), ("status", 600), ("finish_reason", "It is over."),
        ("prompt_tokens", -1), ("prompt_tokens", 1.5), ("prompt_tokens", 0), ("cached_tokens", 21),
        ("reasoning_tokens", 1025), ("reasoning_tokens", "1"), ("answer_tokens", None), ("answer_tokens", 1020),
        ("holdout", True), ("checkpoint", "base"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_named(gateway: Gateway, field: str, value: object) -> None:
    """The context of the family has 1,024 tokens. Neither the draw nor the choice can be reported."""
    decision = await decide(gateway)
    response = await report(gateway, decision, **{field: value})  # pyright: ignore[reportArgumentType]
    assert response.status_code == 400
    assert error(response)["param"] == field
    assert field in error(response)["message"]
    assert (await report(gateway, decision)).json()["repeated"] is False, "what is refused is not recorded"


@pytest.mark.parametrize(("given", "missing"), [({"score": 1}, "source"), ({"source": "thumbs"}, "score")])
async def test_a_score_needs_its_source(gateway: Gateway, given: dict[str, Any], missing: str) -> None:
    response = await report(gateway, {"id": "req_0", "model": "base"}, **given)
    assert (response.status_code, error(response)["param"]) == (400, missing)


async def test_without_redis_an_outcome_is_a_503(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(decisions, "find", down)
    response = await report(gateway, {"id": "req_0", "model": "base"})
    assert (response.status_code, error(response)["code"]) == (503, "store_unavailable")
