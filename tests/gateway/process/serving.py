"""Runs `laconic serve` as a process, in front of a scripted engine."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Protocol

import httpx
import psutil

from gateway.process.embedded import free_port

CHAT = {"model": "abacus", "messages": [{"role": "user", "content": "What is easy 1 + 2?"}]}


class Engine(Protocol):
    """Anything that listens at a URL."""

    url: str


class Serve:
    """A running `laconic serve`."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, printed: Callable[[], str]) -> None:
        """`printed` returns what the process has printed so far."""
        self.process, self.url, self.printed = process, url, printed

    @property
    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    async def ask(self) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            return await client.post("/v1/chat/completions", json=CHAT)


async def launch(
    *arguments: str, port: int, output: int | IO[bytes] = asyncio.subprocess.PIPE, prelude: str = ""
) -> asyncio.subprocess.Process:
    """Start `laconic serve`. `prelude` is Python that runs first in that process, to shorten a duration."""
    program = ("-c", f"{prelude}\nfrom gateway import cli\ncli.main()") if prelude else ("-m", "gateway.cli")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LACONIC_")}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, *program, "serve", "--port", str(port), *arguments),
        stdout=output,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )


@asynccontextmanager
async def serving(
    engine: Engine, family_dir: Path, state_dir: Path, *more: str, port: int | None = None, prelude: str = ""
) -> AsyncGenerator[Serve]:
    port = port or free_port()
    arguments = ["--engine", engine.url, "--family", str(family_dir), "--state-dir", str(state_dir), *more]
    # A file and no pipe: nobody reads on, and a full pipe would block the gateway.
    with tempfile.TemporaryFile() as output:
        process = await launch(*arguments, port=port, output=output, prelude=prelude)

        def printed() -> str:
            return os.pread(output.fileno(), 1_048_576, 0).decode()

        while "Ctrl-C stops it" not in printed():
            assert process.returncode is None, printed()
            await asyncio.sleep(0.02)
        greeting = printed()
        assert f":{port}/v1" in greeting
        assert "curl http://" in greeting
        try:
            yield Serve(process, f"http://127.0.0.1:{port}", printed)
        finally:
            if process.returncode is None:
                process.terminate()
                await process.communicate()


async def fail_to_start(*arguments: str, port: int, prelude: str = "") -> str:
    process = await launch(*arguments, port=port, prelude=prelude)
    printed, _ = await process.communicate()
    assert process.returncode == 2, printed
    assert printed.count(b"\n") == 1, printed
    return printed.decode()


async def refuses_connections(url: str) -> bool:
    """Whether connections are refused. A connection that is accepted and has to wait is not refused."""
    try:
        async with httpx.AsyncClient(base_url=url, timeout=0.5) as client:
            await client.get("/health/live")
    except httpx.ConnectError:
        return True
    except httpx.TransportError:
        pass
    return False


def all_ended(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=20)
    return not alive


def is_running(process: psutil.Process) -> bool:
    """Whether a process runs. One that has ended and was not waited for yet (a zombie) does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
