"""How is each gateway started in front of the same upstream? Direct, Laconic with everything on, vllm-router, LiteLLM.

`scripts/peers.sh` installs the peers into an environment of their own, `.venv-peers`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.stack import serving
from gateway.process.embedded import free_port, redis_executable

PEERS = Path(__file__).parents[1] / ".venv-peers" / "bin"
WAIT_SECONDS = 120.0


@dataclass(frozen=True)
class Target:
    """A server of chat requests that is measured."""

    name: str
    url: str
    """Up to /v1."""
    pid: int
    key: str = ""


@dataclass(frozen=True)
class Laconic(Target):
    """A running Laconic."""

    redis: str = ""
    """The URL of its Redis."""
    log: Path = Path()
    """What it printed."""


class PeersMissingError(RuntimeError):
    """The peers are not installed; the message says how to install them."""


@contextmanager
def started(directory: Path) -> Generator[list[Target]]:
    """All targets, once they respond; their logs are in `directory`.

    Raises:
        PeersMissingError: `scripts/peers.sh` has not been run.
    """
    if missing := [name for name in ("vllm-router", "litellm") if not (PEERS / name).exists()]:
        raise PeersMissingError(f"{PEERS / missing[0]} is missing: run scripts/peers.sh first")
    with ExitStack() as stack:
        direct = stack.enter_context(upstream_server(directory))
        upstream = direct.url.removesuffix("/v1")
        yield [
            direct,
            stack.enter_context(laconic(upstream, directory, "--max-concurrency", "2048")),
            stack.enter_context(_router(upstream, directory)),
            stack.enter_context(_litellm(upstream, directory)),
        ]


@contextmanager
def upstream_server(directory: Path) -> Generator[Target]:
    """The upstream that every gateway is in front of."""
    port = free_port()
    with _running([sys.executable, "-m", "benchmarks.upstream", str(port)], directory) as pid:
        _wait(f"http://127.0.0.1:{port}/v1/models")
        yield Target("direct", f"http://127.0.0.1:{port}/v1", pid)


@contextmanager
def laconic(upstream: str, directory: Path, *arguments: str) -> Generator[Laconic]:
    """One worker with profile, a key with limits of every kind, and ledger."""
    with redis_server(directory) as redis:
        key = create_key(redis, "bench")
        settings = ("--engine", upstream, "--redis", redis, "--log-level", "warning", *arguments)
        with serving(directory / "laconic", *settings) as url:
            pid = int((directory / "laconic" / "lock").read_text())
            yield Laconic("laconic", f"{url}/v1", pid, key, redis, directory / "laconic" / "printed")


@contextmanager
def redis_server(directory: Path) -> Generator[str]:
    """The URL of a running, empty Redis with append-only persistence."""
    server = redis_executable()
    assert server is not None
    # A Unix socket's path must be short.
    with tempfile.TemporaryDirectory() as short:
        command = [str(server), "--port", "0", "--unixsocket", f"{short}/redis.sock", "--dir", short]
        with _running([*command, "--appendonly", "yes", "--save", ""], directory):
            time.sleep(1)
            yield f"unix://{short}/redis.sock"


def create_key(redis: str, name: str) -> str:
    """The secret of a new key with limits of every kind, which are too high to be reached."""
    limits = ("requests-per-minute", "reasoning-tokens-per-minute", "reasoning-tokens-per-day")
    flags = [text for limit in limits for text in (f"--{limit}", str(10**12))]
    command = [sys.executable, "-m", "gateway.cli", "keys", "create", name, "--json", "--redis", redis, *flags]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["key"]


@contextmanager
def _router(upstream: str, directory: Path) -> Generator[Target]:
    port = free_port()
    places = ["--worker-urls", upstream, "--host", "127.0.0.1", "--port", str(port)]
    command = [str(PEERS / "vllm-router"), *places, "--policy", "round_robin", "--log-level", "error"]
    with _running(command, directory) as pid:
        _wait(f"http://127.0.0.1:{port}/health")
        yield Target("vllm-router", f"http://127.0.0.1:{port}/v1", pid)


@contextmanager
def _litellm(upstream: str, directory: Path) -> Generator[Target]:
    port = free_port()
    model = {"model": "openai/abacus/base", "api_base": f"{upstream}/v1", "api_key": "none"}
    config = directory / "litellm.json"  # JSON is YAML
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "abacus", "litellm_params": model}],
                "litellm_settings": {"telemetry": False, "callbacks": []},
            }
        )
    )
    command = [str(PEERS / "litellm"), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        # Without keys it has less to do, which favours it.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    with _running([*command, "--num_workers", "1"], directory, environment) as pid:
        _wait(f"http://127.0.0.1:{port}/health/liveliness")
        yield Target("LiteLLM", f"http://127.0.0.1:{port}/v1", pid)


@contextmanager
def _running(command: Sequence[str], directory: Path, environment: dict[str, str] | None = None) -> Generator[int]:
    log = directory / f"{Path(command[0]).name}-{len(list(directory.iterdir()))}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **(environment or {})})
    try:
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(url: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                if response.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        if time.monotonic() > deadline:
            raise RuntimeError(f"{url} does not answer after {WAIT_SECONDS:.0f} s")
        time.sleep(0.2)
