"""Does a profile of few prompts lose to one checkpoint? Many fits of 150 prompts, drawn from measured outcomes.

    python -m benchmarks.few_prompts PATH/example_model_solutions.jsonl --out docs/profile

The file is published with GSM8K (`benchmarks.gsm8k_routing`): four models' answers to 1,319 problems. Every fit draws
150 of them, fits the profile as `laconic adopt` does, and decides the others at the default tolerance. *Below the
frontier* is how much less accurate the routed choice is there than the best mixture of single checkpoints at its
tokens; a mixture is never worse than the best single checkpoint that costs no more. It takes half an hour on
one core, and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import machine
from benchmarks.frontiers import Point, at, hull, singles
from benchmarks.gsm8k_routing import MODELS, read
from benchmarks.predictors import Outcomes
from models.prediction import forecasts_of
from models.profile import Profile
from models.rule import cheapest_good_enough
from training.measure.figures import interval
from training.profile import fit
from training.tasks.outcome import Graded, Outcome

TOLERANCES = (0.0, 0.005, 0.02)
DEFAULT = 0.005
MARGIN = 0.005
"""How far below the frontier a fit may be, in accuracy."""
FAMILIES = {"all four": list(MODELS)[::-1], "without the best": list(MODELS)[-2::-1]}
"""Longest first, as in a manifest; the first is the reference. The best of the four is better by far, so that there is
little to choose; the other three are closer."""


def main() -> None:
    """Fit many times, and write `few_prompts.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solutions", type=Path, help="GSM8K's example_model_solutions.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--work", type=Path, default=Path("runs/few-prompts.jsonl"), help="where fits are kept")
    parser.add_argument("--prompts", type=int, default=150, help="of each fit")
    parser.add_argument("--fits", type=int, default=200)
    parser.add_argument("--only", choices=FAMILIES, help="one family; default: all")
    parser.add_argument("--seed", type=int, default=0, help="of the first fit")
    arguments = parser.parse_args()
    where = machine.describe()
    measured = read(arguments.solutions)
    arguments.work.parent.mkdir(parents=True, exist_ok=True)
    arguments.work.touch()
    kept = [json.loads(line) for line in arguments.work.read_text().splitlines()]
    families: dict[str, Any] = {}
    for family, names in FAMILIES.items():
        if arguments.only not in (None, family):
            continue
        of = {"family": family, "prompts": arguments.prompts, "seed": arguments.seed}
        done = [row for row in kept if row["of"] == of][: arguments.fits]
        with arguments.work.open("a") as log:
            for number in tqdm(range(len(done), arguments.fits), family, initial=len(done), total=arguments.fits):
                done.append({"of": of, **one_fit(measured, names, arguments.prompts, arguments.seed + number)})
                log.write(json.dumps(done[-1]) + "\n")
                log.flush()
        families[family] = report(done)
    results = {"machine": where, "seed": arguments.seed, "problems": len(measured.prompts), "families": families}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "few_prompts.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def one_fit(measured: Outcomes, names: Sequence[str], prompts: int, seed: int) -> dict[str, Any]:
    """How far below the frontier one fit is on the problems that it was not fitted on, by tolerance."""
    order = np.random.default_rng(seed).permutation(len(measured.prompts))
    fitted, others = order[:prompts], order[prompts:]
    raw = fit.fit({name: _graded(measured, name, fitted) for name in names}, {name: [] for name in names}, seed)
    profile = Profile.of(raw)
    predictions = [profile.predict(measured.prompts[row]) for row in others]
    columns = [list(MODELS).index(name) for name in names]
    accuracy, tokens = measured.accuracy[others][:, columns], measured.tokens[others][:, columns, 0]
    mix = hull(singles(accuracy, tokens))
    by_tolerance: dict[str, Any] = {}
    for tolerance in TOLERANCES:
        chosen = [
            cheapest_good_enough(forecasts_of(p.choices, None), tolerance) if p.familiar else names[0]
            for p in predictions
        ]
        pick = [names.index(name) for name in chosen]
        rows = np.arange(len(others))
        place = float(tokens[rows, pick].mean()), float(accuracy[rows, pick].mean())
        by_tolerance[f"{tolerance:g}"] = {"place": place, "below": below(mix, place)}
    unfamiliar = float(np.mean([not p.familiar for p in predictions]))
    return {"reader": raw["reader"]["name"], "unfamiliar": unfamiliar, "tolerances": by_tolerance}


def below(mix: Sequence[Point], place: Point) -> float:
    """How much less accurate a place is than the frontier at its tokens; negative if it is above."""
    return float(at(mix, np.array([place[0]]))[0] - place[1])


def report(fits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By tolerance: the share of fits within the margin, and how far below the frontier fits are."""
    readers = [row["reader"] for row in fits]
    table: dict[str, Any] = {}
    for tolerance in (f"{one:g}" for one in TOLERANCES):
        distances = [row["tolerances"][tolerance]["below"] for row in fits]
        within = interval([float(one <= MARGIN) for one in distances], 0, shares=True)
        table[tolerance] = {
            "within": within.model_dump(),
            "median below": float(np.median(distances)),
            "95 % below": float(np.quantile(distances, 0.95)),
            "tokens": float(np.mean([row["tolerances"][tolerance]["place"][0] for row in fits])),
            "accuracy": float(np.mean([row["tolerances"][tolerance]["place"][1] for row in fits])),
        }
    return {
        "fits": len(fits),
        "prompts": fits[0]["of"]["prompts"],
        "unfamiliar": float(np.mean([row["unfamiliar"] for row in fits])),
        "readers": {name: readers.count(name) for name in sorted(set(readers))},
        "tolerances": table,
    }


def _graded(measured: Outcomes, name: str, rows: Sequence[int] | np.ndarray[Any, Any]) -> list[Graded]:
    column = list(MODELS).index(name)
    return [
        Graded(
            measured.prompts[row],
            "gsm8k",
            "",
            (Outcome(bool(measured.accuracy[row, column]), *_counted(measured.tokens[row, column, 0]), 1, True),),
        )
        for row in rows
    ]


def _counted(tokens: float) -> tuple[int, int]:
    return int(tokens), int(tokens) + 1


if __name__ == "__main__":
    main()
