from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.answer.completion import completion
from gateway.answer.usage import TokenUsage, Transcript
from gateway.errors import ApiError
from gateway.events import Json
from tests.gateway.fakes import USAGE


def response(*reasons: str, usage: Json | None = None) -> dict[str, Any]:
    choices = [
        {"index": i, "message": {"reasoning": "1 + 2 = 3", "content": "3"}, "finish_reason": reason}
        for i, reason in enumerate(reasons)
    ]
    return {"id": "x", "choices": choices, "usage": usage}


def as_reported(usage: object, _: Transcript) -> Any:
    return usage


def test_a_complete_response_passes_byte_for_byte() -> None:
    body = json.dumps(response("stop", usage=USAGE), indent=3).encode()
    done = completion(body, as_reported, hides_reasoning=False)
    assert done.body is body
    assert (done.usage, done.finish_reason) == (TokenUsage.of(USAGE), "stop")


def test_missing_usage_is_filled_in_from_the_text() -> None:
    texts: list[Transcript] = []

    def counted(usage: object, transcript: Transcript) -> Json:
        assert usage is None
        texts.append(transcript)
        return USAGE

    done = completion(json.dumps(response("length")).encode(), counted, hides_reasoning=False)
    assert json.loads(done.body) == response("length", usage=USAGE)
    assert len(texts) == 1


def test_hidden_reasoning_is_counted_and_removed() -> None:
    body = json.dumps(response("stop", usage=USAGE)).encode()
    done = completion(body, as_reported, hides_reasoning=True)
    (choice,) = json.loads(done.body)["choices"]
    assert choice["message"] == {"content": "3"}
    assert done.usage.reasoning == TokenUsage.of(USAGE).reasoning > 0


@pytest.mark.parametrize(("reasons", "last"), [((), ""), (("stop", "length"), "length")])
def test_the_finish_reason_is_the_last_choices(reasons: tuple[str, ...], last: str) -> None:
    body = json.dumps(response(*reasons, usage=USAGE)).encode()
    assert completion(body, as_reported, hides_reasoning=False).finish_reason == last


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"text"'])
def test_a_response_that_is_no_json_object_is_the_engines_failure(body: bytes) -> None:
    with pytest.raises(ApiError) as error:
        completion(body, as_reported, hides_reasoning=False)
    assert (error.value.status, error.value.code) == (502, "engine_failed")
