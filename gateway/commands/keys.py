"""Who may call a gateway, and how much may each spend? The command `laconic keys`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import ValidationError
from redis.asyncio import Redis
from rich.table import Table

from gateway.access import keys
from gateway.access.keys import Grant, Key, KeyExistsError
from gateway.commands import terminal
from gateway.config import ConfigError
from models import family as families

EXAMPLES = """examples:
  laconic keys create operator --admin            an admin key, which may also read savings and manage keys over HTTP
  laconic keys create team-a --requests-per-minute 600 --reasoning-tokens-per-day 2000000
  laconic keys create app-1 --team research --money-per-day 20
  laconic keys create batch --default-budget low --checkpoint alpha-0.2 --checkpoint alpha-0.4
  laconic keys list
  laconic keys revoke team-a
  laconic keys create team-a --redis redis://cache:6379/0

A key's secret is shown once, when the key is created. After the first key, every caller needs one; gateways notice
within a second or two. Limits count per minute, day and month (UTC), over all gateways that share a Redis."""

_NEVER_A_KEY = "There are no keys. Everyone who can reach the gateway may use it, so it listens on loopback only."
_ALL_REVOKED = (
    "All keys are revoked, so every request gets a 401: a gateway that has had keys wants one. Make one with"
    " `laconic keys create NAME`."
)


def main(arguments: Sequence[str]) -> None:
    """Run `create`, `list` or `revoke`."""
    parser = terminal.command_parser("keys", "Create, list and revoke API keys, with limits for each.", EXAMPLES)
    commands = parser.add_subparsers(dest="action", required=True, metavar="create|list|revoke")
    creating = commands.add_parser("create", help="create a key and show its secret once")
    creating.add_argument("name", help="name of the key, shown in the ledger and by `laconic savings --by key`")
    creating.add_argument(
        "--admin", action="store_true", help="the key may also read savings, explanations and metrics, and manage keys"
    )
    for flag, limit in (
        ("--requests-per-minute", "requests per minute"),
        ("--reasoning-tokens-per-minute", "reasoning tokens per minute, including reserved ones"),
        ("--reasoning-tokens-per-day", "reasoning tokens per day, including reserved ones"),
        ("--max-concurrency", "requests in flight at once, in one worker"),
    ):
        creating.add_argument(flag, metavar="N", type=int, help=f"{limit}; default: no limit")
    for flag in ("--money-per-day", "--money-per-month"):
        window = flag.rpartition("-")[2]
        creating.add_argument(
            flag, metavar="X", help=f"money per {window}, in the currency of --prices; default: no limit"
        )
    creating.add_argument("--team", metavar="NAME", help="team whose usage it is; default: none")
    creating.add_argument(
        "--default-budget", metavar="TEXT", help="budget of requests that set none; default: the operator's"
    )
    creating.add_argument(
        "--checkpoint",
        metavar="NAME",
        action="append",
        dest="checkpoints",
        help="checkpoint it may use; repeat for several; default: all",
    )
    creating.add_argument("--family", metavar="PATH", help="directory of the family; default: the shipped abacus")
    listing = commands.add_parser("list", help="list all keys, without their secrets")
    revoking = commands.add_parser("revoke", help="revoke a key")
    revoking.add_argument("name", help="name of the key")
    for command in (creating, listing):
        command.add_argument("--json", action="store_true", help="print JSON")
    for command in (creating, listing, revoking):
        terminal.add_redis(command)
    parsed = parser.parse_args(arguments)
    {"create": _create, "list": _list, "revoke": _revoke}[parsed.action](parsed)


NEEDED = "From now on, requests without a key are refused, also once every key is revoked."


def _create(parsed: argparse.Namespace) -> None:
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config", "family")
    try:
        grant = Grant(**{name: getattr(parsed, name) for name in Grant.model_fields})
        keys.check_checkpoints(grant, families.load(settings.family, verify=False))
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None

    async def create(redis: Redis) -> tuple[str, Key]:
        return await keys.create(redis, grant)

    try:
        secret, key = terminal.with_redis("keys", settings, create)
    except KeyExistsError as error:
        terminal.fail(f"laconic keys: {error}", 1)
    if parsed.json:
        print(json.dumps({"key": secret, **key.public()}))
    else:
        print(f"{secret}\n\nThis is the secret of the key {key.name}. It is not shown again. {NEEDED}")
        if key.money and settings.prices is None:
            print("Its limit in money needs a gateway with --prices; others answer its requests with a 503.")


def _list(parsed: argparse.Namespace) -> None:
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config")
    table_of_keys = terminal.with_redis("keys", settings, keys.load)
    all_keys = table_of_keys.keys
    if parsed.json:
        print(json.dumps([key.public() for key in all_keys], indent=2))
        return
    if not all_keys:
        print(_NEVER_A_KEY if table_of_keys.version == 0 else _ALL_REVOKED)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    rows = [_cells(key) for key in all_keys]
    shown = [name for name in rows[0] if name not in _SELDOM or any(row[name] != "-" for row in rows)]
    for column in shown:
        table.add_column(column, justify="right" if "/" in column or column == "at once" else "left")
    for row in rows:
        table.add_row(*(row[column] for column in shown))
    terminal.console().print(table)


_SELDOM = ("team", "money/day", "money/month")
"""Columns that are shown only if a key has them."""


def _cells(key: Key) -> dict[str, str]:
    """A key's row, by column."""
    counts = {
        "requests/min": key.requests_per_minute,
        "tokens/min": key.reasoning_tokens_per_minute,
        "tokens/day": key.reasoning_tokens_per_day,
        "money/day": key.money_per_day,
        "money/month": key.money_per_month,
        "at once": key.max_concurrency,
    }
    return {
        "name": f"{key.name} (admin)" if key.admin else key.name,
        "team": key.team or "-",
        "ends in": key.hint,
        "created": datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d"),
        **{name: "-" if count is None else f"{count:,}" for name, count in counts.items()},
        "default": key.default_budget or "-",
        "checkpoints": "all" if key.checkpoints is None else " ".join(key.checkpoints),
    }


def _revoke(parsed: argparse.Namespace) -> None:
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config")

    async def revoke(redis: Redis) -> bool:
        return await keys.revoke(redis, parsed.name)

    if not terminal.with_redis("keys", settings, revoke):
        terminal.fail(f"laconic keys: there is no key named {parsed.name!r}", 1)
    print(f"The key {parsed.name} is revoked. Gateways reject it within a second or two. {NEEDED}")
