"""vLLM's own reasoning parsers: whatever usage they lead to, what was thought is counted.

docs/how-to/deploy.md names the parsers of this table.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway.answer import counting
from gateway.answer.cost import Terms, cost_of
from gateway.answer.transcript import Transcript
from models import family as families
from models.family import Reasoning
from tests.gateway.fakes import event
from tests.gateway.hostile.parsers import THINKING_TOKENS, TOKENS

ABACUS = Path(families.__file__).parent / "abacus"
RIGHT = ["deepseek_v4", "glm45", "granite_thinking_parser", "hy_v4", "kimi_k2", "ling3", "mimo", "minicpmv",
         "minimax_m2", "nemotron_v3", "qwen3", "step3", "step3p5"]  # fmt: skip
REPORT_NONE = ["deepseek_r1", "ernie45", "holo2"]
"""They show the thinking, and count it only behind a `<think>` that the model wrote itself."""
FOR_OTHER_MARKS = ["deepseek_v3", "gemma4", "granite", "hunyuan_a13b", "hy_v3"]
"""They take the thinking for an answer, unless the request or the model does what they wait for."""


@cache
def parsed() -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.gateway.hostile.parsers", ABACUS / "base"]
    names = [*RIGHT, *REPORT_NONE, *FOR_OTHER_MARKS]
    done = subprocess.run([*command, *names], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return json.loads(done.stdout[done.stdout.rindex(b'{"deepseek_v4"') :])


@pytest.fixture(scope="module")
def terms() -> Terms:
    counter = counting.load(ABACUS / "base" / "tokenizer.json")
    return Terms(counter, Reasoning(), lambda: "prompt", context_tokens=1024)


def usage(reasoning: int) -> dict[str, Any]:
    details = {"reasoning_tokens": reasoning}
    return {"prompt_tokens": 17, "completion_tokens": TOKENS, "total_tokens": 17 + TOKENS,
            "completion_tokens_details": details}  # fmt: skip


@pytest.mark.parametrize("name", [*RIGHT, *REPORT_NONE, *FOR_OTHER_MARKS])
def test_what_was_thought_is_counted(terms: Terms, name: str) -> None:
    output = parsed()[name]
    stream, response = Transcript(), Transcript()
    for delta in output["deltas"]:
        stream.add_events(event(delta))
    stream.add_events(event({}, "stop"))
    response.add_response({"choices": [{"index": 0, "message": output["message"], "finish_reason": "stop"}]})
    for transcript, reported in ((stream, output["streamed_tokens"]), (response, output["tokens"])):
        cost = cost_of(usage(reported), transcript, terms)
        assert reported == (THINKING_TOKENS if name in RIGHT else 0)
        assert cost.tokens.reasoning == THINKING_TOKENS
        assert cost.tokens.reasoning + cost.tokens.answer == TOKENS
        assert cost.counting == ("reported" if name in RIGHT else "repaired")
        assert cost.answered
