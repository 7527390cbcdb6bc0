"""Every dialect's way to say a budget. Each line of the table in docs/how-to/budgets.md is a test."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from gateway.errors import BadRequestError
from gateway.request import budget, question
from gateway.request.budget import EFFORTS, HEADER, Budget
from gateway.request.dialects import BUDGET_FIELDS, EFFORT_NAMES, hides_thinking, said
from models.family import Family

PAGE = Path(__file__).parents[3] / "docs/how-to/budgets.md"
_ROW = re.compile(r"^\| [^|]+ \| `(\{.*\})` \| ([^|]+) \| ([23]?) ?\|$", re.MULTILINE)
TABLE = [(json.loads(body), means, level) for body, means, level in _ROW.findall(PAGE.read_text())]
HEADERS = Headers({})


def asked(family: Family, body: dict[str, Any], *, headers: Headers = HEADERS, default: str = "auto") -> Budget:
    """The budget of a request with these fields, read as the gateway reads it."""
    whole = {"model": family.name, "messages": [{"role": "user", "content": "1 + 1?"}], **body}
    parsed = question.parse(json.dumps(whole).encode())
    return budget.parse(headers, parsed.body, default, family)


def tokens_of(family: Family, means: str) -> int | None:
    """The cap that a line of the table names, without a default budget."""
    name = means.removeprefix("effort:")
    if name in ("auto", "on", "no cap"):
        return None
    return int(name) if name.isdecimal() else budget.parse_budget_text(name, HEADER, family)


def test_the_table_is_read_whole() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| [^|]*\| `\{", line)]
    assert len(TABLE) == len(lines) > 30


@pytest.mark.parametrize(("body", "means", "level"), TABLE, ids=lambda value: str(value)[:60])
def test_each_line_of_the_table_is_true(family: Family, body: dict[str, Any], means: str, level: str) -> None:
    if means.startswith("400"):
        with pytest.raises(BadRequestError) as refused:
            asked(family, body)
        assert means == f"400 `{refused.value.param}`"
        return
    amount, _, hidden = means.partition(", ")
    tokens = tokens_of(family, amount)
    assert asked(family, body).tokens == tokens
    assert hides_thinking(body) is (hidden == "hidden")
    defaulted = asked(family, body, default="7")
    assert defaulted.tokens == (7 if amount == "on" else tokens)
    if amount in ("on", "auto"):
        assert asked(family, body | {"thinking_token_budget": 5}).tokens == 5
        assert asked(family, {"reasoning_effort": "minimal"} | body).tokens == (
            None if "reasoning_effort" in body else asked(family, {"reasoning_effort": "minimal"}).tokens
        )
        assert asked(family, body, default="0").tokens is None
    elif level == "3":
        assert asked(family, body | {"thinking_token_budget": 5}).tokens == 5
    elif tokens != 5 and "thinking_token_budget" not in body:
        with pytest.raises(BadRequestError, match="contradict"):
            asked(family, body | {"thinking_token_budget": 5})


def test_every_field_is_in_the_table() -> None:
    assert {field for body, means, _ in TABLE for field in body if not means.startswith("400")} == {
        *BUDGET_FIELDS,
        "chat_template_kwargs",
    }


def test_the_header_decides_over_every_field(family: Family) -> None:
    for body, means, _ in TABLE:
        if not means.startswith("400"):
            assert asked(family, body, headers=Headers({HEADER: "16"})).tokens == 16


def test_thinking_cannot_be_switched_on_for_no_tokens(family: Family) -> None:
    with pytest.raises(BadRequestError) as refused:
        asked(family, {"reasoning": {"enabled": True, "max_tokens": 0}})
    assert refused.value.param == "reasoning.max_tokens and reasoning.enabled"


def test_two_efforts_that_differ_contradict_each_other(family: Family) -> None:
    with pytest.raises(BadRequestError) as refused:
        asked(family, {"reasoning_effort": "low", "output_config": {"effort": "high"}})
    assert refused.value.param == "output_config.effort and reasoning_effort"


def test_efforts_have_one_list_of_names() -> None:
    assert tuple(EFFORTS) == EFFORT_NAMES


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from([*EFFORTS, "auto", "enabled", "x"]),
    lambda inner: st.dictionaries(
        st.sampled_from(["google", "thinking_config", "thinking_budget", "include_thoughts", "exclude", "type"]), inner
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*BUDGET_FIELDS, "chat_template_kwargs"]), NESTED))
def test_any_field_is_read_or_refused_by_name(family: Family, body: dict[str, Any]) -> None:
    try:
        parsed = asked(family, body, default="7")
    except BadRequestError as refused:
        assert refused.param is not None and refused.param.split(".")[0].split(" ")[0] in body  # noqa: PT017, PT018
    else:
        amounts = [one.value for one in said(body) if one.value != "on"]
        assert (parsed.source == "default_budget") == (amounts == [])


@pytest.mark.parametrize("field", ["reasoning", "output_config", "custom_params", "thinking_config", "google"])
def test_an_object_that_says_nothing_is_refused(family: Family, field: str) -> None:
    for empty in ({}, {"x": None}):
        with pytest.raises(BadRequestError) as refused:
            asked(family, {field: empty})
        assert refused.value.param in (field, f"{field}.x")
