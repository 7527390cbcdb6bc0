"""The path of a request, over real sockets: gateway, Redis, and an engine whose wire is scripted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web

from models.profile import Profile
from tests.conftest import RedisServer
from tests.gateway.fakes import (
    COMPLETION,
    EASY,
    EVENTS,
    HARD,
    UNFAMILIAR,
    FakeEngine,
    Gateway,
    answer,
    die,
    error,
    respond_with,
    running,
    stream,
)


async def test_a_non_streaming_response_has_routing_headers_and_a_ledger_entry(
    gateway: Gateway, engine: FakeEngine
) -> None:
    response = await gateway.ask(EASY, headers={"X-Reasoning-Budget": "50"}, temperature=0.5)
    assert response.status_code == 200
    assert response.json() == COMPLETION
    headers = response.headers
    assert headers["x-laconic-checkpoint"] == "alpha-0.4"
    assert headers["x-laconic-alpha"] == "0.4"
    assert headers["x-laconic-budget"] == "50"
    assert headers["x-laconic-decision"] == "routed"
    assert 0 <= float(headers["x-laconic-difficulty"]) <= 1
    assert engine.headers[0]["x-request-id"] == headers["x-request-id"]

    (entry,) = await gateway.entries()
    assert entry.id == headers["x-request-id"]
    assert (entry.checkpoint, entry.alpha, entry.decision, entry.budget) == ("alpha-0.4", 0.4, "routed", 50)
    assert (entry.prompt_tokens, entry.reasoning_tokens, entry.answer_tokens) == (17, 4, 5)
    assert (entry.status, entry.finish_reason, entry.error, entry.key) == (200, "stop", "", "")
    assert entry.reference_tokens == pytest.approx(50, abs=0.5)
    assert entry.predicted_tokens is not None
    assert entry.predicted_tokens < 25
    assert entry.first_token_seconds is None
    assert entry.total_seconds > 0


async def test_easy_hard_and_unfamiliar_prompts_are_routed_differently(gateway: Gateway) -> None:
    chosen = [(await gateway.ask(prompt)).headers for prompt in (EASY, HARD, UNFAMILIAR)]
    assert [h["x-laconic-checkpoint"] for h in chosen] == ["alpha-0.4", "base", "base"]
    assert [h["x-laconic-decision"] for h in chosen] == ["routed", "routed", "abstained"]
    assert [h["x-laconic-alpha"] for h in chosen] == ["0.4", "none", "none"]
    assert "x-laconic-difficulty" not in chosen[2]
    assert (await gateway.entries(3))[2].reference_tokens is None


async def test_naming_a_checkpoint_pins_it(gateway: Gateway, engine: FakeEngine) -> None:
    for name in ("base", "alpha-0.1", "alpha-0.4"):
        response = await gateway.ask(EASY, model=f"abacus/{name}")
        assert response.headers["x-laconic-decision"] == "pinned"
        assert response.headers["x-laconic-checkpoint"] == name
        assert engine.bodies[-1]["model"] == f"abacus/{name}"


async def test_the_debug_header_adds_reason_and_predictions(gateway: Gateway) -> None:
    assert "x-laconic-predictions" not in (await gateway.ask()).headers
    headers = (await gateway.ask(headers={"x-laconic-debug": "true"})).headers
    predictions = json.loads(headers["x-laconic-predictions"])
    assert set(predictions) == {"base", "alpha-0.1", "alpha-0.4"}
    assert predictions["base"]["tokens"] == pytest.approx(100, rel=0.1)
    assert "cheapest" in headers["x-laconic-reason"]


async def test_holdouts_go_to_the_reference_checkpoint(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    async with running(family_dir, redis_server.url, [engine.url], holdout_fraction=1.0) as gateway:
        response = await gateway.ask(EASY)
        assert response.headers["x-laconic-decision"] == "holdout"
        assert response.headers["x-laconic-checkpoint"] == "base"
        # A request that the rule did not route is never a holdout.
        assert (await gateway.ask(UNFAMILIAR)).headers["x-laconic-decision"] == "abstained"
        assert (await gateway.ask(EASY, model="abacus/alpha-0.1")).headers["x-laconic-decision"] == "pinned"


async def test_the_holdout_draw_does_not_depend_on_failing_engines(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    """The reference fails; drawn requests fall back but stay recorded as holdouts."""
    broken = respond_with(500, {"error": {"message": "out of memory", "code": 500}})

    async def reference_fails(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (broken if body["model"] == "abacus/base" else answer)(request, body)

    engine.script = reference_fails
    async with running(family_dir, redis_server.url, [engine.url], holdout_fraction=0.5) as gateway:
        for _ in range(20):
            assert (await gateway.ask(EASY)).status_code == 200
        entries = await gateway.entries(20)
    assert {entry.holdout_fraction for entry in entries} <= {0.5, 0.0}
    holdouts = [entry for entry in entries if entry.holdout]
    assert holdouts, "of 20 draws at 0.5 some are holdouts"
    assert {(entry.decision, entry.choice) for entry in holdouts} == {("fallback", "alpha-0.4")}


async def test_parameters_pass_unchanged_and_budgets_become_one_cap(gateway: Gateway, engine: FakeEngine) -> None:
    untouched: dict[str, Any] = {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto",
        "logprobs": True,
        "top_logprobs": 3,
        "n": 2,
        "stop": ["x", "→"],
        "seed": 7,
        "response_format": {"type": "json_object"},
        "temperature": 0.1,
        "metadata": {"deep": [None, 1.5]},
        "chat_template_kwargs": {"style": "terse"},
    }
    await gateway.ask(**untouched, reasoning={"effort": "low"}, thinking=None, reasoning_effort="high")
    messages = [{"role": "user", "content": EASY}]
    assert engine.bodies[0] == {
        **untouched,
        "model": "abacus/alpha-0.4",
        "messages": messages,
        "thinking_token_budget": 60,
    }
    # The request asks for two choices, so twice the tokens are expected.
    assert (await gateway.entries())[0].reference_tokens == pytest.approx(120, abs=1)


async def test_the_completion_limit_caps_the_reference_tokens_too(gateway: Gateway) -> None:
    await gateway.ask(max_tokens=30)
    (entry,) = await gateway.entries()
    assert (entry.budget, entry.reference_tokens) == (None, pytest.approx(30))


async def test_max_effort_means_no_cap(gateway: Gateway, engine: FakeEngine) -> None:
    response = await gateway.ask(reasoning_effort="max")
    assert response.headers["x-laconic-budget"] == "unlimited"
    assert "thinking_token_budget" not in engine.bodies[0]
    assert (await gateway.entries())[0].budget is None


async def test_a_budget_of_zero_also_disables_thinking_in_the_template(gateway: Gateway, engine: FakeEngine) -> None:
    await gateway.ask(headers={"X-Reasoning-Budget": "none"})
    assert engine.bodies[0]["thinking_token_budget"] == 0
    assert engine.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}
    kwargs = {"enable_thinking": True, "style": "x"}
    await gateway.ask(headers={"X-Reasoning-Budget": "none"}, chat_template_kwargs=kwargs)
    assert engine.bodies[1]["chat_template_kwargs"] == {"enable_thinking": False, "style": "x"}


async def test_a_header_overrides_a_body_that_disables_thinking(gateway: Gateway, engine: FakeEngine) -> None:
    no_thinking = {"enable_thinking": False, "style": "x"}
    response = await gateway.ask(headers={"X-Reasoning-Budget": "200"}, chat_template_kwargs=no_thinking)
    assert response.headers["x-laconic-budget"] == "200"
    assert engine.bodies[0]["thinking_token_budget"] == 200
    assert engine.bodies[0]["chat_template_kwargs"] == {"style": "x"}
    await gateway.ask(chat_template_kwargs=no_thinking)
    assert engine.bodies[1]["chat_template_kwargs"] == no_thinking
    assert engine.bodies[1]["thinking_token_budget"] == 0


async def test_hidden_reasoning_of_a_non_streaming_response_is_counted(gateway: Gateway, engine: FakeEngine) -> None:
    without_usage = {name: value for name, value in COMPLETION.items() if name != "usage"}
    engine.script = respond_with(200, without_usage)
    response = await gateway.ask(include_reasoning=False)
    assert engine.bodies[0]["include_reasoning"] is True
    message = response.json()["choices"][0]["message"]
    assert ("reasoning" in message, message["content"]) == (False, "The answer is 3.")
    assert response.json()["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


async def test_the_operators_default_budget_applies_without_a_budget(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    async with running(family_dir, redis_server.url, [engine.url], default_budget="low") as gateway:
        assert (await gateway.ask()).headers["x-laconic-budget"] == "60"
        assert (await gateway.ask(reasoning_effort="max")).headers["x-laconic-budget"] == "unlimited"


async def test_the_reject_policy_names_the_smallest_feasible_budget(gateway: Gateway, engine: FakeEngine) -> None:
    policy = {"X-Reasoning-Budget-Policy": "reject"}
    refused = await gateway.ask(HARD, headers={**policy, "X-Reasoning-Budget": "40"})
    assert refused.status_code == 400
    content = error(refused)
    assert (content["code"], content["param"]) == ("budget_infeasible", "X-Reasoning-Budget")
    smallest = int("".join(c for c in content["message"].split("is ")[-1] if c.isdigit()))
    assert not engine.bodies
    assert (await gateway.ask(HARD, headers={**policy, "X-Reasoning-Budget": str(smallest)})).status_code == 200
    assert (await gateway.ask(HARD, headers={**policy, "X-Reasoning-Budget": str(smallest - 1)})).status_code == 400
    assert (await gateway.ask(HARD, headers=policy)).status_code == 200
    assert (await gateway.ask(UNFAMILIAR, headers={**policy, "X-Reasoning-Budget": "1"})).status_code == 200


@pytest.mark.parametrize(("budget", "cap"), [("100", 84), ("5000", 84), ("84", 84), ("50", 50)])
async def test_a_budget_at_or_above_max_tokens_leaves_room_for_the_answer(
    gateway: Gateway, engine: FakeEngine, budget: str, cap: int
) -> None:
    response = await gateway.ask(headers={"X-Reasoning-Budget": budget}, max_tokens=100)
    assert response.headers["x-laconic-budget"] == str(cap)
    assert (engine.bodies[0]["thinking_token_budget"], engine.bodies[0]["max_tokens"]) == (cap, 100)
    (entry,) = await gateway.entries()
    assert entry.budget == cap


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("budget", [{}, {"X-Reasoning-Budget": "5000"}], ids=["no budget", "a large budget"])
async def test_the_reject_policy_refuses_a_max_tokens_that_leaves_no_room_for_an_answer(
    gateway: Gateway, engine: FakeEngine, budget: dict[str, str], field: str
) -> None:
    headers = {"X-Reasoning-Budget-Policy": "reject", **budget}
    refused = error(await gateway.ask(HARD, headers=headers, **{field: 40}))
    assert (refused["code"], refused["param"]) == ("budget_infeasible", field)
    smallest = int("".join(c for c in refused["message"].split("is ")[-1] if c.isdigit()))
    assert not engine.bodies
    assert (await gateway.ask(HARD, headers=headers, **{field: smallest})).status_code == 200
    assert (await gateway.ask(HARD, headers=headers, **{field: smallest - 1})).status_code == 400
    assert (await gateway.ask(HARD, headers=budget, **{field: 40})).status_code == 200


async def test_the_official_client_reads_streams_and_errors(gateway: Gateway, engine: FakeEngine) -> None:
    client = openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
    async with client:
        messages: list[Any] = [{"role": "user", "content": EASY}]
        completed = await client.chat.completions.create(model="abacus", messages=messages)
        assert completed.choices[0].message.content == "The answer is 3."
        assert completed.usage is not None
        assert completed.usage.completion_tokens_details is not None
        assert completed.usage.completion_tokens_details.reasoning_tokens == 4

        chunks = await client.chat.completions.create(model="abacus", messages=messages, stream=True)
        content = [c.choices[0].delta.content or "" async for c in chunks if c.choices]
        assert "".join(content) == "The answer is 3 → ok."

        with pytest.raises(openai.NotFoundError) as missing:
            await client.chat.completions.create(model="nobody", messages=messages)
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as malformed:
            await client.chat.completions.create(
                model="abacus", messages=messages, extra_headers={"X-Reasoning-Budget": "1.5"}
            )
        assert malformed.value.param == "X-Reasoning-Budget"

        engine.script = stream(*EVENTS[:3], then=die)
        with pytest.raises(openai.APIError, match="middle of the stream"):
            async for _ in await client.chat.completions.create(model="abacus", messages=messages, stream=True):
                pass


async def test_neither_prompts_nor_answers_are_logged(
    gateway: Gateway, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for streamed in (False, True):
        await gateway.ask("What is easy 4711 + 2?", stream=streamed)
    engine.script = respond_with(500, {"error": {"message": "What is easy 4711 + 2? has no template"}})
    await gateway.ask("What is easy 4711 + 2?")
    await gateway.entries(3)
    logged = "\n".join(
        f"{record.getMessage()} {vars(record)}"
        for record in caplog.records
        if not record.name.startswith(("httpcore", "httpx"))
    )
    assert "routed" in logged
    # Not the number alone: a record's time of day may hold those digits.
    assert "4711 + 2" not in logged
    assert "The answer" not in logged


async def test_no_difficulty_is_shown_or_recorded_if_all_prompts_are_equally_difficult_to_the_profile(
    gateway: Gateway,
) -> None:
    fitted = gateway.services.profile.stored
    assert "x-laconic-difficulty" in (await gateway.ask(EASY)).headers
    gateway.services.profiles.current = Profile(fitted.model_copy(update={"difficulties": [0.25] * 101}))
    response = await gateway.ask(EASY)
    assert response.headers["x-laconic-decision"] == "routed"
    assert "x-laconic-difficulty" not in response.headers
    chat = {"model": "abacus", "messages": [{"role": "user", "content": EASY}]}
    for path, more in (("/v1/route", {}), ("/v1/decisions", {"router": "litellm"})):
        shown = (await gateway.client.post(path, json={**chat, **more})).json()
        assert (shown["decision"], shown["difficulty"]) == ("routed", None)
    ranked, alike = await gateway.entries(2)
    assert (ranked.difficulty is None, alike.difficulty is None) == (False, True)


async def test_the_ledger_says_why_the_profile_abstained(gateway: Gateway) -> None:
    picture = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]
    await gateway.ask(UNFAMILIAR)
    await gateway.ask(messages=picture)
    await gateway.ask(UNFAMILIAR, model="abacus/base")
    assert [entry.abstention for entry in await gateway.entries(3)] == ["unfamiliar", "unreadable", "none"]


async def test_an_answer_that_cannot_be_translated_is_a_failure_in_the_ledger_too(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("gateway.surfaces.messages_out.message", broken)
    body = {"model": "abacus", "max_tokens": 50, "messages": [{"role": "user", "content": EASY}]}
    assert (await gateway.client.post("/v1/messages", json=body)).status_code == 500
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error) == (500, "KeyError")
