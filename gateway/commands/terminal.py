"""What do the commands other than `laconic serve` share? Flags, settings, and access to the gateway's Redis."""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import NoReturn, TextIO, TypeVar, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console

from gateway import config, duration, store
from gateway.access.prices import PriceList, load
from gateway.commands import reports
from gateway.config import Settings
from gateway.urls import redact_url
from models import family as families

T = TypeVar("T")

PIPE_CLOSED = 141
"""Exit status of a program that SIGPIPE ends, as shells say it."""


def command_parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A parser for a command, with examples in its help."""
    return argparse.ArgumentParser(
        prog=f"laconic {command}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_redis(parser: argparse.ArgumentParser) -> None:
    """Add the flags that locate the Redis of a gateway."""
    parser.add_argument(
        "--redis", metavar="URL", help="URL of the gateway's Redis; default: the one that `laconic serve` uses"
    )
    parser.add_argument("--state-dir", metavar="PATH", help="state directory of `laconic serve`")
    parser.add_argument("--config", metavar="PATH", help="configuration file of `laconic serve`")


def add_since(parser: argparse.ArgumentParser) -> None:
    """Add the flag for a time window that ends now; `window_start` reads it."""
    parser.add_argument(
        "--since", metavar="TIME", type=_seconds, help="how far to look back, such as 24h; default: everything"
    )


PRICED = ("redis", "state_dir", "config", "prices", "family")
"""The settings of a command that shows money."""


def add_prices(parser: argparse.ArgumentParser) -> None:
    """Add the flags for what tokens cost."""
    parser.add_argument("--prices", metavar="FILE", help="prices file; default: LACONIC_PRICES, or that of --config")
    parser.add_argument("--family", metavar="PATH", help="directory of the family; default: the shipped abacus")


def load_prices(settings: Settings) -> PriceList | None:
    """The prices that the settings name; None without any.

    Raises:
        PricesError, FamilyError: they, or the family that they are of, cannot be used.
    """
    return None if settings.prices is None else load(settings.prices, families.load(settings.family, verify=False))


def window_start(parsed: argparse.Namespace) -> float:
    """The start of the time window, in Unix seconds."""
    return 0.0 if parsed.since is None else time.time() - parsed.since


def load_settings(parsed: argparse.Namespace, *names: str) -> Settings:
    """Load the settings of a gateway from the flags of another command."""
    values = {name: getattr(parsed, name) for name in names}
    flags = {f"--{name.replace('_', '-')}": value for name, value in values.items() if value is not None}
    return config.load([text for flag, value in flags.items() for text in (flag, value)])


def with_redis(command: str, settings: Settings, work: Callable[[Redis], Awaitable[T]]) -> T:
    """Run `work` with a Redis client and return its result. If Redis is not available, end the command."""
    url = settings.redis or store.embedded_url(settings.state_dir)

    async def connected() -> T:
        redis = store.connect(url)
        try:
            return await work(redis)
        finally:
            await redis.aclose()

    try:
        return asyncio.run(connected())
    except (RedisError, OSError) as error:
        where = redact_url(url)
        fail(
            f"laconic {command}: no Redis at {where} ({error}); is `laconic serve` running? Otherwise pass --redis URL",
            1,
        )


def console() -> Console:
    """A console that prints wide tables to files and pipes, unless COLUMNS is set."""
    terminal = _Console()
    return terminal if terminal.is_terminal or "COLUMNS" in os.environ else _Console(width=reports.WIDE)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to `printing`; Rich would exit with 1."""
        raise BrokenPipeError


@contextmanager
def printing() -> Generator[None]:
    """What the block prints may go to a pipe that is closed early, or to where not every character can be written."""
    stdout = cast("TextIO | None", sys.stdout)  # None if it was closed before the start
    if isinstance(stdout, io.TextIOWrapper):
        stdout.reconfigure(errors="replace")
    try:
        try:
            yield
        finally:
            if stdout is not None:
                stdout.flush()
    except BrokenPipeError:  # whoever reads has enough
        if stdout is not None:  # Python flushes once more when it exits, and would complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())
        sys.exit(PIPE_CLOSED)


def fail(message: str, code: int) -> NoReturn:
    """Print an error and exit."""
    sys.stderr.write(f"{message}\n")
    sys.exit(code)


def _seconds(text: str) -> float:
    try:
        return duration.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
