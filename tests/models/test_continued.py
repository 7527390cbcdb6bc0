"""Does the body that continues a message keep the request, and its limits for what remains?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.continued import LIMITS, continued

BODY = {"model": "m", "messages": [{"role": "user", "content": "1 + 1?"}], "temperature": 0.5}


def test_what_was_begun_is_the_last_message_and_the_rest_stays() -> None:
    body = continued(BODY, "<think>2</think>", 3)
    assert body["messages"] == [*BODY["messages"], {"role": "assistant", "content": "<think>2</think>"}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert {name: body[name] for name in ("model", "temperature")} == {"model": "m", "temperature": 0.5}
    assert len(BODY["messages"]) == 1


@pytest.mark.parametrize("name", LIMITS)
@given(limit=st.integers(1, 10_000), spent=st.integers(0, 10_000))
def test_limits_are_those_of_what_remains_and_let_something_be_said(name: str, limit: int, spent: int) -> None:
    assert continued({**BODY, name: limit}, "", spent)[name] == max(1, limit - spent)


@given(least=st.integers(1, 10_000), spent=st.integers(0, 10_000))
def test_what_was_generated_counts_towards_the_least_length(least: int, spent: int) -> None:
    assert continued({**BODY, "min_tokens": least}, "", spent)["min_tokens"] == max(0, least - spent)


def test_a_request_without_limits_gets_none() -> None:
    assert not {*LIMITS, "min_tokens"} & continued(BODY, "", 5).keys()
