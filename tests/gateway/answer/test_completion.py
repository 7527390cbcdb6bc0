from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.answer import counting
from gateway.answer.completion import completion
from gateway.answer.cost import Terms
from gateway.answer.usage import TokenUsage
from gateway.errors import ApiError
from gateway.events import Json
from models.family import Reasoning
from tests.gateway.fakes import USAGE


@pytest.fixture(scope="module")
def terms(family_dir: Path) -> Terms:
    counter = counting.load(family_dir / "base" / "tokenizer.json")
    return Terms(counter, Reasoning(), lambda: "prompt", context_tokens=1024)


def response(*reasons: Any, usage: Json | None = None, **fields: Any) -> dict[str, Any]:
    choices = [
        {"index": i, "message": {"reasoning": "1 + 2 = 3", "content": "3", **fields}, "finish_reason": reason}
        for i, reason in enumerate(reasons)
    ]
    return {"id": "x", "choices": choices, "usage": usage}


def test_a_complete_response_passes_byte_for_byte(terms: Terms) -> None:
    body = json.dumps(response("stop", usage=USAGE), indent=3).encode()
    done = completion(body, terms, hides_reasoning=False)
    assert done.body is body
    assert (done.cost.usage, done.finish_reason) == (USAGE, "stop")


def test_missing_usage_is_filled_in_from_the_text(terms: Terms) -> None:
    done = completion(json.dumps(response("length")).encode(), terms, hides_reasoning=False)
    assert json.loads(done.body) == response("length", usage=done.cost.usage)
    count = terms.counter.count
    assert done.cost.tokens == TokenUsage(count("prompt"), count("1 + 2 = 3"), count("3"))


def test_hidden_reasoning_is_counted_and_removed(terms: Terms) -> None:
    body = json.dumps(response("stop", usage=USAGE)).encode()
    done = completion(body, terms, hides_reasoning=True)
    (choice,) = json.loads(done.body)["choices"]
    assert choice["message"] == {"content": "3"}
    assert done.cost.tokens.reasoning == 4


@pytest.mark.parametrize(("reasons", "last"), [((), ""), (("stop", "length"), "length")])
def test_the_finish_reason_is_the_last_choices(terms: Terms, reasons: tuple[str, ...], last: str) -> None:
    body = json.dumps(response(*reasons, usage=USAGE)).encode()
    assert completion(body, terms, hides_reasoning=False).finish_reason == last


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"text"', b'{"choices":' + b"[" * 100_000])
def test_a_response_that_is_no_json_object_is_the_engines_failure(terms: Terms, body: bytes) -> None:
    with pytest.raises(ApiError) as error:
        completion(body, terms, hides_reasoning=False)
    assert (error.value.status, error.value.code) == (502, "engine_failed")


@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize("reason", ["st\ud800op", "x" * 10_000, 5, [], {"a": 1}, True])
def test_a_finish_reason_is_short_valid_text_or_none(terms: Terms, reason: Any, hides: bool) -> None:
    done = completion(json.dumps(response(reason)).encode(), terms, hides_reasoning=hides)
    assert done.finish_reason.encode().decode()[:64] == done.finish_reason
    json.loads(done.body)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_json_number_becomes_null(terms: Terms, number: str) -> None:
    body = json.dumps(response("stop", top=0)).replace('"top": 0', f'"top": {number}').encode()
    done = completion(body, terms, hides_reasoning=False)
    assert json.loads(done.body, parse_constant=pytest.fail)["choices"][0]["message"]["top"] is None


def test_half_a_surrogate_pair_stays_escaped(terms: Terms) -> None:
    body = json.dumps(response("stop", content="a\ud800")).encode()
    for hides in (True, False):
        done = completion(body, terms, hides_reasoning=hides)
        assert b"\\ud800" in done.body
        assert json.loads(done.body)["choices"][0]["message"]["content"] == "a\ud800"
