"""From what is difficulty best read? Ways to predict success and length from a prompt, on prompts that none has seen.

    python -m benchmarks.difficulty runs/abacus --out docs/profile

takes the outcomes that a run of `laconic-train` has left behind: fits every way on those of its profile stage (test
prompts), judges it on those of its evaluation (held-out prompts), and writes a table and two plots. Figures are means
over the checkpoints. *Closed* is how much of the gap between mixing checkpoints at random and an oracle the gateway's
rule closes with these predictions (`benchmarks.frontiers`); the oracle knows each prompt's outcomes, luck included, so
nobody can close all of it. *Budget Brier* is the Brier score of P(correct within B) over B = 8, 16, 32, 64, 128.

`benchmarks.tolerance` asks which tolerance is a good default.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import predictors
from benchmarks.frontiers import Point, hull, oracle, share_closed, singles, swept
from benchmarks.predictors import Outcomes, Predicted, Predictor, See
from models import profile as profiles
from models.family import load as load_family
from models.profile import LEVELS
from training.profile.scores import auc, brier, calibration_error, log_loss, pinball
from training.tasks import outcome

mpl.use("Agg")
from matplotlib import pyplot as plt

Array = NDArray[np.float64]
BUDGETS = (8, 16, 32, 64, 128)
DEFAULT = "counts, boosted"


def candidates(base: Path) -> dict[str, tuple[Callable[[Sequence[str]], See], Callable[[Array, Outcomes], Predictor]]]:
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
    """The outcomes of these checkpoints that a stage has left in a directory."""
    rows = [outcome.load(directory / f"{name}.jsonl") for name in names]
    tokens = [[[o.reasoning_tokens for o in row.outcomes] for row in judged] for judged in rows]
    return Outcomes(
        [row.prompt for row in rows[0]],
        np.array([[row.accuracy for row in judged] for judged in rows]).T,
        np.array(tokens, dtype=float).swapaxes(0, 1),
    )


def judged(predicted: Predicted, seen: Outcomes, within: Array) -> dict[str, float]:
    """Figures of predictions; `within` is the share correct within each budget, (prompts, checkpoints, budgets)."""
    checkpoints = range(seen.accuracy.shape[1])

    def mean(figure: Callable[[Array, Array], float]) -> float:
        return float(np.mean([figure(seen.accuracy[:, c], predicted.correct[:, c]) for c in checkpoints]))

    success = [
        predicted.correct * np.apply_along_axis(lambda q, b=b: np.interp(b, q, LEVELS), 2, predicted.quantiles)
        for b in BUDGETS
    ]
    tokens = seen.tokens.mean(2)
    rule = swept(predicted.correct, predicted.expected_tokens, seen.accuracy, tokens)
    return {
        "log loss": mean(log_loss),
        "Brier": mean(brier),
        "AUC": mean(auc),
        "calibration error": mean(calibration_error),
        "budget Brier": float(np.mean([brier(within[..., b], success[b]) for b in range(len(BUDGETS))])),
        "pinball": float(np.mean([pinball(seen.tokens[:, c], predicted.quantiles[:, c]) for c in checkpoints])),
        "closed": share_closed(rule, oracle(seen.accuracy, tokens), singles(seen.accuracy, tokens)),
    }


def microseconds(decide: Callable[[str], object], prompts: Sequence[str]) -> float:
    """Median over single prompts."""
    times = []
    for prompt in prompts:
        began = time.perf_counter()
        decide(prompt)
        times.append(time.perf_counter() - began)
    return float(np.median(times) * 1e6)


def main() -> None:
    """Compare, and write `difficulty.json` and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run directory of a recipe that has been evaluated and profiled")
    parser.add_argument("--family", type=Path, default=Path("models/abacus"), help="the family it has published")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parsed = parser.parse_args()
    family = load_family(parsed.family)
    names = [checkpoint.name for checkpoint in family.checkpoints]
    fitted, seen = read(parsed.run / "profile", names), read(parsed.run / "evaluate", names)
    rows = [outcome.load(parsed.run / "evaluate" / f"{name}.jsonl") for name in names]
    right = np.array([[[o.correct for o in row.outcomes] for row in some] for some in rows]).swapaxes(0, 1)
    within = np.stack([(right & (seen.tokens <= budget)).mean(2) for budget in BUDGETS], axis=2)

    table: dict[str, dict[str, float]] = {}
    rules: dict[str, list[Point]] = {}
    kept: Predicted | None = None
    for name, (represent, learn) in tqdm(candidates(parsed.family / family.checkpoint(family.base).path).items()):
        see = represent(fitted.prompts)
        predict = learn(see(fitted.prompts), fitted)
        predicted = predict(see(seen.prompts))
        spent = microseconds(lambda prompt, see=see, predict=predict: predict(see([prompt])), seen.prompts[:200])
        table[name] = {**judged(predicted, seen, within), "microseconds": spent}
        rules[name] = swept(predicted.correct, predicted.expected_tokens, seen.accuracy, seen.tokens.mean(2))
        kept = predicted if name == DEFAULT else kept
    shipped = profiles.load(parsed.family / family.profile)
    table[DEFAULT]["microseconds"] = microseconds(shipped.read, seen.prompts)

    parsed.out.mkdir(parents=True, exist_ok=True)
    said: dict[str, Any] = {
        "fitted on": len(fitted.prompts),
        "judged on": len(seen.prompts),
        "candidates": table,
        "checkpoints, test prompts": dict(zip(names, singles(fitted.accuracy, fitted.tokens.mean(2)), strict=True)),
    }
    (parsed.out / "difficulty.json").write_text(json.dumps(said, indent=1) + "\n")
    _plot_calibration(kept, seen, names, parsed.out / "calibration.png")
    _plot_cost(rules, seen, parsed.out / "cost.png")
    print(markdown(table))
    print(json.dumps({name: said[name] for name in list(said)[3:]}, indent=1))


def markdown(table: dict[str, dict[str, float]]) -> str:
    """The table as documentation shows it."""
    columns = list(next(iter(table.values())))
    digits = {"AUC": 3, "pinball": 2, "closed": 2, "microseconds": 0}
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for name, figures in table.items():
        lines.append(f"| {name} | {' | '.join(f'{figures[c]:.{digits.get(c, 4)}f}' for c in columns)} |")
    return "\n".join(lines)


def _plot_calibration(predicted: Predicted | None, seen: Outcomes, names: Sequence[str], path: Path) -> None:
    if predicted is None:
        return
    figure, axis = plt.subplots(figsize=(4.6, 4.4), layout="constrained")
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for c, name in enumerate(names):
        parts = np.array_split(np.argsort(predicted.correct[:, c]), 8)
        axis.plot(
            [predicted.correct[part, c].mean() for part in parts],
            [seen.accuracy[part, c].mean() for part in parts],
            marker="o",
            label=name,
        )
    axis.set(xlabel="predicted P(correct)", ylabel="share correct", xlim=(0.4, 1.01), ylim=(0.4, 1.01))
    axis.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)


def _plot_cost(rules: dict[str, list[Point]], seen: Outcomes, path: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    single = singles(seen.accuracy, seen.tokens.mean(2))
    axis.plot(*zip(*hull(oracle(seen.accuracy, seen.tokens.mean(2))), strict=True), color="black", label="oracle")
    for name, rule in rules.items():
        axis.plot(*zip(*hull([*rule, *single]), strict=True), label=name, linewidth=2.5 if name == DEFAULT else 1)
    axis.plot(*zip(*hull(single), strict=True), color="grey", linestyle="--", label="mixing at random")
    axis.scatter(*zip(*single, strict=True), color="grey", zorder=3)
    axis.set(xlabel="reasoning tokens", ylabel="accuracy")
    axis.legend(frameon=False, fontsize="small")
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
