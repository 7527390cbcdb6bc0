"""The reward server: a batch in, its rewards out, and which callers need a key."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from fastapi.testclient import TestClient
from schemathesis.specs.openapi.checks import positive_data_acceptance

from gateway.process.embedded import free_port
from laconic_rewards import Rollout, Settings, advantages, rewards
from laconic_rewards.server import create_app

BATCH = {
    "alpha": 0.2,
    "rollouts": [
        {"group": "q", "response": "<think>2 + 2</think>4", "tokens": 9, "gold": "4"},
        {"group": "q", "response": "<think>Two and two</think>4", "tokens": 12, "gold": "4"},
        {"group": "q", "response": "<think>2 + 2</think>5", "tokens": 9, "gold": "4"},
    ],
}
schema = schemathesis.openapi.from_asgi("/openapi.json", create_app())


@pytest.fixture
def client() -> Iterator[TestClient]:
    with TestClient(create_app()) as client:
        yield client


@schema.parametrize()
def test_whatever_is_sent_is_answered_as_documented(case):
    # A schema cannot say that max_tokens must be there for some rules, and not below overlong_window.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])


def test_a_batch_is_judged_and_rewarded(client: TestClient):
    answer = client.post("/rewards", json=BATCH).json()
    rollouts = [Rollout("q", True, 9), Rollout("q", True, 12), Rollout("q", False, 9)]
    assert answer == {
        "correct": [True, True, False],
        "rewards": rewards(rollouts, Settings(alpha=0.2)).tolist(),
        "advantages": advantages(rollouts, Settings(alpha=0.2)).tolist(),
    }


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"alpha": 1}, "alpha"),
        ({"rule": "shortest"}, "rule"),
        ({"rule": "truncation"}, "max_tokens"),
        ({"aplha": 0.1}, "aplha"),
        ({"rollouts": []}, "rollouts"),
        ({"max_tokens": 2**64, "overlong_window": 1}, "max_tokens"),
        ({"max_tokens": 9, "overlong_window": 2**64}, "overlong_window"),
    ],
)
def test_bad_requests_name_the_field(client: TestClient, change, named):
    answer = client.post("/rewards", json=BATCH | change)
    assert answer.status_code == 422
    assert named in answer.text


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('{"alpha": NaN, "rollouts": []}', "alpha"),
        ('{"alpha": 1e999, "rollouts": []}', "alpha"),
        (r'{"rollouts": [{"group": "\ud800"}]}', "gold"),
        (r'{"rule": "\ud800", "rollouts": []}', "rule"),
        (r'{"rollouts": [], "\ud800": 1}', "unicode"),
    ],
)
def test_what_json_or_utf8_does_not_have_is_refused(client: TestClient, body, named):
    answer = client.post("/rewards", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert named in answer.text
    for detail in answer.json()["detail"]:
        assert detail.keys() == {"loc", "msg", "type"}, "values are not sent back"


def test_without_the_key_the_body_is_not_read():
    read = []

    async def receive():
        read.append(True)
        return {"type": "http.request", "body": b"{", "more_body": False}

    sent = []

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/rewards", "query_string": b"", "headers": headers}
    asyncio.run(create_app("secret")(scope, receive, send))
    assert sent[0]["status"] == 401
    assert not read


def test_with_a_key_only_those_who_have_it_are_served():
    with TestClient(create_app("secret")) as client:
        assert client.post("/rewards", json=BATCH).status_code == 401
        assert client.post("/rewards", json=BATCH, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.post("/rewards", json=BATCH, headers={"authorization": "Bearer secret"}).status_code == 200


def test_it_is_not_open_to_others_without_a_key():
    environment = {name: value for name, value in os.environ.items() if name != "LACONIC_REWARDS_KEY"}
    command = [sys.executable, "-m", "laconic_rewards.server", "--host", "0.0.0.0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert done.returncode == 2
    assert "LACONIC_REWARDS_KEY" in done.stderr


def test_the_command_serves():
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "laconic_rewards.server", "--port", str(port)])
    try:
        transport = httpx.HTTPTransport(retries=20)
        with httpx.Client(transport=transport, base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            assert client.post("/rewards", json=BATCH).json()["correct"] == [True, True, False]
    finally:
        process.terminate()
        assert process.wait(30) in (0, -15)
