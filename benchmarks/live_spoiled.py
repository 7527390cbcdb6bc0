"""Does the quality alert fire when a profile is spoiled, and only then? On a running stack, at every 100 requests.

    python -m benchmarks.live_spoiled --out benchmarks/results

serves a copy of the shipped family whose profile has the predictions of two checkpoints exchanged, and takes the
success of a third one for failure, so that routing chooses the base as the cheapest checkpoint. The copy's reference is
the most accurate checkpoint, and callers allow 64 reasoning tokens, within which the base is often wrong. It runs with
`--quality-tolerance 0.2`, at two holdout fractions; with the right profile and the default tolerance, the same traffic
is the control. Then the shipped family as it is answers 1,000 questions in each of 20 deployments with gateways, stores
and draws of their own.

All answers are scored by the task's verifier. At every 100 requests, the expression of the alert in deploy/prometheus
is evaluated on the gauges: as `GET /v1/savings` has them at that moment, and as `GET /metrics` was scraped, which is up
to a minute older. At the end, it is evaluated on what is scraped once the gauges have every score.

With `--recorded DIR`, more deployments get the answers that `benchmarks.live_holdout` recorded from vLLM, to its
questions: everything else is live, and a small machine has time for 20 of them (`--runs 4 --recorded
runs/live/holdout-4301-2000`). It takes about 25 minutes on two quiet cores. Finished parts are in --work, so that it
resumes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from tqdm import tqdm

from benchmarks import alerts, machine
from benchmarks.live import Answers, Stack, add_common, engine, write
from benchmarks.live_holdout import ANSWERS, QUESTIONS
from benchmarks.quality_interval import Deployment, Traffic, as_ledger, draw
from benchmarks.recorded import replaying
from benchmarks.stack import serving
from gateway.config import Settings, shipped_family
from gateway.ledger.quality import estimate
from models import family as families
from models import profile as profiles
from models.files import write_text
from models.stored import StoredProfile
from training.refit import replace as replace_profile
from training.tasks.prompts import prompts
from training.tasks.question import Question

ALERT = "LaconicQualityLost"
SOURCE = "verifier"
EVERY = 100
"""Requests between two looks at the alert."""
BUDGET = 64
FRACTION = 0.1
"""The holdout of the shipped family's deployments."""
REFERENCE, EXCHANGED, MISTAKEN = "alpha-0.05", {"base": "alpha-0.4", "alpha-0.4": "base"}, "alpha-0.2"
"""The copy's reference, and in its spoiled profile: whose predictions each of two checkpoints has, and whose success is
taken for failure."""
GAUGES = {"difference": "", "low": "_low", "high": "_high"}
CHANCES = 500
GAUGE_SECONDS = 75.0
"""How long the gauges may take to have every score; they are measured once a minute."""


def main() -> None:
    """Measure, and write `live_spoiled.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, seed=4401)
    parser.add_argument("--work", type=Path, default=Path("runs/live"), help="directory for finished parts, to resume")
    parser.add_argument("--requests", type=int, default=1000, help="in each run")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.1, 0.3], help="holdouts of the spoiled runs")
    parser.add_argument("--runs", type=int, default=20, help="deployments with the right profile, answered by vLLM")
    parser.add_argument("--runs-at-once", type=int, default=4)
    parser.add_argument(
        "--recorded", type=Path, help="what benchmarks.live_holdout kept: more deployments get its answers"
    )
    parser.add_argument("--recorded-runs", type=int, default=20, help="how many")
    arguments = parser.parse_args()
    write(arguments.out, "live_spoiled", measure(arguments))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the spoiled deployments, their control, and the right ones."""
    described = machine.describe()
    work: Path = arguments.work / f"spoiled-{arguments.seed}-{arguments.requests}"
    right, spoiled = (copy_family(work / name, change) for name, change in (("right", same), ("spoiled", spoil)))
    parts = {f"spoiled, holdout {fraction:g}": (spoiled, fraction, "0.2") for fraction in arguments.fractions}
    control = max(arguments.fractions)
    parts[f"right, holdout {control:g}"] = (right, control, str(Settings.model_fields["quality_tolerance"].default))
    with engine(arguments.engine, work / "stack") as url:
        copies = {
            name: kept(work / f"{name}.json", lambda part=part: copy_run(arguments, url, *part))
            for name, part in tqdm(parts.items(), "the copy")
        }
        shipped = {"live": shipped_runs(arguments, work, url)}
    if arguments.recorded is not None:
        with replaying(arguments.recorded / ANSWERS) as url:
            shipped["recorded"] = shipped_runs(arguments, work, url, arguments.recorded)
    return {
        "machine": described,
        "requests": arguments.requests,
        "seed": arguments.seed,
        "alert": alerts.expression(ALERT),
        "looks at every": EVERY,
        "budget": BUDGET,
        "copies": copies,
        "by chance": kept(work / "chance.json", lambda: by_chance(arguments.requests, arguments.seed)),
        "shipped": {kind: {**summary(runs), "runs": runs} for kind, runs in shipped.items() if runs},
    }


def kept(path: Path, make: Callable[[], Any]) -> Any:
    """What is in the file; it is made first, if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(make()))
    return json.loads(path.read_text())


def copy_family(directory: Path, change: Callable[[StoredProfile], StoredProfile]) -> Path:
    """A copy of the shipped family with another reference and a changed profile."""
    if not directory.exists():
        shutil.copytree(shipped_family(), directory)
        family = families.load(directory).model_copy(update={"reference": REFERENCE})
        replace_profile(directory, family, change(profiles.read(directory / family.profile)))
    return directory


def same(stored: StoredProfile) -> StoredProfile:
    """The profile as it is, without the figures of its fit, which were measured against another reference."""
    return stored.model_copy(update={"report": {}, "reliability": {}})


def spoil(stored: StoredProfile) -> StoredProfile:
    """The profile with the predictions of `EXCHANGED` checkpoints exchanged, `MISTAKEN`'s inverted, no escalations."""

    def under_new_names(table: Mapping[str, Any]) -> dict[str, Any]:
        return {EXCHANGED.get(name, name): value for name, value in table.items()}

    tables = ("scales", "residuals", "budget_forced_shifts", "answer_scales")
    changed = {name: under_new_names(getattr(stored, name)) for name in tables}
    slope, shift = stored.scales[MISTAKEN]
    changed["scales"][MISTAKEN] = (-slope, -shift)
    return same(stored).model_copy(update={**changed, "escalations": {}})


def copy_run(arguments: argparse.Namespace, url: str, family: Path, fraction: float, tolerance: str) -> dict[str, Any]:
    """One run of a copy of the family, on new answers."""
    questions = prompts("heldout", arguments.seed, arguments.requests)
    options = ("--family", str(family), "--quality-tolerance", tolerance, "--holdout-fraction", str(fraction))
    with tempfile.TemporaryDirectory() as directory, serving(Path(directory), *options, "--engine", url) as live:
        stack = Stack(live, budget=BUDGET, at_once=arguments.at_once)
        return asyncio.run(run(stack, questions))


def shipped_runs(
    arguments: argparse.Namespace, work: Path, engine_url: str, recorded: Path | None = None
) -> list[dict[str, Any]]:
    """The deployments of the shipped family, some at once. Each has a gateway, a store and questions of its own.

    Args:
        arguments: of the command.
        work: where finished ones are kept.
        engine_url: what answers.
        recorded: where it has the answers from; None for a model.
    """
    done: list[dict[str, Any]] = []
    kind, runs = ("live", arguments.runs) if recorded is None else ("recorded", arguments.recorded_runs)
    for first in tqdm(range(0, runs, arguments.runs_at_once), f"the shipped family, {kind}"):
        numbers = range(first, min(first + arguments.runs_at_once, runs))
        asked = [_questions(arguments, number, recorded) for number in numbers]
        path = work / f"shipped-{kind}-{numbers[0]}-{numbers[-1]}.json"
        done += kept(path, lambda asked=asked: _at_once(asked, engine_url, arguments.at_once))
    return done


def _at_once(asked: Sequence[Sequence[Question]], engine_url: str, in_flight: int) -> list[dict[str, Any]]:
    with ExitStack() as entered:
        stacks: list[Stack] = []
        for _ in asked:
            directory = entered.enter_context(tempfile.TemporaryDirectory())
            options = ("--holdout-fraction", str(FRACTION), "--engine", engine_url)
            live = entered.enter_context(serving(Path(directory), *options))
            stacks.append(Stack(live, at_once=max(in_flight // len(asked), 1)))

        async def everything() -> list[dict[str, Any]]:
            return await asyncio.gather(*(run(*one) for one in zip(stacks, asked, strict=True)))

        return asyncio.run(everything())


def _questions(arguments: argparse.Namespace, number: int, recorded: Path | None) -> list[Question]:
    """A run's questions: new ones, or a random choice of those with recorded answers."""
    seed = arguments.seed + 1 + number
    if recorded is None:
        return list(prompts("heldout", seed, arguments.requests))
    lines = (recorded / QUESTIONS).read_text().splitlines()
    return [Question(**json.loads(line)) for line in random.Random(seed).sample(lines, arguments.requests)]


async def run(stack: Stack, questions: Sequence[Question]) -> dict[str, Any]:
    """Ask and score all questions, and look at the alert every so often."""
    rule, answers, looks = alerts.expression(ALERT), Answers(), list[dict[str, Any]]()
    estimate: dict[str, Any] = {}
    for first in range(0, len(questions), EVERY):
        asked = await stack.ask(questions[first : first + EVERY], answers, first=first)
        await stack.score(asked, SOURCE)
        count = first + len(asked)
        report = await asyncio.to_thread(stack.savings, count)
        scraped = alerts.exposed(await asyncio.to_thread(_scrape, stack))
        estimate = report["quality"]["sources"][SOURCE]
        now = alerts.firing(rule, as_gauges(report["quality"]["sources"]))
        looks.append({"requests": count, "fires": bool(now), "fires as scraped": bool(alerts.firing(rule, scraped))})
        looks[-1] |= {end: estimate[end] for end in ("difference", "low", "high")}
    scraped = await _with_every_score(stack, len(questions))
    if bool(alerts.firing(rule, scraped)) != looks[-1]["fires"]:
        raise RuntimeError("/metrics and /v1/savings do not say the same")
    first_fired = next((look["requests"] for look in looks if look["fires"]), None)
    return {
        "fired after": first_fired,
        "fired after, as scraped": next((look["requests"] for look in looks if look["fires as scraped"]), None),
        "fires at the end, as scraped": bool(alerts.firing(rule, scraped)),
        "looks that fire": sum(look["fires"] for look in looks),
        "scores": {arm: estimate[arm]["scores"] for arm in ("routed", "holdout")},
        "correct": sum(one.correct for one in answers.by_number.values()) / len(questions),
        "sent again": sum(one.retries for one in answers.by_number.values()),
        "looks": looks,
    }


def as_gauges(sources: Mapping[str, Mapping[str, Any]]) -> alerts.Exposed:
    """The gauges of quality as they would be if they were measured now."""
    return {
        f"laconic_quality_difference{suffix}": {
            (("source", source),): math.nan if (value := one[field]) is None else value
            for source, one in sources.items()
        }
        for field, suffix in GAUGES.items()
    }


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many runs fired, at any look and at the last one."""
    return {
        "deployments": len(runs),
        "fired at any look": sum(one["fired after"] is not None for one in runs),
        "fired at the end": sum(one["fires at the end, as scraped"] for one in runs),
        "lowest upper end": min((look["high"] for one in runs for look in one["looks"] if look["high"]), default=None),
    }


def by_chance(requests: int, seed: int, deployments: int = CHANCES) -> dict[str, Any]:
    """How often the alert fires in simulated deployments that lose just the tolerance, at any look and at the last."""
    rng, rule = np.random.default_rng(seed), alerts.expression(ALERT)
    kind = Deployment(requests, FRACTION, 1.0, "at random", easiness=3.0, loss=0.08)
    at_any, at_the_end, truths = 0, 0, list[float]()
    for _ in tqdm(range(deployments), "by chance"):
        traffic = draw(kind, rng)
        truths.append(traffic.truth)
        fires = [bool(alerts.firing(rule, _simulated(traffic, n))) for n in range(EVERY, requests + 1, EVERY)]
        at_any, at_the_end = at_any + any(fires), at_the_end + fires[-1]
    shares = {"fires at any look": at_any / deployments, "fires at the end": at_the_end / deployments}
    return {"deployments": deployments, "true difference": float(np.mean(truths)), **shares}


def _simulated(traffic: Traffic, requests: int) -> alerts.Exposed:
    """The gauges after the first requests."""
    arrays = {
        name: getattr(traffic, name)[:requests] for name in ("difficulty", "predicted", "holdout", "score", "scored")
    }
    return as_gauges({SOURCE: asdict(estimate(*as_ledger(Traffic(**arrays, truth=traffic.truth), FRACTION)))})


def _scrape(stack: Stack) -> str:
    return httpx.get(f"{stack.url}/metrics", timeout=60).text


async def _with_every_score(stack: Stack, scores: int) -> alerts.Exposed:
    """The metrics once their gauges have so many scores."""
    until = time.monotonic() + GAUGE_SECONDS
    while True:
        found = alerts.exposed(await asyncio.to_thread(_scrape, stack))
        if sum(found.get("laconic_quality_scores", {}).values()) >= scores:
            return found
        if time.monotonic() > until:
            raise RuntimeError("the gauges do not get every score")
        await asyncio.sleep(1.0)


if __name__ == "__main__":
    main()
