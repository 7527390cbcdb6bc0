"""`laconic`: the gateway's command line."""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn, TypeVar

from redis.asyncio import Redis
from redis.exceptions import RedisError
from rich.console import Console

from gateway import budget, config, duration, embedded, export, ledger, reports
from gateway.children import StartError
from gateway.config import ConfigError, Settings
from gateway.errors import BadRequestError
from gateway.explain import explain
from gateway.ledger import Books
from gateway.replay import Replay
from gateway.savings import DIMENSIONS, summarise
from models import family as families
from models import profile as profiles
from models.family import FamilyError
from models.profile import ProfileError

T = TypeVar("T")

DESCRIPTION = """Makes reasoning models think only as much as a question deserves.

commands:
  laconic serve      an OpenAI-compatible endpoint that routes, caps and counts; brings its own vLLM and Redis
  laconic route      why a question would go where it goes; needs nothing running
  laconic savings    what was spent and saved, by checkpoint, key, day or difficulty, with an interval
  laconic replay     what another quality tolerance would have chosen and saved
  laconic export     the ledger as JSONL or Parquet

examples:
  laconic serve                                   everything embedded, on http://127.0.0.1:8080/v1
  laconic serve --engine http://gpu1:8000 --family ./my-family
  laconic route "What is 12 + 35 - 8?" --budget 200
  laconic savings --since 24h

`laconic serve --help` and so on say more."""

ROUTE_EXAMPLES = """examples:
  laconic route "What is 12 + 35 - 8?"
  laconic route "What is 47 * 86?" --budget 64 --json
  laconic route "What is 47 * 86?" --family ./my-family --quality-tolerance 0

A running gateway says the same at POST /v1/route."""

SAVINGS_EXAMPLES = """examples:
  laconic savings                                 everything the embedded Redis has recorded
  laconic savings --since 24h --by day            the last day, from the full hour on; also 90s, 30m, 7d, 2w
  laconic savings --price 0.60                    in money, too, at so much for a million tokens
  laconic savings --redis redis://cache:6379/0 --json

The estimate is what the reference checkpoint was expected to think, by the family's difficulty profile, minus what was
thought. The measurement compares with the holdout, requests that the reference served instead, and does not depend on
the profile. Requests that were not routed saved nothing."""

REPLAY_EXAMPLES = """examples:
  laconic replay --quality-tolerance 0.05         on all routed requests that are still in the ledger
  laconic replay --quality-tolerance 0 --since 7d"""

EXPORT_EXAMPLES = """examples:
  laconic export requests.jsonl                   one JSON object a request, without prompt and answer
  laconic export requests.parquet --since 7d      needs pyarrow: pip install 'laconic[parquet]'"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; wrong configuration exits with 2, what goes wrong later with 1."""
    commands: dict[str, Callable[[Sequence[str]], None]] = {
        "serve": _serve, "route": _route, "savings": _savings, "replay": _replay, "export": _export,
    }  # fmt: skip
    parser = argparse.ArgumentParser(
        prog="laconic", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"laconic {metadata.version('laconic')}")
    parser.add_argument("command", choices=commands, metavar="|".join(commands))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    try:
        commands[parsed.command](parsed.rest)
    except (ConfigError, FamilyError, ProfileError) as error:
        _fail(f"laconic {parsed.command}: {error}", 2)
    except StartError as error:
        _fail(f"laconic {parsed.command}: {error}", 1)


def _serve(arguments: Sequence[str]) -> None:
    settings = config.load(arguments)
    from gateway.serve import serve  # noqa: PLC0415  so that --help and a wrong flag answer at once

    serve(settings)


def _route(arguments: Sequence[str]) -> None:
    parser = _parser("route", "Why would a question go where it goes? The decision, without asking a model.")
    parser.epilog = ROUTE_EXAMPLES
    parser.add_argument("question", help="the last thing the user says")
    parser.add_argument("--budget", metavar="TOKENS", help="as in the header X-Reasoning-Budget; none: the default")
    parser.add_argument("--checkpoint", metavar="NAME", help="the one the caller pins; none: the gateway chooses")
    parser.add_argument("--family", metavar="PATH", help="directory of the family; none: the shipped abacus")
    parser.add_argument("--quality-tolerance", metavar="X", help="predicted success a cheaper one may give away")
    parser.add_argument("--config", metavar="PATH", help="the TOML file of the `laconic serve` to ask about")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parsed = parser.parse_args(arguments)
    settings = _settings(parsed, "family", "quality_tolerance", "config")
    family = families.load(settings.family, verify=False)
    profile = profiles.load(settings.family / family.profile)
    source = "default_budget" if parsed.budget is None else "--budget"
    names = frozenset(checkpoint.name for checkpoint in family.checkpoints)
    if parsed.checkpoint is not None and parsed.checkpoint not in names:
        raise ConfigError(f"--checkpoint: {parsed.checkpoint!r} is none of {', '.join(sorted(names))}")
    try:
        tokens = budget.from_text(parsed.budget or settings.default_budget, source, family)
    except BadRequestError as error:
        raise ConfigError(error.message) from None
    explained = explain(
        family,
        profile.read(parsed.question),
        budget.Budget(tokens, source),
        limit=tokens,
        pinned=parsed.checkpoint,
        tolerance=settings.quality_tolerance,
        available=names,
    )
    if parsed.json:
        print(json.dumps(explained, indent=2))
    else:
        _console().print(reports.route_report(explained))


def _savings(arguments: Sequence[str]) -> None:
    parser = _ledger_parser("savings", "What was spent and saved?", SAVINGS_EXAMPLES)
    parser.add_argument("--by", choices=DIMENSIONS, default="checkpoint", help="what a row stands for")
    parser.add_argument("--price", metavar="X", type=_price, help="of a million reasoning tokens, in any currency")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    form.add_argument("--csv", action="store_true", help="print comma-separated rows instead of a table")
    parsed = parser.parse_args(arguments)
    settings = _settings(parsed, "redis", "state_dir", "config")

    async def books(redis: Redis) -> Books:
        return await ledger.read_books(redis, _since(parsed))

    read = _with_redis("savings", settings, books)
    savings = summarise(read.cells, read.holdouts, parsed.by, read.since_hour)
    if parsed.json:
        print(json.dumps(savings.as_json(parsed.price), indent=2))
    elif parsed.csv:
        rows = list(reports.savings_rows(savings, parsed.price))
        writer = csv.DictWriter(sys.stdout, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    else:
        console = _console()
        console.print(reports.savings_report(savings, parsed.price, bars=console.width >= reports.WIDE))
        spool = settings.state_dir / ledger.SPOOL
        if waiting := _lines(spool):
            print(f"Up to {waiting} more requests are on their way to Redis; while it is away they wait in {spool}.")


def _replay(arguments: Sequence[str]) -> None:
    parser = _ledger_parser("replay", "What would another quality tolerance have chosen and saved?", REPLAY_EXAMPLES)
    parser.add_argument("--quality-tolerance", metavar="X", required=True, help="the setting to try, from 0 to 1")
    parsed = parser.parse_args(arguments)
    settings = _settings(parsed, "redis", "state_dir", "config", "quality_tolerance")

    async def again(redis: Redis) -> Replay:
        done = Replay(settings.quality_tolerance)
        async for entry in ledger.read(redis, _since(parsed)):
            done.add(entry)
        return done

    _console().print(reports.replay_report(_with_redis("replay", settings, again)))


def _export(arguments: Sequence[str]) -> None:
    parser = _ledger_parser("export", "The ledger's entries as a file.", EXPORT_EXAMPLES)
    parser.add_argument("file", type=Path, help="what to write; its name ends in .jsonl or .parquet")
    parsed = parser.parse_args(arguments)
    settings = _settings(parsed, "redis", "state_dir", "config")
    write = export.writer(parsed.file)

    async def entries(redis: Redis) -> int:
        return await write(ledger.read(redis, _since(parsed)))

    print(f"{_with_redis('export', settings, entries):,} entries are in {parsed.file}")


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"laconic {command}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def _ledger_parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    parser = _parser(command, description)
    parser.epilog = examples
    parser.add_argument("--redis", metavar="URL", help="the ledger's Redis; none: the one that `laconic serve` uses")
    parser.add_argument("--state-dir", metavar="PATH", help="the state directory of the `laconic serve` to ask about")
    parser.add_argument("--config", metavar="PATH", help="the TOML file of the `laconic serve` to ask about")
    parser.add_argument("--since", metavar="TIME", type=_seconds, help="how far to look back, as in 24h; none: all")
    return parser


def _settings(parsed: argparse.Namespace, *names: str) -> Settings:
    """The settings of a gateway whose flags were given to another command."""
    given = {name: getattr(parsed, name) for name in names}
    flags = {f"--{name.replace('_', '-')}": value for name, value in given.items() if value is not None}
    return config.load([text for flag, value in flags.items() for text in (flag, value)])


def _console() -> Console:
    """Into a file or a pipe a table is as wide as it has to be, unless COLUMNS says otherwise."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=reports.WIDE)


def _since(parsed: argparse.Namespace) -> float:
    return 0.0 if parsed.since is None else time.time() - parsed.since


def _with_redis(command: str, settings: Settings, work: Callable[[Redis], Awaitable[T]]) -> T:
    url = settings.redis or embedded.redis_url(settings.state_dir)

    async def connected() -> T:
        redis = ledger.connect(url)
        try:
            return await work(redis)
        finally:
            await redis.aclose()

    try:
        return asyncio.run(connected())
    except (RedisError, OSError) as error:
        _fail(f"laconic {command}: no ledger at {url} ({error}); is `laconic serve` running? If not: --redis URL", 1)


def _seconds(text: str) -> float:
    try:
        return duration.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _price(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no price like 0.60")
    return float(text)


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
