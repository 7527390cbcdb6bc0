"""What happens when real engines die, are restarted one after another, or lack adapters?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from gateway.process import embedded
from gateway.process.embedded import free_port
from models import family as families
from tests.end_to_end.conftest import FAMILY_DIR, Stack, launched, metric_total, until
from tests.gateway.fakes import EASY

START_SECONDS = 600
GRACE_SECONDS = 30
NAMED_SECONDS = 5
"""In which a cause must be named."""
ENDLESS = {"min_tokens": 900, "max_tokens": 950}
"""Long enough for the engine to be killed in the middle."""


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "abacus", "messages": [{"role": "user", "content": "What is 12 + 35 - 8?"}], **more}


class Engine:
    """A vLLM that the test starts and stops."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = directory / f"engine-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str, adapters: bool = True) -> None:
        """Start the engine without waiting for it; `wait` does that. `more` are further arguments."""
        family = families.load(FAMILY_DIR)
        command = embedded.engine_command(family, FAMILY_DIR, self.port, embedded.cpu_dtype())
        if not adapters:
            command = command[: command.index("--lora-modules")]
        command = [*command, "--shutdown-timeout", str(GRACE_SECONDS), *more]  # so that it finishes running requests
        environment = {**embedded._engine_environment(), **os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        until(self.is_ready, f"the engine did not become ready: {self._log.read_text()[-2000:]}", START_SECONDS)

    def is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """`kill -9` the engine and its child processes."""
        assert self._process is not None
        self._kill_group()
        self._process.wait()

    def terminate(self) -> None:
        """Stop it as Kubernetes or systemd does: SIGTERM, and later SIGKILL for the rest of its process group."""
        assert self._process is not None
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):  # vLLM may hang while it ends, with connections open
            self._process.wait(2 * GRACE_SECONDS)
        self.kill()

    def _kill_group(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def two_engines(directory: Path) -> Generator[tuple[Engine, Engine]]:
    """Two running engines, which are killed at the end."""
    engines = (Engine(directory), Engine(directory))
    try:
        for engine in engines:
            engine.start()
        for engine in engines:
            engine.wait()
        yield engines
    finally:
        for engine in engines:
            engine.kill()


def engines_up(gateway: Stack) -> float:
    """How many engines the gateway considers up."""
    return metric_total(gateway.url, "laconic_engine_up")


async def test_a_rolling_restart_loses_nothing_and_a_killed_engine_ends_its_stream_with_an_error(
    tmp_path: Path,
) -> None:
    """Streams that have begun cannot move to another engine, but engines that get SIGTERM finish theirs."""
    with (
        two_engines(tmp_path) as (one, two),
        launched(tmp_path / "state", "--engine", one.url, "--engine", two.url) as gateway,
    ):
        await _restart_each_under_load(gateway, one, two)
        two.terminate()
        async with httpx.AsyncClient(base_url=gateway.url, timeout=600) as client:
            events: list[str] = []
            for _ in range(3):  # on a busy machine, the whole answer may be there before the kill
                events = await _stream_until_killed(client, one)
                if events[-1] != "[DONE]":
                    break
                one.start()
                await asyncio.to_thread(until, lambda: engines_up(gateway) == 1, "the engine did not come back")
            assert json.loads(events[-1])["error"]["code"] == "engine_failed"
            response = await client.post("/v1/chat/completions", json=chat())
            assert (response.status_code, response.json()["error"]["code"]) == (503, "engine_unavailable")
            assert response.elapsed.total_seconds() < 5  # at once, not after a timeout


async def _restart_each_under_load(gateway: Stack, *engines: Engine) -> None:
    """Stop and start one engine after another while four callers ask: every request must be answered whole."""
    responses: list[httpx.Response] = []
    stop = asyncio.Event()

    async def ask(stream: bool) -> None:
        async with httpx.AsyncClient(base_url=gateway.url, timeout=600) as client:
            while not stop.is_set():
                request = chat(stream=stream, messages=[{"role": "user", "content": EASY}])
                responses.append(await client.post("/v1/chat/completions", json=request))

    async with asyncio.TaskGroup() as callers:
        for number in range(4):
            callers.create_task(ask(stream=number % 2 == 0))
        for engine in engines:
            before = len(responses)
            await asyncio.to_thread(engine.terminate)
            while len(responses) < before + 20:
                await asyncio.sleep(0.05)
            engine.start()
            await asyncio.to_thread(until, lambda: engines_up(gateway) == 2, "the engine did not come back")
        stop.set()
    failed = [a for a in responses if a.status_code != 200]
    assert not failed, [(a.status_code, a.text) for a in failed]
    broken = [a for a in responses if b"engine_failed" in a.content]
    assert not broken, "an engine with enough time to stop must finish its streams"


async def _stream_until_killed(client: httpx.AsyncClient, engine: Engine) -> list[str]:
    """Stream a response, kill the engine after five events, and return the data of all events."""
    events: list[str] = []
    request = chat(stream=True, model="abacus/base", **ENDLESS)
    async with client.stream("POST", "/v1/chat/completions", json=request) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                events.append(line[6:])
                if len(events) == 5:
                    await asyncio.to_thread(engine.kill)
    return events


def test_what_keeps_an_engine_from_serving_is_named_in_time_and_mended_without_a_restart(tmp_path: Path) -> None:
    """A wrong key, adapters that the engine lacks until the gateway loads them, a kill, and another model's name."""
    engine, keys = Engine(tmp_path), tmp_path / "engine-key"
    keys.write_text("sk-old")
    try:
        engine.start("--api-key", "sk-new", adapters=False)
        engine.wait()
        options = ("--engine", engine.url, "--engine-key-file", str(keys))
        with launched(tmp_path / "state", *options) as gateway:

            def named(problem: str, words: str) -> None:
                """Readiness and the log have the cause within five seconds, and a request gets a 503."""
                until(lambda: _problem(gateway) == problem, f"{problem} is not in /health/ready", NAMED_SECONDS)
                until(lambda: words in (gateway.state_dir / "printed").read_text(), "not logged", NAMED_SECONDS)
                refused = httpx.post(f"{gateway.url}/v1/chat/completions", json=chat(), timeout=60)
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")

            named("HTTP 401", f"it refuses the key in {keys}. Correct the file")
            keys.write_text("sk-new")
            until(lambda: _problem(gateway) is None, "the new key is not used", NAMED_SECONDS)
            until(lambda: httpx.get(f"{gateway.url}/health/ready").status_code == 200, "adapters are missing")
            for name in ("base", "alpha-0.4"):
                answer = httpx.post(
                    f"{gateway.url}/v1/chat/completions", json=chat(model=f"abacus/{name}"), timeout=600
                )
                assert (answer.status_code, answer.headers["x-laconic-checkpoint"]) == (200, name)
            engine.kill()
            named("connection refused", "Is the engine running")
            engine.start("--api-key", "sk-new", "--served-model-name", "abacus-base", adapters=False)
            engine.wait()
            named("it lists other models", "lists 'abacus-base', none of 'abacus/alpha-0'")
    finally:
        engine.kill()


def _problem(gateway: Stack) -> str | None:
    """What readiness says is wrong with the first engine."""
    return httpx.get(f"{gateway.url}/health/ready", timeout=60).json()["engines"][0]["problem"]
