"""`laconic`: the gateway's command line."""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import NoReturn

from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Table

from gateway import config, embedded, ledger
from gateway.children import StartError
from gateway.config import ConfigError
from gateway.ledger import Entry
from gateway.savings import Savings, Totals, summarise
from models.family import FamilyError
from models.profile import ProfileError

DESCRIPTION = """Makes reasoning models think only as much as a question deserves.

commands:
  laconic serve      an OpenAI-compatible endpoint that routes, caps and counts; brings its own vLLM and Redis
  laconic savings    what was spent and saved, per checkpoint and in total

examples:
  laconic serve                                   everything embedded, on http://127.0.0.1:8080/v1
  laconic serve --engine http://gpu1:8000 --family ./my-family
  laconic savings --since 24h

`laconic serve --help` and `laconic savings --help` say more."""

SAVINGS_EXAMPLES = """examples:
  laconic savings                                 everything the embedded Redis has recorded
  laconic savings --since 24h                     the last day; also 90s, 30m, 7d, 2w
  laconic savings --redis redis://cache:6379/0 --json

The estimate is what the reference checkpoint was expected to think, by the family's difficulty profile, minus what was
thought. Requests that failed and the holdout are counted and not estimated."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name; wrong configuration exits with 2, what goes wrong later with 1."""
    parser = argparse.ArgumentParser(
        prog="laconic", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"laconic {metadata.version('laconic')}")
    parser.add_argument("command", choices=("serve", "savings"), metavar="serve|savings")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    run = {"serve": _serve, "savings": _savings}[parsed.command]
    try:
        run(parsed.rest)
    except (ConfigError, FamilyError, ProfileError) as error:
        _fail(f"laconic {parsed.command}: {error}", 2)
    except StartError as error:
        _fail(f"laconic {parsed.command}: {error}", 1)


def _serve(arguments: Sequence[str]) -> None:
    settings = config.load(arguments)
    from gateway.serve import serve  # noqa: PLC0415  so that --help and a wrong flag answer at once

    serve(settings)


def _savings(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="laconic savings",
        description="What was spent and saved, per checkpoint and in total.",
        epilog=SAVINGS_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--redis", metavar="URL", help="the ledger's Redis; none: the one that `laconic serve` uses")
    parser.add_argument("--state-dir", metavar="PATH", help="the state directory of the `laconic serve` to ask about")
    parser.add_argument("--config", metavar="PATH", help="the TOML file of the `laconic serve` to ask about")
    parser.add_argument("--since", metavar="TIME", type=_seconds, help="how far to look back, as in 24h; none: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parsed = parser.parse_args(arguments)

    flags = {"--redis": parsed.redis, "--state-dir": parsed.state_dir, "--config": parsed.config}
    settings = config.load([text for flag, value in flags.items() if value is not None for text in (flag, value)])
    url = settings.redis or embedded.redis_url(settings.state_dir)
    since = 0.0 if parsed.since is None else time.time() - parsed.since
    try:
        savings = summarise(asyncio.run(_entries(url, since)))
    except (RedisError, OSError) as error:
        _fail(f"laconic savings: no ledger at {url} ({error}); is `laconic serve` running? If not: --redis URL", 1)
    if parsed.json:
        print(json.dumps(_as_json(savings), indent=2))
    else:
        Console().print(_as_table(savings))
        spool = settings.state_dir / ledger.SPOOL
        if waiting := _lines(spool):
            print(f"{waiting} more requests wait in {spool}: Redis was away, and they follow when it is back.")


async def _entries(url: str, since: float) -> list[Entry]:
    redis = ledger.connect(url)
    try:
        return await ledger.read(redis, since)
    finally:
        await redis.aclose()


def _as_json(savings: Savings) -> dict[str, object]:
    checkpoints = {name: _totals_json(totals) for name, totals in savings.checkpoints.items()}
    return {"total": _totals_json(savings.total), "checkpoints": checkpoints}


def _totals_json(totals: Totals) -> dict[str, object]:
    return {**asdict(totals), "saved_tokens": totals.saved_tokens, "saved_share": totals.saved_share}


def _as_table(savings: Savings) -> Table:
    table = Table(title="Reasoning tokens", title_justify="left", show_footer=True, footer_style="bold")
    rows = [_cells(name, totals) for name, totals in savings.checkpoints.items()]
    footer = _cells("total", savings.total)
    headers = ("checkpoint", "requests", "failed", "holdout", "spent", "reference", "saved", "share")
    for header, foot in zip(headers, footer, strict=True):
        table.add_column(header, foot, justify="left" if header == "checkpoint" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def _cells(name: str, totals: Totals) -> tuple[str, ...]:
    known = totals.estimated > 0
    return (
        name,
        f"{totals.requests:,}",
        f"{totals.failed:,}",
        f"{totals.holdout:,}",
        f"{totals.spent_tokens:,}",
        f"{totals.expected_reference_tokens:,.0f}" if known else "-",
        f"{totals.saved_tokens:,.0f}" if known else "-",
        f"{totals.saved_share:.0%}" if totals.saved_share is not None else "-",
    )


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time like 90s, 30m, 24h, 7d or 2w")
    return float(match[1]) * _UNITS[match[2]]


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
