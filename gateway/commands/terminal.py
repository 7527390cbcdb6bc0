"""What do the commands beside `laconic serve` share? Their arguments, the settings of a gateway, and its Redis."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console

from gateway import config, duration, store
from gateway.commands import reports
from gateway.config import Settings

T = TypeVar("T")


def command_parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    """A command's parser, which teaches by example."""
    return argparse.ArgumentParser(
        prog=f"laconic {command}",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_redis(parser: argparse.ArgumentParser) -> None:
    """The flags that say where the Redis of a gateway is."""
    parser.add_argument("--redis", metavar="URL", help="the gateway's Redis; none: the one that `laconic serve` uses")
    parser.add_argument("--state-dir", metavar="PATH", help="the state directory of the `laconic serve` to ask about")
    parser.add_argument("--config", metavar="PATH", help="the TOML file of the `laconic serve` to ask about")


def add_since(parser: argparse.ArgumentParser) -> None:
    """The flag for a window that ends now; `window_start` reads it."""
    parser.add_argument("--since", metavar="TIME", type=_seconds, help="how far to look back, as in 24h; none: all")


def window_start(parsed: argparse.Namespace) -> float:
    """The window's begin in Unix seconds."""
    return 0.0 if parsed.since is None else time.time() - parsed.since


def load_settings(parsed: argparse.Namespace, *names: str) -> Settings:
    """The settings of a gateway whose flags were given to another command."""
    given = {name: getattr(parsed, name) for name in names}
    flags = {f"--{name.replace('_', '-')}": value for name, value in given.items() if value is not None}
    return config.load([text for flag, value in flags.items() for text in (flag, value)])


def with_redis(command: str, settings: Settings, work: Callable[[Redis], Awaitable[T]]) -> T:
    """What the work comes to; where Redis does not answer the command ends."""
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
        where = config.redact_url(url)
        fail(f"laconic {command}: no Redis at {where} ({error}); is `laconic serve` running? If not: --redis URL", 1)


def console() -> Console:
    """Into a file or a pipe a table is as wide as it has to be, unless COLUMNS says otherwise."""
    terminal = Console()
    return terminal if terminal.is_terminal or "COLUMNS" in os.environ else Console(width=reports.WIDE)


def fail(message: str, code: int) -> NoReturn:
    """End with a line for the user."""
    sys.stderr.write(f"{message}\n")
    sys.exit(code)


def _seconds(text: str) -> float:
    try:
        return duration.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
