"""Does `laconic quality` measure the truth on a running stack? The truth is known, because everything is asked twice.

    python -m benchmarks.live_holdout --out benchmarks/results

starts `laconic serve` with the shipped family and asks 2,000 held-out questions of its task three times: the reference,
`auto` without a holdout, and `auto` with a holdout of a tenth in a ledger of its own. The true difference in quality is
the mean over questions of the first two passes' scores by the task's verifier, with its interval. Of the third pass,
60 % of the answers get the verifier's score by `POST /v1/feedback`: from the source `verifier-random` at random, from
`verifier-difficulty` less often if the question is hard. It compares what `laconic quality` and `GET /v1/savings` say
with the truth. Finally, it draws holdouts and scores anew among the real answers of the first two passes, 1,000 times.

It takes about ten minutes on two quiet cores. The first two passes resume; their answers are in --work.
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
from tqdm import tqdm

from benchmarks import machine
from benchmarks.live import Answer, Stack, add_common, ask_all, drawn, engine, paired, quality, write
from benchmarks.quality_interval import Traffic, as_ledger
from benchmarks.recorded import recording
from benchmarks.stack import serving
from gateway.config import Settings, shipped_family
from gateway.ledger.quality import estimate
from models import family as families
from models import profile as profiles
from models.files import write_text
from models.prediction import forecasts_of
from models.rule import cheapest_good_enough
from training.tasks.prompts import prompts
from training.tasks.question import Question

SOURCES: Mapping[str, Mapping[str, float]] = {
    "verifier-random": {"easy": 0.6, "medium": 0.6, "hard": 0.6},
    "verifier-difficulty": {"easy": 0.9, "medium": 0.6, "hard": 0.3},
}
"""The share of answers that get a score, by source and by the question's difficulty. Difficulties are equally many."""
REDRAWS = 1000
QUESTIONS, ANSWERS = "questions.jsonl", "answers.jsonl"
"""What is kept in --work for `benchmarks.live_spoiled --recorded`: the questions, and all that vLLM answered."""


def main() -> None:
    """Measure, and write `live_holdout.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, seed=4301)
    parser.add_argument("--work", type=Path, default=Path("runs/live"), help="directory for answers, to resume")
    parser.add_argument("--requests", type=int, default=2000, help="questions; each is asked three times")
    parser.add_argument("--holdout-fraction", type=float, default=0.1)
    arguments = parser.parse_args()
    write(arguments.out, "live_holdout", measure(arguments))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Ask everything, and compare."""
    measured_on = machine.describe()
    family = families.load(shipped_family())
    questions = prompts("heldout", arguments.seed, arguments.requests)
    work: Path = arguments.work / f"holdout-{arguments.seed}-{arguments.requests}"
    fraction, count = str(arguments.holdout_fraction), arguments.at_once
    work.mkdir(parents=True, exist_ok=True)
    write_text(work / QUESTIONS, "".join(f"{json.dumps(question.as_row())}\n" for question in questions))
    with (
        engine(arguments.engine, work / "stack") as engine_url,
        recording(engine_url, work / ANSWERS) as recorder,
        tempfile.TemporaryDirectory() as directory,
    ):
        always = ("--engine", recorder)
        with serving(Path(directory) / "truth", "--holdout-fraction", "0", *always) as url:
            reference_stack = Stack(url, family.served_name(family.reference), at_once=count)
            reference = ask_all(reference_stack, questions, "reference", work / "reference.jsonl")
            routed = ask_all(Stack(url, at_once=count), questions, "auto", work / "routed.jsonl")
        with serving(Path(directory) / "live", "--holdout-fraction", fraction, *always) as url:
            stack = Stack(url, at_once=count)
            live = ask_all(stack, questions, "auto with a holdout")
            scored = score(stack, questions, live, arguments.seed)
            savings = stack.savings(len(questions))
            reports = quality(Path(directory) / "live")["sources"]
    if reports != savings["quality"]["sources"]:
        raise RuntimeError("`laconic quality` and /v1/savings do not say the same")
    return {
        "machine": measured_on,
        "requests": len(questions),
        "seed": arguments.seed,
        "holdout fraction": arguments.holdout_fraction,
        "sent again": sum(answer.retries for answer in (*reference, *routed, *live)),
        "truth": (true := truth(reference, routed)),
        "sources": {name: compared(reports[name], true["difference"]) | scored[name] for name in SOURCES},
        "savings": saved(savings["total"], true["tokens saved per request"]),
        "redrawn": redrawn(questions, reference, routed, arguments.holdout_fraction, arguments.seed),
    }


def score(
    stack: Stack, questions: Sequence[Question], answers: Sequence[Answer], seed: int
) -> dict[str, dict[str, Any]]:
    """Send both sources' scores, and return the share of answers that got one, by difficulty."""
    shares: dict[str, dict[str, Any]] = {}
    for place, (source, wanted) in enumerate(SOURCES.items()):
        chosen = drawn(questions, wanted, seed + place)
        asyncio.run(stack.score([answers[number] for number in chosen], source))
        counts = {name: sum(one.difficulty == name for one in questions) for name in wanted}
        hits = {name: sum(questions[number].difficulty == name for number in chosen) for name in wanted}
        shares[source] = {
            "scored": len(chosen) / len(questions),
            "scored by difficulty": {name: hits[name] / counts[name] for name in wanted},
        }
    return shares


def truth(reference: Sequence[Answer], routed: Sequence[Answer]) -> dict[str, Any]:
    """Means of both passes and of their difference by question, with 95 % intervals."""
    pairs = list(zip(routed, reference, strict=True))
    return {
        "reference": paired([float(answer.correct) for answer in reference]),
        "routed": paired([float(answer.correct) for answer in routed]),
        "difference": paired([float(one.correct) - float(other.correct) for one, other in pairs]),
        "reference tokens": paired([float(answer.tokens) for answer in reference]),
        "routed tokens": paired([float(answer.tokens) for answer in routed]),
        "tokens saved per request": paired([float(other.tokens - one.tokens) for one, other in pairs]),
    }


def compared(report: Mapping[str, Any], true: Mapping[str, float]) -> dict[str, Any]:
    """One source's estimate beside the truth, which its interval contains or not."""
    known = report["low"] is not None
    return {
        "estimate": {"mean": report["difference"], "low": report["low"], "high": report["high"]} if known else None,
        "scores": {arm: report[arm]["scores"] for arm in ("routed", "holdout")},
        "uneven": report["uneven"],
        "contains the truth": known and report["low"] <= true["mean"] <= report["high"],
        "overlaps the truth's interval": known and report["low"] <= true["high"] and true["low"] <= report["high"],
    }


def saved(total: Mapping[str, Any], true: Mapping[str, float]) -> dict[str, Any]:
    """The measured saving of a request beside the truth."""
    if (measured := total["measured"]) is None:
        return {"measured": None}
    each = {
        name: measured[what] / measured["requests"]
        for name, what in (("mean", "saved_tokens"), ("low", "low"), ("high", "high"))
    }
    return {
        "measured": each,
        "requests": measured["requests"],
        "holdout": total["holdout"],
        "failed": total["failed"],
        "estimate": total["saved_tokens"] / max(total["estimated"], 1),
        "contains the truth": each["low"] <= true["mean"] <= each["high"],
    }


def redrawn(
    questions: Sequence[Question], reference: Sequence[Answer], routed: Sequence[Answer], fraction: float, seed: int
) -> dict[str, Any]:
    """How often the interval contains the truth, over other draws of holdouts and scores among the real answers.

    The questions and their answers stay, so that only the draws are chance: intervals that cover 95 % of deployments
    cover more of these.
    """
    profile = profiles.load(shipped_family() / families.load(shipped_family()).profile)
    tolerance = Settings.model_fields["quality_tolerance"].default
    predictions = [profile.predict(one.prompt) for one in questions]
    forecasts = [forecasts_of(one.choices, None) for one in predictions]
    predicted = np.array([one[cheapest_good_enough(one, tolerance)].success for one in forecasts])
    difficulty = np.array([one.difficulty for one in predictions])
    first, second = (np.array([float(one.correct) for one in answers]) for answers in (routed, reference))
    true = float((first - second).mean())
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for source, shares in SOURCES.items():
        likely = np.array([shares[one.difficulty] for one in questions])
        hits, widths = 0, list[float]()
        for _ in tqdm(range(REDRAWS), f"redrawn, {source}"):
            holdout = rng.random(len(questions)) < fraction
            scored = rng.random(len(questions)) < likely
            traffic = Traffic(difficulty, predicted, holdout, np.where(holdout, second, first), scored, true)
            one = estimate(*as_ledger(traffic, fraction))
            if one.low is not None and one.high is not None:
                hits += one.low <= true <= one.high
                widths.append(one.high - one.low)
        found[source] = {
            "measured": len(widths) / REDRAWS,
            "contains the truth": hits / max(len(widths), 1),
            "width": float(np.mean(widths)) if widths else None,
        }
    return {"draws": REDRAWS, "truth": true, "sources": found}


if __name__ == "__main__":
    main()
