"""Does the gateway start without torch, and does it stop cleanly while the engine starts?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gateway.process.embedded import free_port
from tests.conftest import RedisServer
from tests.end_to_end.conftest import FAMILY_DIR, LAUNCH, Stack, launched, until

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def light_bin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` directory of an environment with requirements/gateway.txt and Laconic, and nothing else."""
    venv = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    install = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), "--no-deps")
    subprocess.run([*install, "--requirements", ROOT / "requirements" / "gateway.txt"], check=True)
    subprocess.run([*install, "--no-build-isolation", ROOT], check=True)
    return venv / "bin"


def run_in(light_bin: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program from the light environment, outside this checkout."""
    return subprocess.run(
        [str(light_bin / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        cwd=light_bin,
        check=False,
        env={"PATH": ""},
    )


def test_the_gateway_needs_no_torch(light_bin: Path) -> None:
    assert run_in(light_bin, "python", "-c", "import torch").returncode != 0
    assert run_in(light_bin, "python", "-c", "import gateway.process.serve, gateway.cli").stderr == ""


def test_the_help_needs_no_torch(light_bin: Path) -> None:
    for arguments in (["--help"], ["serve", "--help"], ["savings", "--help"], ["--version"]):
        result = run_in(light_bin, "laconic", *arguments)
        assert (result.returncode, result.stderr) == (0, "")


def test_without_an_engine_one_line_says_what_to_do(light_bin: Path, tmp_path: Path) -> None:
    options = ("--port", str(free_port()), "--state-dir", str(tmp_path), "--family", str(FAMILY_DIR))
    result = run_in(light_bin, "laconic", "serve", *options)
    assert result.returncode == 2
    assert result.stderr.startswith("laconic serve: engine: vLLM is not installed")
    assert "--engine URL" in result.stderr
    assert result.stderr.count("\n") == 1


def test_with_an_external_engine_the_gateway_serves_without_torch(
    light_bin: Path, stack: Stack, redis_server: RedisServer, tmp_path: Path
) -> None:
    services = ("--engine", stack.engine_url, "--redis", redis_server.url)
    with launched(tmp_path, *services, launch=(str(light_bin / "laconic"), "serve")) as gateway:
        completion = gateway.sdk.chat.completions.create(
            model="abacus", messages=[{"role": "user", "content": "What is 1 + 2?"}], max_tokens=20
        )
        assert completion.usage is not None
        assert completion.usage.completion_tokens > 0


@pytest.mark.parametrize(
    "stop_signal", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda stop_signal: stop_signal.name
)
def test_stopping_while_the_engine_starts_leaves_no_process_behind(stop_signal: signal.Signals, tmp_path: Path) -> None:
    options = ("--port", str(free_port()), "--state-dir", str(tmp_path), "--family", str(FAMILY_DIR))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LACONIC_")}
    with subprocess.Popen(
        [*LAUNCH, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        parent = psutil.Process(process.pid)
        until(
            lambda: any("forkserver" in part for part in command_lines(parent)),
            "the engine did not start its fork server",
        )
        children = parent.children(recursive=True)
        process.send_signal(stop_signal)
    _, alive = psutil.wait_procs(children, timeout=120)
    assert alive == []


def command_lines(parent: psutil.Process) -> list[str]:
    """The command lines of all child processes, except those that end meanwhile."""
    result: list[str] = []
    for child in parent.children(recursive=True):
        try:
            result.append(" ".join(child.cmdline()))
        except psutil.Error:
            continue
    return result
