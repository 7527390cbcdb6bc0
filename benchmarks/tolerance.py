"""Which `quality_tolerance` is a good default? The gateway's rule at several, on unseen validation prompts.

    python -m benchmarks.tolerance runs/abacus --out docs/profile

takes the outcomes of a run's profile stage, fits the profile on four fifths of the prompts, second thoughts included,
decides on the fifth that is left, all five ways round, and judges by what was sampled there. Held-out prompts are not
touched. *Above the frontier* is how much more accurate that is than the best mixture, at its tokens, of checkpoints and
second thoughts that are chosen without a look at the prompt.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold
from tqdm import tqdm

from benchmarks.frontiers import Point, at, hull
from gateway.routing.rule import cheapest_good_enough, forecasts_of
from models.profile import Profile
from training.profile import fit
from training.profile.cascade import simulated, tokens_and_accuracy, worthwhile
from training.tasks import outcome
from training.tasks.outcome import Graded

Array = NDArray[np.float64]
TOLERANCES = (0.0, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05)
RESAMPLES = 2000


def main() -> None:
    """Grader every tolerance and write `tolerance.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run's directory, its profile stage done")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parsed = parser.parse_args()
    files = sorted(
        path for path in (parsed.run / "profile").glob("*.jsonl") if not path.name.endswith(".budget-forced.jsonl")
    )
    if not files:
        parser.error(f"{parsed.run / 'profile'} has no outcomes; run laconic-train profile first")
    outcomes = {path.stem: outcome.load(path) for path in files}
    # The longest thinkers first, as a family's places are.
    outcomes = dict(sorted(outcomes.items(), key=lambda item: -tokens_and_accuracy(item[1])[0]))
    said = report(outcomes, parsed.seed)
    parsed.out.mkdir(parents=True, exist_ok=True)
    (parsed.out / "tolerance.json").write_text(json.dumps(said, indent=1) + "\n")
    print(json.dumps(said, indent=1))


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
            f"{tolerance:g}": _judged(picked[:, which], draws, hull(fixed))
            for which, tolerance in enumerate(TOLERANCES)
        },
    }


def decided(outcomes: Mapping[str, Sequence[Graded]], seed: int) -> Array:
    """Accuracy and tokens of what the rule chooses for each prompt, (prompts, tolerances, 2)."""
    prompts = len(next(iter(outcomes.values())))
    found = np.zeros((prompts, len(TOLERANCES), 2))
    for train, test in tqdm(list(KFold(5, shuffle=True, random_state=seed).split(np.arange(prompts))), desc="fits"):
        seen = {name: [rows[i] for i in train] for name, rows in outcomes.items()}
        fitted = Profile.of(fit.fit(seen, {name: [] for name in seen}, seed))
        others = {name: [rows[i] for i in test] for name, rows in outcomes.items()}
        others |= {
            name: simulated(others[both.first], others[both.second], both.surprisal)
            for name, both in fitted.escalations.items()
        }
        for row, prompt in enumerate(test):
            text = next(iter(outcomes.values()))[prompt].prompt
            forecasts = forecasts_of(fitted.predict(text).choices, None)
            for which, tolerance in enumerate(TOLERANCES):
                judged = others[cheapest_good_enough(forecasts, tolerance)][row]
                found[prompt, which] = judged.accuracy, judged.reasoning_tokens
    return found


def _judged(picked: Array, draws: NDArray[np.int64], frontier: Sequence[Point]) -> dict[str, Any]:
    accuracy, tokens = picked.T

    def above(rows: Any) -> float:
        return float(accuracy[rows].mean() - at(frontier, np.array([tokens[rows].mean()]))[0])

    return {
        "accuracy": _interval([float(accuracy[rows].mean()) for rows in draws], float(accuracy.mean())),
        "tokens": _interval([float(tokens[rows].mean()) for rows in draws], float(tokens.mean())),
        "above the frontier": above(slice(None)),
    }


def _interval(resampled: Sequence[float], mean: float) -> dict[str, float]:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return {"mean": mean, "low": float(low), "high": float(high)}


def _figures(place: Point) -> dict[str, float]:
    return {"accuracy": place[1], "tokens": place[0]}


if __name__ == "__main__":
    main()
