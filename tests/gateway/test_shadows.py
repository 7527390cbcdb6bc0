"""Does the reference answer behind the caller's back, blind to the judge, bounded, and without keeping text?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from gateway.ledger import shadows
from gateway.ledger.shadows import Shadow
from tests.conftest import RedisServer
from tests.gateway.fakes import COMPLETION, EASY, EVENTS, HARD, FakeEngine, Gateway, running, stream, until


def completion(text: str) -> dict[str, Any]:
    choice = {**COMPLETION["choices"][0], "message": {"role": "assistant", "content": text, "reasoning": "1 + 2 = 3"}}
    return {**COMPLETION, "choices": [choice]}


class Script:
    """The checkpoints answer 3, the reference what `reference` says, once `open` is set; the judge prefers its text."""

    def __init__(self, engine: FakeEngine, reference: str = "The answer is 3.", prefers: str = "") -> None:
        self.reference, self.prefers, self.open = reference, prefers, asyncio.Event()
        self.open.set()
        self.prompts: list[str] = []
        engine.script = self

    async def __call__(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if body["model"] == "judge":
            prompt = body["messages"][0]["content"]
            self.prompts.append(prompt)
            first = prompt.partition("<answer_1>")[2].partition("</answer_1>")[0]
            return web.json_response(completion("FIRST" if self.prefers in first else "SECOND"))
        if body["model"] == "abacus/base":
            await self.open.wait()
            return web.json_response(completion(self.reference))
        if body.get("stream"):
            return await stream(*EVENTS)(request, body)
        return web.json_response(completion("The answer is 3."))


@asynccontextmanager
async def shadowing(
    family_dir: Path, redis: RedisServer, engine: FakeEngine, tmp_path: Path, **more: Any
) -> AsyncIterator[Gateway]:
    settings = {"shadow_fraction": 1.0, "state_dir": tmp_path, **more}
    async with running(family_dir, redis.url, [engine.url], **settings) as gateway:
        yield gateway


async def compared(gateway: Gateway, count: int = 1) -> list[Shadow]:
    async with asyncio.timeout(60):
        while len(found := await shadows.read(gateway.services.ledger.redis, 0)) < count:
            await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("streams", [False, True])
async def test_the_caller_does_not_wait_for_the_reference(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, streams: bool
) -> None:
    script = Script(engine, reference="The answer is 3 → ok." if streams else "The answer is 3.")
    script.open.clear()
    async with shadowing(family_dir, redis_server, engine, tmp_path) as gateway:
        assert (await gateway.ask(stream=streams)).status_code == 200
        await until(lambda: len(engine.bodies) == 2)
        assert "stream" not in engine.bodies[1]
        script.open.set()
        (found,) = await compared(gateway)
        assert (found.choice, found.agrees, found.verdict) == ("alpha-0.4", True, None)
        assert (found.routed_tokens, found.reference_tokens, found.judge_tokens) == (9, 9, 0)
        assert (found.reference_usage, found.judge_usage) == ((17, 0, 4, 5), (0, 0, 0, 0)), "what a price is of"
        assert len(await gateway.entries()) == 1, "a comparison is no request"
        figures = (await gateway.client.get("/v1/savings")).json()["shadows"]
        assert (figures["compared"], figures["agreed"], figures["reference_tokens"]) == (1, 1, 9)
        metrics = (await gateway.client.get("/metrics")).text
        assert 'laconic_shadows_total{outcome="agreed"} 1.0' in metrics
        assert 'laconic_shadow_tokens_total{by="reference"} 9.0' in metrics


async def test_nothing_of_the_texts_is_stored(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    Script(engine, reference="The answer is secret-17.")
    async with shadowing(family_dir, redis_server, engine, tmp_path) as gateway:
        await gateway.ask()
        assert [one.agrees for one in await compared(gateway)] == [False]
    stored = json.dumps(redis_server.client.xrange(shadows.STREAM))
    assert "secret" not in stored
    assert "easy" not in stored


@pytest.mark.parametrize("preference", [("The answer is 3.", 1), ("The answer is 4.", -1)])
async def test_a_judge_prefers_an_answer_wherever_it_stands(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, preference: tuple[str, int]
) -> None:
    prefers, expected = preference
    script = Script(engine, reference="The answer is 4.", prefers=prefers)
    async with shadowing(family_dir, redis_server, engine, tmp_path, judge="judge") as gateway:
        for count in range(1, 13):
            await gateway.ask()
            await compared(gateway, count)
        found = await compared(gateway, 12)
    assert {(one.agrees, one.verdict, one.judge_tokens) for one in found} == {(False, expected, 9)}
    orders = {prompt.index("answer is 3") < prompt.index("answer is 4") for prompt in script.prompts}
    assert orders == {True, False}, "the order is random"


async def test_answers_that_agree_need_no_judge(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    script = Script(engine)
    async with shadowing(family_dir, redis_server, engine, tmp_path, judge="judge") as gateway:
        await gateway.ask()
        assert [one.verdict for one in await compared(gateway)] == [0]
    assert script.prompts == []


def ending(script: Script, reasons: dict[str, str]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """The script, but some models' answers are empty and end for a reason: those of `routed`, or of `reference`."""

    async def scripted(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        role = {"judge": "judge", "abacus/base": "reference"}.get(body["model"], "routed")
        if role not in reasons:
            return await script(request, body)
        whole = completion("")
        whole["choices"][0]["finish_reason"] = reasons[role]
        return web.json_response(whole)

    return scripted


@pytest.mark.parametrize(
    "case", [("routed", "judge", -1), ("reference", "judge", 1), ("routed", None, None), ("reference", None, None)]
)
async def test_an_answer_that_was_cut_off_while_thinking_is_worse_than_one_that_was_not(
    family_dir: Path,
    redis_server: RedisServer,
    engine: FakeEngine,
    tmp_path: Path,
    case: tuple[str, str | None, int | None],
) -> None:
    (cut_off, judge, verdict), script = case, Script(engine)
    engine.script = ending(script, {cut_off: "length"})
    async with shadowing(family_dir, redis_server, engine, tmp_path, judge=judge) as gateway:
        await gateway.ask()
        (found,) = await compared(gateway)
        assert 'laconic_shadows_total{outcome="differed"} 1.0' in (await gateway.client.get("/metrics")).text
    assert (found.agrees, found.verdict) == (False, verdict)
    assert script.prompts == [], "no judge is needed to see that"


@pytest.mark.parametrize("reasons", [{"routed": "length", "reference": "length"}, {"reference": "error"}])
async def test_pairs_without_any_answer_or_with_a_reference_that_gave_up_are_left_out(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, reasons: dict[str, str]
) -> None:
    engine.script = ending(Script(engine), reasons)
    async with shadowing(family_dir, redis_server, engine, tmp_path, judge="judge") as gateway:
        await gateway.ask()
        (found,) = await compared(gateway)
        assert (found.agrees, found.verdict) == (None, None)
        assert found.reference_tokens == 9, "what it cost is recorded"
        assert 'laconic_shadows_total{outcome="failed"} 1.0' in (await gateway.client.get("/metrics")).text


async def test_an_answer_that_an_engine_gave_up_is_not_compared(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    """That is the engine's failure, and says nothing about the choice."""
    engine.script = ending(Script(engine), {"routed": "error"})
    async with shadowing(family_dir, redis_server, engine, tmp_path) as gateway:
        await gateway.ask()
        assert "laconic_shadows_total{" not in (await gateway.client.get("/metrics")).text


async def test_more_than_may_run_are_skipped(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    script = Script(engine)
    script.open.clear()
    async with shadowing(family_dir, redis_server, engine, tmp_path, shadow_concurrency=1) as gateway:
        for _ in range(3):
            assert (await gateway.ask()).status_code == 200
        assert 'laconic_shadows_total{outcome="skipped"} 2.0' in (await gateway.client.get("/metrics")).text
        script.open.set()
        assert len(await compared(gateway)) == 1


async def test_under_load_nothing_is_compared(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    Script(engine)
    async with shadowing(family_dir, redis_server, engine, tmp_path, max_concurrency=1) as gateway:
        await gateway.ask()
        assert 'laconic_shadows_total{outcome="skipped"} 1.0' in (await gateway.client.get("/metrics")).text


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": HARD}, {"model": "abacus/alpha-0.4"}, {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
)  # fmt: skip
async def test_requests_without_another_answer_to_compare_are_left_alone(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path, asked: dict[str, Any]
) -> None:
    """The reference answered itself, the caller chose, there are several answers, or a tool might be called."""
    async with shadowing(family_dir, redis_server, engine, tmp_path) as gateway:
        assert (await gateway.ask(**asked)).status_code == 200
        assert "laconic_shadows_total{" not in (await gateway.client.get("/metrics")).text
        assert len(engine.bodies) == 1


async def test_a_reference_that_fails_is_counted_and_harms_nobody(
    family_dir: Path, redis_server: RedisServer, engine: FakeEngine, tmp_path: Path
) -> None:
    async def script(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        fails = body["model"] == "abacus/base"
        return web.json_response({"error": {"message": "no"}} if fails else COMPLETION, status=400 if fails else 200)

    engine.script = script
    async with shadowing(family_dir, redis_server, engine, tmp_path) as gateway:
        assert (await gateway.ask()).status_code == 200
        assert [one.agrees for one in await compared(gateway)] == [None]
        assert 'laconic_shadows_total{outcome="failed"} 1.0' in (await gateway.client.get("/metrics")).text


async def test_by_default_nothing_is_compared(gateway: Gateway, engine: FakeEngine) -> None:
    await gateway.ask(EASY)
    await gateway.entries()
    assert len(engine.bodies) == 1
