"""What vLLM shows of a prompt is read from its responses, and becomes features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks import state_engine
from benchmarks.state_engine import Subject

ABACUS = Path(__file__).parents[2] / "models" / "abacus"
CHAT = [{"role": "user", "content": "1 + 1?"}]


def _client(reply: dict[str, Any] | str, asked: list[dict[str, Any]]) -> httpx.Client:
    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        return httpx.Response(200, text=reply if isinstance(reply, str) else json.dumps(reply))

    return httpx.Client(transport=httpx.MockTransport(handle), base_url="http://engine")


def test_the_first_token_of_a_prompt_has_no_log_probability() -> None:
    reply = {
        "prompt_logprobs": [None, {"17": {"logprob": -0.5}}, {"4": {"logprob": -1.25}}],
        "choices": [{"logprobs": {"content": [{"top_logprobs": [{"logprob": -0.1}, {"logprob": -2.4}]}]}}],
    }
    asked: list[dict[str, Any]] = []
    with _client(reply, asked) as client:
        assert state_engine.log_probabilities(client, "m", CHAT) == {"prompt": [-0.5, -1.25], "first": [-0.1, -2.4]}
        state_engine.log_probabilities(client, "m", CHAT, prompt=False)
    assert [body.get("prompt_logprobs") for body in asked] == [0, None]
    assert asked[0]["max_tokens"] == 1


def test_a_truncated_answer_is_wrong() -> None:
    choice = {"message": {"content": "The answer is 2."}, "logprobs": {"content": [{"logprob": -0.5}] * 3}}
    usage = {"completion_tokens": 3}
    answers = []
    for reason in ("stop", "length"):
        with _client({"choices": [{**choice, "finish_reason": reason}], "usage": usage}, []) as client:
            answers.append(state_engine.answer(client, "m", CHAT, "2", {"temperature": 0}))
    assert [answer["correct"] for answer in answers] == [True, False]
    assert answers[0]["surprisal"] == 1.5
    assert answers[0]["tokens"] == 3


def test_the_clock_stops_at_the_first_token_and_not_at_the_role() -> None:
    events = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        {"choices": [{"delta": {"reasoning": "so"}}]},
        {"choices": [], "usage": {"prompt_tokens": 70, "prompt_tokens_details": {"cached_tokens": 64}}},
    ]
    stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    with _client(stream, []) as client:
        seconds, tokens, cached = state_engine.seconds_to_first_token(client, "m", CHAT)
    assert 0 < seconds < 5
    assert (tokens, cached) == (70, 64)
    with _client(f"data: {json.dumps(events[0])}\n\ndata: {json.dumps(events[2])}\n\n", []) as client:
        assert np.isnan(state_engine.seconds_to_first_token(client, "m", CHAT)[0])


def test_an_engine_that_refuses_is_an_error() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(400, text="no such task"))
    with (
        httpx.Client(transport=transport, base_url="http://engine") as client,
        pytest.raises(RuntimeError, match="400: no such task"),
    ):
        state_engine.hidden_state(client, "m", CHAT)


def test_features_are_of_the_prompt_and_of_the_first_token() -> None:
    features = state_engine.features({"prompt": [-4.0, -2.0], "first": [np.log(0.5), np.log(0.25), np.log(0.25)]})
    assert features[:3].tolist() == [-3, -4, 1]
    assert features[3 : 3 + state_engine.LAST].tolist() == [0, 0, 0, 0, 0, 0, -4, -2], "the last one last"
    assert features[-3:].tolist() == pytest.approx([np.log(0.5), np.log(2), 1.5 * np.log(2)])


def test_a_family_is_read_by_its_base_and_answered_by_all_checkpoints() -> None:
    subject = Subject(ABACUS)
    assert subject.reader == "abacus/base"
    assert len(subject.names) == 6
    assert "--enable-lora" in subject.answering(1)
    assert str(ABACUS / "base") in subject.pooling(1, "last")
    assert '"seq_pooling_type": "MEAN"' in " ".join(subject.pooling(1, "mean"))
