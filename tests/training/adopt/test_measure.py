import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.training.adopt.engine import ScriptedEngine
from training.adopt import engine as engines
from training.adopt import levels, measure
from training.adopt.engine import Engine, Reply
from training.adopt.measure import Plan, Sampling
from training.adopt.prompts import Request
from training.errors import StageError

REQUESTS = [Request(f"rows:{n}", ({"role": "user", "content": f"What is {n} + 3?"},), None) for n in range(6)]
PLAN = Plan(levels.parse("off,16,max", "adder"), Sampling(samples=2, temperature=0.5, seed=7), "thinking_token_budget")


@pytest.fixture
async def scripted(monkeypatch):
    monkeypatch.setattr(engines, "RETRY_SECONDS", 0.01)
    async with ScriptedEngine().listening() as listening:
        yield listening


async def measured(scripted: ScriptedEngine, directory: Path, plan=PLAN, **options):
    measure.open_directory(directory, plan, again=options.pop("again", False))
    async with Engine(scripted.url) as engine:
        return await measure.measure(engine, REQUESTS, plan, directory, **options)


async def test_every_request_is_measured_at_every_level(scripted, tmp_path):
    rows = await measured(scripted, tmp_path)
    assert len(rows) == len({(row.level, row.key, row.sample) for row in rows}) == 6 * 3 * 2
    bodies = {(body.get("thinking_token_budget"), body["seed"]) for body in scripted.bodies}
    assert bodies == {(None, 7), (None, 8), (16, 7), (16, 8)}
    assert {body["temperature"] for body in scripted.bodies} == {0.5}
    grouped = measure.by_request(rows)
    assert list(grouped["budget-16"][REQUESTS[0].key][0].reasoning.split()) == ["hm"] * 16


def test_what_was_cut_off_in_thinking_that_the_template_opened_is_no_answer():
    cut = Reply("hm hm", "", "length", 5, 2, None, 0.1)
    rows = [measure.Measured(level, "key", 0, cut) for level in ("off", "max")] + [
        measure.Measured("max", "k", 0, None)
    ]
    grouped = measure.by_request(rows, opened={"max"})
    assert grouped == {
        "off": {"key": [cut]},
        "max": {"key": [replace(cut, reasoning="hm hm", content="")], "k": [None]},
    }


async def test_a_measurement_goes_on_where_it_was_killed(scripted, tmp_path):
    await measured(scripted, tmp_path)
    file = tmp_path / measure.REPLIES
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join(lines[:10]) + b"\n" + lines[10][:40])  # killed while it wrote the eleventh
    scripted.bodies.clear()
    rows = await measured(scripted, tmp_path)
    assert len(scripted.bodies) == 36 - 10
    assert len(rows) == 36
    assert len(measure.load(tmp_path)) == 36


async def test_another_measurement_does_not_continue_this_one(scripted, tmp_path):
    await measured(scripted, tmp_path)
    other = Plan(PLAN.levels, Sampling(samples=2, temperature=1.0, seed=7), PLAN.cap)
    with pytest.raises(StageError, match="holds a measurement of other levels or sampling"):
        await measured(scripted, tmp_path, other)
    await measured(scripted, tmp_path, other, again=True)
    assert json.loads((tmp_path / measure.PLAN).read_text())["sampling"]["temperature"] == 1.0
    assert len(measure.load(tmp_path)) == 36


async def test_what_fails_for_a_moment_is_tried_again(scripted, tmp_path):
    scripted.failures = [503, 429, 500, 502]
    assert len(await measured(scripted, tmp_path)) == 36
    assert len(scripted.bodies) == 40


async def test_an_engine_that_keeps_failing_stops_the_measurement_and_says_so(scripted, tmp_path):
    scripted.failures = [500] * 1000
    with pytest.raises(StageError, match="500: not now"):
        await measured(scripted, tmp_path)


async def test_a_refused_request_is_a_reply_that_is_none(scripted, tmp_path):
    scripted.failures = [400]
    rows = await measured(scripted, tmp_path)
    assert [row.reply for row in rows].count(None) == 1
    scripted.failures = [400] * 1000
    with pytest.raises(StageError, match=r"2 of 36 requests were refused; the last: .*not now"):
        await measured(scripted, tmp_path, again=True)


async def test_progress_is_told_of_each_reply(scripted, tmp_path):
    told = []
    await measured(scripted, tmp_path, on_reply=told.append)
    assert len(told) == 36
