"""How is a whole `laconic serve` started to be measured? As by an operator; it ends with the measurement."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from gateway.process.embedded import free_port

READY = "Ctrl-C stops it"


@contextmanager
def serving(state_dir: Path, *arguments: str) -> Generator[str]:
    """The URL of a running stack, e.g. http://127.0.0.1:8123; its output is in `state_dir`.

    Raises:
        RuntimeError: it does not start; the message is its output.
    """
    # On SIGTERM Python runs no `finally` by default, and the stack would outlive its measurement.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    port = free_port()
    state_dir.mkdir(parents=True, exist_ok=True)
    printed = state_dir / "printed"
    command = [sys.executable, "-m", "gateway.cli", "serve", "--port", str(port), "--state-dir", str(state_dir)]
    with printed.open("wb") as output:
        process = subprocess.Popen([*command, *arguments], stdout=output, stderr=output)
    try:
        while READY not in printed.read_text():
            if process.poll() is not None:
                raise RuntimeError(printed.read_text())
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def engine_of(url: str) -> str:
    """Where the embedded engine of the stack at `url` listens, read from the process list as an operator would."""
    port = httpx.URL(url).port
    (serve,) = (p for p in psutil.Process().children() if f"--port {port}" in " ".join(p.cmdline()))
    commands = [child.cmdline() for child in serve.children(recursive=True)]
    command = next(c for c in commands if c[1:4] == ["-P", "-m", "gateway.process.launch_vllm"])
    return f"http://127.0.0.1:{command[command.index('--port') + 1]}"
