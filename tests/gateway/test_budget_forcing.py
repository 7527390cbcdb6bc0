"""Budget forcing over real sockets. The engine is scripted, so that it can refuse, start over, hang and die."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from aiohttp import web

from models import family as families
from tests.conftest import RedisServer
from tests.gateway.access.test_access import create_key
from tests.gateway.fakes import (
    EASY,
    HARD,
    FakeEngine,
    Gateway,
    Script,
    build_family,
    die,
    error,
    event,
    forever,
    respond_with,
    running,
    stream,
    until,
)

BUDGET = 12
HEADERS = {"x-reasoning-budget": str(BUDGET)}
THOUGHT = [f" {n} + 2" for n in range(30)]
ANSWER = "The answer is 3."
DONE = b"data: [DONE]\n\n"
FIRST = [
    event({"role": "assistant", "content": ""}),
    *(event({"reasoning": piece}) for piece in THOUGHT),
    event({"content": "never read"}),
    event({}, "stop"),
    DONE,
]
USAGE = {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47}
SECOND = [
    event({"role": "assistant", "content": ""}),
    event({"reasoning": ANSWER}),
    event({}, "stop"),
    event(usage=USAGE),
    DONE,
]


def is_second(body: dict[str, Any]) -> bool:
    return bool(body.get("continue_final_message"))


def scripts(begin: Script, further: Script) -> Script:
    async def script(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert body["stream"]
        return await (further if is_second(body) else begin)(request, body)

    return script


def forced(directory: Path, **more: Any) -> Path:
    """The test family on engines without a cap."""
    build_family(directory, escalations=True)
    family = families.load(directory)
    checkpoints = tuple(one.model_copy(update={"cap": "forced", **more}) for one in family.checkpoints)
    families.save(family.model_copy(update={"checkpoints": checkpoints}), directory)
    return directory


@pytest.fixture(scope="module")
def forced_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return forced(tmp_path_factory.mktemp("forced") / "abacus")


@pytest.fixture
async def gateway(
    forced_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> AsyncIterator[Gateway]:
    engine.script = scripts(stream(*FIRST), stream(*SECOND))
    async with running(forced_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
        yield gateway


def read(response: httpx.Response) -> dict[str, Any]:
    """Reasoning, content, finish reason and usage of a response, streamed or not."""
    if response.headers["content-type"] == "application/json":
        body = response.json()
        (choice,) = body["choices"]
        message = choice["message"]
        text = {"reasoning": message.get("reasoning") or "", "content": message["content"] or ""}
        return text | {"finish": choice["finish_reason"], "usage": body["usage"]}
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    choices = [choice for one in events for choice in one["choices"]]
    text = {name: "".join(choice["delta"].get(name) or "" for choice in choices) for name in ("reasoning", "content")}
    usage = next((one["usage"] for one in events if one.get("usage")), None)
    finish = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return text | {"finish": finish[0] if finish else None, "usage": usage}


async def test_models_say_that_the_gateway_ends_the_thinking(gateway: Gateway) -> None:
    listed = (await gateway.client.get("/v1/models/abacus/base")).json()
    assert listed["abilities"]["thinking_capped_by"] == "gateway"


async def ask(gateway: Gateway, *, streamed: bool, **more: Any) -> httpx.Response:
    options = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    return await gateway.ask(**{"model": "abacus/base", "headers": HEADERS, **options, **more})


both = pytest.mark.parametrize("streamed", [True, False])


@both
async def test_the_thinking_ends_at_the_budget_and_the_answer_follows(
    gateway: Gateway, engine: FakeEngine, streamed: bool
) -> None:
    response = await ask(gateway, streamed=streamed)
    got = read(response)
    count = gateway.services.counter.count
    assert count(got["reasoning"]) == BUDGET
    assert (got["content"], got["finish"]) == (ANSWER, "stop")
    assert got["usage"] == {
        "prompt_tokens": 40 - BUDGET - 1,
        "completion_tokens": BUDGET + 7,
        "total_tokens": 40 + 7 - 1,
        "completion_tokens_details": {"reasoning_tokens": BUDGET},
        "budget_hit": True,
    }
    assert response.headers["x-laconic-budget"] == str(BUDGET)
    assert response.headers.get("x-laconic-budget-hit") == (None if streamed else "true")
    begin, further = engine.bodies
    assert "continue_final_message" not in begin
    assert further["messages"][-1] == {"role": "assistant", "content": f"<think>{got['reasoning']}</think>"}
    (entry,) = await gateway.entries()
    assert (entry.reasoning_tokens, entry.answer_tokens, entry.counting) == (BUDGET, 7, "counted")
    assert not entry.over_cap
    metrics = gateway.services.metrics.exposition().decode()
    assert f'laconic_forced_budgets_total{{engine="{engine.url}"}} 1.0' in metrics
    async with asyncio.timeout(10):
        await engine.idle.wait()


@both
async def test_thinking_within_its_budget_takes_one_request(
    gateway: Gateway, engine: FakeEngine, streamed: bool
) -> None:
    response = await ask(gateway, streamed=streamed, headers={"x-reasoning-budget": "500"})
    assert read(response)["content"] == "never read"
    assert "budget_hit" not in read(response)["usage"]
    assert len(engine.bodies) == 1


@both
async def test_an_openai_client_reads_it(gateway: Gateway, streamed: bool) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as sdk:
        chat: dict[str, Any] = {"model": "abacus/base", "messages": [{"role": "user", "content": EASY}]}
        chat |= {"extra_headers": HEADERS, "stream": streamed}
        answer: Any = await sdk.chat.completions.create(**chat)
        if streamed:
            content = "".join([event.choices[0].delta.content or "" async for event in answer])
        else:
            content = answer.choices[0].message.content
            assert answer.usage.budget_hit
    assert content == ANSWER


async def test_what_a_checkpoint_that_failed_was_cut_at_is_not_said_of_the_one_that_answers(
    tmp_path: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    directory = tmp_path / "abacus"
    family = build_family(directory)
    brief = tuple(one.model_copy(update={"cap": "forced"} if one.alpha else {}) for one in family.checkpoints)
    families.save(family.model_copy(update={"checkpoints": brief}), directory)
    usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 2}}
    choice = {"index": 0, "message": {"reasoning": "1 + 2", "content": "3"}, "finish_reason": "stop"}
    whole = respond_with(200, {"choices": [choice], "usage": usage})

    async def script(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] == "abacus/base":
            return await whole(request, body)
        if is_second(body):
            await die(request)
        return await stream(*FIRST)(request, body)

    engine.script = script
    async with running(directory, redis_server.url, [engine.url], state_dir=tmp_path / "state") as gateway:
        response = await ask(gateway, streamed=False, model="abacus")
        assert (response.headers["x-laconic-checkpoint"], read(response)["content"]) == ("base", "3")
        assert read(response)["usage"] == usage
        assert "x-laconic-budget-hit" not in response.headers
        (entry,) = await gateway.entries()
        assert (entry.counting, entry.over_cap) == ("reported", False)
        assert "laconic_forced_budgets_total{" not in gateway.services.metrics.exposition().decode()


@both
@pytest.mark.parametrize("status", [400, 422])
async def test_an_engine_that_refuses_to_continue_is_named_and_not_asked_again(
    gateway: Gateway, engine: FakeEngine, streamed: bool, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = respond_with(status, {"error": {"message": "continue_final_message is unknown", "code": status}})
    engine.script = scripts(stream(*FIRST), refusal)
    for _ in range(2):
        got = read(await ask(gateway, streamed=streamed))
        assert (got["content"], got["finish"]) == ("", "length")
        assert gateway.services.counter.count(got["reasoning"]) == BUDGET
    assert [is_second(body) for body in engine.bodies] == [False, True, False]
    assert caplog.text.count("does not continue a message") == 1
    metrics = gateway.services.metrics.exposition().decode()
    assert f'laconic_engine_not_continued_total{{engine="{engine.url}"}} 1.0' in metrics
    entries = await gateway.entries(2)
    assert [(entry.status, entry.answered, entry.finish_reason) for entry in entries] == [(200, False, "length")] * 2


@both
async def test_an_engine_that_starts_over_is_stopped(gateway: Gateway, engine: FakeEngine, streamed: bool) -> None:
    again = [event({"content": piece}) for piece in ("<think>", *THOUGHT)]
    engine.script = scripts(stream(*FIRST), stream(*again, then=forever))
    got = read(await ask(gateway, streamed=streamed))
    assert (got["content"], got["finish"]) == ("", "length")
    async with asyncio.timeout(10):
        await engine.idle.wait()


@both
async def test_an_engine_that_dies_between_the_two_requests_is_an_error_in_the_ledger(
    gateway: Gateway, engine: FakeEngine, streamed: bool
) -> None:
    async def dead(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        await die(request)
        return web.Response()

    engine.script = scripts(stream(*FIRST), dead)
    response = await ask(gateway, streamed=streamed)
    if streamed:
        assert '"error"' in response.text
        assert not response.text.endswith("[DONE]\n\n")
    else:
        assert response.status_code >= 502
    (entry,) = await gateway.entries()
    assert entry.status >= 502


async def test_the_caller_may_leave_in_either_part(gateway: Gateway, engine: FakeEngine) -> None:
    parts = [
        scripts(stream(*FIRST[:3], then=forever), stream(*SECOND)),
        scripts(stream(*FIRST), stream(*SECOND[:2], then=forever)),
    ]
    for number, script in enumerate(parts):
        engine.script = script
        body = {"model": "abacus/base", "messages": [{"role": "user", "content": EASY}], "stream": True}
        async with gateway.client.stream("POST", "/v1/chat/completions", json=body, headers=HEADERS) as response:
            wanted = ANSWER if number else THOUGHT[1]
            async for line in response.aiter_lines():
                if wanted in line:
                    break
        async with asyncio.timeout(10):
            await engine.idle.wait()
        entries = await gateway.entries(number + 1)
        assert [entry.status for entry in entries] == [499] * (number + 1)
        assert max(entry.reasoning_tokens for entry in entries) <= BUDGET
    assert gateway.engines.in_flight == {engine.url: 0}


async def test_tool_calls_are_never_cut_off(gateway: Gateway, engine: FakeEngine) -> None:
    call = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "add", "arguments": ""}}
    rest = {"index": 0, "function": {"arguments": json.dumps({"numbers": list(range(90))})}}
    calls = [event({"tool_calls": [call]}), event({"tool_calls": [rest]}), event({}, "tool_calls"), DONE]
    engine.script = scripts(stream(*FIRST), stream(SECOND[0], *calls))
    tools = [{"type": "function", "function": {"name": "add"}}]
    response = await ask(gateway, streamed=False, tools=tools)
    (choice,) = response.json()["choices"]
    (made,) = choice["message"]["tool_calls"]
    assert json.loads(made["function"]["arguments"]) == {"numbers": list(range(90))}
    assert choice["finish_reason"] == "tool_calls"
    refused = await ask(gateway, streamed=False, tools=tools, n=2)
    assert (refused.status_code, error(refused)["param"]) == (400, "n")
    assert "tool call" in error(refused)["message"]


async def test_several_choices_are_as_long_as_their_cap(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = respond_with(200, {"choices": [{"index": n, "message": {"content": "3"}} for n in (0, 1)]})
    assert (await ask(gateway, streamed=False, n=2)).status_code == 200
    assert engine.bodies[-1]["max_tokens"] == BUDGET


@both
async def test_max_completion_tokens_stop_and_log_probabilities_hold_for_both_parts(
    gateway: Gateway, engine: FakeEngine, streamed: bool
) -> None:
    fields = {"max_completion_tokens": 100, "stop": ["END"], "logprobs": True, "seed": 3}
    assert (await ask(gateway, streamed=streamed, **fields)).status_code == 200
    begin, further = engine.bodies
    assert begin["max_completion_tokens"] == 100
    assert further["max_completion_tokens"] == 100 - BUDGET - 1
    assert [body[name] for body in (begin, further) for name in ("stop", "logprobs", "seed")] == [["END"], True, 3] * 2


@both
async def test_hidden_reasoning_is_hidden_in_both_parts(gateway: Gateway, streamed: bool) -> None:
    response = await ask(gateway, streamed=streamed, include_reasoning=False)
    got = read(response)
    assert (got["reasoning"], got["content"]) == ("", ANSWER)
    assert THOUGHT[1] not in response.text
    assert got["usage"]["completion_tokens_details"]["reasoning_tokens"] == BUDGET


async def test_a_key_pays_what_was_thought_and_the_rest_is_given_back(gateway: Gateway) -> None:
    key = await create_key(gateway, reasoning_tokens_per_day=1000)
    for streamed in (False, True):
        assert (await ask(gateway, streamed=streamed, headers={**HEADERS, **key})).status_code == 200
    await until(lambda: gateway.limiter.reserved == 0)
    last = await ask(gateway, streamed=False, headers={**HEADERS, **key})
    assert last.headers["x-ratelimit-remaining-tokens"] == str(1000 - 3 * BUDGET)


@both
async def test_an_escalation_from_a_forced_checkpoint_keeps_one_message(
    gateway: Gateway, engine: FakeEngine, streamed: bool
) -> None:
    """Its thinking ends within the budget; the second checkpoint's is cut at what is left of it."""
    logprobs = {"content": [{"token": " 1 + 2", "logprob": -3.0, "bytes": None, "top_logprobs": []}]}
    begin = json.loads(event({"reasoning": " 1 + 2"})[6:])
    begin["choices"][0]["logprobs"] = logprobs
    end = {"content": [{"token": "</think>", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
    ended = json.loads(event({"content": "4"})[6:])
    ended["choices"][0]["logprobs"] = end
    brief = [FIRST[0], *(b"data: " + json.dumps(one).encode() + b"\n\n" for one in (begin, ended)), *FIRST[-2:]]

    async def script(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] == "abacus/alpha-0.4":
            return await stream(*brief)(request, body)
        return await stream(*(SECOND if is_second(body) else FIRST))(request, body)

    engine.script = script
    got = read(await ask(gateway, streamed=streamed, model="abacus", prompt=HARD))
    assert [body["model"] for body in engine.bodies] == ["abacus/alpha-0.4", "abacus/base", "abacus/base"]
    assert got["content"] == ANSWER
    assert got["usage"]["completion_tokens_details"]["reasoning_tokens"] <= BUDGET
    (entry,) = await gateway.entries()
    assert (entry.checkpoint, entry.over_cap) == ("base", False)


async def test_room_for_the_answer_is_left_whatever_the_budget_says(
    tmp_path: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    directory = forced(tmp_path / "abacus", answer_tokens=30, cap="thinking_token_budget")
    async with running(directory, redis_server.url, [engine.url], state_dir=tmp_path / "state") as gateway:
        for budget, max_tokens, cap in (("max", 100, 70), ("90", 100, 70), ("20", 100, 20), ("max", None, None)):
            limit: dict[str, Any] = {} if max_tokens is None else {"max_tokens": max_tokens}
            response = await gateway.ask(model="abacus/base", headers={"x-reasoning-budget": budget}, **limit)
            assert response.headers["x-laconic-budget"] == ("unlimited" if cap is None else str(cap))
            assert engine.bodies[-1].get("thinking_token_budget") == cap


@both
async def test_a_gateway_that_stops_in_the_answer_releases_the_engine_and_settles_once(
    forced_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, streamed: bool
) -> None:
    engine.script = scripts(stream(*FIRST), stream(*SECOND[:2], then=forever))
    async with httpx.AsyncClient(timeout=20) as client:
        async with running(forced_dir, redis_server.url, [engine.url], state_dir=tmp_path) as gateway:
            body = {"model": "abacus/base", "messages": [{"role": "user", "content": EASY}], "stream": streamed}
            url = f"{gateway.url}/v1/chat/completions"
            asked = asyncio.create_task(client.post(url, json=body, headers=HEADERS))
            await until(lambda: len(engine.bodies) == 2)
            await asyncio.sleep(0.2)
        response = await asked
    assert "gateway_stopping" in response.text
    await until(lambda: not engine.running)
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error) == (503, "gateway stopped")
