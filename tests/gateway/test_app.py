from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import openai
import pytest

from gateway.release import VERSION
from models import family as families
from models.family import FamilyError
from models.files import sha256
from tests.conftest import RedisServer
from tests.gateway.fakes import EASY, HARD, UNFAMILIAR, FakeEngine, Gateway, error, running


async def test_what_monitoring_and_other_servers_callers_ask_first(gateway: Gateway) -> None:
    for path in ("/health", "/ping", "/health/live"):
        assert (await gateway.client.get(path)).json() == {"status": "live"}
    assert (await gateway.client.get("/version")).json() == {"version": VERSION}
    listed = await gateway.client.get("/v1/models")
    assert (await gateway.client.get("/v1/models/")).json() == listed.json()


async def test_models_lists_the_family_then_every_checkpoint_with_its_measurements(gateway: Gateway) -> None:
    listed = (await gateway.client.get("/v1/models")).json()["data"]
    assert [m["id"] for m in listed] == ["abacus", "abacus/base", "abacus/alpha-0.1", "abacus/alpha-0.4"]
    assert [m["alpha"] for m in listed[1:]] == [None, 0.1, 0.4]
    assert listed[3]["accuracy"] == {"mean": 0.9, "low": 0.88, "high": 0.92}
    assert listed[3]["reasoning_tokens"]["mean"] == 40
    for model in listed:
        assert (await gateway.client.get(f"/v1/models/{model['id']}")).json() == model
    missing = await gateway.client.get("/v1/models/abacus/alpha-0.3")
    assert missing.status_code == 404
    assert error(missing)["code"] == "model_not_found"


async def test_the_official_client_lists_and_retrieves_models(gateway: Gateway) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
        names = [model.id async for model in client.models.list()]
        assert names[:2] == ["abacus", "abacus/base"]
        assert (await client.models.retrieve("abacus")).object == "model"


async def test_the_gateway_is_ready_only_while_every_checkpoint_is_served(gateway: Gateway, engine: FakeEngine) -> None:
    assert (await gateway.client.get("/health/live")).status_code == 200
    ready = await gateway.client.get("/health/ready")
    assert (ready.status_code, ready.json()["missing_checkpoints"]) == (200, [])
    engine.serves.remove("abacus/alpha-0.1")
    await gateway.probe()
    waiting = await gateway.client.get("/health/ready")
    assert (waiting.status_code, waiting.json()["missing_checkpoints"]) == (503, ["alpha-0.1"])
    assert (await gateway.client.get("/health/live")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/embeddings", 404),
    ],
)
async def test_unknown_paths_and_methods_have_the_same_error_shape(
    gateway: Gateway, method: str, path: str, status: int
) -> None:
    response = await gateway.client.request(method, path)
    assert response.status_code == status
    error(response)


async def test_a_bug_is_a_500_in_the_same_error_shape(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.routing.rule.decide", lambda *_, **__: 1 / 0)
    response = await gateway.ask(EASY)
    assert response.status_code == 500
    assert error(response)["code"] == "internal_error"
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error, entry.decision) == (500, "ZeroDivisionError", "none")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_every_error_of_anthropic_s_api_has_its_shape(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Also those that are raised before the request is read, and bugs."""

    async def kind(status: int, method: str = "POST", **request: Any) -> str:
        response = await gateway.client.request(method, path, **request)
        assert response.status_code == status
        assert response.json()["type"] == "error"
        return response.json()["error"]["type"]

    assert await kind(405, "GET") == "invalid_request_error"
    assert await kind(415, content=b"{}") == "invalid_request_error"
    assert await kind(403, json={}, headers={"origin": "https://evil.example"}) == "permission_error"
    monkeypatch.setattr("gateway.intake.read", lambda *_: 1 / 0)
    assert await kind(500, json={}) == "api_error"


async def test_every_request_gets_a_new_id_whatever_the_caller_sends(gateway: Gateway) -> None:
    headers = {"x-request-id": "mine"}
    ids = {(await gateway.client.get("/health/live", headers=headers)).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3
    assert "mine" not in ids


async def test_a_decision_is_explained_without_running_it(gateway: Gateway, engine: FakeEngine) -> None:
    async def explained(prompt: str, headers: dict[str, str] | None = None, **body: Any) -> dict[str, Any]:
        chat = {"model": "abacus", "messages": [{"role": "user", "content": prompt}], **body}
        response = await gateway.client.post("/v1/route", json=chat, headers=headers)
        assert response.status_code == 200
        return response.json()

    easy = await explained(EASY, {"X-Reasoning-Budget": "50"})
    assert (easy["checkpoint"], easy["alpha"], easy["decision"]) == ("alpha-0.4", 0.4, "routed")
    assert easy["budget"] == {
        "tokens": 50, "source": "X-Reasoning-Budget", "policy": "cap", "feasible": True, "smallest_feasible": None,
        "refused": False,
    }  # fmt: skip
    assert list(easy["checkpoints"]) == ["base", "alpha-0.1", "alpha-0.4"]
    base = easy["checkpoints"]["base"]
    assert base["tokens"] == pytest.approx(50, abs=0.5)
    assert base["success"] < base["correct"]
    assert base["quantiles"]["p50"] == pytest.approx(100, abs=2)
    assert easy["expected_saving"] == pytest.approx(
        base["tokens"] - easy["checkpoints"]["alpha-0.4"]["tokens"], abs=0.1
    )

    tight = {"X-Reasoning-Budget": "3", "X-Reasoning-Budget-Policy": "reject"}
    refused = (await explained(EASY, tight))["budget"]
    assert (refused["feasible"], refused["refused"]) == (False, True)
    pinned = await gateway.ask(EASY, headers=tight, model="abacus/base")
    assert error(pinned)["message"].startswith("base is not predicted to answer within 3 reasoning tokens")
    chat = await gateway.ask(EASY, headers=tight)
    assert str(refused["smallest_feasible"]) in error(chat)["message"]
    capped = await explained(EASY, max_tokens=19, reasoning_effort="high")  # which leaves 3 beside the answer
    assert (capped["budget"]["source"], capped["budget"]["tokens"]) == ("reasoning_effort", 3)
    assert capped["budget"]["feasible"] is False
    assert capped["checkpoints"]["base"]["tokens"] == 3
    assert (await explained(HARD, model="abacus/alpha-0.1"))["decision"] == "pinned"
    strange = await explained(UNFAMILIAR)
    assert (strange["decision"], strange["expected_saving"], strange["budget"]["feasible"]) == ("abstained", None, None)
    assert engine.bodies == []


async def test_explaining_an_invalid_request_is_a_400(gateway: Gateway) -> None:
    for body, param in (({}, "model"), ({"model": "abacus", "messages": [], "x": 1}, "messages")):
        response = await gateway.client.post("/v1/route", json=body)
        assert response.status_code == 400
        assert error(response)["param"] == param


async def test_savings_over_a_window(gateway: Gateway) -> None:
    for prompt in (EASY, EASY, UNFAMILIAR):
        await gateway.ask(prompt)
    await gateway.entries(3)
    while (all_ := (await gateway.client.get("/v1/savings")).json())["total"]["requests"] < 3:
        await asyncio.sleep(0.01)
    assert (all_["by"], all_["since"], all_["total"]["measured"]) == ("checkpoint", 0, None)
    assert all_["groups"]["alpha-0.4"]["estimated"] == 2
    assert all_["groups"]["base"]["estimated"] == 0
    assert (all_["drift"]["requests"], all_["drift"]["abstained"], all_["drift"]["signs"]) == (2, 1, [])
    assert [day["requests"] for day in all_["drift"]["days"].values()] == [2]
    by_day = (await gateway.client.get("/v1/savings?since=24h&by=day&price=2")).json()
    assert by_day["total"]["saved_money"] == pytest.approx(by_day["total"]["saved_tokens"] * 2 / 1e6)
    assert by_day["since"] % 3600 == 0
    assert by_day["since"] > all_["since"]


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("since=24", "since"),
        ("since=", "since"),
        ("by=moon", "by"),
        ("price=-1", "price"),
        ("price=nan", "price"),
        ("price=1e308", "price"),
        ("till=1h", "till"),
    ],
)
async def test_an_invalid_savings_query_is_a_400_that_names_the_parameter(
    gateway: Gateway, query: str, param: str
) -> None:
    response = await gateway.client.get(f"/v1/savings?{query}")
    assert response.status_code == 400
    assert error(response)["param"] == param
    assert param in error(response)["message"]


async def test_savings_without_redis_are_a_503(family_dir: Path, mortal_redis: RedisServer, engine: FakeEngine) -> None:
    async with running(family_dir, mortal_redis.url, [engine.url], state_dir=mortal_redis.directory) as gateway:
        response = await gateway.client.get("/v1/savings")
    assert response.status_code == 503
    assert "Redis" in error(response)["message"]


async def test_the_gateway_keeps_serving_without_redis(
    family_dir: Path, mortal_redis: RedisServer, engine: FakeEngine
) -> None:
    mortal_redis.start()
    async with running(family_dir, mortal_redis.url, [engine.url], state_dir=mortal_redis.directory) as gateway:
        mortal_redis.kill()
        for _ in range(5):
            assert (await gateway.ask()).status_code == 200
        mortal_redis.start()
        assert len(await gateway.entries(5)) == 5


async def test_a_profile_of_other_checkpoints_prevents_the_start(
    family_dir: Path, redis_server: RedisServer, tmp_path: Path, engine: FakeEngine
) -> None:
    other = tmp_path / "abacus"
    shutil.copytree(family_dir, other)
    profile = other / "profile.json"
    profile.write_text(profile.read_text().replace('"alpha-0.4"', '"alpha-0.3"'))
    family = families.load(family_dir)
    files = {**family.files, "profile.json": sha256(profile)}
    families.save(family.model_copy(update={"files": files}), other)
    with pytest.raises(FamilyError, match=r"alpha-0.3 is either in the profile or in the family"):
        async with running(other, redis_server.url, [engine.url]):
            pass


async def test_an_unreadable_tokenizer_prevents_the_start(
    family_dir: Path, redis_server: RedisServer, tmp_path: Path, engine: FakeEngine
) -> None:
    broken = tmp_path / "abacus"
    shutil.copytree(family_dir, broken)
    tokenizer = broken / "base" / "tokenizer.json"
    tokenizer.write_text("{}")
    family = families.load(family_dir)
    files = {**family.checkpoint("base").files, "base/tokenizer.json": sha256(tokenizer)}
    base = family.checkpoint("base").model_copy(update={"files": files})
    families.save(family.model_copy(update={"checkpoints": (base, *family.checkpoints[1:])}), broken)
    with pytest.raises(FamilyError):
        async with running(broken, redis_server.url, [engine.url]):
            pass
