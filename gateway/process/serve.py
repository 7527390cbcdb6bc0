"""How does `laconic serve` go from a command line to an endpoint that answers, and back to nothing?

    take the state directory and the port -> start what was not given -> serve -> drain -> take the children down

Everything that can be refused is refused before a child is started, and whatever ends it, by Ctrl-C, SIGTERM or a
fault, the children end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import IO

import uvloop
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gateway import store
from gateway.access.keyring import Keyring
from gateway.config import ConfigError, Settings
from gateway.ledger import ledger
from gateway.observe import logs
from gateway.process import embedded
from gateway.process.server import Server
from gateway.process.supervisor import ChildProcess, Program
from gateway.process.workers import Workers
from models import family as families
from models.family import Family

LOCK_SECONDS = 15.0
NEWS_SECONDS = 15.0


def serve(settings: Settings) -> None:
    """Serve until told to stop.

    Raises:
        ConfigError: a setting that cannot be used on this machine.
        FamilyError, ProfileError: a family that cannot be used.
        StartError: a child that does not start.
    """
    logs.set_up(settings)
    family = families.load(settings.family)
    with _state_dir(settings) as lock, _listening(settings) as listener, contextlib.suppress(asyncio.CancelledError):
        uvloop.run(_serve(settings, family, listener, lock))


async def _serve(settings: Settings, family: Family, listener: socket.socket, lock: IO[str]) -> None:
    programs: list[Program] = []
    engine_urls, redis_url = settings.engine, settings.redis
    if redis_url is None:
        programs.append(embedded.redis(settings.state_dir))
        redis_url = store.embedded_url(settings.state_dir)
    if not engine_urls:
        port = embedded.free_port()
        programs.append(embedded.engine(family, settings.family, port, settings.state_dir))
        engine_urls = [f"http://127.0.0.1:{port}"]

    settings = settings.model_copy(update={"engine": engine_urls, "redis": redis_url})
    ledger.merge_spools(settings.state_dir)
    keyring = Keyring(redis_url, settings.state_dir)
    many = settings.workers > 1
    server = Workers(settings, listener, lock.fileno()) if many else Server(settings, family, listener)
    for stop in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(stop, server.stop, asyncio.current_task())
    async with _running(programs, lock):
        closed = await _has_keys(settings, keyring)
        await server.start()
        _tell_where(listener, family, closed)
        await server.wait()


async def _has_keys(settings: Settings, keyring: Keyring) -> bool:
    """Whether callers need a key.

    Raises:
        ConfigError: they do not, or it is not known, and the gateway could be reached from elsewhere.
    """
    try:
        await keyring.read()
    finally:
        await keyring.redis.aclose()
    if not keyring.requires_key and not ipaddress.ip_address(settings.host).is_loopback:
        raise ConfigError(
            f"host: {settings.host} can be reached from elsewhere, and there are no keys yet, or Redis does not answer:"
            " make one with `laconic keys create NAME` (an embedded Redis needs `laconic serve` on 127.0.0.1 for that)"
        )
    return keyring.requires_key


@asynccontextmanager
async def _running(programs: Sequence[Program], lock: IO[str]) -> AsyncGenerator[None]:
    """The programs, answering; and taken down on the way out, whatever the way."""
    children = [ChildProcess(program, lock.fileno()) for program in programs]
    try:
        if children:
            await _start(children)
        yield
    finally:
        await asyncio.shield(asyncio.gather(*(child.stop() for child in children)))


async def _start(children: Sequence[ChildProcess]) -> None:
    """Start all at once, showing who answers already and how long the others take."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        async def start(child: ChildProcess) -> None:
            name = child.program.name
            line = progress.add_task(f"{name} is starting; its log is {child.program.log}", total=1)
            began = time.monotonic()
            news = None if console.is_terminal else asyncio.create_task(_plain_news(name))
            try:
                await child.start()
            finally:
                if news is not None:
                    news.cancel()
            progress.update(line, description=f"{name} answers", completed=1)
            if news is not None:
                _plain(f"{name} answers after {time.monotonic() - began:.1f} s")

        await asyncio.gather(*(start(child) for child in children))


async def _plain_news(name: str) -> None:
    """For a log file instead of a terminal: a line now and then, until cancelled."""
    _plain(f"{name} is starting")
    for turn in range(1, 1000):
        await asyncio.sleep(NEWS_SECONDS)
        _plain(f"{name} is still starting after {turn * NEWS_SECONDS:.0f} s")


def _plain(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _tell_where(listener: socket.socket, family: Family, closed: bool) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = " -H 'authorization: Bearer YOUR-KEY'" if closed else ""
    question = {"model": family.name, "messages": [{"role": "user", "content": "What is 12 + 35 - 8?"}]}
    sys.stdout.write(
        f"\nLaconic serves {family.name} on {url}/v1\n\n"
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -H 'x-reasoning-budget: 64'{key} \\\n"
        f"    -d '{json.dumps(question)}'\n\n"
        "Ctrl-C stops it; `laconic savings` shows what was saved.\n"
    )
    sys.stdout.flush()


@contextmanager
def _listening(settings: Settings) -> Generator[socket.socket]:
    """The port, taken at once: who finds it in use learns it before the engine has started."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
        except OSError as error:
            raise ConfigError(
                f"port: {settings.host}:{settings.port} cannot be listened on ({error.strerror})"
            ) from None
        yield listener


@contextmanager
def _state_dir(settings: Settings) -> Generator[IO[str]]:
    """The state directory, for this process and its children alone: the lock lives as long as the last of them."""
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (settings.state_dir / "lock").open("a+")
    except OSError as error:
        raise ConfigError(f"state_dir: {settings.state_dir} cannot be used ({error.strerror})") from None
    with lock:
        # One that was killed may still be taking its children down, and workers finish what they have.
        deadline = time.monotonic() + settings.drain_seconds + LOCK_SECONDS
        while not _locked(lock):
            lock.seek(0)
            process = lock.read()
            if time.monotonic() > deadline or _runs(process):
                raise ConfigError(f"state_dir: {settings.state_dir} is in use by another laconic (process {process})")
            time.sleep(0.1)
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock


def _runs(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        pass  # it runs, as somebody else
    return True


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
