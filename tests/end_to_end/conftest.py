"""A real stack, started once per test run: `laconic serve` with its own vLLM and Redis.

Set `LACONIC_TEST_FAMILY` to the directory of another family to test with that instead of the shipped one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
from openai import AsyncOpenAI, OpenAI

from gateway.config import shipped_family
from gateway.process.embedded import free_port
from models import family as families
from models.family import Family

FAMILY_DIR = Path(os.environ.get("LACONIC_TEST_FAMILY") or shipped_family())
READY = "Ctrl-C stops it"
TOOLS = "--enable-auto-tool-choice --tool-call-parser hermes"
LAUNCH = (sys.executable, "-m", "gateway.cli", "serve")


@dataclass(frozen=True)
class Stack:
    """A running `laconic serve`."""

    process: subprocess.Popen[bytes]
    url: str
    state_dir: Path
    family: Family
    sdk: OpenAI

    @property
    def async_sdk(self) -> AsyncOpenAI:
        """An asynchronous client. Close it in the event loop that used it."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=600)

    @property
    def engine_url(self) -> str:
        """The URL of the engine that this gateway started."""
        command = next(
            c
            for c in map(psutil.Process.cmdline, self.children)
            if c[1:4] == ["-P", "-m", "gateway.process.launch_vllm"]
        )
        return f"http://127.0.0.1:{command[command.index('--port') + 1]}"

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def interrupt(self) -> list[psutil.Process]:
        """Press Ctrl-C, and return the child processes that are still running after the gateway has ended."""
        children = self.children
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        return [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def launched(state_dir: Path, *arguments: str, launch: Sequence[str] = LAUNCH) -> Generator[Stack]:
    """Run `laconic serve`, and yield it once it is ready."""
    port = free_port()
    state_dir.mkdir(parents=True, exist_ok=True)
    printed = state_dir / "printed"
    options = ("--port", str(port), "--state-dir", str(state_dir), "--family", str(FAMILY_DIR))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LACONIC_")}
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [*launch, *options, "--holdout-fraction", "0", *arguments], stdout=output, stderr=output, env=environment
        )
    try:
        until(
            lambda: READY in printed.read_text() or process.poll() is not None,
            "laconic serve neither became ready nor exited",
            1800,
        )
        assert process.poll() is None, printed.read_text()
        url = f"http://127.0.0.1:{port}"
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as sdk:
            yield Stack(process, url, state_dir, families.load(FAMILY_DIR), sdk)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """A stack that embeds everything. It is stopped with Ctrl-C, after which no process may be left.

    Its vLLM has a tool parser; without one it refuses the tools that agents send.
    """
    with launched(tmp_path_factory.mktemp("stack"), f"--engine-args={TOOLS}") as running:
        yield running
        assert running.interrupt() == []
        assert running.process.returncode == 0


@pytest.fixture
def gateway(stack: Stack, tmp_path: Path) -> Generator[Stack]:
    """A gateway with its own ledger, in front of the stack's engine."""
    with launched(tmp_path / "state", "--engine", stack.engine_url) as running:
        yield running


def until(condition: Callable[[], object], failure: str, seconds: float = 300) -> None:
    """Wait for a condition. The deadline only ends a test that would otherwise hang."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, failure
        time.sleep(0.05)


def metric_total(url: str, metric: str) -> float:
    """A metric of vLLM or the gateway, summed over its labels."""
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{metric}(\{{|\s)", line))
