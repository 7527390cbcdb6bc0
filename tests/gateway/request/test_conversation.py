"""Which conversation a request belongs to: the caller's id, or the beginning of the messages."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from gateway.errors import BadRequestError
from gateway.request.conversation import HEADER, MAX_ID_CHARACTERS, SESSION_HEADERS, Conversation, identify

SYSTEM = {"role": "system", "content": "You are an agent."}
FIRST = {"role": "user", "content": "What is 12 + 35?"}
LATER = [FIRST, {"role": "assistant", "content": "47"}, {"role": "user", "content": "And 5 more?"}]


def identity(
    messages: list[dict[str, Any]] | None = None,
    headers: dict[str, str] | None = None,
    body: dict[str, Any] | None = None,
    caller: str = "key",
) -> Conversation:
    return identify(Headers(headers or {}), body or {}, messages or [SYSTEM, FIRST], caller)


def test_without_an_id_the_beginning_tells_conversations_apart() -> None:
    assert identity([SYSTEM, FIRST]).id == identity([SYSTEM, *LATER]).id
    assert identity([SYSTEM, FIRST]).id != identity([FIRST]).id
    assert identity([SYSTEM, FIRST]).id != identity([SYSTEM, LATER[-1]]).id


def test_only_with_an_assistants_turn_or_an_id_there_may_have_been_a_turn_before() -> None:
    assert not identity([SYSTEM, FIRST]).may_be_known
    assert identity(LATER).may_be_known
    assert identity([FIRST], {HEADER: "c1"}).may_be_known


def test_the_header_is_the_conversation_whatever_the_messages_are() -> None:
    named = {HEADER: "c1"}
    assert identity([FIRST], named).id == identity([SYSTEM, *LATER], {**named, "x-session-id": "s"}).id
    assert identity([FIRST], named).id != identity([FIRST], {HEADER: "c2"}).id


@pytest.mark.parametrize("value", ["", " ", "a b ", "x" * (MAX_ID_CHARACTERS + 1), "caf\u00e9", "a\tb"])
def test_a_malformed_header_is_an_error_that_names_it(value: str) -> None:
    with pytest.raises(BadRequestError, match=HEADER) as refused:
        identify({HEADER: value}, {}, [FIRST], "")
    assert refused.value.param == HEADER


SESSIONS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    **{name: ({name: "s1"}, {}) for name in SESSION_HEADERS},
    "LiteLLM's metadata": ({}, {"metadata": {"session_id": "s1"}}),
    "Claude Code": ({}, {"metadata": {"user_id": json.dumps({"device_id": "d", "session_id": "s1"})}}),
    "Claude Code before": ({}, {"metadata": {"user_id": "user_0f_account__session_s1"}}),
    "OpenAI's cache key": ({}, {"prompt_cache_key": "s1"}),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_and_its_system_prompt_are_one_conversation(name: str) -> None:
    headers, body = SESSIONS[name]
    told = identity([SYSTEM, FIRST], headers, body)
    assert told.may_be_known
    assert told.id == identity([SYSTEM, LATER[-1]], headers, body).id, "its first turns may have been compacted"
    assert told.id == identity([SYSTEM, FIRST], {"x-session-id": "s1"}).id
    assert told.id != identity([SYSTEM, FIRST]).id
    assert told.id != identity([{**SYSTEM, "content": "You name chats."}, FIRST], headers, body).id


@pytest.mark.parametrize("value", ["", "x" * 300, "caf\u00e9", 7, None, ["s1"]])
def test_a_malformed_id_of_somebody_elses_is_as_none(value: Any) -> None:
    body = {"metadata": {"session_id": value, "user_id": value}, "prompt_cache_key": value}
    assert identity(body=body).id == identity().id


@pytest.mark.parametrize("user", ["{", "[" * 3000, '{"session_id": 5}', "[]", "user_1", "{" * 900])
def test_a_user_without_a_session_is_as_none(user: str) -> None:
    assert identity(body={"metadata": {"user_id": user}}).id == identity().id


def test_callers_share_no_conversation() -> None:
    assert identity(caller="a").id != identity(caller="b").id
    assert identity(headers={HEADER: "c"}, caller="a").id != identity(headers={HEADER: "c"}, caller="b").id


def test_an_image_is_part_of_the_beginning() -> None:
    def shown(url: str) -> dict[str, Any]:
        return {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}

    assert identity([shown("a")]).id == identity([shown("a"), *LATER[1:]]).id
    assert identity([shown("a")]).id != identity([shown("b")]).id


@given(st.text(), st.text(), st.text(), st.text())
def test_no_two_beginnings_are_one(system: str, first: str, other_system: str, other_first: str) -> None:
    def of(system: str, first: str) -> str:
        return identity([{"role": "system", "content": system}, {"role": "user", "content": first}]).id

    assert (of(system, first) == of(other_system, other_first)) == ((system, first) == (other_system, other_first))


def test_half_a_surrogate_pair_is_no_fault() -> None:
    assert identity([{"role": "user", "content": "\ud800"}]).id
