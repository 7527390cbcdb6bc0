"""An answer gives way to another checkpoint's where its thinking was unsure. Real sockets; the engine is scripted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.answer.cascade import EscalatingStream, SurprisalMeter
from tests.conftest import RedisServer
from tests.gateway.fakes import (
    EASY,
    ESCALATIONS,
    HARD,
    FakeEngine,
    Gateway,
    Script,
    build_family,
    die,
    event,
    forever,
    refuse,
    running,
    stream,
)

(NAME,) = ESCALATIONS


def told(delta: dict[str, Any], *tokens: tuple[str, float], finish: str | None = None) -> bytes:
    """An event with the tokens in it, as vLLM tells them."""
    content = [{"token": token, "logprob": logprob, "bytes": [1], "top_logprobs": []} for token, logprob in tokens]
    parsed = json.loads(event(delta, finish)[6:])
    parsed["choices"][0]["logprobs"] = {"content": content}
    return b"data: " + json.dumps(parsed).encode() + b"\n\n"


def usage(prompt: int, generated: int, reasoning: int) -> dict[str, Any]:
    total = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    return total | {"completion_tokens_details": {"reasoning_tokens": reasoning}}


def first(surprisal: float) -> list[bytes]:
    """Three tokens of thinking, its end, and an answer of two."""
    return [
        event({"role": "assistant", "content": ""}),
        told({"reasoning": "1 + 2"}, ("1", -0.1), (" + 2", -0.2)),
        told({"reasoning": " = 4\n"}, (" = 4\n", -surprisal + 0.4)),
        told({}, ("</think>", -0.1)),
        told({"content": "The answer"}, ("The answer", -9.0)),
        told({"content": " is 4."}, (" is 4.", -9.0), finish="stop"),
        event(usage=usage(17, 6, 3)),
        b"data: [DONE]\n\n",
    ]


SURE, UNSURE = first(1.4), first(1.6)
SECOND = [
    event({"role": "assistant", "content": ""}),
    event({"reasoning": "1 + 2 = 3, and again: 3"}),
    event({"content": "The answer is 3."}),
    event({}, "stop"),
    event(usage=usage(17, 30, 20)),
    b"data: [DONE]\n\n",
]
TOLD = [{"token": t, "logprob": p} for t, p in (("4", -0.5), ("\n", -1.0), ("</think>", -0.2), ("is 4", -7.0))]


def whole(reasoning: str, content: str, spent: dict[str, Any], logprobs: Any = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "reasoning": reasoning}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "choices": [choice], "usage": spent}


def by_model(brief: Script, thoughtful: Script) -> Script:
    async def script(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (brief if body["model"] == "abacus/alpha-0.4" else thoughtful)(request, body)

    return script


def answers(brief: dict[str, Any], thoughtful: dict[str, Any]) -> Script:
    async def script(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(brief if body["model"] == "abacus/alpha-0.4" else thoughtful)

    return script


@pytest.fixture(scope="module")
def thoughtful_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("thoughtful") / "abacus"
    build_family(directory, escalations=True)
    return directory


@pytest.fixture
async def gateway(thoughtful_dir: Path, redis_server: RedisServer, engine: FakeEngine) -> AsyncIterator[Gateway]:
    async with running(thoughtful_dir, redis_server.url, [engine.url]) as gateway:
        yield gateway


def seen(text: str) -> tuple[str, str, int, dict[str, Any] | None]:
    """Thinking, answer, how often a role is said, and the usage, of a stream."""
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    choices = [choice for one in events for choice in one["choices"]]
    assert all(choice["logprobs"] is None for choice in choices)
    deltas = [choice["delta"] for choice in choices]
    thought, said = ("".join(delta.get(name, "") for delta in deltas) for name in ("reasoning", "content"))
    spent = [one["usage"] for one in events if one.get("usage")]
    assert len(spent) <= 1
    return thought, said, sum("role" in delta for delta in deltas), spent[0] if spent else None


async def test_thinking_that_is_sure_is_answered_as_if_nobody_had_looked(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = by_model(stream(*SURE), stream(*SECOND))
    response = await gateway.ask(HARD, stream=True, stream_options={"include_usage": True})
    assert seen(response.text) == ("1 + 2 = 4\n", "The answer is 4.", 1, usage(17, 6, 3))
    assert response.text.endswith("data: [DONE]\n\n")
    assert (response.headers["x-laconic-checkpoint"], response.headers["x-laconic-escalation"]) == (
        "alpha-0.4",
        "base",
    )
    assert [(body["model"], body.get("logprobs")) for body in engine.bodies] == [("abacus/alpha-0.4", True)]
    (entry,) = await gateway.entries()
    assert (entry.checkpoint, entry.choice, entry.decision) == ("alpha-0.4", NAME, "routed")
    assert (entry.reasoning_tokens, entry.answer_tokens) == (3, 3)
    assert entry.predicted_tokens == entry.forecasts[NAME].tokens


async def test_thinking_that_is_unsure_is_thought_anew_in_the_same_stream(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = by_model(stream(*UNSURE), stream(*SECOND))
    asked = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 100, "temperature": 0.7}
    response = await gateway.ask(HARD, headers={"X-Reasoning-Budget": "90"}, **asked)
    thought, said, roles, spent = seen(response.text)
    assert thought == "1 + 2 = 4\n1 + 2 = 3, and again: 3"
    assert (said, roles) == ("The answer is 3.", 1)
    assert spent is not None
    assert spent["completion_tokens_details"] == {"reasoning_tokens": 23}
    assert spent["prompt_tokens"] == 17
    assert 34 <= spent["completion_tokens"] <= 36  # of the first answer what had come when it was given up
    assert spent["total_tokens"] == 17 + spent["completion_tokens"]
    one, other = engine.bodies
    assert (one["thinking_token_budget"], one["max_tokens"], one["logprobs"]) == (90, 100, True)
    assert (other["thinking_token_budget"], other["temperature"], other["model"]) == (87, 0.7, "abacus/base")
    assert 94 <= other["max_tokens"] <= 96
    assert "logprobs" not in other
    assert [headers["x-request-id"] for headers in engine.headers] == [response.headers["x-request-id"]] * 2
    (entry,) = await gateway.entries()
    assert (entry.checkpoint, entry.alpha, entry.choice) == ("base", None, NAME)
    assert (entry.reasoning_tokens, entry.finish_reason) == (23, "stop")


async def test_the_first_engine_need_not_finish_what_nobody_will_read(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = by_model(stream(*UNSURE[:5], then=forever), stream(*SECOND))
    response = await gateway.ask(HARD, stream=True)
    assert seen(response.text)[1] == "The answer is 3."
    await asyncio.wait_for(engine.idle.wait(), 10)


async def test_openai_s_client_puts_one_message_together(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = by_model(stream(*UNSURE), stream(*SECOND))
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
        messages: Any = [{"role": "user", "content": HARD}]
        async with client.chat.completions.stream(model="abacus", messages=messages) as events:
            completion = await events.get_final_completion()
    message = completion.choices[0].message
    assert (message.role, message.content) == ("assistant", "The answer is 3.")


async def test_a_whole_answer_that_is_sure(gateway: Gateway, engine: FakeEngine) -> None:
    sure = TOLD[1:]
    engine.script = answers(
        whole("4", "is 4", usage(17, 4, 2), {"content": sure}), whole("3", "is 3", usage(17, 30, 20))
    )
    response = await gateway.ask(HARD)
    assert response.json() == whole("4", "is 4", usage(17, 4, 2))
    assert response.headers["x-laconic-checkpoint"] == "alpha-0.4"
    assert len(engine.bodies) == 1


async def test_a_whole_answer_that_is_not(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = answers(
        whole("4\n", "is 4", usage(17, 4, 2), {"content": TOLD}), whole("3", "is 3", usage(17, 30, 20))
    )
    response = await gateway.ask(HARD, max_completion_tokens=100)
    assert response.json() == whole("4\n3", "is 3", usage(17, 34, 22))
    assert response.headers["x-laconic-checkpoint"] == "base"
    assert response.headers["x-laconic-alpha"] == "none"
    assert response.headers["x-laconic-escalation"] == "base"
    assert engine.bodies[1]["max_completion_tokens"] == 96
    (entry,) = await gateway.entries()
    assert (entry.checkpoint, entry.choice, entry.reasoning_tokens, entry.answer_tokens) == ("base", NAME, 22, 12)


@pytest.mark.parametrize("asked", [{"stream": True}, {}], ids=["stream", "whole"])
async def test_where_the_second_cannot_be_asked_the_first_one_answers(
    gateway: Gateway, engine: FakeEngine, asked: dict[str, Any]
) -> None:
    brief = whole("4\n", "is 4", usage(17, 4, 2), {"content": TOLD})
    busy = refuse(500, {"error": {"message": "out of luck"}})
    engine.script = by_model(stream(*UNSURE) if asked else answers(brief, {}), busy)
    response = await gateway.ask(HARD, **asked)
    if asked:
        assert seen(response.text)[:2] == ("1 + 2 = 4\n", "The answer is 4.")
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        assert response.json()["choices"][0]["message"]["content"] == "is 4"
    (entry,) = await gateway.entries()
    assert (entry.checkpoint, entry.status, entry.finish_reason) == ("alpha-0.4", 200, "stop")


@pytest.mark.parametrize(("asked", "budget"), [({"max_tokens": 91}, "200"), ({}, "90")], ids=["max_tokens", "budget"])
async def test_what_is_used_up_leaves_nothing_for_second_thoughts(
    gateway: Gateway, engine: FakeEngine, asked: dict[str, Any], budget: str
) -> None:
    """91 tokens, 90 of them reasoning, have come when thinking ends."""
    long = told({"reasoning": "7" * 87}, *[("7", -0.1)] * 87)
    engine.script = by_model(stream(UNSURE[0], long, *UNSURE[1:]), stream(*SECOND))
    response = await gateway.ask(HARD, headers={"X-Reasoning-Budget": budget}, stream=True, **asked)
    assert response.headers["x-laconic-escalation"] == "base"
    assert seen(response.text)[1] == "The answer is 4."
    response = await gateway.ask(HARD, headers={"X-Reasoning-Budget": "200"}, stream=True, max_tokens=200)
    assert seen(response.text)[1] == "The answer is 3."


@pytest.mark.parametrize(
    "asked",
    [{"n": 2}, {"logprobs": True}, {"stream": True, "stream_options": {"continuous_usage_stats": True}}],
    ids=["n", "logprobs", "running usage"],
)
async def test_who_wants_what_two_answers_cannot_give_gets_one(
    gateway: Gateway, engine: FakeEngine, asked: dict[str, Any]
) -> None:
    response = await gateway.ask(HARD, **asked)
    assert response.headers["x-laconic-checkpoint"] == "base"
    assert "x-laconic-escalation" not in response.headers
    assert [body.get("logprobs") for body in engine.bodies] == [asked.get("logprobs")]
    (entry,) = await gateway.entries()
    assert NAME not in entry.forecasts


async def test_there_are_none_where_the_second_checkpoint_is_away(gateway: Gateway, engine: FakeEngine) -> None:
    engine.serves = ["abacus/alpha-0.1", "abacus/alpha-0.4"]
    async with asyncio.timeout(20):
        while "base" in gateway.engines.available:
            await asyncio.sleep(0.05)
    response = await gateway.ask(HARD)
    assert response.headers["x-laconic-decision"] == "fallback"
    assert "x-laconic-escalation" not in response.headers


async def test_what_needs_none_has_none(gateway: Gateway, engine: FakeEngine) -> None:
    response = await gateway.ask(EASY)
    assert response.headers["x-laconic-checkpoint"] == "alpha-0.4"
    assert "x-laconic-escalation" not in response.headers
    assert "logprobs" not in engine.bodies[0]


async def test_a_holdout_is_the_reference_s_alone(
    thoughtful_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    async with running(thoughtful_dir, redis_server.url, [engine.url], holdout_fraction=1.0) as gateway:
        response = await gateway.ask(HARD)
        (entry,) = await gateway.entries()
    assert (response.headers["x-laconic-checkpoint"], response.headers["x-laconic-decision"]) == ("base", "holdout")
    assert "logprobs" not in engine.bodies[0]
    assert (entry.choice, entry.predicted_tokens) == (NAME, entry.forecasts["base"].tokens)


async def test_a_second_engine_that_dies_is_said_and_all_thinking_is_counted(
    gateway: Gateway, engine: FakeEngine
) -> None:
    engine.script = by_model(stream(*UNSURE), stream(*SECOND[:2], then=die))
    response = await gateway.ask(HARD, stream=True)
    assert '"error"' in response.text
    (entry,) = await gateway.entries()
    assert (entry.checkpoint, entry.error) == ("base", "engine failed mid-stream")
    assert entry.reasoning_tokens > 8  # "1 + 2 = 4\n1 + 2 = 3, and again: 3"


async def test_hidden_thinking_stays_hidden(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = by_model(stream(*UNSURE), stream(*SECOND))
    response = await gateway.ask(HARD, stream=True, include_reasoning=False)
    assert seen(response.text)[:2] == ("", "The answer is 3.")
    (entry,) = await gateway.entries()
    assert entry.reasoning_tokens == 23


async def test_a_decision_is_explained_with_them(gateway: Gateway) -> None:
    chat = {"model": "abacus", "messages": [{"role": "user", "content": HARD}]}
    said = (await gateway.client.post("/v1/route", json=chat)).json()
    assert said["checkpoint"] == "alpha-0.4"
    assert said["choice"] == NAME
    assert said["escalation"] == ESCALATIONS[NAME]
    assert said["reason"].startswith("alpha-0.4 answers, or base if alpha-0.4 is not confident enough: cheapest within")
    assert said["escalations"][NAME]["success"] == pytest.approx(0.982, abs=0.001)
    without = (await gateway.client.post("/v1/route", json={**chat, "n": 2})).json()
    assert (without["checkpoint"], without["escalation"]) == ("base", None)


class Kept:
    """An upstream from memory."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        ends = [*sorted({cut % (len(data) + 1) for cut in cuts} - {0}), len(data)]
        self._pieces = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        self.relayed, self.closed = False, False
        self.first = self._pieces.pop(0)

    async def more(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        self.closed = True


def escalated(one: Kept, other: Kept) -> str:
    """All that a caller gets."""

    async def escalate(_: SurprisalMeter) -> Any:
        return other

    async def read() -> bytes:
        found: Any = EscalatingStream(one, end="</think>", surprisal=1.5, escalate=escalate)  # pyright: ignore[reportArgumentType]
        data = found.first or await found.more()
        pieces: list[bytes] = []
        while data:
            pieces.append(data)
            data = await found.more()
        return b"".join(pieces)

    return asyncio.run(read()).decode()


@given(st.sampled_from([SURE, UNSURE]), st.lists(st.integers(0, 5000)), st.lists(st.integers(0, 5000)))
def test_it_does_not_matter_how_the_bytes_are_cut(events: list[bytes], cuts: list[int], others: list[int]) -> None:
    one = Kept(b"".join(events), cuts)
    thought, said, roles, spent = seen(escalated(one, Kept(b"".join(SECOND), others)))
    unsure = events is UNSURE
    assert one.closed == unsure
    assert thought == ("1 + 2 = 4\n1 + 2 = 3, and again: 3" if unsure else "1 + 2 = 4\n")
    assert (said, roles) == ("The answer is 3." if unsure else "The answer is 4.", 1)
    assert spent is not None
    assert spent["completion_tokens_details"]["reasoning_tokens"] == (23 if unsure else 3)


@pytest.mark.parametrize(("surprisal", "answer"), [(1.3, "The answer is 4."), (1.5, "The answer is 3.")])
def test_an_event_may_hold_the_end_of_thinking_and_the_answer_s_beginning(surprisal: float, answer: str) -> None:
    both = told({"reasoning": "= 4", "content": "The "}, ("= 4", -surprisal), ("</think>", -0.1), ("The ", -9.0))
    rest = told({"content": "answer is 4."}, ("answer is 4.", -9.0), finish="stop")
    thought, said, _, _ = seen(escalated(Kept(both + rest, []), Kept(b"".join(SECOND), [])))
    assert thought == ("= 4" if answer == "The answer is 4." else "= 41 + 2 = 3, and again: 3")
    assert said == answer


def tokens(*pairs: tuple[str, float | None]) -> list[dict[str, Any]]:
    return [{"token": token, "logprob": logprob} for token, logprob in pairs]


def test_surprisal_is_of_thinking_and_its_end() -> None:
    thinking = SurprisalMeter("</think>")
    thinking.add(tokens(("a", -0.5), ("b", -1.0)), has_answer=False)
    assert not thinking.ended
    thinking.add(tokens(("c", -0.25), ("</think>", -0.125), ("x", -5.0)), has_answer=True)
    thinking.add(tokens(("y", -5.0)), has_answer=True)
    assert thinking.ended
    assert (thinking.surprisal, thinking.reasoning_tokens, thinking.tokens) == (1.875, 3, 6)


def test_an_engine_without_the_end_in_its_tokens_ends_with_the_first_word_of_the_answer() -> None:
    thinking = SurprisalMeter("</think>")
    thinking.add(tokens(("a", -0.5)), has_answer=False)
    thinking.add(tokens(("x", -5.0)), has_answer=True)
    assert (thinking.surprisal, thinking.reasoning_tokens, thinking.ended) == (0.5, 1, True)


def test_an_engine_that_tells_nothing_is_sure() -> None:
    thinking = SurprisalMeter("</think>")
    thinking.add([], has_answer=False)
    thinking.add(tokens(("a", None)), has_answer=False)
    thinking.add([{"token": "</think>"}], has_answer=False)
    assert (thinking.surprisal, thinking.ended) == (0.0, True)
