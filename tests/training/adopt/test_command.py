"""`laconic adopt` as a whole, against a scripted engine. The end-to-end tests run it against vLLM."""

import asyncio
import json
from pathlib import Path

import pytest

from models import family as families
from models import profile as profiles
from tests.training.adopt.engine import ScriptedEngine
from training.adopt import command


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Sums, half of which are of three numbers and need more thinking than sixteen tokens."""
    file = tmp_path / "sums.jsonl"
    prompts = [f"What is {n % 8} + {n // 8 % 7}?" for n in range(50)] + [f"What is {n} + 12 + 13?" for n in range(50)]
    file.write_text("".join(f"{json.dumps({'prompt': prompt})}\n" for prompt in prompts))
    return file


async def adopt(
    scripted: ScriptedEngine, *arguments: str, rule: tuple[str, str] = ("--quality-tolerance", "0.05")
) -> None:
    flags = ["--model", "adder", "--levels", "off,16,max", "--yes", *rule]
    async with scripted.listening():
        await asyncio.to_thread(command.main, [scripted.url, *flags, *arguments])


async def test_a_served_model_becomes_a_family(prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scripted, out = ScriptedEngine(), tmp_path / "adder-family"
    await adopt(scripted, "--prompts", str(prompts), "--out", str(out))
    family = families.load(out)
    assert [(c.name, c.kind, c.model, c.cap) for c in family.checkpoints] == [
        ("max", "served", "adder", "thinking_token_budget"),
        ("budget-16", "served", "adder", "thinking_token_budget"),
        ("off", "served", "adder", "thinking_token_budget"),
    ]
    assert (family.name, family.reference, family.base, family.tokenizer) == ("adder", "max", None, None)
    assert family.context_tokens == 4096
    budget = family.checkpoint("budget-16")
    assert (budget.budget, budget.answer_tokens) == (16, 5)  # four words, and the mark behind the thinking
    assert family.checkpoint("off").overrides.body == {"chat_template_kwargs": {"enable_thinking": False}}
    accuracy = {c.name: c.frontier.overall.accuracy.mean for c in family.checkpoints}
    assert accuracy["max"] > 0.7
    assert accuracy["off"] < accuracy["budget-16"] < accuracy["max"]
    profile = profiles.load(out / "profile.json")
    assert set(profile.checkpoints) == set(accuracy)
    easy, hard = profile.predict("What is 1 + 2?"), profile.predict("What is 18 + 12 + 13?")
    assert easy.choices["budget-16"].p_correct > hard.choices["budget-16"].p_correct
    assert list(profile.stored.answer_scales) == list(accuracy)
    card = (out / "README.md").read_text()
    assert "| `off` | `adder` | thinking off |" in card
    assert "| `off` | 4.0 | 0.0 | 0.0 |" in card, "every answer has four words"
    assert "routed, minus `max`" in card
    assert str(prompts) in card
    assert (out / "frontier.png").stat().st_size > 1000
    assert sum(file.stat().st_size for file in out.iterdir()) < 2**20
    printed = capsys.readouterr().err
    for line in ("cap: `thinking_token_budget` holds", "cost: ", "routed "):
        assert line in printed
    assert f"laconic serve --engine {scripted.url} --family {out} --quality-tolerance 0.05\n" in printed
    assert "that is few" not in printed + card
    # The same command again asks nothing twice but what the engine can do.
    scripted.bodies.clear()
    await adopt(scripted, "--prompts", str(prompts), "--out", str(out))
    assert len(scripted.bodies) < 20


async def test_a_floor_is_certified_or_the_reference_serves(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """No level keeps 99.9 % for certain on a hundred prompts."""
    out = tmp_path / "family"
    await adopt(ScriptedEngine(), "--prompts", str(prompts), "--out", str(out), rule=("--quality-floor", "0.999"))
    printed, card = capsys.readouterr().err, (out / "README.md").read_text()
    floors = profiles.load(out / "profile.json").floors
    assert [one.floor for one in floors] == [0.9, 0.95, 0.98, 0.99, 0.995, 0.999]
    assert not floors[-1].is_certified
    assert "quality floor 0.999: not certified" in printed
    assert f"--family {out} --quality-floor 0.999\n" in printed, "what is served is what was reported"
    assert "so max serves everything" in printed
    assert "with no tolerance that keeps the floor" in card
    assert "+0.0 points (+0.0 to +0.0) and 100.0 % (100.0 to 100.0 %) of the tokens of max" in printed
    assert "| 0.999 | not certified" in card


async def test_figures_that_are_worth_little_say_why(prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Few prompts, whose answers are given wrongly: no reply is right, and no floor can be certified."""
    rows = [{**json.loads(line), "answer": "-1"} for line in prompts.read_text().splitlines()]
    prompts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    await adopt(ScriptedEngine(), "--prompts", str(prompts), "--most", "60", "--out", str(tmp_path / "family"))
    for said in (capsys.readouterr().err, (tmp_path / "family" / "README.md").read_text()):
        assert "Measured on 60 prompts: that is few." in said
        assert "max is right on no prompt" in said


@pytest.mark.parametrize(
    ("answered", "said", "label"),
    [
        (98, "2 of 100 prompts have no answer and are left out, first sums.jsonl:99\n", "accuracy"),
        (2, "only 2 of 100 prompts have an answer, so replies are judged by agreement\n", "agreement"),
    ],
)
async def test_prompts_without_an_answer_are_left_out_unless_most_have_none(
    answered: int, said: str, label: str, prompts: Path, capsys: pytest.CaptureFixture[str]
):
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    rows = [{**row, "answer": "7" if n < answered else ""} for n, row in enumerate(rows)]
    prompts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    out = prompts.with_name("family")
    await adopt(ScriptedEngine(), "--prompts", str(prompts), "--out", str(out))
    assert said in capsys.readouterr().err
    measured = families.load(out).checkpoint("max").frontier.overall.prompts
    assert measured == (98 if label == "accuracy" else 100)
    assert f"| | {label} | reasoning tokens |" in (out / "README.md").read_text()


async def test_prompts_with_images_are_left_out(prompts: Path, capsys: pytest.CaptureFixture[str]):
    """The gateway lets the reference answer them, so the card must not count them as routed."""
    rows = [json.loads(line) for line in prompts.read_text().splitlines()]
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    for number in range(40, 43):
        content = [{"type": "text", "text": rows[number]["prompt"]}, image]
        rows[number] = {"messages": [{"role": "user", "content": content}]}
    prompts.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    scripted, out, flags = ScriptedEngine(), prompts.with_name("family"), ["--prompts", str(prompts)]
    await adopt(scripted, *flags, "--most", "60", "--out", str(out))
    assert "3 of 60 prompts have more than text in them" in (said := capsys.readouterr().err)
    assert "first sums.jsonl:41\n" in said
    assert families.load(out).checkpoint("max").frontier.overall.prompts == 57
    assert "image_url" not in json.dumps(scripted.bodies), "nobody pays for them"
    with pytest.raises(SystemExit):
        await adopt(scripted, *flags, "--most", "52", "--out", str(out))
    assert "--prompts: 49 prompts are too few" in capsys.readouterr().err


async def test_thinking_that_the_template_opened_counts_also_where_it_was_cut_off(prompts: Path, tmp_path: Path):
    scripted, out = ScriptedEngine(inline=True, opens=True, reports=False), tmp_path / "family"
    flags = ["--prompts", str(prompts), "--out", str(out), "--levels", "off,max", "--max-tokens", "30"]
    await adopt(scripted, *flags, "--most", "50")
    tokens = {c.name: c.frontier.overall.reasoning_tokens.mean for c in families.load(out).checkpoints}
    assert tokens == {"off": 0, "max": 30}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--most", "10"], "--prompts: 10 prompts are too few"),
        (["--samples", "1"], "--samples: agreement needs 2"),
        (["--label", "judge"], "--label judge needs --judge"),
        (["--label", "command"], "--label command needs --label-command"),
        (["--label", "gold"], "has no answer"),
        (["--max-tokens-spent", "100"], "--max-tokens-spent: "),
    ],
)
async def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], named: str, prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    scripted = ScriptedEngine()
    with pytest.raises(SystemExit) as stopped:
        await adopt(scripted, "--prompts", str(prompts), "--out", str(tmp_path / "f"), *arguments)
    assert stopped.value.code == 1
    assert bool(scripted.bodies) == ("--max-tokens-spent" in arguments), "all else is said before anything is paid for"
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("laconic adopt: ")]
    assert named in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at-once", "0"], "--at-once: '0' is not a whole number above 0"),
        (["--most", "-1"], "--most: '-1' is not a whole number above 0"),
        (["--samples", "two"], "--samples: 'two' is not a whole number above 0"),
        (["--max-tokens", "0"], "--max-tokens: '0' is not"),
        (["--context-tokens", "1e3"], "--context-tokens: '1e3' is not"),
        (["--max-tokens-spent", "0"], "--max-tokens-spent: '0' is not"),
        (["--seed", "-1"], "--seed: '-1' is not a whole number from 0 to"),
        (["--temperature", "nan"], "--temperature: 'nan' is not a number from 0 to 2"),
        (["--quality-floor", "high"], "--quality-floor: 'high' is not a number from 0 to 1"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_before_the_engine_is_asked(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    flags = ["--model", "m", "--levels", "off,max", "--prompts", str(tmp_path), "--out", str(tmp_path / "f")]
    with pytest.raises(SystemExit) as stopped:
        command.main(["http://nowhere", *flags, *arguments])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


async def test_nobody_is_charged_without_being_asked(prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scripted = ScriptedEngine()
    flags = ["--model", "adder", "--levels", "off,max", "--prompts", str(prompts), "--out", str(tmp_path / "f")]
    async with scripted.listening():
        with pytest.raises(SystemExit):
            await asyncio.to_thread(command.main, [scripted.url, *flags])
    assert "pass --yes" in capsys.readouterr().err
    assert len(scripted.bodies) < 60


async def test_keys_headers_and_certificates_are_those_of_serve_and_no_header_is_published(
    prompts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """An engine is asked under any spelling of its URL, with its own key; the command in the manifest has no secret."""
    scripted, out, keys = ScriptedEngine(), tmp_path / "adder-family", tmp_path / "keys"
    flags = ["--model", "adder", "--levels", "off,max", "--yes", "--prompts", str(prompts), "--out", str(out)]
    async with scripted.listening():
        url = f"{scripted.url.replace('127.0.0.1', 'LOCALHOST')}/v1/"
        keys.write_text(f"{url.lower()} sk-engine\nsk-other\n")
        access = ["--key-file", str(keys), "--header", "api-key: sk-header", "--header=team: sk-too"]
        await asyncio.to_thread(command.main, [url, *flags, *access])
    assert {headers.get("authorization") for headers in scripted.headers} == {"Bearer sk-engine"}
    assert {headers.get("api-key") for headers in scripted.headers} == {"sk-header"}
    assert {headers.get("team") for headers in scripted.headers} == {"sk-too"}
    written = "".join(file.read_text() for file in out.iterdir() if file.suffix != ".png")
    assert "--header 'api-key: ...' '--header=team: ...'" in written
    printed = capsys.readouterr()
    assert "sk-" not in written + printed.err + printed.out
    assert f"laconic serve --engine {url} --family {out} --engine-key-file {keys}" in printed.err
    assert "--engine-header 'api-key: ...'" in printed.err
