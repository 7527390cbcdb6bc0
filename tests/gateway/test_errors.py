from __future__ import annotations

import json
from typing import Any

import pytest

from gateway import errors


def test_errors_have_openais_shape() -> None:
    body = json.loads(errors.BadRequestError("no", "field", "code").body())
    assert body == {"error": {"message": "no", "type": "invalid_request_error", "param": "field", "code": "code"}}


@pytest.mark.parametrize(
    ("payload", "param", "code"),
    [
        ({"error": {"message": "bad", "param": "temperature"}}, "temperature", None),
        ({"error": {"message": "bad", "param": "body.max_tokens"}}, "max_tokens", None),
        ({"error": {"message": "bad"}}, None, None),
        ({"message": "an older engine", "object": "error"}, None, None),
        ({"error": "just text"}, None, None),
        ("text", None, None),
        (None, None, None),
        (
            {"error": {"message": "This model's maximum context length is 1024 tokens.", "param": "input_text"}},
            "messages",
            "context_length_exceeded",
        ),
        (
            {"error": {"message": "max_tokens=5000 cannot be greater than max_model_len=1024.", "param": "max_tokens"}},
            "max_tokens",
            "context_length_exceeded",
        ),
    ],
)
def test_an_engines_400_keeps_its_field(payload: Any, param: str | None, code: str | None) -> None:
    error = errors.from_engine(400, payload)
    assert (error.status, error.kind, error.param, error.code) == (400, "invalid_request_error", param, code)
    assert error.message


def test_an_engines_500_becomes_a_502() -> None:
    error = errors.from_engine(500, {"error": {"message": "boom"}})
    assert (error.status, error.kind, error.code) == (502, "api_error", "engine_failed")


@pytest.mark.parametrize(
    ("loc", "placed", "param"),
    [
        (("query", "days"), True, "days"),
        (("query", "str"), True, "str"),
        (("query",), False, "query"),
        (("str",), False, "str"),
        (("metadata", "query"), False, "metadata.query"),
        (("messages", 0, "content", "str"), False, "messages[0].content"),
        (("messages", 0, "content", "list[dict[str,any]]", 1), False, "messages[0].content[1]"),
    ],
)
def test_a_field_keeps_its_name_whatever_it_is(loc: tuple[str | int, ...], placed: bool, param: str) -> None:
    refused = errors.invalid([{"loc": loc, "msg": "Extra inputs are not permitted"}], placed=placed)
    assert (refused.param, refused.message) == (param, f"{param}: Extra inputs are not permitted")


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("repetition_penalty must be greater than zero, got 0.0.", "repetition_penalty"),
        ("min_tokens must be less than or equal to max_tokens=30, got 50.", "min_tokens"),
        ("Grammar error: Invalid type: nonsense", "response_format"),
        ('"auto" tool choice requires --enable-auto-tool-choice', "tool_choice"),
        ("abacus/base is not a multimodal model", "messages"),
        ("logit_bias is not in this body", None),
        ("Something else", None),
        ("", None),
    ],
)
def test_the_field_is_found_in_an_engines_message(message: str, field: str | None) -> None:
    named = ("model", "messages", "repetition_penalty", "min_tokens", "max_tokens", "response_format", "tool_choice")
    assert errors.field_at_fault(message, dict.fromkeys(named)) == field
