"""How it starts and ends: in an environment without torch, on a terminal's Ctrl-C, and when it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from gateway.process.embedded import free_port
from tests.end_to_end.conftest import FAMILY_DIR, LAUNCH, Stack, launched, until

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds requirements/gateway.txt and Laconic, and nothing else."""
    venv = tmp_path_factory.mktemp("light") / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = venv / "bin" / "python"
    install = (sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python), "--no-deps")
    subprocess.run([*install, "--requirements", ROOT / "requirements" / "gateway.txt"], check=True)
    subprocess.run([*install, "--no-build-isolation", ROOT], check=True)
    return venv / "bin"


def alone(light: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run something from the light environment, away from this checkout."""
    return subprocess.run(
        [str(light / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        cwd=light,
        check=False,
        env={"PATH": ""},
    )


def test_the_gateway_needs_no_torch(light: Path) -> None:
    assert alone(light, "python", "-c", "import torch").returncode != 0
    assert alone(light, "python", "-c", "import gateway.process.serve, gateway.cli").stderr == ""


def test_help_needs_no_torch(light: Path) -> None:
    for arguments in (["--help"], ["serve", "--help"], ["savings", "--help"], ["--version"]):
        shown = alone(light, "laconic", *arguments)
        assert (shown.returncode, shown.stderr) == (0, "")


def test_without_an_engine_it_says_in_one_line_what_to_do(light: Path, tmp_path: Path) -> None:
    places = ("--port", str(free_port()), "--state-dir", str(tmp_path), "--family", str(FAMILY_DIR))
    refused = alone(light, "laconic", "serve", *places)
    assert refused.returncode == 2
    assert refused.stderr.startswith("laconic serve: engine: vLLM is not installed")
    assert "--engine URL" in refused.stderr
    assert refused.stderr.count("\n") == 1


def test_with_an_engine_elsewhere_it_serves_without_torch(light: Path, stack: Stack, tmp_path: Path) -> None:
    with launched(tmp_path, "--engine", stack.engine_url, launch=(str(light / "laconic"), "serve")) as gateway:
        completion = gateway.sdk.chat.completions.create(
            model="abacus", messages=[{"role": "user", "content": "What is 1 + 2?"}], max_tokens=20
        )
        assert completion.usage is not None
        assert completion.usage.completion_tokens > 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda how: how.name)
def test_ended_while_the_engine_starts_it_leaves_nothing_behind(how: signal.Signals, tmp_path: Path) -> None:
    places = ("--port", str(free_port()), "--state-dir", str(tmp_path), "--family", str(FAMILY_DIR))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LACONIC_")}
    with subprocess.Popen(
        [*LAUNCH, *places], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        parent = psutil.Process(process.pid)
        until(lambda: any("forkserver" in part for part in lines(parent)), "the engine has not got to its fork server")
        children = parent.children(recursive=True)
        process.send_signal(how)
    _, alive = psutil.wait_procs(children, timeout=120)
    assert alive == []


def lines(parent: psutil.Process) -> list[str]:
    """The command lines of all its children; those that end meanwhile have none."""
    found: list[str] = []
    for child in parent.children(recursive=True):
        try:
            found.append(" ".join(child.cmdline()))
        except psutil.Error:
            continue
    return found
