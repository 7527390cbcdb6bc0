"""Escalations over real sockets: a response is taken over by another checkpoint's. The engine is scripted."""

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
    respond_with,
    running,
    stream,
)

(NAME,) = ESCALATIONS


def with_logprobs(delta: dict[str, Any], *tokens: tuple[str, float], finish: str | None = None) -> bytes:
    """An event with its tokens' log probabilities, as vLLM writes them."""
    content = [{"token": token, "logprob": logprob, "bytes": [1], "top_logprobs": []} for token, logprob in tokens]
    parsed = json.loads(event(delta, finish)[6:])
    parsed["choices"][0]["logprobs"] = {"content": content}
    return b"data: " + json.dumps(parsed, separators=(",", ":")).encode() + b"\n\n"


def usage(prompt: int, generated: int, reasoning: int) -> dict[str, Any]:
    total = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
    return total | {"completion_tokens_details": {"reasoning_tokens": reasoning}}


def first(surprisal: float) -> list[bytes]:
    """Three tokens of thinking, its end, and an answer of two."""
    return [
        event({"role": "assistant", "content": ""}),
        with_logprobs({"reasoning": "1 + 2"}, ("1", -0.1), (" + 2", -0.2)),
        with_logprobs({"reasoning": " = 4\n"}, (" = 4\n", -surprisal + 0.4)),
        with_logprobs({}, ("</think>", -0.1)),
        with_logprobs({"content": "The answer"}, ("The answer", -9.0)),
        with_logprobs({"content": " is 4."}, (" is 4.", -9.0), finish="stop"),
        event(usage=usage(17, 6, 3)),
        b"data: [DONE]\n\n",
    ]


CONFIDENT, UNCONFIDENT = first(1.4), first(1.6)
SECOND = [
    event({"role": "assistant", "content": ""}),
    event({"reasoning": "1 + 2 = 3, and again: 3"}),
    event({"content": "The answer is 3."}),
    event({}, "stop"),
    event(usage=usage(17, 30, 20)),
    b"data: [DONE]\n\n",
]
LOGPROBS = [{"token": t, "logprob": p} for t, p in (("4", -0.5), ("\n", -1.0), ("</think>", -0.2), ("is 4", -7.0))]


def response_of(reasoning: str, content: str, tokens: dict[str, Any], logprobs: Any = None) -> dict[str, Any]:
    message = {"role": "assistant", "content": content, "reasoning": reasoning}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "choices": [choice], "usage": tokens}


def script_by_model(brief: Script, careful: Script) -> Script:
    async def script(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return await (brief if body["model"] == "abacus/alpha-0.4" else careful)(request, body)

    return script


def respond_by_model(brief: dict[str, Any], careful: dict[str, Any]) -> Script:
    async def script(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response(brief if body["model"] == "abacus/alpha-0.4" else careful)

    return script


@pytest.fixture(scope="module")
def escalating_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("escalating") / "abacus"
    build_family(directory, escalations=True)
    return directory


@pytest.fixture
async def gateway(escalating_dir: Path, redis_server: RedisServer, engine: FakeEngine) -> AsyncIterator[Gateway]:
    async with running(escalating_dir, redis_server.url, [engine.url]) as gateway:
        yield gateway


def parse_stream(text: str) -> tuple[str, str, int, dict[str, Any] | None]:
    """Thinking, answer, how often a role is set, and the usage, of a stream."""
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    choices = [choice for one in events for choice in one["choices"]]
    assert all(choice["logprobs"] is None for choice in choices)
    deltas = [choice["delta"] for choice in choices]
    reasoning, content = ("".join(delta.get(name, "") for delta in deltas) for name in ("reasoning", "content"))
    usage_event = [one["usage"] for one in events if one.get("usage")]
    assert len(usage_event) <= 1
    return reasoning, content, sum("role" in delta for delta in deltas), usage_event[0] if usage_event else None


async def test_a_confident_stream_is_relayed_without_log_probabilities(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = script_by_model(stream(*CONFIDENT), stream(*SECOND))
    response = await gateway.ask(HARD, stream=True, stream_options={"include_usage": True})
    assert parse_stream(response.text) == ("1 + 2 = 4\n", "The answer is 4.", 1, usage(17, 6, 3))
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


async def test_an_unconfident_stream_escalates_in_the_same_stream(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = script_by_model(stream(*UNCONFIDENT), stream(*SECOND))
    parameters = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 100, "temperature": 0.7}
    response = await gateway.ask(HARD, headers={"X-Reasoning-Budget": "80"}, **parameters)
    reasoning, content, roles, usage_event = parse_stream(response.text)
    assert reasoning == "1 + 2 = 4\n1 + 2 = 3, and again: 3"
    assert (content, roles) == ("The answer is 3.", 1)
    assert usage_event is not None
    assert usage_event["completion_tokens_details"] == {"reasoning_tokens": 23}
    assert usage_event["prompt_tokens"] == 17
    assert 34 <= usage_event["completion_tokens"] <= 36  # plus what had come of the first answer when it was cancelled
    assert usage_event["total_tokens"] == 17 + usage_event["completion_tokens"]
    one, other = engine.bodies
    assert (one["thinking_token_budget"], one["max_tokens"], one["logprobs"]) == (80, 100, True)
    assert (other["thinking_token_budget"], other["temperature"], other["model"]) == (77, 0.7, "abacus/base")
    assert 94 <= other["max_tokens"] <= 96
    assert "logprobs" not in other
    assert [headers["x-request-id"] for headers in engine.headers] == [response.headers["x-request-id"]] * 2
    (entry,) = await gateway.entries()
    assert (entry.checkpoint, entry.alpha, entry.choice) == ("base", None, NAME)
    assert (entry.reasoning_tokens, entry.finish_reason) == (23, "stop")


async def test_an_escalation_cancels_the_first_engine(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = script_by_model(stream(*UNCONFIDENT[:5], then=forever), stream(*SECOND))
    response = await gateway.ask(HARD, stream=True)
    assert parse_stream(response.text)[1] == "The answer is 3."
    await asyncio.wait_for(engine.idle.wait(), 10)


async def test_the_openai_client_assembles_one_message_from_an_escalated_stream(
    gateway: Gateway, engine: FakeEngine
) -> None:
    engine.script = script_by_model(stream(*UNCONFIDENT), stream(*SECOND))
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
        messages: Any = [{"role": "user", "content": HARD}]
        async with client.chat.completions.stream(model="abacus", messages=messages) as events:
            completion = await events.get_final_completion()
    message = completion.choices[0].message
    assert (message.role, message.content) == ("assistant", "The answer is 3.")


async def test_a_confident_non_streaming_response_is_returned(gateway: Gateway, engine: FakeEngine) -> None:
    confident = LOGPROBS[1:]
    engine.script = respond_by_model(
        response_of("4", "is 4", usage(17, 4, 2), {"content": confident}), response_of("3", "is 3", usage(17, 30, 20))
    )
    response = await gateway.ask(HARD)
    assert response.json() == response_of("4", "is 4", usage(17, 4, 2))
    assert response.headers["x-laconic-checkpoint"] == "alpha-0.4"
    assert len(engine.bodies) == 1


async def test_an_unconfident_non_streaming_response_escalates(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = respond_by_model(
        response_of("4\n", "is 4", usage(17, 4, 2), {"content": LOGPROBS}), response_of("3", "is 3", usage(17, 30, 20))
    )
    response = await gateway.ask(HARD, max_completion_tokens=100)
    assert response.json() == response_of("4\n3", "is 3", usage(17, 34, 22))
    assert response.headers["x-laconic-checkpoint"] == "base"
    assert response.headers["x-laconic-alpha"] == "none"
    assert response.headers["x-laconic-escalation"] == "base"
    assert engine.bodies[1]["max_completion_tokens"] == 96
    (entry,) = await gateway.entries()
    assert (entry.checkpoint, entry.choice, entry.reasoning_tokens, entry.answer_tokens) == ("base", NAME, 22, 12)


@pytest.mark.parametrize("parameters", [{"stream": True}, {}], ids=["streaming", "non-streaming"])
async def test_the_first_checkpoint_answers_if_the_second_one_fails(
    gateway: Gateway, engine: FakeEngine, parameters: dict[str, Any]
) -> None:
    brief = response_of("4\n", "is 4", usage(17, 4, 2), {"content": LOGPROBS})
    busy = respond_with(500, {"error": {"message": "out of luck"}})
    engine.script = script_by_model(stream(*UNCONFIDENT) if parameters else respond_by_model(brief, {}), busy)
    response = await gateway.ask(HARD, **parameters)
    if parameters:
        assert parse_stream(response.text)[:2] == ("1 + 2 = 4\n", "The answer is 4.")
        assert response.text.endswith("data: [DONE]\n\n")
    else:
        assert response.json()["choices"][0]["message"]["content"] == "is 4"
    (entry,) = await gateway.entries()
    assert (entry.checkpoint, entry.status, entry.finish_reason) == ("alpha-0.4", 200, "stop")


@pytest.mark.parametrize(
    ("parameters", "budget"), [({"max_tokens": 91}, "200"), ({}, "90")], ids=["max_tokens", "budget"]
)
async def test_there_is_no_escalation_without_tokens_left(
    gateway: Gateway, engine: FakeEngine, parameters: dict[str, Any], budget: str
) -> None:
    """91 tokens, 90 of them reasoning, have come when thinking ends."""
    long = with_logprobs({"reasoning": "7" * 87}, *[("7", -0.1)] * 87)
    engine.script = script_by_model(stream(UNCONFIDENT[0], long, *UNCONFIDENT[1:]), stream(*SECOND))
    response = await gateway.ask(HARD, headers={"X-Reasoning-Budget": budget}, stream=True, **parameters)
    assert response.headers["x-laconic-escalation"] == "base"
    assert parse_stream(response.text)[1] == "The answer is 4."
    response = await gateway.ask(HARD, headers={"X-Reasoning-Budget": "200"}, stream=True, max_tokens=200)
    assert parse_stream(response.text)[1] == "The answer is 3."


@pytest.mark.parametrize(
    "parameters",
    [{"n": 2}, {"logprobs": True}, {"stream": True, "stream_options": {"continuous_usage_stats": True}}],
    ids=["n", "logprobs", "running usage"],
)
async def test_requests_that_two_responses_cannot_serve_are_not_escalated(
    gateway: Gateway, engine: FakeEngine, parameters: dict[str, Any]
) -> None:
    response = await gateway.ask(HARD, **parameters)
    assert response.headers["x-laconic-checkpoint"] == "base"
    assert "x-laconic-escalation" not in response.headers
    assert [body.get("logprobs") for body in engine.bodies] == [parameters.get("logprobs")]
    (entry,) = await gateway.entries()
    assert NAME not in entry.forecasts


async def test_there_is_no_escalation_without_an_engine_for_the_second_checkpoint(
    gateway: Gateway, engine: FakeEngine
) -> None:
    engine.serves = ["abacus/alpha-0.1", "abacus/alpha-0.4"]
    async with asyncio.timeout(20):
        while "base" in gateway.engines.available:
            await asyncio.sleep(0.05)
    response = await gateway.ask(HARD)
    assert response.headers["x-laconic-decision"] == "fallback"
    assert "x-laconic-escalation" not in response.headers


async def test_an_easy_prompt_is_routed_without_an_escalation(gateway: Gateway, engine: FakeEngine) -> None:
    response = await gateway.ask(EASY)
    assert response.headers["x-laconic-checkpoint"] == "alpha-0.4"
    assert "x-laconic-escalation" not in response.headers
    assert "logprobs" not in engine.bodies[0]


async def test_a_holdout_is_never_escalated(
    escalating_dir: Path, redis_server: RedisServer, engine: FakeEngine
) -> None:
    async with running(escalating_dir, redis_server.url, [engine.url], holdout_fraction=1.0) as gateway:
        response = await gateway.ask(HARD)
        (entry,) = await gateway.entries()
    assert (response.headers["x-laconic-checkpoint"], response.headers["x-laconic-decision"]) == ("base", "holdout")
    assert "logprobs" not in engine.bodies[0]
    assert (entry.choice, entry.predicted_tokens) == (NAME, entry.forecasts["base"].tokens)


async def test_a_second_engine_that_dies_ends_the_stream_with_an_error_and_all_thinking_is_counted(
    gateway: Gateway, engine: FakeEngine
) -> None:
    engine.script = script_by_model(stream(*UNCONFIDENT), stream(*SECOND[:2], then=die))
    response = await gateway.ask(HARD, stream=True)
    assert '"error"' in response.text
    (entry,) = await gateway.entries()
    assert (entry.checkpoint, entry.error) == ("base", "engine failed mid-stream")
    assert entry.reasoning_tokens > 8  # "1 + 2 = 4\n1 + 2 = 3, and again: 3"


async def test_hidden_reasoning_stays_hidden_in_an_escalation(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = script_by_model(stream(*UNCONFIDENT), stream(*SECOND))
    response = await gateway.ask(HARD, stream=True, include_reasoning=False)
    assert parse_stream(response.text)[:2] == ("", "The answer is 3.")
    (entry,) = await gateway.entries()
    assert entry.reasoning_tokens == 23


async def test_an_explanation_includes_escalations(gateway: Gateway) -> None:
    chat = {"model": "abacus", "messages": [{"role": "user", "content": HARD}]}
    explained = (await gateway.client.post("/v1/route", json=chat)).json()
    assert explained["checkpoint"] == "alpha-0.4"
    assert explained["choice"] == NAME
    assert explained["escalation"] == ESCALATIONS[NAME]
    assert explained["reason"].startswith(
        "alpha-0.4 answers, or base if alpha-0.4 is not confident enough: cheapest within"
    )
    assert explained["escalations"][NAME]["success"] == pytest.approx(0.982, abs=0.001)
    without = (await gateway.client.post("/v1/route", json={**chat, "n": 2})).json()
    assert (without["checkpoint"], without["escalation"]) == ("base", None)


class RecordedUpstream:
    """An upstream that replays bytes, split at `cuts`."""

    def __init__(self, data: bytes, cuts: list[int]) -> None:
        ends = [*sorted({cut % (len(data) + 1) for cut in cuts} - {0}), len(data)]
        self._pieces = [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        self.relayed, self.closed = False, False
        self.first_bytes = self._pieces.pop(0)

    async def read(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        self.closed = True


def relay_escalating(one: RecordedUpstream, other: RecordedUpstream) -> str:
    """Everything that the caller gets."""

    async def escalate(_: SurprisalMeter) -> Any:
        return other

    async def read() -> bytes:
        escalating: Any = EscalatingStream(one, end="</think>", surprisal=1.5, escalate=escalate)  # pyright: ignore[reportArgumentType]
        data = escalating.first_bytes or await escalating.read()
        pieces: list[bytes] = []
        while data:
            pieces.append(data)
            data = await escalating.read()
        return b"".join(pieces)

    return asyncio.run(read()).decode()


@given(st.sampled_from([CONFIDENT, UNCONFIDENT]), st.lists(st.integers(0, 5000)), st.lists(st.integers(0, 5000)))
def test_an_escalation_does_not_depend_on_how_the_bytes_are_split(
    events: list[bytes], cuts: list[int], others: list[int]
) -> None:
    first_upstream = RecordedUpstream(b"".join(events), cuts)
    reasoning, content, roles, usage_event = parse_stream(
        relay_escalating(first_upstream, RecordedUpstream(b"".join(SECOND), others))
    )
    unconfident = events is UNCONFIDENT
    assert first_upstream.closed == unconfident
    assert reasoning == ("1 + 2 = 4\n1 + 2 = 3, and again: 3" if unconfident else "1 + 2 = 4\n")
    assert (content, roles) == ("The answer is 3." if unconfident else "The answer is 4.", 1)
    assert usage_event is not None
    assert usage_event["completion_tokens_details"]["reasoning_tokens"] == (23 if unconfident else 3)


@pytest.mark.parametrize(("surprisal", "answer"), [(1.3, "The answer is 4."), (1.5, "The answer is 3.")])
def test_one_event_may_hold_the_end_of_thinking_and_the_start_of_the_answer(surprisal: float, answer: str) -> None:
    both = with_logprobs(
        {"reasoning": "= 4", "content": "The "}, ("= 4", -surprisal), ("</think>", -0.1), ("The ", -9.0)
    )
    rest = with_logprobs({"content": "answer is 4."}, ("answer is 4.", -9.0), finish="stop")
    reasoning, content, _, _ = parse_stream(
        relay_escalating(RecordedUpstream(both + rest, []), RecordedUpstream(b"".join(SECOND), []))
    )
    assert reasoning == ("= 4" if answer == "The answer is 4." else "= 41 + 2 = 3, and again: 3")
    assert content == answer
