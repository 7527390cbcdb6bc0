"""Real engines that die, and real engines that are restarted one after the other."""

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
from tests.end_to_end.conftest import FAMILY_DIR, Stack, engine_count, launched, until
from tests.gateway.fakes import EASY

START_SECONDS = 600
GRACE_SECONDS = 30
ENDLESS = {"min_tokens": 900, "max_tokens": 950}
"""Long enough to be killed in the middle of."""


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "abacus", "messages": [{"role": "user", "content": "What is 12 + 35 - 8?"}], **more}


class Engine:
    """A vLLM of the test's own."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = directory / f"engine-{self.port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, adapters: bool = True) -> None:
        """Returns at once; `wait` waits."""
        family = families.load(FAMILY_DIR)
        command = embedded.engine_command(family, FAMILY_DIR, self.port, embedded.cpu_dtype())
        if not adapters:
            at = command.index("--lora-modules")
            command = command[:at]
        command = [*command, "--shutdown-timeout", str(GRACE_SECONDS)]  # or what it has begun breaks off
        environment = {**embedded._engine_environment(), **os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=output, env=environment, start_new_session=True
            )

    def wait(self) -> None:
        until(self.answers, f"the engine does not answer: {self._log.read_text()[-2000:]}", START_SECONDS)

    def answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """`kill -9`, its own children included."""
        assert self._process is not None
        self._kill_group()
        self._process.wait()

    def terminate(self) -> None:
        """As Kubernetes or systemd stops one: asked to end, and some time later killed with all it has left behind."""
        assert self._process is not None
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it can hang at its end, its connections open
            self._process.wait(2 * GRACE_SECONDS)
        self.kill()

    def _kill_group(self) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


@contextmanager
def two_engines(directory: Path) -> Generator[tuple[Engine, Engine]]:
    """Both answering; killed in the end."""
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


def up(gateway: Stack) -> float:
    """How many engines answer, as the gateway sees it."""
    return engine_count(gateway.url, "laconic_engine_up")


async def test_two_engines_die_and_are_restarted_under_load(tmp_path: Path) -> None:
    """A kill in mid-stream is an error event; a rolling restart loses nothing that had not begun to stream."""
    with (
        two_engines(tmp_path) as (one, two),
        launched(tmp_path / "state", "--engine", one.url, "--engine", two.url) as gateway,
    ):
        two.terminate()
        async with httpx.AsyncClient(base_url=gateway.url, timeout=600) as client:
            events = await _killed_in_mid_stream(client, one)
            assert json.loads(events[-1])["error"]["code"] == "engine_failed"
            refused = await client.post("/v1/chat/completions", json=chat())
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
            assert refused.elapsed.total_seconds() < 5  # at once, not after a timeout
        one.start()
        two.start()
        for engine in (one, two):
            await asyncio.to_thread(engine.wait)
        until(lambda: up(gateway) == 2, "they do not come back")

        answers: list[httpx.Response] = []
        stop = asyncio.Event()

        async def ask(stream: bool) -> None:
            async with httpx.AsyncClient(base_url=gateway.url, timeout=600) as client:
                while not stop.is_set():
                    request = chat(stream=stream, messages=[{"role": "user", "content": EASY}])
                    answers.append(await client.post("/v1/chat/completions", json=request))

        async with asyncio.TaskGroup() as callers:
            for number in range(4):
                callers.create_task(ask(stream=number % 2 == 0))
            for engine in (one, two):
                before = len(answers)
                await asyncio.to_thread(engine.terminate)
                while len(answers) < before + 20:
                    await asyncio.sleep(0.05)
                engine.start()
                await asyncio.to_thread(until, lambda: up(gateway) == 2, "it does not come back")
            stop.set()
        lost = [a for a in answers if a.status_code != 200]
        assert not lost, [(a.status_code, a.text) for a in lost]
        broken = [a for a in answers if b"engine_failed" in a.content]
        assert not broken, "engines that are given the time end what they have begun"


async def _killed_in_mid_stream(client: httpx.AsyncClient, engine: Engine) -> list[str]:
    """The data of a stream's events whose engine is killed after some of them."""
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


async def test_an_engine_is_given_the_adapters_it_lacks(tmp_path: Path) -> None:
    engine = Engine(tmp_path)
    try:
        engine.start(adapters=False)
        await asyncio.to_thread(engine.wait)
        with launched(tmp_path / "state", "--engine", engine.url) as gateway:
            until(lambda: httpx.get(f"{gateway.url}/health/ready").status_code == 200, "adapters are missing")
            async with httpx.AsyncClient(base_url=gateway.url, timeout=600) as client:
                answered = await client.post("/v1/chat/completions", json=chat(model="abacus/alpha-0.4"))
            assert answered.status_code == 200
            assert answered.headers["x-laconic-checkpoint"] == "alpha-0.4"
    finally:
        engine.kill()
