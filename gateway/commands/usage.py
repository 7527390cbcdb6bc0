"""What does `laconic usage` do and print? Tokens and cost by team, key, day and checkpoint."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from redis.asyncio import Redis
from rich.table import Table

from gateway import duration
from gateway.commands import terminal
from gateway.ledger import spool
from gateway.ledger.ledger import read_usage
from gateway.ledger.usage import DIMENSIONS, Line, Report, Row, Usage, dimensions, money, report

T = TypeVar("T")
EXAMPLES = """examples:
  laconic usage --by team,key --since 2027-01-01 --until 2027-02-01       a month, by team and key
  laconic usage --by day --since 30d --prices prices.yaml                 what each day cost
  laconic usage --by team --csv > january.csv                             exact amounts, for a spreadsheet

Sums are of whole hours (UTC), and add up to the ledger exactly. Costs are at the prices of now. `repeated` are prompt
tokens that the first checkpoint of an escalation had read as well; they cost money, and no caller's usage has them."""
_COLUMNS = {
    "requests": "requests",
    "failed": "failed",
    "prompt_tokens": "prompt",
    "cached_tokens": "cached",
    "repeated_prompt_tokens": "repeated",
    "reasoning_tokens": "reasoning",
    "answer_tokens": "answer",
}


def main(arguments: Sequence[str]) -> None:
    """Run the command."""
    parser = terminal.command_parser("usage", "Show who used what, and what it cost.", EXAMPLES)
    terminal.add_redis(parser)
    terminal.add_prices(parser)
    known = ", ".join(DIMENSIONS)
    how = f"one or several of {known}; default: key"
    parser.add_argument("--by", type=_checked(dimensions), default=("key",), metavar="LIST", help=how)
    for flag, text in (("--since", "from the hour of this time on"), ("--until", "only hours before this time")):
        parser.add_argument(flag, metavar="TIME", type=_checked(_moment), help=f"{text}, such as 30d or 2027-01-15")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    output.add_argument("--csv", action="store_true", help="print comma-separated rows instead of a table")
    parsed = parser.parse_args(arguments)
    settings = terminal.load_settings(parsed, *terminal.PRICED)
    prices = terminal.load_prices(settings)
    since: float = parsed.since or 0.0
    until: float = math.inf if parsed.until is None else parsed.until

    async def read(redis: Redis) -> list[tuple[Line, Usage]]:
        return await read_usage(redis, since, until)

    found = report(terminal.with_redis("usage", settings, read), parsed.by, prices)
    if parsed.json:
        print(json.dumps(found.as_json(), indent=2))
    elif parsed.csv:
        sys.stdout.write(found.as_csv())
    else:
        terminal.console().print(_table(found))
        if pending := spool.count_pending(settings.state_dir):
            print(
                f"Up to {pending} more requests are not in Redis yet. They wait in {settings.state_dir / spool.SPOOL}."
            )
        if prices is not None and found.total.unpriced:
            print(f"{found.total.unpriced:,} tokens are of checkpoints without a price, and are not in the cost.")


def _table(found: Report) -> Table:
    table = Table(title="Usage", title_justify="left")
    for name in found.by or ("",):
        table.add_column(name, justify="left", overflow="fold")
    for name in _COLUMNS.values():
        table.add_column(name, justify="right", overflow="fold")
    if found.currency is not None:
        table.add_column(found.currency, justify="right", overflow="fold")
    for row in found.rows:
        table.add_row(*row.labels, *_cells(row, found.currency))
    table.add_section()
    table.add_row("total", *[""] * (len(found.by) - 1), *_cells(found.total, found.currency), style="bold")
    return table


def _cells(row: Row, currency: str | None) -> list[str]:
    cells = [f"{getattr(row.usage, name):,}" for name in _COLUMNS]
    return cells if currency is None else [*cells, f"{money(row.cost):,.4f}"]


def _moment(text: str) -> float:
    return duration.moment(text, time.time())


def _checked(parse: Callable[[str], T]) -> Callable[[str], T]:
    """A parser of flags that shows what is wrong in the words of `parse`."""

    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked
