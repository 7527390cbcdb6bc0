import json
import sys
from pathlib import Path

import pytest

from models.family import Reasoning
from tests.training.adopt.engine import ScriptedEngine
from training.adopt import assess
from training.adopt.engine import Engine, Reply
from training.adopt.prompts import Request
from training.errors import StageError

REQUEST = Request("rows:1", ({"role": "user", "content": "What is 40 + 2?"},), "42")
KEY = REQUEST.key


def reply(content: str, finish: str = "stop") -> Reply:
    return Reply(content, "hm hm", finish, 5, 20, 12, 0.1)


async def outcomes(replies: dict[str, list[Reply | None]], decide: assess.Decide):
    by_level = {level: {KEY: samples} for level, samples in replies.items()}
    graded = await assess.graded([REQUEST], by_level, Reasoning(), decide)
    return {level: [outcome.correct for outcome in rows[0].outcomes] for level, rows in graded.items()}, graded


async def test_gold_answers_label_replies():
    replies = {"max": [reply("The answer is 42."), reply("The answer is 41."), None]}
    correct, graded = await outcomes(replies, assess.by_gold([REQUEST]))
    assert correct == {"max": [True, False, False]}
    assert [o.reasoning_tokens for o in graded["max"][0].outcomes] == [12, 12, 0]


@pytest.mark.parametrize("wrong", [reply("The answer is 42.", "length"), reply(""), reply("  ")])
async def test_an_answer_that_is_empty_or_cut_off_is_wrong(wrong):
    correct, _ = await outcomes({"max": [wrong]}, assess.by_gold([REQUEST]))
    assert correct == {"max": [False]}


async def test_a_request_without_gold_is_named():
    with pytest.raises(StageError, match="rows:2: has no answer"):
        assess.by_gold([REQUEST, Request("rows:2", REQUEST.messages, None)])
    with pytest.raises(StageError, match=r"rows:2: the answer 'First we add.* is too long to compare replies with"):
        assess.by_gold([REQUEST, Request("rows:2", REQUEST.messages, "First we add. " * 50)])
    long_json = json.dumps({str(n): n for n in range(100)})
    assess.by_gold([Request("rows:3", REQUEST.messages, long_json)])


async def test_agreement_compares_with_the_reference_and_the_reference_with_itself():
    replies = {
        "off": [reply("The answer is 42."), reply("It is 7")],
        "max": [reply("so 42"), reply("The answer is 42.0"), reply("The answer is 41.")],
    }
    by_level = {level: {KEY: samples} for level, samples in replies.items()}
    correct, _ = await outcomes(replies, assess.by_agreement("max", by_level, Reasoning()))
    assert correct == {"off": [True, False], "max": [True, True, False]}


@pytest.mark.parametrize("samples", [2, 3])
async def test_by_agreement_a_level_that_replies_as_the_reference_does_is_as_good_as_the_reference(samples: int):
    """With the same seed an engine gives the same reply at two levels, and a reply always agrees with itself."""
    replies = {level: [reply(f"The answer is {n}.") for n in range(samples)] for level in ("off", "max")}
    by_level = {level: {KEY: each} for level, each in replies.items()}
    correct, _ = await outcomes(replies, assess.by_agreement("max", by_level, Reasoning()))
    assert correct["off"] == correct["max"] == [False] * samples


async def test_agreement_needs_two_samples_of_the_reference():
    with pytest.raises(StageError, match="--samples 2"):
        assess.by_agreement("max", {"max": {KEY: [reply("42")]}}, Reasoning())


async def test_a_judge_is_asked_for_a_verdict():
    class Judge(ScriptedEngine):
        verdict = "RIGHT"

        async def chat(self, request):
            self.bodies.append(await request.json())
            from aiohttp import web  # noqa: PLC0415

            message = {"role": "assistant", "content": self.verdict}
            return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})

    judge = Judge()
    async with judge.listening(), Engine(judge.url) as engine:
        decide = assess.by_judge(engine, "critic")
        for verdict, expected in (("RIGHT", True), ("wrong", False), ("I would say: RIGHT.", True)):
            judge.verdict = verdict
            assert await decide(REQUEST, "max", 0, "It is 42") is expected
        judge.verdict = "RIGHT or WRONG"
        with pytest.raises(StageError, match="instead of RIGHT or WRONG"):
            await decide(REQUEST, "max", 0, "It is 42")
    body = judge.bodies[0]
    assert body["model"] == "critic"
    assert "What is 40 + 2?" in body["messages"][0]["content"]
    assert "It is 42" in body["messages"][0]["content"]
    assert "max" not in body["messages"][0]["content"]


async def test_a_program_labels_by_its_exit_status(tmp_path: Path):
    program = tmp_path / "label.py"
    program.write_text(
        "import json, sys\ngiven = json.load(sys.stdin)\n"
        "assert given['messages'][0]['role'] == 'user' and given['gold'] == '42'\n"
        "sys.exit({'42': 0, '41': 1}.get(given['answer'], 7))\n"
    )
    decide = assess.by_command(f"{sys.executable} {program}")
    assert await decide(REQUEST, "max", 0, "42") is True
    assert await decide(REQUEST, "max", 0, "41") is False
    with pytest.raises(StageError, match="exit status 7, not 0 or 1"):
        await decide(REQUEST, "max", 0, "?")
    with pytest.raises(StageError, match="cannot run no-such-program"):
        await assess.by_command("no-such-program")(REQUEST, "max", 0, "42")
