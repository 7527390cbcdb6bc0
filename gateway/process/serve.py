"""How does `laconic serve` start the gateway, and how does it stop?

    lock the state directory, bind the port -> start what was not given -> serve -> drain -> stop the child processes

All settings are checked before a child process is started. However the gateway ends, by Ctrl-C, SIGTERM or a fault, its
child processes end with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import errno
import ipaddress
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import IO

import uvloop
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gateway import more_args, store
from gateway.access import prices
from gateway.access.journal import merge_journals
from gateway.access.keyring import Keyring
from gateway.config import ConfigError, Settings
from gateway.ledger.spool import merge_spools
from gateway.observe import logs
from gateway.process import embedded, readiness, state_dir
from gateway.process.readiness import Readiness
from gateway.process.reload import ReadLevel
from gateway.process.server import Server
from gateway.process.supervisor import ChildProcess, Program
from gateway.process.workers import Workers
from gateway.routing.floor import floor_of, notice
from models import family as families
from models import profile as profiles
from models.family import Family

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 15.0
BACKLOG = 2048
"""Connections that wait until they are accepted."""


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence on each `LACONIC_*` variable that no setting reads. No error: Kubernetes sets some for Services."""
    known = {f"LACONIC_{name.upper()}" for name in Settings.model_fields} | {"LACONIC_ENGINE_KEY"}
    unknown = sorted(name for name in environment if name.startswith("LACONIC_") and name not in known)
    near = (difflib.get_close_matches(name, known, n=1, cutoff=0.8) for name in unknown)
    return [
        f"{name} has no effect, because there is no such setting{f'; did you mean {like[0]}?' if like else ''}"
        for name, like in zip(unknown, near, strict=True)
    ]


def serve(settings: Settings, read_level: ReadLevel | None = None) -> None:
    """Serve until the process is told to stop. `read_level` reads the log level again, on SIGHUP.

    Raises:
        ConfigError: a setting cannot be used on this machine.
        FamilyError, ProfileError, PricesError: the family or the prices cannot be used.
        StartError: a child process did not start.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
    logs.set_up(settings)
    for warning in unknown_variables(os.environ):
        log.warning("%s", warning)
    if settings.engine_args is not None and settings.engine:
        raise ConfigError("engine_args: is for the vLLM that the gateway starts; give them to your own where it starts")
    # The weights matter to whoever loads them: the embedded engine.
    family = families.load(settings.family, verify=not settings.engine)
    _check_floor(settings, family)
    prices.load(settings.prices, family)
    if profiles.LIBRARY is None:
        log.warning(
            "routing is not compiled, so a decision takes several times as long; install a C compiler, then this"
        )
    with (
        state_dir.locked(settings) as lock,
        _listening(settings) as listener,
        contextlib.suppress(asyncio.CancelledError),
    ):
        uvloop.run(_serve(settings, family, listener, lock, read_level))


def _check_floor(settings: Settings, family: Family) -> None:
    """Say what the quality floor means for this family, before anything is started."""
    if settings.quality_floor is not None:
        floor = floor_of(
            settings.quality_floor, profiles.load(settings.family / family.profile, settings.encoder).floors
        )
        assert floor is not None
        log.warning("%s", notice(floor, family.reference))


async def _serve(
    settings: Settings, family: Family, listener: socket.socket, lock: IO[str], read_level: ReadLevel | None
) -> None:
    programs: list[Program] = []
    engine_urls, redis_url = settings.engine, settings.redis
    if not engine_urls:
        port = embedded.free_port()
        more = more_args.words(settings.engine_args or "")
        programs.append(embedded.engine(family, settings.family, port, settings.state_dir, more))
        engine_urls = [f"http://127.0.0.1:{port}"]
    if redis_url is None:
        programs.insert(0, embedded.redis(settings.state_dir))  # it is ready at once, and its news comes first
        redis_url = store.embedded_url(settings.state_dir)

    settings = settings.model_copy(update={"engine": engine_urls, "redis": redis_url})
    merge_spools(settings.state_dir)
    merge_journals(settings.state_dir)
    keyring = Keyring(redis_url, settings.state_dir)
    server = (
        Workers(settings, listener, lock.fileno(), read_level)
        if settings.workers > 1
        else Server(settings, family, listener, read_level=read_level)
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.reload)
    for stop in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(stop, server.stop, asyncio.current_task())
    async with _running(programs, lock):
        requires_key = await _requires_key(settings, keyring)
        if settings.wait_for_engines is not None:
            await readiness.wait(settings, family, settings.wait_for_engines)
        with _port_refused(settings):
            listener.listen(BACKLOG)  # uvloop would close the socket without a word if it could not
        await server.start()
        # Several workers probe for themselves, and their logs are elsewhere.
        state = Readiness.of(server.engines) if isinstance(server, Server) else await readiness.look(settings, family)
        _print_greeting(listener, family, state, requires_key=requires_key, has_page=settings.dashboard)
        await server.wait()


async def _requires_key(settings: Settings, keyring: Keyring) -> bool:
    """Whether callers need a key.

    Raises:
        ConfigError: there is no key, or Redis does not say, and the gateway would be reachable from other machines.
    """
    try:
        await keyring.read()
    finally:
        await keyring.redis.aclose()
    if not keyring.requires_key and not ipaddress.ip_address(settings.host).is_loopback:
        raise ConfigError(
            f"host: {settings.host} is reachable from other machines, but there are no keys yet, or Redis is down;"
            " create a key with `laconic keys create NAME` (with the embedded Redis: while serving on 127.0.0.1)"
        )
    return keyring.requires_key


@asynccontextmanager
async def _running(programs: Sequence[Program], lock: IO[str]) -> AsyncGenerator[None]:
    """Start the programs, and stop them on exit, however the block is left."""
    processes = [ChildProcess(program, lock.fileno()) for program in programs]
    try:
        if processes:
            await _start(processes)
        yield
    finally:
        await asyncio.shield(asyncio.gather(*(process.stop() for process in processes)))


async def _start(processes: Sequence[ChildProcess]) -> None:
    """Start all programs in parallel, and show which are ready and how long the others have taken."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        async def start(process: ChildProcess) -> None:
            name = process.program.name
            line = progress.add_task(f"{name} is starting; its log is {process.program.log_path}", total=1)
            began = time.monotonic()
            progress_lines = None if console.is_terminal else asyncio.create_task(_print_progress(name))
            try:
                await process.start()
            finally:
                if progress_lines is not None:
                    progress_lines.cancel()
            progress.update(line, description=f"{name} is ready", completed=1)
            if progress_lines is not None:
                _print_line(f"{name} is ready after {time.monotonic() - began:.1f} s")

        await asyncio.gather(*(start(process) for process in processes))


async def _print_progress(name: str) -> None:
    """Print a line every `PROGRESS_SECONDS`, until cancelled. Used if the output is not a terminal."""
    _print_line(f"{name} is starting")
    for turn in range(1, 1000):
        await asyncio.sleep(PROGRESS_SECONDS)
        _print_line(f"{name} is still starting after {turn * PROGRESS_SECONDS:.0f} s")


def _print_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _print_greeting(
    listener: socket.socket, family: Family, state: Readiness, *, requires_key: bool, has_page: bool
) -> None:
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    key = " -H 'authorization: Bearer YOUR-KEY'" if requires_key else ""
    question = {"model": family.name, "messages": [{"role": "user", "content": "What is 12 + 35 - 8?"}]}
    notice = f"\n{text}\n" if (text := state.notice(family)) else ""
    verb = "will serve" if len(state.missing) == len(family.checkpoints) else "serves"
    page = f", or {url}/dashboard," if has_page else ""
    sys.stdout.write(
        f"{notice}\nLaconic {verb} {family.name} on {url}/v1\n\n"
        f"  curl {url}/v1/chat/completions -H 'content-type: application/json' -H 'x-reasoning-budget: 64'{key} \\\n"
        f"    -d '{json.dumps(question)}'\n\n"
        f"Ctrl-C stops it; `laconic savings`{page} shows what was saved.\n"
    )
    sys.stdout.flush()


@contextmanager
def _listening(settings: Settings) -> Generator[socket.socket]:
    """Bind the port first, so that a port in use is reported before the engine starts."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with _port_refused(settings):
            listener.bind((settings.host, settings.port))
        yield listener


@contextmanager
def _port_refused(settings: Settings) -> Generator[None]:
    """Say what to do if the port cannot be bound or listened on. It is free until somebody listens."""
    try:
        yield
    except OSError as error:
        where = f"{settings.host}:{settings.port}"
        advice = "; stop what listens there, or pass another --port" if error.errno == errno.EADDRINUSE else ""
        raise ConfigError(f"port: cannot listen on {where} ({error.strerror}){advice}") from None
