"""Figures of engines: whatever one reports, the caller, the ledger and the key's limit get the same whole numbers.

The cases of "Counting and savings", each for a stream and for a non-streaming response.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web

from gateway.ledger.entry import Entry
from gateway.ledger.savings import Totals, cell_of, compute_savings, totals_of
from tests.conftest import RedisServer
from tests.gateway.access.test_limits import redis_state
from tests.gateway.entries import entry as plain_entry
from tests.gateway.fakes import EASY, FakeEngine, Gateway, Script, event, stream, tokenizer
from tests.gateway.hostile.harness import CHAT, assert_nothing_is_left

THINKING = [f"{number} + 2 = {number + 2}\n" for number in range(1, 9)]
ANSWER = "The answer is 10."


def count(text: str) -> int:
    return len(tokenizer().encode(text, add_special_tokens=False))


THOUGHT, SAID, ASKED = count("".join(THINKING)), count(ANSWER), count(EASY)


@pytest.fixture
def gateway(impatient: Gateway) -> Gateway:
    return impatient


@dataclass(frozen=True)
class Answer:
    """What an engine sends."""

    thinking: str | list[str] = ""
    content: str = ANSWER
    finish: str = "stop"
    calls: str = ""
    field: str = "reasoning"

    def script(self, usage: str) -> Script:
        """The answer with a usage in any text, as a stream or not."""

        async def respond(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
            if body.get("stream"):
                return await stream(*self._events(usage))(request, body)
            message = {self.field: "".join(self.thinking), "content": self.content, "tool_calls": self._calls()}
            choice = {"index": 0, "message": message, "finish_reason": self.finish}
            text = json.dumps({"id": "chatcmpl-1", "choices": [choice], "usage": 0})
            return web.Response(text=text.replace('"usage": 0', f'"usage": {usage}'), content_type="application/json")

        return respond

    def _events(self, usage: str) -> list[bytes]:
        deltas = [{self.field: piece} for piece in self.thinking]
        deltas += [{"content": f"{word} "[: len(word) + 1]} for word in [self.content] if word]
        deltas += [{"tool_calls": self._calls()}] if self.calls else []
        last = event(usage=0).replace(b'"usage":0', b'"usage":' + usage.encode())
        sent = [event({"role": "assistant", "content": ""}), *map(event, deltas), event({}, self.finish), last]
        return [*sent, b"data: [DONE]\n\n"]

    def _calls(self) -> list[dict[str, Any]]:
        return [{"index": 0, "function": {"name": "write", "arguments": self.calls}}] if self.calls else []


def usage(prompt: Any, generated: Any, reasoning: Any) -> str:
    figures = {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": 99,
               "completion_tokens_details": {"reasoning_tokens": reasoning}}  # fmt: skip
    return json.dumps(figures)


async def recorded(gateway: Gateway, *, streamed: bool, **body: Any) -> Entry:
    """Ask once. The caller's usage, the ledger's entry and what the key has spent must agree."""
    wanted = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    response = await gateway.client.post("/v1/chat/completions", json={**CHAT, **wanted, **body})
    assert response.status_code == 200, response.text
    (entry,) = await gateway.entries()
    if streamed:
        assert response.text.endswith("data: [DONE]\n\n")
        events = [json.loads(line[6:], parse_constant=pytest.fail) for line in response.text.split("\n\n")[:-2]]
        (shown,) = [one["usage"] for one in events if one.get("usage")]
    else:
        shown = json.loads(response.text, parse_constant=pytest.fail)["usage"]
    generated = entry.reasoning_tokens + entry.answer_tokens
    assert (shown["prompt_tokens"], shown["completion_tokens"]) == (entry.prompt_tokens, generated)
    assert shown["total_tokens"] == entry.prompt_tokens + generated
    assert shown["completion_tokens_details"]["reasoning_tokens"] == entry.reasoning_tokens
    assert (entry.status, entry.error) == (200, "")
    return entry


REPORTED = [
    ("nothing", "null", "counted", (ASKED, THOUGHT, SAID)),
    ("an empty object", "{}", "counted", (ASKED, THOUGHT, SAID)),
    ("a list", "[1]", "counted", (ASKED, THOUGHT, SAID)),
    ("a number", "-1", "counted", (ASKED, THOUGHT, SAID)),
    ("no reasoning beside thinking", usage(17, 80, 0), "repaired", (17, THOUGHT, 80 - THOUGHT)),
    ("more reasoning than completion", usage(17, 74, 79), "repaired", (17, THOUGHT, 74 - THOUGHT)),
    ("minus one", usage(-1, -1, -1), "counted", (ASKED, THOUGHT, SAID)),
    ("a negative completion", usage(17, -1500, THOUGHT), "repaired", (17, THOUGHT, SAID)),
    ("floats", usage(17.0, 70.0, 50.0), "repaired", (17, 50, 20)),
    ("parts of a token", usage(17.5, 70.5, 50.5), "counted", (ASKED, THOUGHT, SAID)),
    ("10^9 tokens", usage(10**9, 10**9, 10**9), "counted", (ASKED, THOUGHT, SAID)),
    ("10^30 tokens", usage(10**30, 10**30, 10**30), "counted", (ASKED, THOUGHT, SAID)),
    ("400 digits", usage(10**399, 10**399, 10**399), "counted", (ASKED, THOUGHT, SAID)),
    ("5,000 digits", usage(17, 1, 50).replace(" 1,", f" {'9' * 5000},"), "repaired", (17, THOUGHT, SAID)),
    ("1e999", usage(17, 1, 50).replace(" 1,", " 1e999,"), "repaired", (17, THOUGHT, SAID)),
    ("NaN", usage(math.nan, math.nan, math.nan), "counted", (ASKED, THOUGHT, SAID)),
    ("infinity", usage(math.inf, -math.inf, math.inf), "counted", (ASKED, THOUGHT, SAID)),
    ("strings", usage("17", "70", "50"), "counted", (ASKED, THOUGHT, SAID)),
    ("truth", usage(True, True, True), "counted", (ASKED, THOUGHT, SAID)),
    ("lists and objects", usage([17], {"a": 1}, [[]]), "counted", (ASKED, THOUGHT, SAID)),
    ("zeros beside text", usage(0, 0, 0), "counted", (ASKED, THOUGHT, SAID)),
    ("a wrong sum", usage(17, 70, 50), "repaired", (17, 50, 20)),
]


@pytest.mark.parametrize("streamed", [True, False], ids=["streaming", "non-streaming"])
@pytest.mark.parametrize("row", REPORTED, ids=lambda row: row[0])
async def test_reported_usage(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer, row: Any, streamed: bool
) -> None:
    _, reported, counting, (prompt, reasoning, answer) = row
    engine.script = Answer(THINKING).script(reported)
    entry = await recorded(gateway, streamed=streamed)
    assert (entry.prompt_tokens, entry.reasoning_tokens) == (prompt, reasoning)
    assert abs(entry.answer_tokens - answer) <= 1  # a stream's last word ends with a space
    assert (entry.counting, entry.answered) == (counting, True)
    await assert_nothing_is_left(gateway, engine, redis_server)
    assert redis_state(redis_server)["day_tokens"] == entry.reasoning_tokens


async def test_a_prompt_that_nobody_counted_includes_calls_and_tools(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = Answer(THINKING).script("null")
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at": "the third line"}'}}
    said: list[Any] = [{"role": "user", "content": EASY}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages = [*said, {"role": "tool", "tool_call_id": "call_1", "content": "3"}]
    tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
    for more in ({}, {"tools": [tool]}):
        await gateway.client.post("/v1/chat/completions", json={**CHAT, "messages": messages, **more})
    called, offered = (entry.prompt_tokens for entry in await gateway.entries(2))
    assert called > count(f"{EASY}3") + 5
    assert offered > called + 5


@pytest.mark.parametrize("streamed", [True, False], ids=["streaming", "non-streaming"])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_an_answer_that_the_engine_gave_up_is_a_502_that_is_counted(
    gateway: Gateway, engine: FakeEngine, path: str, streamed: bool
) -> None:
    engine.script = Answer(THINKING, finish="abort").script(usage(17, 70, 50))
    said = {"messages": [{"role": "user", "content": EASY}], "max_tokens": 400}
    body = said if path == "/v1/messages" else {"input": EASY}
    response = await gateway.client.post(path, json={"model": "abacus", "stream": streamed, **body})
    assert response.status_code == (200 if streamed else 502)  # a stream ends with an error, and the books say why
    (entry,) = await gateway.entries()
    assert (entry.status, entry.error, entry.finish_reason) == (502, "engine_failed", "abort")
    assert (entry.prompt_tokens, entry.reasoning_tokens, entry.answer_tokens) == (17, 50, 20)


async def test_an_empty_usage_on_every_event_is_no_usage(gateway: Gateway, engine: FakeEngine) -> None:
    events = [event({"reasoning": piece}, usage={}) for piece in THINKING]
    engine.script = stream(
        *events, event({"content": ANSWER}, usage={}), event({}, "stop", usage={}), b"data: [DONE]\n\n"
    )
    entry = await recorded(gateway, streamed=True)
    assert (entry.prompt_tokens, entry.reasoning_tokens, entry.answer_tokens) == (ASKED, THOUGHT, SAID)


async def test_running_usage_that_is_no_usage_is_not_shown(gateway: Gateway, engine: FakeEngine) -> None:
    wrong = {"prompt_tokens": -1, "completion_tokens": 10**30, "total_tokens": 1.5}
    events = [event({"reasoning": piece}, usage=wrong) for piece in THINKING]
    engine.script = stream(*events, event({"content": ANSWER}), event({}, "stop", usage=wrong), b"data: [DONE]\n\n")
    assert (await recorded(gateway, streamed=True)).counting == "counted"  # which looks for a single usage


async def test_three_requests_with_negative_usage_do_not_credit_the_key(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer
) -> None:
    engine.script = Answer(THINKING).script(usage(17, -500, -500))
    for _ in range(3):
        assert (await gateway.client.post("/v1/chat/completions", json=CHAT)).status_code == 200
    await assert_nothing_is_left(gateway, engine, redis_server)
    assert redis_state(redis_server)["day_tokens"] == 3 * THOUGHT


@pytest.mark.parametrize("streamed", [True, False], ids=["streaming", "non-streaming"])
@pytest.mark.parametrize(
    ("answer", "reasoning"),
    [
        (Answer(THINKING, "Thinking ends with </think> here."), THOUGHT),
        (Answer(THINKING, "Look.", calls='{"text": "a</think>b"}'), THOUGHT),
        (Answer("", "Look.", calls='{"text": "a</think>b"}'), 0),
        (Answer("", "".join(THINKING) + "</think>" + ANSWER), THOUGHT),
        (Answer("", "<think>" + "".join(THINKING) + "</think>" + ANSWER), THOUGHT),
        (Answer(THINKING, field="reasoning_content"), THOUGHT),
        (Answer("", "".join(THINKING), finish="length"), THOUGHT),
        (Answer("", "<think>" + "".join(THINKING), finish="length"), THOUGHT),
    ],
    ids=["mentioned in the answer", "mentioned in a tool call", "mentioned in a tool call without thinking",
         "inline, opened by the template", "inline", "reasoning_content", "inline and cut off, opened by the template",
         "inline and cut off"],
)  # fmt: skip
async def test_thinking_is_told_from_the_answer(
    gateway: Gateway, engine: FakeEngine, answer: Answer, reasoning: int, streamed: bool
) -> None:
    engine.script = answer.script("null")
    entry = await recorded(gateway, streamed=streamed)
    assert abs(entry.reasoning_tokens - reasoning) <= 1  # where a stream's last word ends with a space
    assert entry.answered is (answer.finish == "stop")


@pytest.mark.parametrize("streamed", [True, False], ids=["streaming", "non-streaming"])
@pytest.mark.parametrize(
    "answer",
    [
        Answer(THINKING, "", "length"),
        Answer(THINKING, "\n", "stop"),
        Answer("", "", "stop"),
        Answer("", "<think>" + "".join(THINKING), "length"),
        Answer(THINKING, "", "abort"),
    ],
    ids=["cut off while thinking", "white space", "nothing", "inline and cut off", "given up"],
)
async def test_what_is_no_answer_saves_nothing_and_is_counted_apart(
    gateway: Gateway, engine: FakeEngine, answer: Answer, streamed: bool
) -> None:
    engine.script = answer.script("null")
    entry = await recorded(gateway, streamed=streamed)
    assert entry.reference_tokens
    totals = totals_of(entry)
    assert (totals.requests, totals.failed, totals.unanswered, totals.estimated) == (1, 0, 1, 0)
    assert totals.saved_tokens == 0
    assert totals.eligible == 0  # no draw here


def test_holdouts_without_an_answer_count_in_the_measurement_as_others_do() -> None:
    """The draw comes before the answer, so leaving some out on one side would bias it."""
    unanswered = [plain_entry(decision="holdout", answered=False, reasoning_tokens=50 + n) for n in range(40)]
    others = [plain_entry(answered=False) for _ in range(40)]
    sums = [(cell_of(one), totals_of(one)) for one in (*unanswered, *others)]
    group = compute_savings(sums, unanswered).total
    assert group.totals.estimated == 0
    assert group.totals.unanswered == 80
    assert group.measured is not None
    assert group.measured.requests == 40
    assert (group.measured.estimate, group.measured.drift) == (0.0, None)
    assert group.totals._replace(requests=0) != Totals()


async def test_an_engine_that_thinks_beyond_its_cap_is_named_and_no_longer_trusted(
    gateway: Gateway, engine: FakeEngine, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    engine.script = Answer(THINKING).script("null")
    for _ in range(3):
        response = await gateway.client.post(
            "/v1/chat/completions", json={**CHAT, "stream": True}, headers={"x-reasoning-budget": "16"}
        )
        assert response.status_code == 200
    entries = await gateway.entries(3)
    told = [(entry.reasoning_tokens, entry.over_cap) for entry in entries]
    assert told == [(THOUGHT, True), (16, False), (16, False)]
    assert f'laconic_cap_breaches_total{{engine="{engine.url}"}} 1.0' in gateway.services.metrics.exposition().decode()
    assert (
        f'laconic_forced_budgets_total{{engine="{engine.url}"}} 2.0' in gateway.services.metrics.exposition().decode()
    )
    (state,) = (await gateway.client.get("/health/ready")).json()["engines"]
    assert (state["over_cap"], state["caps_hold"]) == (1, False)
    warnings = [record for record in caplog.records if "under a cap of 16" in record.getMessage()]
    assert len(warnings) == 1
    assert engine.url in warnings[0].getMessage()
    await assert_nothing_is_left(gateway, engine, redis_server)
    assert redis_state(redis_server)["day_tokens"] == 3 * 16  # the key pays what was reserved


async def test_an_engine_that_keeps_its_cap_is_not_named(gateway: Gateway, engine: FakeEngine) -> None:
    engine.script = Answer(THINKING).script("null")
    headers = {"x-reasoning-budget": str(THOUGHT - 2)}  # a few tokens over are the end of thinking, or ours to count
    assert (await gateway.client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200
    (entry,) = await gateway.entries()
    assert not entry.over_cap
    assert f'laconic_cap_breaches_total{{engine="{engine.url}"}} 0.0' in gateway.services.metrics.exposition().decode()
