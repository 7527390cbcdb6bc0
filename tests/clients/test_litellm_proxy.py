"""Does LiteLLM's proxy with our callback get its traffic measured? A real proxy, vLLM and gateway, two checkpoints."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import signal
import subprocess
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway import store
from gateway.ledger import ledger
from gateway.ledger.entry import Entry
from gateway.process.embedded import free_port
from tests.end_to_end.conftest import Stack, launched, metric_total, until

ROOT = Path(__file__).parents[2]
LITELLM = ROOT / ".venv-peers/bin/litellm"
"""Of scripts/peers.sh: the proxy needs other packages than the clients."""
EXAMPLE = ROOT / "deploy/litellm"
REQUESTS = 150
AT_ONCE = 8
KEY = f"sk-{secrets.token_hex(32)}"
"""LiteLLM's own, without which it does not start."""

pytestmark = pytest.mark.skipif(
    not (ROOT / ".venv-peers/.installed").exists(), reason="LiteLLM's proxy is not installed: run `make test-clients`"
)


@dataclass
class Router:
    """LiteLLM's proxy in front of the engine of `laconic`, which decides for it."""

    url: str
    laconic: Stack
    printed: Path

    @property
    def ledger(self) -> list[Entry]:
        """What the ledger has, oldest first."""

        async def read() -> list[Entry]:
            redis = store.connect(store.embedded_url(self.laconic.state_dir))
            try:
                return [entry async for entry in ledger.read_entries(redis, 0)]
            finally:
                await redis.aclose()

        return asyncio.run(read())

    def after(self, entries: int) -> list[Entry]:
        """The ledger, once it has so many entries. LiteLLM reports behind its responses."""
        deadline = time.monotonic() + 120
        while len(found := self.ledger) < entries:
            log = [line for line in self.printed.read_text().splitlines() if "200 OK" not in line]
            assert time.monotonic() < deadline, "\n".join([f"{len(found)} entries; LiteLLM's log:", *log[-40:]])
            time.sleep(0.5)
        return found

    def ask(self, prompt: str, headers: dict[str, str] | None = None, **more: Any) -> httpx.Response:
        body = {"model": "abacus", "messages": [{"role": "user", "content": prompt}], **more}
        headers = {**(headers or {}), "authorization": f"Bearer {KEY}"}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=300)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Generator[Router]:
    """Two of five requests are drawn, so that a hundred and fifty suffice."""
    directory = tmp_path_factory.mktemp("litellm")
    with launched(directory / "state", "--holdout-fraction", "0.4") as laconic:
        port, printed = free_port(), directory / "printed"
        environment = {
            "HOME": str(directory), "PATH": f"{LITELLM.parent}:/usr/bin:/bin",
            "LITELLM_MASTER_KEY": KEY,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True", "HF_HUB_OFFLINE": "1",  # nothing from the network
            "VLLM_URL": f"{laconic.engine_url}/v1", "LACONIC_URL": laconic.url,
            "LACONIC_MODEL": "abacus", "LACONIC_CHECKPOINTS": "base,alpha-0.2",
            "LACONIC_SECONDS": "15",  # the engine takes all processors, and LiteLLM waits for them
        }  # fmt: skip
        command = [LITELLM, "--config", EXAMPLE / "config.yaml", "--host", "127.0.0.1", "--port", str(port)]
        with printed.open("wb") as output:
            proxy = subprocess.Popen(command, cwd=directory, env=environment, stdout=output, stderr=output)
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: answers(f"{url}/health/liveliness") or proxy.poll() is not None, "LiteLLM does not start")
            assert proxy.poll() is None, printed.read_text()
            yield Router(url, laconic, printed)
        finally:
            proxy.terminate()
            proxy.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


def questions(number: int) -> list[str]:
    """Easy and hard ones in turn, the same ones each time."""
    rng = random.Random(0)
    return [
        f"What is {rng.randrange(10, 99)} * {rng.randrange(10, 99)}?" if one % 2
        else f"What is {rng.randrange(10, 99)} + {rng.randrange(10, 99)} - {rng.randrange(1, 9)}?"
        for one in range(number)
    ]  # fmt: skip


async def ask_all(url: str, prompts: list[str]) -> None:
    """Ask LiteLLM all of them, every second one as a stream."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def ask(client: httpx.AsyncClient, prompt: str, *, stream: bool) -> None:
        body = {"model": "abacus", "messages": [{"role": "user", "content": prompt}], "stream": stream}
        async with gate:
            response = await client.post(f"{url}/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        assert "The answer is" in (said(response) if stream else response.json()["choices"][0]["message"]["content"])

    async with httpx.AsyncClient(headers={"authorization": f"Bearer {KEY}"}, timeout=600) as client:
        await asyncio.gather(*(ask(client, prompt, stream=at % 4 > 1) for at, prompt in enumerate(prompts)))


def said(response: httpx.Response) -> str:
    """The answer in a stream."""
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert all("choices" in event for event in events), response.text[-2000:]
    choices = [choice for event in events for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def test_the_savings_of_its_traffic_are_measured(router: Router) -> None:
    """Every token that vLLM generated is in the ledger, on the side on which it was drawn."""
    engine = router.laconic.engine_url
    before = metric_total(engine, "vllm:generation_tokens_total")
    asyncio.run(ask_all(router.url, questions(REQUESTS)))
    entries = router.after(REQUESTS)
    assert {(one.via, one.status, one.finish_reason, one.counting) for one in entries} == {
        ("litellm", 200, "stop", "reported")
    }
    generated = metric_total(engine, "vllm:generation_tokens_total") - before
    assert sum(one.reasoning_tokens + one.answer_tokens for one in entries) == generated
    assert all(one.prompt_tokens > 5 and one.answer_tokens > 0 for one in entries)
    assert {one.checkpoint for one in entries if one.holdout} == {"base"}
    assert all(one.checkpoint == one.choice for one in entries if not one.holdout)
    assert {one.choice for one in entries} <= {"base", "alpha-0.2"}

    answer = httpx.get(f"{router.laconic.url}/v1/savings", timeout=60).json()
    total, measured = answer["total"], answer["total"]["measured"]
    assert (total["requests"], total["unreported"], total["failed"]) == (REQUESTS, 0, 0)
    assert 30 < total["holdout"] < 90
    assert measured["requests"] == REQUESTS - total["holdout"]
    assert 0 < measured["low"] < measured["saved_tokens"] < measured["high"]


def test_a_budget_is_passed_on_and_holds(router: Router) -> None:
    before = len(router.ledger)
    response = router.ask("What is 47 * 86?", {"x-reasoning-budget": "16"}, temperature=0)
    assert response.status_code == 200, response.text
    entry = router.after(before + 1)[-1]
    assert (entry.budget, entry.over_cap) == (16, False)
    assert 0 < entry.reasoning_tokens <= 16


def test_what_the_gateway_refuses_is_refused(router: Router) -> None:
    response = router.ask("What is 1 + 2?", {"x-reasoning-budget": "lots"})
    assert response.status_code == 400
    assert "X-Reasoning-Budget must be" in response.text


def test_a_request_that_fails_is_reported_once(router: Router) -> None:
    before = len(router.ledger)
    response = router.ask("What is 1 + 2? " * 400)
    assert response.status_code == 400, response.text
    entry = router.after(before + 1)[-1]
    assert (entry.status, entry.error, entry.reasoning_tokens) == (400, "failed at the router", 0)


def test_without_a_decision_the_reference_answers_and_nothing_is_counted(router: Router) -> None:
    before = len(router.ledger)
    generated = metric_total(router.laconic.engine_url, "vllm:generation_tokens_total")
    router.laconic.process.send_signal(signal.SIGSTOP)
    try:
        response = router.ask("What is 12 + 35 - 8?")
    finally:
        router.laconic.process.send_signal(signal.SIGCONT)
    assert response.status_code == 200, response.text
    assert metric_total(router.laconic.engine_url, "vllm:generation_tokens_total") > generated
    router.ask("What is 12 + 35 - 8?")
    assert len(router.after(before + 1)) == before + 1
