from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from gateway.errors import BadRequestError
from gateway.request import budget
from gateway.request.budget import (
    EFFORTS,
    HEADER,
    MAX_BUDGET,
    POLICY_HEADER,
    Budget,
    least_max_tokens,
    leave_room,
    most_thinking,
)
from gateway.request.dialects import BUDGET_FIELDS
from models.family import Family

QUANTILES = {"minimal": 30, "low": 60, "medium": 90, "high": 180, "xhigh": 301}
"""What the test family's reference checkpoint was measured at, rounded up."""


def parse(
    family: Family, body: dict[str, Any] | None = None, *headers: tuple[str, str], default: str = "auto"
) -> Budget:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return budget.parse(Headers(raw=raw), body or {}, default, family)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        *[("0", 0), ("5", 5), ("007", 7), (" 12 ", 12), (str(MAX_BUDGET), MAX_BUDGET)],
        *[("auto", None), ("AUTO", None), ("max", None), ("none", 0), ("Low", 60)],
        *QUANTILES.items(),
    ],
)
def test_the_header_takes_tokens_effort_names_and_auto(family: Family, text: str, tokens: int | None) -> None:
    assert parse(family, {}, (HEADER, text)) == Budget(tokens, HEADER, "cap")


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "abc",
        "1.5",
        "1e3",
        "",
        " ",
        "NaN",
        "inf",
        str(MAX_BUDGET + 1),
        "9" * 5000,
        "5,6",
        "+5",
        "0x10",
        "\uff11\uff12",
        "1 2",
    ],
)
def test_a_malformed_budget_is_rejected_and_names_the_header(family: Family, text: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        budget.parse_budget_text(text, HEADER, family)
    assert refused.value.param == HEADER
    assert HEADER in refused.value.message


def test_a_repeated_header_is_rejected_even_if_the_values_agree(family: Family) -> None:
    for name in (HEADER, POLICY_HEADER):
        with pytest.raises(BadRequestError) as refused:
            parse(family, {}, (name, "5"), (name, "5"))
        assert refused.value.param == name


@pytest.mark.parametrize(
    ("body", "tokens", "source"),
    [
        ({"thinking_token_budget": 7}, 7, "thinking_token_budget"),
        ({"reasoning": {"max_tokens": 7}}, 7, "reasoning.max_tokens"),
        ({"reasoning": {"effort": "low"}}, 60, "reasoning.effort"),
        ({"reasoning": {"effort": "max"}}, None, "reasoning.effort"),
        ({"thinking": {"type": "enabled", "budget_tokens": 7}}, 7, "thinking.budget_tokens"),
        ({"thinking": {"type": "disabled"}}, 0, "thinking.type"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, 0, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"enable_thinking": True}}, None, "default_budget"),
        ({"reasoning_effort": "none"}, 0, "reasoning_effort"),
        ({"reasoning_effort": "high"}, 180, "reasoning_effort"),
    ],
)
def test_every_form_of_the_body_sets_a_budget(
    family: Family, body: dict[str, Any], tokens: int | None, source: str
) -> None:
    assert parse(family, body) == Budget(tokens, source, "cap")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"thinking_token_budget": bad}, "thinking_token_budget")
        for bad in (-2, 1.5, 5.0, True, "5", [5], {}, MAX_BUDGET + 1)
    ]
    + [({"reasoning": {"max_tokens": bad}}, "reasoning.max_tokens") for bad in (-1, 1.5, False, "x", [])]
    + [({"reasoning": {"effort": bad}}, "reasoning.effort") for bad in ("x", "", 5, True, [])]
    + [({"reasoning": bad}, "reasoning") for bad in ("low", 5, [], {}, True)]
    + [({"reasoning": {"effort": "low", "surprise": 1}}, "reasoning.surprise")]
    + [({"thinking": bad}, "thinking") for bad in ("enabled", 5, [])]
    + [({"thinking": {"type": bad, "budget_tokens": 5}}, "thinking.type") for bad in ("x", None, 1)]
    + [({"thinking": {"type": "enabled", "budget_tokens": -5}}, "thinking.budget_tokens")]
    + [({"thinking": {"type": "disabled", "budget_tokens": 5}}, "thinking")]
    + [({"reasoning_effort": bad}, "reasoning_effort") for bad in ("x", "LOW", 5, ["low"], True)],
)
def test_a_malformed_field_is_rejected_by_name(family: Family, body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        parse(family, body)
    assert refused.value.param == param


def test_null_counts_as_absent(family: Family) -> None:
    nothing: dict[str, Any] = dict.fromkeys(BUDGET_FIELDS)
    assert parse(family, nothing, default="12") == Budget(12, "default_budget", "cap")


def test_precedence_is_header_fields_effort_default(family: Family) -> None:
    body: dict[str, Any] = {"thinking_token_budget": 2, "reasoning_effort": "low"}
    assert parse(family, body, (HEADER, "1"), default="4").tokens == 1
    assert parse(family, body, default="4").tokens == 2
    del body["thinking_token_budget"]
    assert parse(family, body, default="4").tokens == 60
    assert parse(family, {}, default="4").tokens == 4
    assert parse(family, {}).tokens is None


def test_an_overridden_value_must_still_be_well_formed(family: Family) -> None:
    with pytest.raises(BadRequestError) as refused:
        parse(family, {"reasoning_effort": "loud"}, (HEADER, "5"))
    assert refused.value.param == "reasoning_effort"


def test_contradicting_fields_are_both_named(family: Family) -> None:
    with pytest.raises(BadRequestError) as refused:
        parse(family, {"thinking_token_budget": 5, "thinking": {"type": "enabled", "budget_tokens": 6}})
    assert refused.value.param == "thinking_token_budget and thinking.budget_tokens"
    with pytest.raises(BadRequestError) as refused:
        parse(family, {"reasoning": {"max_tokens": 5, "effort": "low"}})
    assert refused.value.param == "reasoning.max_tokens and reasoning.effort"


def test_fields_that_agree_are_accepted(family: Family) -> None:
    body = {"thinking_token_budget": 60, "reasoning": {"effort": "low"}}
    assert parse(family, body).tokens == 60


def test_the_policy_header_is_cap_or_reject(family: Family) -> None:
    assert parse(family, {}, (POLICY_HEADER, "reject"), (HEADER, "5")) == Budget(5, HEADER, "reject")
    with pytest.raises(BadRequestError) as refused:
        parse(family, {}, (POLICY_HEADER, "perhaps"))
    assert refused.value.param == POLICY_HEADER


def test_more_effort_never_means_fewer_tokens(family: Family) -> None:
    tokens = [parse(family, {"reasoning_effort": name}).tokens for name in EFFORTS]
    finite = [count for count in tokens if count is not None]
    assert finite == sorted(finite)
    assert tokens[-1] is None


@given(st.text(max_size=20))
def test_any_header_text_is_a_budget_or_a_400(family: Family, text: str) -> None:
    with contextlib.suppress(BadRequestError):
        tokens = budget.parse_budget_text(text, HEADER, family)
        assert tokens is None or 0 <= tokens <= MAX_BUDGET


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(list(EFFORTS)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["max_tokens", "effort", "type", "budget_tokens", "x"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(BUDGET_FIELDS), JSON))
def test_any_body_is_a_budget_or_a_400(family: Family, body: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequestError):
        parsed = parse(family, body)
        assert parsed.tokens is None or 0 <= parsed.tokens <= MAX_BUDGET
        if all(value is None for value in body.values()):
            assert parsed.source == "default_budget"


@pytest.mark.parametrize(
    ("asked", "max_tokens", "cap"),
    [
        (64, None, 64), (None, 100, None), (64, 200, 64), (100, 100, 84), (200, 100, 84), (90, 100, 84), (84, 100, 84),
        (5000, 1000, 900), (10**9, 100_000, 99_744), (8, 10, 0), (0, 10, 0), (5, 1, 0),
    ],
)  # fmt: skip
def test_a_budget_leaves_room_for_the_answer_in_max_tokens(
    asked: int | None, max_tokens: int | None, cap: int | None
) -> None:
    left = leave_room(Budget(asked, HEADER), max_tokens)
    assert left == Budget(cap, HEADER)
    assert left.asked == (None if cap == asked else asked)
    assert leave_room(left, max_tokens) == left


@given(st.integers(0, 10**6))
def test_the_least_max_tokens_is_the_smallest_that_leaves_so_much_thinking(thinking: int) -> None:
    least = least_max_tokens(thinking)
    assert most_thinking(least) >= thinking
    assert most_thinking(least - 1) < thinking or thinking == 0
