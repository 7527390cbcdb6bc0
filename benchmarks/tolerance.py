"""Which `quality_tolerance` is a good default? The gateway's rule at several, on test prompts it was not fitted on.

    python -m benchmarks.tolerance runs/abacus --out docs/profile

reads the outcomes of a run's profile stage. It fits the profile on four fifths of the prompts, escalations included,
decides on the last fifth, all five ways round, and measures by what was sampled there. Held-out prompts are not
touched. *Above the frontier* is how much more accurate the rule is than the best mixture, at its tokens, of
checkpoints and escalations that are chosen without looking at the prompt. It takes minutes; `make generated` then
updates the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.frontiers import Point, at, hull
from benchmarks.intervals import with_interval
from models.prediction import forecasts_of
from models.rule import cheapest_good_enough
from training.profile.cascade import tokens_and_accuracy, worthwhile
from training.profile.crossfit import FOLDS, folds
from training.tasks import outcome
from training.tasks.outcome import Graded

Array = NDArray[np.float64]
TOLERANCES = (0.0, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05)
RESAMPLES = 2000


def main() -> None:
    """Measure every tolerance and write `tolerance.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's directory, its profile stage done")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    arguments = parser.parse_args()
    files = sorted(
        path for path in (arguments.run / "profile").glob("*.jsonl") if not path.name.endswith(".budget-forced.jsonl")
    )
    if not files:
        parser.error(f"{arguments.run / 'profile'} has no outcomes; run laconic-train profile first")
    outcomes = {path.stem: outcome.load(path) for path in files}
    # The checkpoints that think longest come first, as in a family's manifest.
    outcomes = dict(sorted(outcomes.items(), key=lambda item: -tokens_and_accuracy(item[1])[0]))
    results = report(outcomes, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "tolerance.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def report(outcomes: Mapping[str, Sequence[Graded]], seed: int) -> dict[str, Any]:
    """By tolerance: accuracy and tokens, with 95 % intervals from resampling prompts."""
    picked = decided(outcomes, seed)
    fixed = [tokens_and_accuracy(rows) for rows in outcomes.values()]
    fixed += [tokens_and_accuracy(rows) for _, rows in worthwhile(outcomes).values()]
    draws = np.random.default_rng(seed).integers(0, len(picked), (RESAMPLES, len(picked)))
    return {
        "prompts": len(picked),
        "fixed": {name: _figures(tokens_and_accuracy(rows)) for name, rows in outcomes.items()}
        | {name: _figures(tokens_and_accuracy(rows)) for name, (_, rows) in worthwhile(outcomes).items()},
        "tolerances": {
            f"{tolerance:g}": _measured(picked[:, which], draws, hull(fixed))
            for which, tolerance in enumerate(TOLERANCES)
        },
    }


def decided(outcomes: Mapping[str, Sequence[Graded]], seed: int) -> Array:
    """Accuracy and tokens of what the rule chooses for each prompt, (prompts, tolerances, 2)."""
    prompts = len(next(iter(outcomes.values())))
    decisions = np.zeros((prompts, len(TOLERANCES), 2))
    for fold in tqdm(folds(outcomes, seed), desc="fits", total=FOLDS):
        for row, prompt in enumerate(fold.prompts):
            text = next(iter(fold.outcomes.values()))[row].prompt
            forecasts = forecasts_of(fold.profile.predict(text).choices, None)
            for which, tolerance in enumerate(TOLERANCES):
                graded = fold.outcomes[cheapest_good_enough(forecasts, tolerance)][row]
                decisions[prompt, which] = graded.accuracy, graded.reasoning_tokens
    return decisions


def _measured(picked: Array, draws: NDArray[np.int64], frontier: Sequence[Point]) -> dict[str, Any]:
    accuracy, tokens = picked.T

    def above(rows: Any) -> float:
        return float(accuracy[rows].mean() - at(frontier, np.array([tokens[rows].mean()]))[0])

    return {
        "accuracy": with_interval(accuracy.mean(), [accuracy[rows].mean() for rows in draws]),
        "tokens": with_interval(tokens.mean(), [tokens[rows].mean() for rows in draws]),
        "above the frontier": above(slice(None)),
    }


def _figures(place: Point) -> dict[str, float]:
    return {"accuracy": place[1], "tokens": place[0]}


if __name__ == "__main__":
    main()
