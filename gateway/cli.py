"""`laconic`: the gateway's command line."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from redis.asyncio import Redis

from gateway import config
from gateway.commands import export, keys, reports, terminal
from gateway.config import ConfigError
from gateway.errors import BadRequestError
from gateway.ledger import ledger
from gateway.ledger.ledger import LedgerSnapshot
from gateway.ledger.replay import Replay
from gateway.ledger.savings import DIMENSIONS, compute_savings
from gateway.process.supervisor import StartError
from gateway.request import budget
from gateway.routing.explain import explain
from gateway.routing.rule import RoutingRequest
from models import family as families
from models import profile as profiles
from models.family import FamilyError
from models.profile import ProfileError

DESCRIPTION = """Makes reasoning models think only as much as a question deserves.

commands:
  laconic serve      an OpenAI-compatible endpoint that routes, caps and counts; brings its own vLLM and Redis
  laconic route      why a question would go where it goes; needs nothing running
  laconic savings    what was spent and saved, by checkpoint, key, day or difficulty, with an interval
  laconic replay     what another quality tolerance would have chosen and saved
  laconic export     the ledger as JSONL or Parquet
  laconic keys       create, list and revoke callers' keys, with what each may spend

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
        "keys": keys.main,
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
        terminal.fail(f"laconic {parsed.command}: {error}", 2)
    except StartError as error:
        terminal.fail(f"laconic {parsed.command}: {error}", 1)


def _serve(arguments: Sequence[str]) -> None:
    settings = config.load(arguments)
    from gateway.process.serve import serve  # noqa: PLC0415  so that --help and a wrong flag answer at once

    serve(settings)


def _route(arguments: Sequence[str]) -> None:
    parser = terminal.command_parser(
        "route", "Why would a question go where it goes? The decision, without asking a model.", ROUTE_EXAMPLES
    )
    parser.add_argument("question", help="the last thing the user says")
    parser.add_argument("--budget", metavar="TOKENS", help="as in the header X-Reasoning-Budget; none: the default")
    parser.add_argument("--checkpoint", metavar="NAME", help="the one the caller pins; none: the gateway chooses")
    parser.add_argument("--family", metavar="PATH", help="directory of the family; none: the shipped abacus")
    parser.add_argument("--quality-tolerance", metavar="X", help="predicted success a cheaper one may give away")
    parser.add_argument("--config", metavar="PATH", help="the TOML file of the `laconic serve` to ask about")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parsed = parser.parse_args(arguments)
    settings = terminal.load_settings(parsed, "family", "quality_tolerance", "config")
    family = families.load(settings.family, verify=False)
    profile = profiles.load(settings.family / family.profile)
    source = "default_budget" if parsed.budget is None else "--budget"
    names = frozenset(checkpoint.name for checkpoint in family.checkpoints)
    if parsed.checkpoint is not None and parsed.checkpoint not in names:
        raise ConfigError(f"--checkpoint: {parsed.checkpoint!r} is none of {', '.join(sorted(names))}")
    try:
        tokens = budget.parse_budget_text(
            settings.default_budget if parsed.budget is None else parsed.budget, source, family
        )
    except BadRequestError as error:
        raise ConfigError(error.message) from None
    request = RoutingRequest(
        prediction=profile.predict(parsed.question),
        limit=tokens,
        pinned=parsed.checkpoint,
        tolerance=settings.quality_tolerance,
        allowed=names,
        available=names,
    )
    explained = explain(family, request, budget.Budget(tokens, source))
    if parsed.json:
        print(json.dumps(explained, indent=2))
    else:
        terminal.console().print(reports.route_report(explained))


def _savings(arguments: Sequence[str]) -> None:
    parser = _ledger_parser("savings", "What was spent and saved?", SAVINGS_EXAMPLES)
    parser.add_argument("--by", choices=DIMENSIONS, default="checkpoint", help="what a row stands for")
    parser.add_argument("--price", metavar="X", type=_price, help="of a million reasoning tokens, in any currency")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    form.add_argument("--csv", action="store_true", help="print comma-separated rows instead of a table")
    parsed = parser.parse_args(arguments)
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config")

    async def books(redis: Redis) -> LedgerSnapshot:
        return await ledger.read_snapshot(redis, terminal.window_start(parsed))

    read = terminal.with_redis("savings", settings, books)
    savings = compute_savings(read.cells, read.holdouts, parsed.by, read.since_hour)
    if parsed.json:
        print(json.dumps(savings.as_json(parsed.price), indent=2))
    elif parsed.csv:
        rows = list(reports.savings_rows(savings, parsed.price))
        writer = csv.DictWriter(sys.stdout, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    else:
        console = terminal.console()
        console.print(reports.savings_report(savings, parsed.price, bars=console.width >= reports.WIDE))
        if waiting := ledger.count_pending(settings.state_dir):
            spool = settings.state_dir / ledger.SPOOL
            print(f"Up to {waiting} more requests are on their way to Redis; while it is away they wait in {spool}.")


def _replay(arguments: Sequence[str]) -> None:
    parser = _ledger_parser("replay", "What would another quality tolerance have chosen and saved?", REPLAY_EXAMPLES)
    parser.add_argument("--quality-tolerance", metavar="X", required=True, help="the setting to try, from 0 to 1")
    parsed = parser.parse_args(arguments)
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config", "quality_tolerance")

    async def again(redis: Redis) -> Replay:
        done = Replay(settings.quality_tolerance)
        async for entry in ledger.read_entries(redis, terminal.window_start(parsed)):
            done.add(entry)
        return done

    terminal.console().print(reports.replay_report(terminal.with_redis("replay", settings, again)))


def _export(arguments: Sequence[str]) -> None:
    parser = _ledger_parser("export", "The ledger's entries as a file.", EXPORT_EXAMPLES)
    parser.add_argument("file", type=Path, help="what to write; its name ends in .jsonl or .parquet")
    parsed = parser.parse_args(arguments)
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config")
    write = export.writer(parsed.file)

    async def entries(redis: Redis) -> int:
        return await write(ledger.read_entries(redis, terminal.window_start(parsed)))

    print(f"{terminal.with_redis('export', settings, entries):,} entries are in {parsed.file}")


def _ledger_parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    parser = terminal.command_parser(command, description, examples)
    terminal.add_redis(parser)
    terminal.add_since(parser)
    return parser


def _price(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no price like 0.60")
    return float(text)


if __name__ == "__main__":
    main()
