"""How long does a decision take? Predicting and choosing, on one core, against the limit of one millisecond.

    python -m benchmarks.decision --out benchmarks/results

times the shipped profile on held-out questions, and on prompts of other kinds, which it must recognise as unfamiliar.
It takes seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gateway.config import shipped_family
from gateway.routing import rule
from gateway.routing.rule import RoutingRequest
from models import family as families
from models import profile as profiles
from training.tasks.prompts import prompts

LIMIT_SECONDS = 1e-3
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
    questions = [prompt.prompt for prompt in prompts("heldout", SEED, 1000)]
    results = {
        "seed": SEED,
        "held-out questions": timed(questions * 5),
        "prompts of other kinds": timed(OFF_TOPIC * 200),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "decision.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def timed(questions: Sequence[str]) -> dict[str, float]:
    """Quantiles of seconds a decision, as shares of the limit, and how many of the prompts are familiar."""
    family = families.load(shipped_family(), verify=False)
    profile = profiles.load(shipped_family() / family.profile)
    everyone = frozenset(checkpoint.name for checkpoint in family.checkpoints)
    seconds: list[float] = []
    familiar = 0
    for prompt in questions:
        began = time.perf_counter()
        prediction = profile.predict(prompt)
        request = RoutingRequest(prediction=prediction, limit=64, tolerance=0.005, allowed=everyone, available=everyone)
        rule.decide(family, request)
        seconds.append(time.perf_counter() - began)
        familiar += prediction.familiar
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) / LIMIT_SECONDS
    return {"prompts": len(questions), "familiar": familiar / len(questions), "p50 / limit": p50, "p99 / limit": p99}


if __name__ == "__main__":
    main()
