from pathlib import Path

import pytest

from models.family import Reasoning
from tests.training.adopt.engine import ScriptedEngine
from training.adopt import levels
from training.adopt.engine import Access, Engine
from training.adopt.probe import probe
from training.adopt.prompts import Request
from training.errors import StageError

REQUESTS = [Request(f"rows:{n}", ({"role": "user", "content": f"What is {n} + 3?"},), None) for n in range(5)]
LEVELS = levels.parse("off,16,max", "adder")


async def probed(scripted: ScriptedEngine, *, cap=None, needs_cap=True, at=LEVELS):
    async with scripted.listening(), Engine(scripted.url) as engine:
        return await probe(engine, at, REQUESTS, cap=cap, needs_cap=needs_cap)


@pytest.mark.parametrize("cap", ["thinking_token_budget", "thinking_budget_tokens"])
async def test_the_field_that_ends_the_thinking_in_time_is_the_engine_s_cap(cap):
    facts = await probed(ScriptedEngine(cap=cap))
    assert (facts.cap, facts.context_tokens, facts.marks) == (cap, 4096, Reasoning())
    assert facts.separates_reasoning
    assert facts.reports_reasoning_tokens


@pytest.mark.parametrize("refuses", [True, False])
async def test_an_engine_that_ignores_or_refuses_caps_is_found_out(refuses):
    scripted = ScriptedEngine(cap=None)
    scripted.refuses_unknown_fields = refuses
    assert (await probed(scripted)).cap == "forced"


async def test_thinking_in_the_content_is_noticed():
    facts = await probed(ScriptedEngine(inline=True, reports=False))
    assert (facts.cap, facts.separates_reasoning, facts.reports_reasoning_tokens) == (
        "thinking_token_budget",
        False,
        False,
    )
    assert "in the content, up to </think>" in facts.lines()[1]


async def test_a_model_without_marks_cannot_be_capped():
    facts = await probed(ScriptedEngine(), at=levels.parse("max,off", "adder"), needs_cap=False)
    assert (facts.marks, facts.cap) == (None, "none")
    assert "cannot be capped" in facts.lines()[2]


async def test_a_budget_for_thinking_that_nothing_marks_is_refused_and_not_ignored():
    with pytest.raises(StageError, match=r"first 5 prompts marks the end .* leave the budgets out of --levels"):
        await probed(ScriptedEngine(), at=levels.parse("16,off", "adder"))
    with pytest.raises(StageError, match=r"--cap none: then no budget can hold"):
        await probed(ScriptedEngine(), cap="none")


async def test_a_cap_that_is_named_holds_where_no_mark_was_seen():
    facts = await probed(ScriptedEngine(), at=levels.parse("16,off", "adder"), cap="thinking_token_budget")
    assert (facts.cap, facts.marks) == ("thinking_token_budget", Reasoning())


async def test_thinking_that_is_longer_than_any_trial_is_said_to_be_so(monkeypatch):
    monkeypatch.setattr("training.adopt.probe.MAX_TOKENS", 20)
    monkeypatch.setattr("training.adopt.probe.LONG_TOKENS", 40)
    with pytest.raises(StageError, match="although each was as long as a trial may be"):
        await probed(ScriptedEngine(inline=True, opens=True))


async def test_a_template_that_opens_the_thinking_is_noticed_also_where_short_trials_are_cut_off(monkeypatch):
    monkeypatch.setattr("training.adopt.probe.MAX_TOKENS", 50)
    scripted = ScriptedEngine(inline=True, opens=True, reports=False)
    facts = await probed(scripted)
    assert (facts.cap, facts.separates_reasoning, facts.opens_thinking) == ("thinking_token_budget", False, True)
    assert sorted({body["max_tokens"] for body in scripted.bodies}) == [50, 8192]
    assert not (await probed(ScriptedEngine(inline=True))).opens_thinking


async def test_a_cap_that_an_engine_ignores_is_not_believed_because_the_trial_was_cut_off(monkeypatch):
    """Its thinking has no mark in time, so the content must not pass for an answer."""
    monkeypatch.setattr("training.adopt.probe.MAX_TOKENS", 50)
    scripted = ScriptedEngine(cap=None, inline=True, opens=True, reports=False)
    assert (await probed(scripted)).cap == "forced"


async def test_a_cap_that_is_known_is_not_tried():
    scripted = ScriptedEngine(cap=None)
    assert (await probed(scripted, cap="thinking.budget_tokens")).cap == "thinking.budget_tokens"
    assert not any("thinking" in body for body in scripted.bodies)


async def test_an_engine_without_a_list_of_models_is_used_as_it_is():
    scripted = ScriptedEngine()
    scripted.models = 500
    assert (await probed(scripted)).context_tokens is None


async def test_a_model_that_the_engine_does_not_list_is_named():
    scripted = ScriptedEngine()
    scripted.models = {"data": [{"id": "other"}, {"id": "third"}]}
    with pytest.raises(StageError, match=r"does not serve 'adder' \(level off\); it lists 'other', 'third'$"):
        await probed(scripted)


@pytest.mark.parametrize("listed", [{"data": "x"}, [], {}])
async def test_an_odd_list_of_models_is_no_list(listed):
    scripted = ScriptedEngine()
    scripted.models = listed
    assert (await probed(scripted)).context_tokens is None


async def test_odd_entries_of_a_list_are_left_out():
    scripted = ScriptedEngine()
    scripted.models = {"data": [1, {"id": 2}, {"id": "adder", "max_model_len": "long"}]}
    assert (await probed(scripted)).context_tokens is None
    scripted.models = {"data": [1, {"id": 2}]}
    with pytest.raises(StageError, match="it lists nothing"):
        await probed(scripted)


async def test_an_engine_that_wants_a_key_or_is_away_is_named():
    scripted = ScriptedEngine()
    scripted.models = 401
    with pytest.raises(StageError, match="wants a key; set LACONIC_ENGINE_KEY"):
        await probed(scripted)
    async with Engine("http://127.0.0.1:9") as engine:
        with pytest.raises(StageError, match=r"cannot be reached .*is the engine running"):
            await probe(engine, LEVELS, REQUESTS, cap=None, needs_cap=True)
    async with scripted.listening(), Engine(scripted.url.replace("http:", "https:")) as engine:
        with pytest.raises(StageError, match="it does not speak TLS; use http://"):
            await probe(engine, LEVELS, REQUESTS, cap=None, needs_cap=True)
    with pytest.raises(StageError, match="URL of the engine: 'gpu1:8000' is not a URL"):
        Engine("gpu1:8000")


def test_a_key_file_header_or_certificate_that_cannot_be_used_is_named_by_its_flag(tmp_path: Path):
    file = tmp_path / "empty"
    file.write_text("")
    for arguments, named in (
        ({"key_file": file}, "--key-file: .* has no key in it"),
        ({"headers": ["x"]}, "--header: a header must be NAME: VALUE"),
        ({"environment": {"LACONIC_ENGINE_KEY": "two words"}}, "LACONIC_ENGINE_KEY: "),
    ):
        with pytest.raises(StageError, match=named):
            Access(**arguments)
    with pytest.raises(StageError, match=r"--ca: .* has no certificates"):
        Engine("http://a", Access(ca=file))


async def test_answers_that_think_too_little_do_not_show_a_cap():
    scripted = ScriptedEngine()
    short = levels.parse("off,20", "adder")  # even its last level thinks for 20 tokens only
    with pytest.raises(StageError, match="whether a cap holds cannot be seen"):
        await probed(
            scripted, at=[short[0], levels.Level("b", "adder", levels.Overrides(body={"thinking_token_budget": 20}))]
        )


async def test_budgets_on_an_engine_that_neither_caps_nor_continues_are_refused():
    scripted = ScriptedEngine(cap=None)
    scripted.continues = False
    with pytest.raises(StageError, match=r"does not continue a message.*leave out the levels with a budget"):
        await probed(scripted)
    assert (await probed(scripted, needs_cap=False, at=levels.parse("off,max", "adder"))).cap == "forced"
