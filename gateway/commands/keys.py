"""`laconic keys`: who may call a gateway, and what may each spend?"""

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
  laconic keys create operator --admin            the first: it may also see savings and make keys over HTTP
  laconic keys create team-a --requests-per-minute 600 --reasoning-tokens-per-day 2000000
  laconic keys create batch --default-budget low --checkpoint alpha-0.2 --checkpoint alpha-0.4
  laconic keys list
  laconic keys revoke team-a
  laconic keys create team-a --redis redis://cache:6379/0

A key's secret is shown once, when it is made. From the first key on every caller needs one; gateways follow within a
second or two. Limits are of the clock's minutes and days (UTC), and of all gateways on one Redis together."""


def main(arguments: Sequence[str]) -> None:
    """Run `create`, `list` or `revoke`."""
    parser = terminal.command_parser("keys", "Who may call, and what may each spend?", EXAMPLES)
    commands = parser.add_subparsers(dest="action", required=True, metavar="create|list|revoke")
    creating = commands.add_parser("create", help="make a key and show its secret, this once")
    creating.add_argument("name", help="who it is for; the ledger and `laconic savings --by key` show it")
    creating.add_argument("--admin", action="store_true", help="may see savings, explanations, metrics; makes keys")
    for flag, what in (
        ("--requests-per-minute", "requests that may be sent in a minute"),
        ("--reasoning-tokens-per-minute", "reasoning tokens in a minute, reserved ones included"),
        ("--reasoning-tokens-per-day", "the same in a day"),
    ):
        creating.add_argument(flag, metavar="N", type=int, help=f"{what}; none: no limit")
    creating.add_argument("--default-budget", metavar="TEXT", help="of requests that name none; none: the operator's")
    creating.add_argument(
        "--checkpoint", metavar="NAME", action="append", dest="checkpoints", help="one it may use; repeat; none: all"
    )
    creating.add_argument("--family", metavar="PATH", help="directory of the family; none: the shipped abacus")
    listing = commands.add_parser("list", help="all keys, without their secrets")
    revoking = commands.add_parser("revoke", help="take a key back")
    revoking.add_argument("name", help="as `laconic keys list` shows it")
    for command in (creating, listing):
        command.add_argument("--json", action="store_true", help="print JSON")
    for command in (creating, listing, revoking):
        terminal.add_redis(command)
    parsed = parser.parse_args(arguments)
    {"create": _create, "list": _list, "revoke": _revoke}[parsed.action](parsed)


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
        print(f"{secret}\n\nThis is the key of {key.name}. It is not shown again.")


def _list(parsed: argparse.Namespace) -> None:
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config")
    found = terminal.with_redis("keys", settings, keys.load).keys
    if parsed.json:
        print(json.dumps([key.public() for key in found], indent=2))
        return
    if not found:
        print("There are no keys: who reaches the gateway may use it, and it listens on loopback only.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "ends in", "created", "requests/min", "tokens/min", "tokens/day", "default", "checkpoints"):
        table.add_column(column, justify="right" if "/" in column else "left")
    for key in found:
        counts = (key.requests_per_minute, key.reasoning_tokens_per_minute, key.reasoning_tokens_per_day)
        table.add_row(
            f"{key.name} (admin)" if key.admin else key.name,
            key.hint,
            datetime.fromtimestamp(key.created, UTC).strftime("%Y-%m-%d"),
            *("-" if count is None else f"{count:,}" for count in counts),
            key.default_budget or "-",
            "all" if key.checkpoints is None else " ".join(key.checkpoints),
        )
    terminal.console().print(table)


def _revoke(parsed: argparse.Namespace) -> None:
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config")

    async def revoke(redis: Redis) -> bool:
        return await keys.revoke(redis, parsed.name)

    if not terminal.with_redis("keys", settings, revoke):
        terminal.fail(f"laconic keys: there is no key named {parsed.name!r}", 1)
    print(f"The key of {parsed.name} is revoked; gateways refuse it within a second or two.")
