"""A model that a real vLLM serves is adopted and served, without its weights and without restarting the engine."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from openai import OpenAI

from models import family as families
from tests.end_to_end.conftest import Stack, launched
from training.tasks.prompts import prompts

PROMPTS = 60
BUDGET = 32


@pytest.fixture(scope="module")
def adopted(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of three levels of the base. Its measurement is killed once on the way, and goes on."""
    directory = tmp_path_factory.mktemp("adopted")
    questions, out = directory / "questions.jsonl", directory / "thinker"
    rows = [{"prompt": question.prompt, "answer": question.answer} for question in prompts("validation", 5, PROMPTS)]
    questions.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = [sys.executable, "-m", "gateway.cli", "adopt", stack.engine_url, "--model", "abacus/base"]
    command += ["--prompts", str(questions), "--levels", f"off,{BUDGET},max", "--out", str(out), "--name", "thinker"]
    command += ["--max-tokens", "400", "--yes"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as killed:
        replies = directory / "thinker.replies" / "replies.jsonl"
        deadline = time.monotonic() + 300
        while not (replies.exists() and replies.read_bytes().count(b"\n") > PROMPTS):
            assert killed.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
    before = replies.read_bytes().count(b"\n")
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "`thinking_token_budget` holds" in finished.stderr
    lines = [line for line in replies.read_bytes().splitlines() if line]
    assert before < len(lines) <= 3 * PROMPTS * 2 + 1  # the kill may have torn a line
    return out


@pytest.fixture(scope="module")
def client(adopted: Path, stack: Stack, tmp_path_factory: pytest.TempPathFactory):
    state = tmp_path_factory.mktemp("state")
    arguments = ("--engine", stack.engine_url, "--family", str(adopted))
    with launched(state, *arguments) as gateway, OpenAI(base_url=f"{gateway.url}/v1", api_key="none") as sdk:
        yield sdk


def ask(client: OpenAI, model: str, **more: object):
    message = {"role": "user", "content": "What is 47 * 86?"}
    return client.chat.completions.create(model=model, messages=[message], **more)  # type: ignore[call-overload]


def test_the_family_has_no_weights_and_says_what_each_level_costs(adopted: Path) -> None:
    family = families.load(adopted)
    assert sum(file.stat().st_size for file in adopted.iterdir()) < 2**20
    tokens = {c.name: c.frontier.overall.reasoning_tokens.mean for c in family.checkpoints}
    accuracy = {c.name: c.frontier.overall.accuracy.mean for c in family.checkpoints}
    assert [c.name for c in family.checkpoints] == ["max", f"budget-{BUDGET}", "off"]
    assert tokens["off"] < 2 < tokens[f"budget-{BUDGET}"] <= BUDGET < tokens["max"]
    assert accuracy["off"] < accuracy["max"]


def test_each_level_is_served_by_the_engine_s_own_model(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [
        "thinker", "thinker/max", f"thinker/budget-{BUDGET}", "thinker/off"
    ]  # fmt: skip
    spent = {}
    for level in ("max", f"budget-{BUDGET}", "off"):
        answer = ask(client, f"thinker/{level}", temperature=0)
        assert answer.usage is not None
        assert "The answer is" in answer.choices[0].message.content
        spent[level] = answer.usage.completion_tokens_details.reasoning_tokens
    assert spent["off"] == 0
    assert 0 < spent[f"budget-{BUDGET}"] <= BUDGET < spent["max"]


def test_the_family_s_name_routes_and_a_budget_caps(client: OpenAI) -> None:
    routed = client.chat.completions.with_raw_response.create(
        model="thinker", messages=[{"role": "user", "content": "What is 12 + 35 - 8?"}]
    )
    assert routed.headers["x-laconic-checkpoint"] in ("max", f"budget-{BUDGET}", "off")
    assert routed.headers["x-laconic-decision"] == "routed"
    capped = ask(client, "thinker/max", extra_headers={"X-Reasoning-Budget": "8"})
    assert capped.usage.completion_tokens_details.reasoning_tokens <= 8
    events = list(ask(client, "thinker", stream=True, stream_options={"include_usage": True}))
    assert events[-1].usage.completion_tokens > 0
