"""What a conversation's turns get, over real sockets: gateway, Redis, and engines whose wire is scripted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from models.prediction import Prediction
from models.profile import Profile
from tests.conftest import RedisServer
from tests.gateway.fakes import (
    COMPLETION,
    EASY,
    HARD,
    UNFAMILIAR,
    USAGE,
    FakeEngine,
    Gateway,
    respond_with,
    running,
    until,
)

NAMED = {"x-conversation-id": "c1"}
KEPT = "x-laconic-conversation"


def said(*texts: str) -> list[dict[str, Any]]:
    """Messages: what a user says, with an answer to all but the last."""
    messages: list[dict[str, Any]] = []
    for text in texts:
        messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "3"}]
    return messages[:-1]


def cached(prompt: int, of_them: Any) -> dict[str, Any]:
    """A response whose prompt is partly from the engine's cache."""
    usage = {**USAGE, "prompt_tokens": prompt, "total_tokens": prompt + 9}
    return {**COMPLETION, "usage": {**usage, "prompt_tokens_details": {"cached_tokens": of_them}}}


async def test_a_follow_up_keeps_the_checkpoint_that_its_conversation_moved_up_to(
    gateway: Gateway, engine: FakeEngine
) -> None:
    """By itself, the easy turn goes to the cheapest checkpoint; 900 cached tokens are worth more than it saves."""
    engine.script = respond_with(200, cached(900, 0))
    first = await gateway.ask(HARD, headers=NAMED)
    assert (first.headers["x-laconic-checkpoint"], first.headers[KEPT]) == ("base", "begun")
    engine.script = respond_with(200, cached(910, 896))
    second = await gateway.ask(EASY, headers={**NAMED, "x-laconic-debug": "true"})
    assert (second.headers["x-laconic-checkpoint"], second.headers[KEPT]) == ("base", "kept")
    assert second.headers["x-laconic-reason"].startswith("kept: alpha-0.4 would save")
    other = await gateway.ask(EASY, headers={"x-conversation-id": "c2"})
    assert (other.headers["x-laconic-checkpoint"], other.headers[KEPT]) == ("alpha-0.4", "begun")
    entries = await gateway.entries(3)
    assert [(one.conversation, one.cached_tokens) for one in entries] == [("begun", 0), ("kept", 896), ("begun", 896)]


async def test_without_an_id_a_conversation_is_known_by_its_beginning(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = respond_with(200, cached(900, 0))
    assert (await gateway.ask(messages=said(HARD))).headers[KEPT] == "begun"
    follow_up = await gateway.ask(messages=said(HARD, UNFAMILIAR, EASY, EASY))
    assert (follow_up.headers["x-laconic-checkpoint"], follow_up.headers[KEPT]) == ("base", "kept")
    assert (await gateway.ask(messages=said(HARD))).headers[KEPT] == "begun", "a first turn has none before it"


async def test_a_conversation_moves_down_when_its_cache_is_worth_little(gateway: Gateway, engine: FakeEngine) -> None:
    assert (await gateway.ask(HARD, headers=NAMED)).headers["x-laconic-checkpoint"] == "base"
    second = await gateway.ask(EASY, headers=NAMED)
    assert (second.headers["x-laconic-checkpoint"], second.headers[KEPT]) == ("alpha-0.4", "moved_down")
    third = await gateway.ask(HARD, headers=NAMED)
    assert (third.headers["x-laconic-checkpoint"], third.headers[KEPT]) == ("base", "moved_up")


async def test_an_engine_that_caches_nothing_gives_no_reason_to_stay(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = respond_with(200, cached(900, 0))
    moves = [(await gateway.ask(prompt, headers=NAMED)).headers[KEPT] for prompt in (HARD, EASY, EASY)]
    assert moves == ["begun", "kept", "moved_down"]


async def test_a_follow_up_is_read_alone_and_with_what_it_is_about_and_the_harder_counts(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    predict = Profile.predict

    def reading(profile: Profile, prompt: str) -> Prediction:
        """The profile, to which two turns together are as hard as `HARD`."""
        read.append(prompt)
        return predict(profile, HARD if "\n" in prompt else prompt)

    monkeypatch.setattr(Profile, "predict", reading)
    assert (await gateway.ask(EASY)).headers["x-laconic-checkpoint"] == "alpha-0.4"
    assert read == [EASY], "a single turn is read once"
    assert (await gateway.ask(messages=said("Hello", EASY))).headers["x-laconic-checkpoint"] == "base"
    assert read[1:] == [EASY, f"Hello\n{EASY}"]


@pytest.mark.parametrize("never", ["holdout", "pinned", "failed"])
async def test_what_the_rule_did_not_choose_or_nobody_answered_leaves_no_trace(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, never: str
) -> None:
    fraction = 1.0 if never == "holdout" else 0.0
    async with running(
        family_dir, redis_server.url, [engine.url], state_dir=tmp_path, holdout_fraction=fraction
    ) as gateway:
        engine.script = respond_with(200, cached(900, 0))
        if never == "failed":
            engine.script = respond_with(500, {"error": {"message": "boom"}})
        model = "abacus/base" if never == "pinned" else "abacus"
        await gateway.ask(EASY, headers=NAMED, model=model)
    async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        engine.script = respond_with(200, cached(900, 0))
        after = await gateway.ask(EASY, headers=NAMED)
        assert (after.headers["x-laconic-checkpoint"], after.headers[KEPT]) == ("alpha-0.4", "begun")


async def test_another_gateway_knows_the_conversation(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.script = respond_with(200, cached(900, 0))
    for name, move in (("one", "begun"), ("two", "kept")):
        async with running(family_dir, redis_server.url, [engine.url], state_dir=tmp_path / name) as gateway:
            assert (await gateway.ask(HARD, headers=NAMED)).headers[KEPT] == move


async def test_conversations_can_be_turned_off(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    settings = {"conversations": False, "state_dir": tmp_path}
    async with running(family_dir, redis_server.url, [engine.url], **settings) as gateway:
        engine.script = respond_with(200, cached(900, 0))
        for prompt, checkpoint in ((HARD, "base"), (EASY, "alpha-0.4")):
            response = await gateway.ask(prompt, headers={"x-conversation-id": "x" * 300})
            assert response.headers["x-laconic-checkpoint"] == checkpoint
            assert KEPT not in response.headers
        assert not redis_server.client.keys("*conversations*")


async def test_without_redis_turns_are_routed_by_themselves(
    family_dir: Path, mortal_redis: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    mortal_redis.start()
    async with running(family_dir, mortal_redis.url, [engine.url], state_dir=tmp_path) as gateway:
        mortal_redis.kill()
        for prompt, checkpoint in ((HARD, "base"), (EASY, "alpha-0.4")):
            response = await gateway.ask(messages=said(prompt, prompt))
            assert (response.status_code, response.headers["x-laconic-checkpoint"]) == (200, checkpoint)
        mortal_redis.start()


async def test_a_malformed_id_is_an_error_that_names_the_header(gateway: Gateway) -> None:
    response = await gateway.ask(EASY, headers={"x-conversation-id": "x" * 300})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "x-conversation-id")


@pytest.mark.parametrize("figure", [-1, 901, 1.5, True, "12", None, [1], 2**60])
async def test_cached_tokens_that_cannot_be_are_not_recorded(gateway: Gateway, engine: FakeEngine, figure: Any) -> None:
    engine.script = respond_with(200, cached(900, figure))
    assert (await gateway.ask(EASY)).status_code == 200
    (entry,) = await gateway.entries()
    assert (entry.prompt_tokens, entry.cached_tokens) == (900, None)


async def test_an_explanation_tells_the_conversation_and_changes_nothing(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = respond_with(200, cached(900, 0))
    await gateway.ask(HARD, headers=NAMED)
    body = {"model": "abacus", "messages": said(EASY, EASY)}
    for _ in range(2):
        explained = (await gateway.client.post("/v1/route", json=body, headers=NAMED)).json()
        assert explained["checkpoint"] == "base"
        assert explained["conversation"] == {
            "turns": 2, "tool_results": 0, "read_with": 1, "last_checkpoint": "base", "move": "kept",
        }  # fmt: skip


async def test_no_text_is_kept(gateway: Gateway, redis_server: RedisServer, engine: FakeEngine) -> None:
    async def echo(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(COMPLETION)

    engine.script = echo
    await gateway.ask(messages=said(HARD, EASY), headers={"x-session-id": "session-17"})
    await until(lambda: bool(redis_server.client.keys("*conversations*")))
    keys = redis_server.client.keys("*conversations*")
    stored = [f"{key} {redis_server.client.get(key)}" for key in keys]
    assert stored
    assert not any(text in "".join(stored) for text in ("easy", "hard", "session-17"))
