"""Which fields may callers set?"""

from __future__ import annotations

from typing import Any, get_type_hints

import hypothesis
import pytest
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

from gateway.errors import BadRequestError
from gateway.request import fields


def rejected(body: dict[str, Any], *opened: str) -> str | None:
    """The field that is rejected, or None."""
    try:
        fields.check(body, opened)
    except BadRequestError as error:
        return error.param if error.message.startswith(f"{error.param}: ") else "the message names no field"
    return None


def test_every_field_of_the_official_sdk_is_allowed() -> None:
    assert {*get_type_hints(CompletionCreateParamsNonStreaming), "stream"} <= fields.OPENAI


def test_the_engines_own_fields_are_rejected_and_can_be_opened() -> None:
    for field in (
        "priority", "kv_transfer_params", "ec_transfer_params", "chat_template", "request_id", "session_id",
        "cache_salt", "vllm_xargs", "mm_processor_kwargs", "media_io_kwargs", "use_beam_search", "echo",
        "add_generation_prompt",
        "add_special_tokens", "continue_final_message", "documents", "stream_interval", "return_prompt_text",
    ):  # fmt: skip
        assert rejected({"model": "m", field: 1}) == field
        assert rejected({"model": "m", field: 1}, field) is None
        assert rejected({"model": "m", field: None}) == field


@hypothesis.given(st.dictionaries(st.text(max_size=150), st.none(), max_size=5))
def test_any_other_name_is_rejected(body: dict[str, None]) -> None:
    unknown = [field for field in body if field not in fields.ALLOWED]
    assert rejected(body, *unknown) is None
    if unknown:
        assert (rejected(body) or "").removesuffix("...") == unknown[0][:100]


@pytest.mark.parametrize("parameter", sorted(fields.TEMPLATE_PARAMETERS))
def test_the_template_gets_no_parameter_of_the_engine(parameter: str) -> None:
    name = f"chat_template_kwargs.{parameter}"
    body = {"chat_template_kwargs": {"enable_thinking": False, parameter: True}}
    assert rejected(body) == name
    assert rejected(body, name) is None


def test_the_templates_own_variables_pass() -> None:
    assert rejected({"chat_template_kwargs": {"enable_thinking": False, "style": "terse"}}) is None
    assert rejected({"chat_template_kwargs": None}) is None
