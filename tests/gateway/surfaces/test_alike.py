"""The same request through every API is routed, capped, counted and limited alike."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.fakes import EASY, HARD, UNFAMILIAR, FakeEngine, Gateway, error, respond_with

BUDGETS: dict[str, dict[str, dict[str, Any]]] = {
    "none": {"chat": {}, "messages": {}, "responses": {}},
    "64": {
        "chat": {"thinking_token_budget": 64},
        "messages": {"thinking": {"type": "enabled", "budget_tokens": 64}},
        "responses": {"reasoning": {"max_tokens": 64}},
    },
    "low": {
        "chat": {"reasoning_effort": "low"},
        "messages": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        "responses": {"reasoning": {"effort": "low"}},
    },
    "off": {
        "chat": {"reasoning_effort": "none"},
        "messages": {"thinking": {"type": "disabled"}},
        "responses": {"reasoning": {"effort": "none"}},
    },
}
SAME = ("x-laconic-checkpoint", "x-laconic-budget", "x-laconic-decision", "x-laconic-difficulty")


def requests(prompt: str, budget: str, *, stream: bool) -> list[tuple[str, dict[str, Any]]]:
    messages = [{"role": "user", "content": prompt}]
    usage = {"stream_options": {"include_usage": True}} if stream else {}
    common = {"model": "abacus", "temperature": 0.5} | ({"stream": True} if stream else {})
    own = BUDGETS[budget]
    return [
        ("/v1/chat/completions", {**common, **usage, "messages": messages, "max_tokens": 400, **own["chat"]}),
        ("/v1/messages", {**common, "messages": messages, "max_tokens": 400, **own["messages"]}),
        ("/v1/responses", {**common, "input": prompt, "max_output_tokens": 400, **own["responses"]}),
        ("/v1/completions", {**common, **usage, "prompt": prompt, "max_tokens": 400, **own["chat"]}),
    ]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("prompt", [EASY, HARD, UNFAMILIAR], ids=["easy", "hard", "unfamiliar"])
async def test_every_api_makes_the_same_journey(
    gateway: Gateway, engine: FakeEngine, prompt: str, budget: str, stream: bool
) -> None:
    headers: list[dict[str, str]] = []
    for path, body in requests(prompt, budget, stream=stream):
        response = await gateway.client.post(path, json=body)
        assert response.status_code == 200, response.text
        headers.append({name: response.headers.get(name, "") for name in SAME})
    assert headers[1:] == headers[:1] * 3
    for body in engine.bodies:  # Responses has the newer name of the limit
        body["max_tokens"] = body.pop("max_completion_tokens", body.get("max_tokens"))
    assert engine.bodies[1:] == engine.bodies[:1] * 3
    entries = await gateway.entries(4)
    counted = [
        (entry.prompt_tokens, entry.reasoning_tokens, entry.answer_tokens, entry.budget, entry.status, entry.choice)
        for entry in entries
    ]
    assert counted[1:] == counted[:1] * 3


LIMIT = {"/v1/chat/completions": "max_tokens", "/v1/responses": "max_output_tokens", "/v1/completions": "max_tokens"}
PROMPT = {"/v1/chat/completions": "messages", "/v1/responses": "input", "/v1/completions": "prompt"}


async def test_errors_name_the_field_that_the_caller_sent(gateway: Gateway, engine: FakeEngine) -> None:
    asked = {path: body for path, body in requests(HARD, "none", stream=False) if path in LIMIT}
    for path, body in asked.items():
        small = {**body, LIMIT[path]: 40}
        headers = {"X-Reasoning-Budget-Policy": "reject"}
        refused = error(await gateway.client.post(path, json=small, headers=headers))
        assert (refused["code"], refused["param"]) == ("budget_infeasible", LIMIT[path])
        assert f"the smallest feasible {LIMIT[path]} is" in refused["message"]
        too_long = "This model's maximum context length is 1024 tokens. Please reduce the length of the messages."
        engine.script = respond_with(400, {"error": {"message": too_long, "param": "input_tokens"}})
        refused = error(await gateway.client.post(path, json=body))
        assert (refused["code"], refused["param"]) == ("context_length_exceeded", PROMPT[path])


async def test_an_error_about_a_field_that_the_caller_sent_keeps_its_name(gateway: Gateway) -> None:
    body = {"model": "abacus", "input": EASY, "max_completion_tokens": 5}
    refused = error(await gateway.client.post("/v1/responses", json=body))
    assert refused["param"] == "max_completion_tokens"
    body = {"model": "abacus", "prompt": EASY, "messages": []}
    refused = error(await gateway.client.post("/v1/completions", json=body))
    assert refused["param"] == "messages"
