"""What does an adopted family do with fresh questions? The routed choice beside every level, through a running gateway.

    python -m benchmarks.adopted ./my-family --engine http://vllm:8000 --prompts test.jsonl --most 400 \\
      --work ./replies --out benchmarks/results/adopted

starts `laconic serve` in front of the engine, and sends each question to the family, which routes it, and to each
checkpoint by name. Answers are compared with the gold answers. The questions must not be those that the family was
measured on. With `--budget 16 --budget 64` it sends each question once more under each budget, and says how many
answers thought longer than that, and how many came without an answer. Replies are stored as they come: the same command
goes on after a kill. `OUT/FAMILY.json` names the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from benchmarks import machine
from benchmarks.stack import serving
from models import family as families
from models.family import Family, Reasoning
from training.adopt import assess, crossval, measure, prompts
from training.adopt.assess import Replies
from training.adopt.cost import split
from training.adopt.engine import Engine
from training.adopt.levels import Level
from training.adopt.measure import Plan, Sampling
from training.measure.figures import summarise
from training.tasks.outcome import Graded

ROUTED = "routed"
SEED = 4001


def main() -> None:
    """Measure, and write `FAMILY.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path, help="the family's directory")
    parser.add_argument("--engine", required=True, help="URL of the engine that serves it")
    parser.add_argument("--prompts", type=Path, required=True, help="fresh questions with gold answers")
    parser.add_argument("--most", type=int, help="how many of them; default: all")
    parser.add_argument("--max-tokens", type=int, help="longest completion")
    parser.add_argument("--temperature", type=float, help="default: the engine's own")
    parser.add_argument("--budget", type=int, action="append", default=[], help="also under this budget; repeatable")
    parser.add_argument("--at-once", type=int, default=32)
    parser.add_argument("--work", type=Path, required=True, help="directory for the replies")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    arguments = parser.parse_args()
    family = families.load(arguments.family)
    requests = prompts.read(arguments.prompts, arguments.most)
    levels = [Level(ROUTED, family.name)]
    levels += [Level(c.name, family.served_name(c.name)) for c in family.checkpoints]
    levels += [Level(f"under {budget}", family.name, budget=budget) for budget in arguments.budget]
    sampling = Sampling(1, arguments.temperature, arguments.max_tokens, SEED)
    plan = Plan(levels, sampling, "thinking_token_budget")
    measured_on = machine.describe()
    measure.open_directory(arguments.work, plan, again=False)
    with tempfile.TemporaryDirectory() as state:
        settings = ("--engine", arguments.engine, "--family", str(arguments.family), "--holdout-fraction", "0")
        with serving(Path(state), *settings) as url:
            replies = asyncio.run(_replies(url, requests, plan, arguments.work, arguments.at_once))
    outcomes = asyncio.run(assess.graded(requests, replies, family.reasoning, assess.by_gold(requests)))
    results = {
        "machine": measured_on,
        "family": family.name,
        "prompts": len(requests),
        "seed": SEED,
        "temperature": arguments.temperature,
        "max_tokens": arguments.max_tokens,
        "levels": {name: _figures(outcomes[name]) for name in (ROUTED, *(c.name for c in family.checkpoints))},
        "routed minus reference": _difference(outcomes, family),
        "under a budget": {
            str(budget): _capped(replies[f"under {budget}"], budget, family.reasoning) for budget in arguments.budget
        },
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{family.name}.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


async def _replies(url: str, requests: Sequence[prompts.Request], plan: Plan, work: Path, at_once: int) -> Replies:
    with Progress() as progress:
        line = progress.add_task("asking", total=len(requests) * len(plan.levels), completed=len(measure.load(work)))
        async with Engine(url, at_once=at_once) as engine:
            rows = await measure.measure(engine, requests, plan, work, lambda _: progress.advance(line))
    return measure.by_request(rows)


def _figures(rows: Sequence[Graded]) -> dict[str, Any]:
    overall = summarise(rows, SEED)
    return {"accuracy": overall.accuracy.model_dump(), "tokens": overall.reasoning_tokens.model_dump()}


def _difference(outcomes: Mapping[str, Sequence[Graded]], family: Family) -> dict[str, Any]:
    routed = np.array([[row.accuracy, row.reasoning_tokens] for row in outcomes[ROUTED]])
    compared = crossval.compare(routed, outcomes[family.reference], SEED)
    return {
        "accuracy": compared.accuracy_difference.model_dump(),
        "share of tokens": compared.tokens_share.model_dump(),
    }


def _capped(samples: Mapping[str, Sequence[Any]], budget: int, marks: Reasoning | None) -> dict[str, int]:
    """Of the replies under a budget: how many there are, thought longer, and came without an answer."""
    parts = [split(reply, marks) for replies in samples.values() for reply in replies if reply is not None]
    return {
        "replies": len(parts),
        "over the budget": sum(part.reasoning_tokens > budget for part in parts),
        "without an answer": sum(not part.answer.strip() for part in parts),
    }


if __name__ == "__main__":
    main()
