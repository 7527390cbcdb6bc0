"""The old completions API: what a prompt asks, and what is answered, with OpenAI's own client."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from gateway.errors import BadRequestError
from gateway.events import encode_event
from gateway.surfaces.completions import CompletionStream, chat_body, completion
from tests.gateway.fakes import EASY, FakeEngine
from tests.gateway.surfaces import chats


async def test_the_text_is_the_answer_and_the_thinking_is_counted(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="abacus", prompt=EASY)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert answer.usage.completion_tokens_details.reasoning_tokens


async def test_a_stream_adds_up_to_the_text_that_a_chat_streams(client: openai.AsyncOpenAI) -> None:
    usage: Any = {"include_usage": True}
    chunks = [
        chunk
        async for chunk in await client.completions.create(
            model="abacus", prompt=[EASY], stream=True, stream_options=usage
        )
    ]
    asked: Any = [{"role": "user", "content": EASY}]
    chat = await client.chat.completions.create(model="abacus", messages=asked, stream=True, stream_options=usage)
    said = [chunk async for chunk in chat]
    expected = "".join(choice.delta.content or "" for chunk in said for choice in chunk.choices)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == expected
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert chunks[-1].usage == said[-1].usage


async def test_the_budget_is_routed_and_capped_as_in_a_chat(client: openai.AsyncOpenAI, engine: FakeEngine) -> None:
    await client.completions.create(model="abacus", prompt=EASY, extra_body={"reasoning_effort": "low"})
    assert engine.bodies[-1]["thinking_token_budget"] == 60


def test_a_prompt_is_what_a_user_says_and_other_fields_pass() -> None:
    body = chat_body({"model": "m", "prompt": "1 + 1?", "max_tokens": 9, "stop": ["\n"], "seed": 1, "echo": False})
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "1 + 1?"}],
        "max_tokens": 9,
        "stop": ["\n"],
        "seed": 1,
    }


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": ["one", "two"]}, "prompt"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"echo": True}, "echo"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": 0}, "logprobs"),
        ({"suffix": "."}, "suffix"),
        ({"best_of": 4}, "best_of"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"messages": []}, "messages"),
    ],
)
def test_what_needs_the_raw_prompt_is_refused_by_name(more: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refused:
        chat_body({"model": "m", "prompt": "1 + 1?", **more})
    assert refused.value.param == param


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.sampled_from(["prompt", "echo", "logprobs", "best_of", "tools"]), JSON))
def test_any_body_is_translated_or_refused(body: dict[str, Any]) -> None:
    with contextlib.suppress(BadRequestError):
        assert chat_body(body)["messages"][0]["content"] is not None


def test_every_choice_has_its_text_and_its_thinking() -> None:
    usage = {**chats.USAGE, "total_tokens": 42}
    chat = chats.completion({"content": "2", "reasoning_content": "Hm."}) | {"created": 1, "usage": usage}
    answer = completion(chat)
    Completion.model_validate(answer)
    (choice,) = answer["choices"]
    assert (choice["text"], choice["reasoning"], choice["finish_reason"]) == ("2", "Hm.", "stop")
    assert answer["id"] == "cmpl-7"
    assert answer["usage"] == usage


def test_what_opens_a_chat_message_is_not_an_event_and_the_rest_is() -> None:
    usage = encode_event({"id": "chatcmpl-7", "choices": [], "usage": chats.USAGE})
    chunks = [chats.chunk(role="assistant", content=""), chats.chunk(reasoning="Hm."), chats.chunk(content="2")]
    events = CompletionStream().feed(
        b": keep-alive\n\n" + b"".join(chunks) + chats.chunk("stop") + usage + b"data: [DONE]\n\n"
    )
    comment, *said, done, rest = events.split(b"\n\n")
    assert (comment, done, rest) == (b": keep-alive", b"data: [DONE]", b"")
    read = [json.loads(event.removeprefix(b"data: ")) for event in said]
    assert [[(one["text"], one["finish_reason"]) for one in event["choices"]] for event in read] == [
        [("", None)],
        [("2", None)],
        [("", "stop")],
        [],
    ]
    assert read[0]["choices"][0]["reasoning"] == "Hm."
    assert read[-1]["usage"] == chats.USAGE


def test_an_error_event_passes() -> None:
    event = encode_event({"error": {"message": "The engine stopped."}})
    assert CompletionStream().feed(event) == event
