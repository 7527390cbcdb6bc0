"""What predicts difficulty best? Ways to predict success and thinking from a prompt, on prompts not fitted on.

    python -m benchmarks.difficulty runs/outcomes --out docs/profile

reads what `benchmarks.outcomes`, or a run of `laconic-train`, measured. It fits every way on the outcomes of the
profile stage (validation prompts), scores it on those of the evaluation (held-out prompts), and writes
`difficulty.json` and two plots; `make generated` then updates the page. It takes minutes.

Figures are means over the checkpoints. *Closed* is the share of the gap between mixing checkpoints at random and an
oracle that the gateway's rule closes with these predictions (`benchmarks.frontiers`). The oracle knows each prompt's
outcomes, luck included, so nothing can close all of it. *Budget Brier* is the Brier score of P(correct within B) over
B = 8, 16, 32, 64, 128. `benchmarks.tolerance` says which tolerance is a good default.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import plots, predictors
from benchmarks.frontiers import Point, hull, oracle, share_closed, singles, swept
from benchmarks.predictors import Outcomes, Predicted, Predictor, Represent
from models import profile as profiles
from models.family import load as load_family
from models.prediction import LEVELS
from training.profile.scores import auc, brier, calibration_error, log_loss, pinball
from training.tasks import outcome

Array = NDArray[np.float64]
BUDGETS = (8, 16, 32, 64, 128)
DEFAULT = "counts, boosted"


def candidates(
    base: Path,
) -> dict[str, tuple[Callable[[Sequence[str]], Represent], Callable[[Array, Outcomes], Predictor]]]:
    """What is compared, by name."""
    return {
        "constant": (predictors.length, predictors.constant),
        "length, linear": (predictors.length, predictors.linear),
        "length, boosted": (predictors.length, predictors.boosted),
        "n-grams, linear": (predictors.ngrams(4096), predictors.linear),
        "n-grams, boosted": (predictors.ngrams(128), predictors.boosted),
        "counts, linear": (predictors.counts, predictors.linear),
        DEFAULT: (predictors.counts, predictors.boosted),
        "mean activation, neighbours": (predictors.activations(base, last=False), predictors.neighbours),
        "last activation, linear": (predictors.activations(base, last=True), predictors.linear),
    }


def read(directory: Path, names: Sequence[str]) -> Outcomes:
    """The outcomes of these checkpoints in a directory of `benchmarks.outcomes` or of a run."""
    rows = [outcome.load(directory / f"{name}.jsonl") for name in names]
    tokens = [[[o.reasoning_tokens for o in row.outcomes] for row in graded] for graded in rows]
    return Outcomes(
        [row.prompt for row in rows[0]],
        np.array([[row.accuracy for row in graded] for graded in rows]).T,
        np.array(tokens, dtype=float).swapaxes(0, 1),
    )


def scores(predicted: Predicted, measured: Outcomes, within: Array) -> dict[str, float]:
    """Scores of predictions; `within` is the share correct within each budget, (prompts, checkpoints, budgets)."""
    checkpoints = range(measured.accuracy.shape[1])

    def mean(figure: Callable[[Array, Array], float]) -> float:
        return float(np.mean([figure(measured.accuracy[:, c], predicted.correct[:, c]) for c in checkpoints]))

    success = [
        predicted.correct * np.apply_along_axis(lambda q, b=b: np.interp(b, q, LEVELS), 2, predicted.quantiles)
        for b in BUDGETS
    ]
    tokens = measured.tokens.mean(2)
    rule = swept(predicted.correct, predicted.expected_tokens, measured.accuracy, tokens)
    return {
        "log loss": mean(log_loss),
        "Brier": mean(brier),
        "AUC": mean(auc),
        "calibration error": mean(calibration_error),
        "budget Brier": float(np.mean([brier(within[..., b], success[b]) for b in range(len(BUDGETS))])),
        "pinball": float(np.mean([pinball(measured.tokens[:, c], predicted.quantiles[:, c]) for c in checkpoints])),
        "closed": share_closed(rule, oracle(measured.accuracy, tokens), singles(measured.accuracy, tokens)),
    }


def microseconds(decide: Callable[[str], object], prompts: Sequence[str]) -> float:
    """Median time of one call, over single prompts."""
    times = []
    for prompt in prompts:
        began = time.perf_counter()
        decide(prompt)
        times.append(time.perf_counter() - began)
    return float(np.median(times) * 1e6)


def main() -> None:
    """Compare, and write `difficulty.json` and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outcomes", type=Path, help="what benchmarks.outcomes wrote, or a recipe's run directory")
    parser.add_argument("--family", type=Path, default=Path("models/abacus"), help="the family that was measured")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    arguments = parser.parse_args()
    results = compare(arguments.outcomes, arguments.family)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "difficulty.json").write_text(json.dumps(results, indent=1) + "\n")
    plots.calibration(results, arguments.out / "calibration.png")
    plots.difficulty_cost(results, arguments.out / "cost.png")
    print(json.dumps(results["candidates"], indent=1))


def compare(outcomes: Path, family_dir: Path) -> dict[str, Any]:
    """The scores of every way to predict, and the curves that the plots show."""
    family = load_family(family_dir)
    names = [checkpoint.name for checkpoint in family.checkpoints]
    fitted, measured = read(outcomes / "profile", names), read(outcomes / "evaluate", names)
    within, tokens = _within(outcomes / "evaluate", names), measured.tokens.mean(2)
    table: dict[str, dict[str, float]] = {}
    rules: dict[str, list[Point]] = {}
    calibrated: dict[str, list[Point]] = {}
    points = singles(measured.accuracy, tokens)
    for name, (prepare, learn) in tqdm(candidates(family.base_checkpoint.place(family_dir)).items()):
        represent = prepare(fitted.prompts)
        predict = learn(represent(fitted.prompts), fitted)
        predicted = predict(represent(measured.prompts))
        spent = microseconds(lambda prompt, f=represent, g=predict: g(f([prompt])), measured.prompts[:200])
        table[name] = {**scores(predicted, measured, within), "microseconds": spent}
        rule = swept(predicted.correct, predicted.expected_tokens, measured.accuracy, tokens)
        rules[name] = hull([*rule, *points])
        if name == DEFAULT:
            calibrated = _calibration(predicted, measured, names)
    shipped = profiles.load(family_dir / family.profile)
    table[DEFAULT]["microseconds"] = microseconds(shipped.predict, measured.prompts)
    return {
        "fitted on": len(fitted.prompts),
        "measured on": len(measured.prompts),
        "candidates": table,
        "points": dict(zip(names, points, strict=True)),
        "rules": rules,
        "oracle": hull(oracle(measured.accuracy, tokens)),
        "calibration": calibrated,
    }


def _within(directory: Path, names: Sequence[str]) -> Array:
    """The share of samples that are correct within each budget, (prompts, checkpoints, budgets)."""
    rows = [outcome.load(directory / f"{name}.jsonl") for name in names]
    correct = np.array([[[o.correct for o in row.outcomes] for row in graded] for graded in rows]).swapaxes(0, 1)
    tokens = read(directory, names).tokens
    return np.stack([(correct & (tokens <= budget)).mean(2) for budget in BUDGETS], axis=2)


def _calibration(predicted: Predicted, measured: Outcomes, names: Sequence[str]) -> dict[str, list[Point]]:
    """(predicted P(correct), share correct) of each eighth of the prompts, by checkpoint."""
    curves: dict[str, list[Point]] = {}
    for c, name in enumerate(names):
        parts = np.array_split(np.argsort(predicted.correct[:, c]), 8)
        curves[name] = [
            (float(predicted.correct[part, c].mean()), float(measured.accuracy[part, c].mean())) for part in parts
        ]
    return curves


if __name__ == "__main__":
    main()
