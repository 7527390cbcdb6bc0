"""What does `laconic adopt` do? Asks the engine, says what it will cost, measures, labels, fits and publishes."""

from __future__ import annotations

import argparse
import asyncio
import re
import shlex
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models import encoder as encoders
from models.encoder import Encoder
from models.family import Family
from models.floor import Floor, at_least
from models.overrides import CAPS
from training.adopt import assess, crossval, labels, levels, measure, probe, prompts, publish
from training.adopt.assess import Decide
from training.adopt.engine import Access, Engine
from training.adopt.levels import Level
from training.adopt.measure import Measured, Plan, Sampling
from training.adopt.probe import Facts
from training.adopt.prompts import Request
from training.errors import StageError
from training.numbers import count, positive_share, seed, share, temperature
from training.profile import crossfit, encoding, floor, kept

MIN_PROMPTS = 50
DEFAULT_TOLERANCE = 0.005
PROGRESS_SECONDS = 15.0
"""Between two lines on the progress, where no terminal shows a bar."""
PILOT = 8
"""Prompts that are measured first, to say what the rest will cost. Their replies are kept."""
EXAMPLES = """examples:
  laconic adopt http://vllm:8000 --model Qwen/Qwen3-8B --prompts traffic.jsonl --levels off,512,2048,max --out ./qwen3
  laconic adopt http://vllm:8000 --model gpt-oss-20b --prompts batch.jsonl --levels low,medium,high --out ./gpt-oss
  laconic adopt http://vllm:8000 --model my-model --prompts gsm8k/ --levels levels.toml --label gold --out ./family
  laconic serve --engine http://vllm:8000 --family ./qwen3

Prompts are questions or whole conversations: JSONL, Parquet, text, OpenAI batch files, logs of LiteLLM or Langfuse.
Levels go from the one that thinks least to the one that thinks most, which is the reference. A measurement that was
interrupted goes on where it stopped. The engine's key is read from LACONIC_ENGINE_KEY."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exit with 2 if the arguments are wrong, with 1 if it cannot be finished."""
    parsed = _parser().parse_args(arguments)
    console = Console(stderr=True)
    try:
        family = asyncio.run(_adopt(parsed, console, ["laconic", "adopt", *_published(arguments or sys.argv[1:])]))
    except StageError as error:
        _fail(f"laconic adopt: {error}")
    except KeyboardInterrupt:
        _fail("laconic adopt: interrupted; the same command goes on where it stopped")
    ready = f"\n{parsed.out} is ready. Serve it: {_serving(parsed)}"
    _say(console, f"{ready}\nCallers use the model {family.name!r}.")


def _serving(parsed: argparse.Namespace) -> str:
    """The command that serves the family as it was reported: by the same access, encoder and quality."""
    same = {
        "--engine-key-file": [parsed.key_file],
        "--engine-header": parsed.header,
        "--engine-ca": [parsed.ca],
        "--encoder": [None if parsed.encoder in ("auto", "none") else parsed.encoder],
        "--quality-tolerance": [parsed.quality_tolerance],
        "--quality-floor": [parsed.quality_floor],
    }
    flags = [part for flag, values in same.items() for one in values if one is not None for part in (flag, str(one))]
    return shlex.join(["laconic", "serve", "--engine", parsed.url, "--family", str(parsed.out), *_published(flags)])


def _published(arguments: Sequence[str]) -> list[str]:
    """The arguments without the values of headers, which may be secret: the manifest has the command in it."""
    text = [re.sub(r"^(--[a-z-]*header=[^:]*:).*", r"\1 ...", one) for one in arguments]
    return [
        f"{one.partition(':')[0]}: ..." if before.endswith("-header") else one
        for before, one in zip(["", *text], text, strict=False)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="laconic adopt",
        description="Make a family of a model that an engine serves already, at several levels of thinking. Say what"
        " routing between them would have saved.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an abbreviated --header would put its value into the manifest
    )
    parser.add_argument("url", help="URL of the engine, such as http://vllm:8000")
    parser.add_argument("--model", required=True, help="the engine's name for the model")
    parser.add_argument("--prompts", required=True, type=Path, help="file or directory of prompts")
    parser.add_argument("--levels", required=True, help="such as off,512,2048,max or low,medium,high, or a TOML file")
    parser.add_argument("--out", required=True, type=Path, help="directory for the family; it is replaced")
    parser.add_argument("--name", help="the family's name; default: the model's")
    how = "how replies are judged right or wrong; default: by gold answers if most prompts have one, else by agreement"
    parser.add_argument("--label", choices=("auto", *labels.METHODS), default="auto", help=how)
    parser.add_argument("--judge", metavar="MODEL", help="for --label judge: a model's name")
    parser.add_argument("--judge-url", metavar="URL", help="where the judge is; default: the engine")
    parser.add_argument("--label-command", metavar="COMMAND", help="for --label command: a program")
    parser.add_argument("--most", type=count, metavar="N", help="use the first N prompts; default: all")
    how = "replies for each prompt and level; default: 2"
    parser.add_argument("--samples", type=count, metavar="N", default=2, help=how)
    parser.add_argument("--temperature", type=temperature, metavar="X", help="of sampling; default: the engine's own")
    parser.add_argument("--max-tokens", type=count, metavar="N", help="longest completion; default: the engine's own")
    parser.add_argument("--seed", type=seed, metavar="N", default=0, help="of sampling and of the fit; default: 0")
    tolerances = parser.add_mutually_exclusive_group()
    how = "as in `laconic serve`; default: 0.005"
    tolerances.add_argument("--quality-tolerance", type=share, metavar="X", help=how)
    keeps = "share of the reference's quality that must be kept, such as 0.99, as in `laconic serve`"
    tolerances.add_argument("--quality-floor", type=positive_share, metavar="X", help=keeps)
    how = "sentence encoder that may read the prompts: auto (if the extra `encoder` is installed), none, or a directory"
    parser.add_argument("--encoder", metavar="NAME", default="auto", help=f"{how}; default: auto")
    parser.add_argument("--cap", choices=CAPS, help="how the engine takes a cap; default: found out")
    parser.add_argument("--context-tokens", type=count, metavar="N", help="context length, if the engine does not say")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="the model's tokenizer.json, for exact counts")
    parser.add_argument("--at-once", type=count, metavar="N", default=32, help="requests in flight; default: 32")
    parser.add_argument("--max-tokens-spent", type=count, metavar="N", help="stop after so many generated tokens")
    keys = "file with the engine's key, or with lines of an engine's URL and its key; default: LACONIC_ENGINE_KEY"
    parser.add_argument("--key-file", type=Path, metavar="FILE", help=keys)
    header = "header for every request, as NAME: VALUE; repeat for several"
    parser.add_argument("--header", action="append", default=[], metavar="TEXT", help=header)
    parser.add_argument("--ca", type=Path, metavar="FILE", help="certificates of the engine's CA")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where replies are kept; default: OUT.replies")
    parser.add_argument("--again", action="store_true", help="throw away the replies of another measurement")
    parser.add_argument("--yes", action="store_true", help="do not ask before measuring")
    return parser


async def _adopt(parsed: argparse.Namespace, console: Console, command: Sequence[str]) -> Family:
    chosen = levels.parse(parsed.levels, parsed.model)
    readable = _readable(prompts.read(parsed.prompts, parsed.most), console)
    label, requests = _labelled(parsed, readable, console)
    if len(requests) < MIN_PROMPTS:
        raise StageError(
            f"--prompts: {len(requests)} prompts are too few to learn from; at least {MIN_PROMPTS} are needed"
        )
    encoder = _encoder(parsed.encoder)
    if label == "agreement" and parsed.samples < 2:
        raise StageError("--samples: agreement needs 2 or more, because the reference is compared with itself, too")
    access = Access(parsed.key_file, parsed.header, parsed.ca)
    async with Engine(parsed.url, access, at_once=parsed.at_once) as client:
        _say(console, f"{client.url}: asking what it does")
        facts = await _facts(parsed, client, chosen, requests)
        for line in facts.lines():
            _say(console, f"  {line}")
        context = parsed.context_tokens or facts.context_tokens
        if context is None:
            raise StageError("--context-tokens: the engine does not say how long its context is; set it")
        plan = Plan(chosen, Sampling(parsed.samples, parsed.temperature, parsed.max_tokens, parsed.seed), facts.cap)
        measure.open_directory(_work(parsed), plan, again=parsed.again)
        ask = partial(measure.measure, client, plan=plan, separated=facts.separates_reasoning)
        opened = {level.name for level in chosen if level.thinks and facts.opens_thinking}
        replies = measure.by_request(await _measure(parsed, console, requests, plan, ask), opened)
        if label == "agreement":
            decide = assess.by_agreement(levels.reference(chosen).name, replies, facts.marks)
        else:
            judge = client if parsed.judge_url is None else Engine(parsed.judge_url, access)
            decide = _decide(parsed, label, judge, requests)
        outcomes = publish.longest_first(await assess.graded(requests, replies, facts.marks, decide))
    reference = levels.reference(chosen).name
    held_out = list(crossfit.folds(outcomes, parsed.seed, encoder))
    floors = crossfit.certified(held_out, reference, parsed.seed, _floors(parsed))
    tolerance = _tolerance(parsed, floors)
    routed = crossval.routed(held_out, tolerance, reference)
    adopted = publish.Adopted(
        name=parsed.name or publish.family_name(parsed.model),
        description=f"{parsed.model} at {len(chosen)} levels of thinking.",
        plan=plan,
        facts=facts,
        context_tokens=context,
        reference=reference,
        outcomes=outcomes,
        replies=replies,
        routed=crossval.compare(routed, outcomes[reference], parsed.seed),
        tolerance=tolerance,
        floors=floors,
        encoder=encoder,
        label=label,
        command=shlex.join(command),
    )
    family = publish.publish(adopted, parsed.out, parsed.tokenizer)
    _print_result(console, adopted, family)
    return family


def _encoder(name: str) -> Encoder | None:
    """The sentence encoder that may read the prompts."""
    if name == "none" or (name == "auto" and not encoders.is_installed()):
        return None
    return encoding.load(None if name == "auto" else Path(name), "--encoder")


def _floors(parsed: argparse.Namespace) -> list[float]:
    return [*floor.FLOORS, *([] if parsed.quality_floor is None else [parsed.quality_floor])]


def _tolerance(parsed: argparse.Namespace, floors: Sequence[Floor]) -> float | None:
    """The tolerance to report at; None if none keeps the floor."""
    if parsed.quality_floor is None:
        return DEFAULT_TOLERANCE if parsed.quality_tolerance is None else parsed.quality_tolerance
    found = at_least(floors, parsed.quality_floor)
    way = None if found is None else found.way(may_escalate=True)
    return None if way is None else way.tolerance


def _work(parsed: argparse.Namespace) -> Path:
    return parsed.work or parsed.out.with_name(f"{parsed.out.name}.replies")


async def _facts(
    parsed: argparse.Namespace, client: Engine, chosen: Sequence[Level], requests: Sequence[Request]
) -> Facts:
    needs_cap = any(level.budget is not None for level in chosen)
    return await probe.probe(client, chosen, requests, cap=parsed.cap, needs_cap=needs_cap)


def _readable(requests: Sequence[Request], console: Console) -> Sequence[Request]:
    """The requests whose prompt the gateway's profile can read. No others may be in what the card says of routing."""
    unread = [request for request in requests if not request.is_readable]
    if unread:
        more = f"{len(unread):,} of {len(requests):,} prompts have more than text in them, such as images"
        left_out = "and are left out: the gateway lets the reference answer such prompts"
        _say(console, f"{more}, {left_out}; first {unread[0].where}")
    return [request for request in requests if request.is_readable]


def _labelled(
    parsed: argparse.Namespace, requests: Sequence[Request], console: Console
) -> tuple[str, Sequence[Request]]:
    """How replies are judged, and the requests for which they can be. It is checked before anything is measured."""
    answered = [request for request in requests if request.gold is not None]
    label, some = _method(parsed, len(answered), len(requests)), 0 < len(answered) < len(requests)
    if label == "gold":
        first = next((request.where for request in requests if request.gold is None), "")
        if some:
            missing = f"{len(requests) - len(answered):,} of {len(requests):,} prompts have no answer"
            _say(console, f"{missing} and are left out, first {first}")
        requests = answered or requests
        assess.require_gold(requests)
    elif some and parsed.label == "auto":
        few = f"only {len(answered):,} of {len(requests):,} prompts have an answer"
        _say(console, f"{few}, so replies are judged by agreement")
    return label, requests


def _method(parsed: argparse.Namespace, answered: int, requests: int) -> str:
    if parsed.label != "auto":
        for method, flag in (("judge", "judge"), ("command", "label_command")):
            if parsed.label == method and getattr(parsed, flag) is None:
                raise StageError(f"--label {method} needs --{flag.replace('_', '-')}")
        return parsed.label
    return "gold" if answered > requests / 2 else "agreement"


def _decide(parsed: argparse.Namespace, label: str, judge: Engine, requests: Sequence[Request]) -> Decide:
    if label == "gold":
        return assess.by_gold(requests)
    if label == "judge":
        return assess.by_judge(judge, parsed.judge)
    return assess.by_command(parsed.label_command)


async def _measure(
    parsed: argparse.Namespace,
    console: Console,
    requests: Sequence[Request],
    plan: Plan,
    ask: Callable[..., Awaitable[list[Measured]]],
) -> list[Measured]:
    work, total = _work(parsed), len(requests) * len(plan.levels) * plan.sampling.samples
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    spent = sum(row.reply.completion_tokens for row in measure.load(work) if row.reply is not None)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        line = progress.add_task("measuring", total=total, completed=len(measure.load(work)))
        said = time.monotonic()

        def tally(row: Measured) -> None:
            nonlocal spent, said
            progress.advance(line)
            if not console.is_terminal and time.monotonic() - said >= PROGRESS_SECONDS:  # in a file no bar moves
                said = time.monotonic()
                console.print(f"  {progress.tasks[0].completed:,.0f} of {total:,} replies", highlight=False)
            spent += row.reply.completion_tokens if row.reply is not None else 0
            if parsed.max_tokens_spent is not None and spent > parsed.max_tokens_spent:
                raise StageError(
                    f"--max-tokens-spent: {spent:,} tokens were generated; the same command with a higher limit goes on"
                )

        pilot = await ask(requests[:PILOT], directory=work, on_reply=tally)
        if len(requests) > PILOT:
            progress.stop()
            _confirm(parsed, console, pilot, total)
            progress.start()
        return await ask(requests, directory=work, on_reply=tally)


def _confirm(parsed: argparse.Namespace, console: Console, pilot: Sequence[Measured], total: int) -> None:
    """Say what the measurement will cost, and go on only if that is wanted.

    Raises:
        StageError: it is not, or nobody can be asked.
    """
    replies = [row.reply for row in pilot if row.reply is not None]
    if not replies:
        raise StageError("the engine refused every request of the first prompts")
    each = sum(reply.completion_tokens for reply in replies) / len(replies)
    seconds = sum(reply.seconds for reply in replies) / len(replies) * (total - len(pilot)) / parsed.at_once
    minutes = max(round(seconds / 60), 1)
    takes = f"{minutes} minute{'s' * (minutes > 1)}"
    console.print(
        f"  cost: {total:,} requests, about {each * total:,.0f} generated tokens and {takes}"
        f" ({each:.0f} tokens a reply in the first {len(replies)})",
        highlight=False,
        soft_wrap=True,
    )
    if parsed.yes:
        return
    if not sys.stdin.isatty():
        raise StageError("nobody can be asked whether to go on; pass --yes")
    if console.input("  go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise StageError("stopped; the same command goes on where it stopped")


def _print_result(console: Console, adopted: publish.Adopted, family: Family) -> None:
    for checkpoint in family.checkpoints:
        overall = checkpoint.frontier.overall
        line = f"  {checkpoint.name:14} {publish.percent(overall.accuracy)}, {publish.tokens(overall.reasoning_tokens)}"
        _say(console, f"{line} reasoning tokens")
    routed = adopted.routed
    console.print(
        f"  {'routed':14} {publish.percent(routed.accuracy)}, {publish.tokens(routed.tokens)} reasoning tokens:"
        f" {publish.points(routed.accuracy_difference)} and {publish.percent(routed.tokens_share)} of the tokens of"
        f" {adopted.reference} (cross-validated)",
        highlight=False,
        soft_wrap=True,
    )
    for one in adopted.floors:
        _say(console, f"  {kept.line(one, adopted.reference)}")
    for said in publish.doubts(family):
        _say(console, f"  {said}")


def _say(console: Console, text: str) -> None:
    """Print text as it is: nothing in it is coloured, and no line is broken."""
    console.print(text, highlight=False, soft_wrap=True)


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(1)
