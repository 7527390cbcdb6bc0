"""How long does a decision take? Predicting and choosing, on one core, against limits and against numpy.

    python -m benchmarks.decision --out benchmarks/results

times the shipped profile on held-out questions, and on prompts of other kinds, which it must recognise as unfamiliar.
The limits are 50 microseconds at the median and 100 at the 99th percentile. The same questions are decided in numpy, as
where nothing was compiled, in turns of the same run. Garbage is collected as in the server. It takes seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.figures import spread
from benchmarks.in_process import collect_rarely
from gateway.config import shipped_family
from gateway.routing import rule
from gateway.routing.rule import RoutingRequest
from models import family as families
from models import profile as profiles
from models.family import Family
from models.profile import Profile
from training.tasks.prompts import prompts

P50_SECONDS, P99_SECONDS = 50e-6, 100e-6
BUDGET = 64
TURNS = 5
SEED = 0
OFF_TOPIC = [
    "Write a poem about the sea.",
    "def add(a, b):\n    return a + b  # add(2, 2) is 4",
    "Was ist 12 + 35 - 8?",
    "12加35减8等于多少?",
    "🙂" * 200,
    "What is 12 + 35 - 8? " * 953,
    "1+" * 10_000,
    "x" * 20_000,
]


def main() -> None:
    """Time every kind and write `decision.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    collect_rarely()
    measured_on = machine.describe()
    questions = [prompt.prompt for prompt in prompts("heldout", SEED, 1000)]
    results = {
        "machine": measured_on,
        "seed": SEED,
        "held-out questions": timed(questions),
        "prompts of other kinds": timed(OFF_TOPIC * 50),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "decision.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def timed(questions: Sequence[str]) -> dict[str, Any]:
    """Quantiles of a decision as shares of their limits, and how many times as long numpy takes."""
    family = families.load(shipped_family(), verify=False)
    profile = profiles.load(shipped_family() / family.profile)
    plain = Profile(profile.stored, library=None)
    seconds = [decided(family, profile, questions) for _ in range(TURNS)]
    in_numpy = [decided(family, plain, questions) for _ in range(TURNS)]
    medians, tails = (np.quantile(seconds, at, axis=1) for at in (0.5, 0.99))
    return {
        "prompts": len(questions),
        "turns": TURNS,
        "familiar": float(np.mean([profile.predict(question).familiar for question in questions])),
        "p50 / limit": spread((medians / P50_SECONDS).tolist()),
        "p99 / limit": spread((tails / P99_SECONDS).tolist()),
        "numpy / compiled": spread((np.quantile(in_numpy, 0.5, axis=1) / medians).tolist()),
    }


def decided(family: Family, profile: Profile, questions: Sequence[str]) -> list[float]:
    """Seconds that each decision takes."""
    everyone = frozenset(checkpoint.name for checkpoint in family.checkpoints)
    seconds: list[float] = []
    for question in questions:
        began = time.perf_counter()
        request = RoutingRequest(
            prediction=profile.predict(question),
            limit=BUDGET,
            tolerance=0.005,
            allowed=everyone,
            available=everyone,
        )
        rule.decide(family, request)
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    main()
