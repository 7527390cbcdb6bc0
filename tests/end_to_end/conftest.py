"""The real thing, started once a run: `laconic serve` with nothing given but a port, a state directory and the family.

`LACONIC_TEST_FAMILY` names another family than the shipped one, to develop with.
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
        """To be closed in the event loop that used it."""
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=600)

    @property
    def engine_url(self) -> str:
        """Where the engine that it started listens."""
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
        """Ctrl-C; returns those of its children that are still there once it has ended."""
        children = self.children
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        return [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def launched(state_dir: Path, *arguments: str, launch: Sequence[str] = LAUNCH) -> Generator[Stack]:
    """`laconic serve`, ready."""
    port = free_port()
    state_dir.mkdir(parents=True, exist_ok=True)
    printed = state_dir / "printed"
    places = ("--port", str(port), "--state-dir", str(state_dir), "--family", str(FAMILY_DIR))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LACONIC_")}
    with printed.open("wb") as output:
        process = subprocess.Popen(
            [*launch, *places, "--holdout-fraction", "0", *arguments], stdout=output, stderr=output, env=environment
        )
    try:
        until(lambda: READY in printed.read_text() or process.poll() is not None, "it is neither ready nor ended", 1800)
        assert process.poll() is None, printed.read_text()
        url = f"http://127.0.0.1:{port}"
        with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as sdk:
            yield Stack(process, url, state_dir, families.load(FAMILY_DIR), sdk)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """Everything embedded. Ended by Ctrl-C, after which nothing of it may be left."""
    with launched(tmp_path_factory.mktemp("stack")) as running:
        yield running
        assert running.interrupt() == []
        assert running.process.returncode == 0


@pytest.fixture
def gateway(stack: Stack, tmp_path: Path) -> Generator[Stack]:
    """A gateway with books of its own, before the stack's engine."""
    with launched(tmp_path / "state", "--engine", stack.engine_url) as running:
        yield running


def until(condition: Callable[[], object], why_not: str, seconds: float = 300) -> None:
    """Wait for what must come to pass; the deadline only ends a test that would otherwise hang."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why_not
        time.sleep(0.05)


def engine_count(url: str, metric: str) -> float:
    """One of vLLM's or the gateway's metrics, summed over its labels."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{metric}(\{{|\s)", line))
