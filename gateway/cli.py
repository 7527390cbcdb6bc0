"""What does each `laconic` command do? The gateway's command line."""

from __future__ import annotations

import argparse
import csv
import json
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from redis.asyncio import Redis

from gateway import config
from gateway.access.prices import PricesError
from gateway.commands import asked, export, keys, quality, refit, reports, terminal, usage
from gateway.commands.saved import money_sentences, read_saved
from gateway.config import ConfigError
from gateway.ledger import feedback, ledger, spool
from gateway.ledger.drift import compute_drift
from gateway.ledger.ledger import LedgerSnapshot
from gateway.ledger.money import SavedMoney
from gateway.ledger.quality import Score, compute_quality
from gateway.ledger.replay import Replay
from gateway.ledger.savings import DIMENSIONS, compute_savings
from gateway.process import engine_args
from gateway.process.supervisor import StartError
from gateway.release import VERSION
from gateway.routing.conversation import predict
from gateway.routing.explain import explain
from gateway.routing.floor import floor_of
from gateway.routing.rule import RoutingRequest
from models import family as families
from models import profile as profiles
from models.family import FamilyError
from models.stored import ProfileError

DESCRIPTION = """Make reasoning models think only as much as a question deserves.

commands:
  laconic serve      serve a family of models at an OpenAI-compatible endpoint; starts vLLM and Redis if needed
  laconic adopt      make a family of a model that an engine serves already
  laconic verify     check every file of a family, weights included, against its manifest
  laconic engine-args  print how vLLM is started on a family that was trained
  laconic route      explain which checkpoint a question would go to; needs nothing running
  laconic savings    show the reasoning tokens spent and saved, by checkpoint, key, day or difficulty
  laconic usage      show who used what, and what it cost, by team, key, day and checkpoint
  laconic quality    show whether routing costs quality, by the scores of POST /v1/feedback
  laconic refit      fit the difficulty profile anew on those scores, and replace it if that is better
  laconic replay     show what another quality tolerance would have chosen and saved
  laconic export     write the ledger's entries to a JSONL or Parquet file
  laconic keys       create, list and revoke API keys, with limits for each

examples:
  laconic serve                                   start everything; serves http://127.0.0.1:8080/v1
  laconic serve --engine http://gpu1:8000 --family ./my-family
  laconic route "What is 12 + 35 - 8?" --budget 200
  laconic savings --since 24h

Run `laconic COMMAND --help` for the flags and examples of a command."""

ROUTE_EXAMPLES = """examples:
  laconic route "What is 12 + 35 - 8?"
  laconic route "What is 47 * 86?" --budget 64 --json
  laconic route "What is 47 * 86?" --family ./my-family --quality-tolerance 0
  laconic route "What is 47 * 86?" --family ./my-family --quality-floor 0.99
  laconic route --messages chat.json              a conversation: a list of messages, or a whole request; - is stdin

success   predicted probability of a correct answer within the budget
correct   the same without a budget
tokens    expected reasoning tokens under the budget; p10 to p90 are quantiles without a budget

The gateway picks the cheapest choice whose success is within the quality tolerance of the best. A name such as
alpha-0.2>alpha-0.4@5% is an escalation: alpha-0.2 answers first, and its 5 % least confident answers are replaced by
those of alpha-0.4. A running gateway returns the same explanation from POST /v1/route, to callers with an admin key."""

SAVINGS_EXAMPLES = """examples:
  laconic savings                                 all requests that the embedded Redis has recorded
  laconic savings --since 24h --by day            the last 24 hours, from the full hour; also 90s, 30m, 7d or 2w
  laconic savings --price 0.60                    also in money, at 0.60 for a million reasoning tokens
  laconic savings --prices prices.yaml            in money, measured with an interval
  laconic savings --redis redis://cache:6379/0 --json

The columns are an estimate: the reasoning tokens that the family's profile expected of the reference checkpoint, minus
those spent. The lines under the table are a measurement against the holdout, the requests that went to the reference
instead; it does not depend on the profile. Requests that were not routed are counted, but save nothing. The last line
says whether the prompts are still like those that the profile was fitted on."""

REPLAY_EXAMPLES = """examples:
  laconic replay --quality-tolerance 0.05         all routed requests that are still in the ledger
  laconic replay --quality-tolerance 0 --since 7d

Each request is decided again on the predictions that were recorded with it. Nothing is sent to a model."""

EXPORT_EXAMPLES = """examples:
  laconic export requests.jsonl                   one JSON object per request, without prompt and answer
  laconic export requests.parquet --since 7d      needs pyarrow: pip install 'laconic-gateway[parquet]'"""


ENGINE_ARGS_EXAMPLES = """examples:
  eval vllm serve $(laconic engine-args ./my-family)
  laconic engine-args ./my-family --output vllm.yaml && vllm serve --config vllm.yaml

Names, adapters, their rank and the context are read from the manifest; the reasoning parser is qwen3. Write another one
behind the command. Every file is checked against its hash first, because vLLM loads whatever is there."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that the arguments name. Exit with 2 if the configuration is wrong, with 1 on later errors."""
    with terminal.printing():
        _run(arguments)


def _run(arguments: Sequence[str] | None) -> None:
    commands: dict[str, Callable[[Sequence[str]], None]] = {
        "serve": _serve, "adopt": _adopt, "verify": _verify, "engine-args": _engine_args, "route": _route,
        "savings": _savings, "quality": quality.main, "refit": refit.main, "replay": _replay,
        "export": _export, "keys": keys.main, "usage": usage.main,
    }  # fmt: skip
    parser = argparse.ArgumentParser(
        prog="laconic", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"laconic {VERSION}")
    parser.add_argument("command", nargs="?", choices=commands, metavar="|".join(commands))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_help()
        return
    try:
        commands[parsed.command](parsed.rest)
    except (ConfigError, FamilyError, PricesError, ProfileError) as error:
        terminal.fail(f"laconic {parsed.command}: {error}", 2)
    except StartError as error:
        terminal.fail(f"laconic {parsed.command}: {error}", 1)


def _adopt(arguments: Sequence[str]) -> None:
    if missing := [name for name in ("httpx", "matplotlib", "mpmath", "sklearn") if find_spec(name) is None]:
        raise ConfigError(f"{missing[0]} is not installed; install it with: pip install 'laconic-gateway[adopt]'")
    # A program of its own: the gateway and the training job never import each other.
    sys.argv[1:] = arguments
    runpy.run_module("training.adopt", run_name="__main__")


def _verify(arguments: Sequence[str]) -> None:
    parser = terminal.command_parser(
        "verify",
        "Check every file of a family, weights included, against the hashes in its manifest.",
        "examples:\n  laconic verify ./my-family\n\nThe gateway itself checks only what it reads: manifest, profile and"
        " tokenizer.\nThe embedded engine checks the weights before it loads them.",
    )
    parser.add_argument("directory", type=Path, help="the family's directory")
    directory: Path = parser.parse_args(arguments).directory
    family = families.load(directory)
    sys.stdout.write(f"{directory}: {family.name} is complete; {len(family.all_files())} files have their hashes\n")


def _engine_args(arguments: Sequence[str]) -> None:
    parser = terminal.command_parser(
        "engine-args", "Print the arguments that vLLM needs to serve a family that was trained.", ENGINE_ARGS_EXAMPLES
    )
    parser.add_argument("directory", type=Path, help="the family's directory")
    parser.add_argument(
        "--at", type=Path, metavar="DIR", help="where the engine sees that directory; default: the same"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write a file for `vllm serve --config`, *.yaml")
    parsed = parser.parse_args(arguments)
    directory: Path = parsed.directory.absolute()
    options = engine_args.engine_options(families.load(directory), directory, parsed.at)
    if parsed.output is None:
        # `vllm serve` takes the model as its first word.
        words = engine_args.flags({name: value for name, value in options.items() if name != "model"})
        sys.stdout.write(f"{shlex.join([str(options['model']), *words])}\n")
        return
    if parsed.output.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--output: {parsed.output} must end in .yaml, or vLLM does not read it")
    try:
        parsed.output.write_text(engine_args.config_file(options))
    except OSError as error:
        raise ConfigError(f"--output: cannot write {parsed.output} ({error.strerror})") from None


def _serve(arguments: Sequence[str]) -> None:
    settings = config.load(arguments)
    config.require_one_tolerance(settings)
    config.require_shadows(settings)
    from gateway.process.serve import serve  # noqa: PLC0415  so that --help and errors in flags appear at once

    serve(settings, lambda: config.load(arguments).log_level)


def _route(arguments: Sequence[str]) -> None:
    parser = terminal.command_parser(
        "route", "Explain which checkpoint a question would go to, without asking a model.", ROUTE_EXAMPLES
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("question", nargs="?", help="the user's message")
    source.add_argument(
        "--messages",
        metavar="FILE",
        help="JSON file with a list of messages, or a whole chat request, which counts as the gateway reads it; - for"
        " stdin",
    )
    parser.add_argument(
        "--budget",
        metavar="TOKENS",
        help="budget, as in the header X-Reasoning-Budget; default: the request's, or --default-budget of `laconic"
        " serve`",
    )
    parser.add_argument(
        "--checkpoint",
        metavar="NAME",
        help="checkpoint that the caller pins; default: the request's, or the gateway chooses",
    )
    parser.add_argument("--family", metavar="PATH", help="directory of the family; default: the shipped abacus")
    parser.add_argument(
        "--quality-tolerance", metavar="X", help="how much predicted success a cheaper checkpoint may cost"
    )
    parser.add_argument(
        "--quality-floor", metavar="X", help="share of the reference's quality that must be kept, such as 0.99"
    )
    parser.add_argument("--encoder", metavar="DIR", help="directory of the sentence encoder, if the profile needs one")
    parser.add_argument("--config", metavar="PATH", help="configuration file of `laconic serve`")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parsed = parser.parse_args(arguments)
    settings = terminal.load_settings(parsed, "family", "quality_tolerance", "quality_floor", "encoder", "config")
    config.require_one_tolerance(settings)
    family = families.load(settings.family, verify=False)
    profile = profiles.load(settings.family / family.profile, settings.encoder)
    names = frozenset(checkpoint.name for checkpoint in family.checkpoints)
    if parsed.checkpoint is not None and parsed.checkpoint not in names:
        raise ConfigError(f"--checkpoint: {parsed.checkpoint!r} is not one of {', '.join(sorted(names))}")
    question = asked.question(parsed.question, parsed.messages, family, settings.allow_field)
    chat = asked.read(question, asked.Flags(parsed.checkpoint, parsed.budget), settings.default_budget, family)
    request = RoutingRequest(
        prediction=predict(profile, question.prompt, question.dialogue.context),
        limit=chat.budget.limit(question.max_tokens),
        pinned=chat.pinned,
        may_escalate=question.may_escalate,
        tolerance=settings.quality_tolerance,
        floor=floor_of(settings.quality_floor, profile.floors),
        allowed=names,
        available=names,
    )
    explained = explain(family, request, chat.budget, question.dialogue)
    if parsed.json:
        print(json.dumps(explained, indent=2))
    else:
        terminal.console().print(reports.route_report(explained))


def _savings(arguments: Sequence[str]) -> None:
    parser = _ledger_parser("savings", "Show the reasoning tokens that were spent and saved.", SAVINGS_EXAMPLES)
    parser.add_argument(
        "--by", choices=DIMENSIONS, default="checkpoint", help="what to group the rows by (default: checkpoint)"
    )
    parser.add_argument(
        "--price", metavar="X", type=_price, help="price of a million reasoning tokens, in any currency"
    )
    terminal.add_prices(parser)
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    output.add_argument("--csv", action="store_true", help="print comma-separated rows instead of a table")
    parsed = parser.parse_args(arguments)
    settings = terminal.load_settings(parsed, *terminal.PRICED)

    async def read(redis: Redis) -> tuple[LedgerSnapshot, list[Score], SavedMoney | None]:
        since = terminal.window_start(parsed)
        snapshot, money = await read_saved(redis, settings, since, parsed.by)
        return snapshot, await feedback.read_scores(redis, since), money

    snapshot, scores, money = terminal.with_redis("savings", settings, read)
    savings = compute_savings(snapshot.cells, snapshot.holdouts, parsed.by, snapshot.since_hour)
    drift = compute_drift(snapshot.cells)
    scored = compute_quality(snapshot.cells, scores, parsed.by, since_hour=snapshot.since_hour)
    if parsed.json:
        figures = {**savings.as_json(parsed.price), "drift": drift.as_json(), "quality": scored.as_json()}
        figures |= {} if money is None else {"money": money.as_json()}
        print(json.dumps(figures, indent=2))
    elif parsed.csv:
        rows = list(reports.savings_rows(savings, parsed.price))
        writer = csv.DictWriter(sys.stdout, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    else:
        console = terminal.console()
        console.print(reports.savings_report(savings, drift.total, parsed.price, bars=console.width >= reports.WIDE))
        for sentence in [*quality.sentences(scored, savings), *money_sentences(money)]:
            print(sentence)
        if pending := spool.count_pending(settings.state_dir):
            file = settings.state_dir / spool.SPOOL
            print(f"Up to {pending} more requests are not in Redis yet. They wait in {file}.")


def _replay(arguments: Sequence[str]) -> None:
    parser = _ledger_parser(
        "replay", "Show what another quality tolerance would have chosen and saved.", REPLAY_EXAMPLES
    )
    parser.add_argument("--quality-tolerance", metavar="X", required=True, help="tolerance to try, from 0 to 1")
    parsed = parser.parse_args(arguments)
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config", "quality_tolerance")

    async def run(redis: Redis) -> Replay:
        replay = Replay(settings.quality_tolerance)
        async for entry in ledger.read_entries(redis, terminal.window_start(parsed)):
            replay.add(entry)
        return replay

    terminal.console().print(reports.replay_report(terminal.with_redis("replay", settings, run)))


def _export(arguments: Sequence[str]) -> None:
    parser = _ledger_parser("export", "Write the ledger's entries to a file.", EXPORT_EXAMPLES)
    parser.add_argument("file", type=Path, help="file to write, whose name ends in .jsonl or .parquet")
    parser.add_argument("--force", action="store_true", help="replace the file, or the link, that is there")
    parsed = parser.parse_args(arguments)
    settings = terminal.load_settings(parsed, "redis", "state_dir", "config")
    write = export.writer(parsed.file, force=parsed.force)

    async def export_entries(redis: Redis) -> int:
        since = terminal.window_start(parsed)
        scores = {one.id: one.scores async for one in feedback.read_requests(redis, since)}
        return await write(ledger.read_entries(redis, since), scores)

    print(f"{terminal.with_redis('export', settings, export_entries):,} entries written to {parsed.file}")


def _ledger_parser(command: str, description: str, examples: str) -> argparse.ArgumentParser:
    parser = terminal.command_parser(command, description, examples)
    terminal.add_redis(parser)
    terminal.add_since(parser)
    return parser


def _price(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a price such as 0.60")
    return float(text)


if __name__ == "__main__":
    main()
