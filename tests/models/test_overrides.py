"""What a checkpoint adds to a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from models.overrides import CAPS, Overrides, with_cap, with_overrides, with_suffix, with_system

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0.2}


def test_a_checkpoint_s_fields_replace_the_caller_s_and_its_defaults_do_not() -> None:
    overrides = Overrides(body={"temperature": 0.6}, defaults={"temperature": 1, "top_p": 0.9})
    body = with_overrides(BODY, overrides)
    assert (body["temperature"], body["top_p"]) == (0.6, 0.9)
    assert BODY["temperature"] == 0.2


def test_objects_are_merged_key_by_key() -> None:
    overrides = Overrides(body={"chat_template_kwargs": {"enable_thinking": False}})
    body = with_overrides(BODY | {"chat_template_kwargs": {"tools": "x", "enable_thinking": True}}, overrides)
    assert body["chat_template_kwargs"] == {"tools": "x", "enable_thinking": False}


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (None, [{"role": "system", "content": "Be brief."}]),
        ({"role": "system", "content": "You cook."}, [{"role": "system", "content": "Be brief.\n\nYou cook."}]),
        ({"role": "developer", "content": None}, [{"role": "developer", "content": "Be brief."}]),
        (
            {"role": "system", "content": [{"type": "text", "text": "You cook."}]},
            [
                {
                    "role": "system",
                    "content": [{"type": "text", "text": "Be brief.\n\n"}, {"type": "text", "text": "You cook."}],
                }
            ],
        ),
    ],
)
def test_a_system_prompt_is_joined_with_the_caller_s(first: dict[str, object] | None, expected: list[object]) -> None:
    user = {"role": "user", "content": "Hi"}
    assert with_system([*([first] if first else []), user], "Be brief.") == [*expected, user]


def test_a_suffix_goes_behind_the_last_user_message() -> None:
    first, answer = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}
    tool = {"role": "tool", "content": "4"}
    last = {"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}
    suffixed = {"role": "user", "content": [*last["content"], {"type": "text", "text": "\n/no_think"}]}
    assert with_suffix([first, answer, last, tool], "/no_think") == [first, answer, suffixed, tool]
    assert with_suffix([first], "/no_think") == [{"role": "user", "content": "Hi\n/no_think"}]
    assert with_suffix([{"role": "user", "content": None}], "/no_think") == [{"role": "user", "content": "/no_think"}]
    assert with_suffix([answer, "nonsense"], "/no_think") == [answer, "nonsense"]
    body = {"messages": [first]}
    assert with_overrides(body, Overrides(suffix="/no_think"))["messages"][0]["content"] == "Hi\n/no_think"
    assert body == {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize("field", ["model", "messages", "stream", "n"])
def test_fields_of_the_gateway_and_the_caller_cannot_be_overridden(field: str) -> None:
    with pytest.raises(ValidationError, match=f"{field} cannot be overridden"):
        Overrides(body={field: 1})


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        ("thinking_token_budget", {"thinking_token_budget": 9}),
        ("custom_params.thinking_budget", {"custom_params": {"seed": 1, "thinking_budget": 9}}),
        ("thinking_budget_tokens", {"thinking_budget_tokens": 9}),
        ("thinking.budget_tokens", {"thinking": {"type": "enabled", "budget_tokens": 9}}),
        ("forced", {}),
        ("none", {}),
    ],
)
def test_a_cap_is_the_field_that_the_engine_takes(cap: str, expected: dict[str, object]) -> None:
    body = {"custom_params": {"seed": 1}} if cap.startswith("custom") else {}
    assert with_cap(body, cap, 9) == body | expected  # type: ignore[arg-type]
    assert cap in CAPS


@given(body=st.dictionaries(st.text(max_size=5), JSON), overriding=st.dictionaries(st.text(max_size=5), JSON))
def test_any_json_is_merged_without_changing_the_request(
    body: dict[str, object], overriding: dict[str, object]
) -> None:
    names = {"model", "messages", "stream", "stream_options", "n"}
    overrides = Overrides(body={name: value for name, value in overriding.items() if name not in names})  # type: ignore[arg-type, misc]
    before = repr(body)
    result = with_overrides(body, overrides)
    assert repr(body) == before
    assert set(result) == set(body) | set(overrides.body)
