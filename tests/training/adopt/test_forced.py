"""Is a budget measured as the gateway keeps it, on an engine that caps nothing?"""

import pytest

from tests.training.adopt.engine import LONG, ScriptedEngine
from training.adopt import forced, levels, measure
from training.adopt.engine import Engine
from training.adopt.forced import NotContinuedError
from training.adopt.measure import Plan, Sampling
from training.adopt.prompts import Request

BODY = {"model": "adder", "messages": [{"role": "user", "content": "What is 20 + 3?"}]}


async def ask(scripted: ScriptedEngine, budget: int, **more):
    async with scripted.listening(), Engine(scripted.url) as engine:
        return await forced.chat(engine, {**BODY, **more}, budget, separated=not scripted.inline)


@pytest.mark.parametrize("inline", [False, True])
async def test_thinking_ends_at_the_budget_and_the_answer_follows(inline):
    scripted = ScriptedEngine(cap=None, inline=inline)
    reply = await ask(scripted, 16)
    assert (reply.reasoning, reply.content) == (" hm" * 16, "The answer is 24.")  # wrong, for lack of thinking
    assert (reply.reasoning_tokens, reply.completion_tokens) == (16, 20)
    assert reply.finished
    first, second = scripted.bodies
    assert first["max_tokens"] == 16
    assert second["messages"][-1]["content"] == f"<think>{' hm' * 16}</think>"


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("budget", [LONG + 1, LONG + 3, LONG + 40])
async def test_thinking_that_ends_within_its_budget_has_its_whole_answer(inline, budget):
    reply = await ask(ScriptedEngine(cap=None, inline=inline), budget)
    assert reply.content.endswith("The answer is 23.")
    assert reply.reasoning_tokens == LONG
    assert reply.finished


async def test_the_limits_of_the_request_hold_for_both_parts():
    scripted = ScriptedEngine(cap=None)
    reply = await ask(scripted, 16, max_tokens=19)
    assert scripted.bodies[1]["max_tokens"] == 19 - 17  # the mark behind the thinking is a token
    assert reply.finish_reason == "length"
    scripted.bodies.clear()
    reply = await ask(scripted, 16, max_tokens=10)
    assert len(scripted.bodies) == 1
    assert (reply.completion_tokens, reply.finish_reason) == (10, "length")


async def test_an_engine_that_starts_over_is_an_error_and_no_reply():
    scripted = ScriptedEngine(cap=None)
    scripted.continues = False
    with pytest.raises(NotContinuedError, match="starts over"):
        await ask(scripted, 16)


async def test_levels_with_a_budget_are_measured_so(tmp_path):
    scripted = ScriptedEngine(cap=None)
    plan = Plan(levels.parse("off,16,32,max", "adder"), Sampling(samples=1), "forced")
    measure.open_directory(tmp_path, plan, again=False)
    request = Request("row:1", ({"role": "user", "content": "What is 20 + 3?"},), None)
    async with scripted.listening(), Engine(scripted.url) as engine:
        rows = await measure.measure(engine, [request], plan, tmp_path, separated=True)
    replies = {row.level: row.reply for row in rows}
    thought = {name: reply and reply.reasoning_tokens for name, reply in replies.items()}
    assert thought == {"off": 0, "budget-16": 16, "budget-32": 32, "max": LONG}
    assert all(reply and reply.finished for reply in replies.values())
