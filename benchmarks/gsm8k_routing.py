"""Does reading difficulty from a prompt help where it is hard to read? Four real models on GSM8K, routed between.

    python -m benchmarks.gsm8k_routing PATH/example_model_solutions.jsonl --out docs/profile

The file is the one that GSM8K is published with (arXiv 2110.14168): 1,319 test problems, each with the answers of a 6B
and a 175B model, fine-tuned alone and with a verifier that picks one of 100 solutions. Every way to read difficulty is
fitted on one half of the problems and judged on the other, both ways round; intervals are from resampling problems.

- *AUC*: of P(the 175B with verifier is right).
- *APGR*: RouteLLM's average performance gap recovered (arXiv 2406.18665, eq. 8), the 6B with verifier being the weak
  model and the 175B with verifier the strong one, over the share of problems sent to the strong one, sent in the order
  of what it is predicted to gain. Sending at random has 0.5.
- *closed*: of the gap between mixing the four at random and the oracle, as in `benchmarks.frontiers`, so never below 0,
  and its interval says nothing about 0. A solution costs a model's billions of parameters times its words, with a
  verifier a hundred times that.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import predictors
from benchmarks.frontiers import hull, oracle, share_closed, singles, swept
from benchmarks.predictors import Outcomes, Predictor, See
from training.profile.scores import auc

mpl.use("Agg")
from matplotlib import pyplot as plt

Array = NDArray[np.float64]
MODELS = {"6b_finetuning": 6, "175b_finetuning": 175, "6b_verification": 600, "175b_verification": 17_500}
"""Billions of parameters times solutions written for one answer."""
WEAK, STRONG = (list(MODELS).index(name) for name in ("6b_verification", "175b_verification"))
CANDIDATES: dict[str, tuple[Callable[[Sequence[str]], See], Callable[[Array, Outcomes], Predictor]]] = {
    "constant": (predictors.length, predictors.constant),
    "length, linear": (predictors.length, predictors.linear),
    "length, boosted": (predictors.length, predictors.boosted),
    "n-grams, linear": (predictors.ngrams(4096), predictors.linear),
    "counts, linear": (predictors.counts, predictors.linear),
    "counts, boosted": (predictors.counts, predictors.boosted),
}
RESAMPLES = 300


def read(file: Path) -> Outcomes:
    """The four models' outcomes; their tokens are what each solution costs."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    right = np.array([[row[name]["is_correct"] for name in MODELS] for row in rows], dtype=float)
    words = np.array([[len(row[name]["solution"].split()) for name in MODELS] for row in rows])
    return Outcomes([row["question"] for row in rows], right, (words * np.array(list(MODELS.values())))[..., None])


def apgr(gain: Array, accuracy: Array) -> float:
    """Average performance gap recovered by sending problems to the strong model in the order of `gain`, (problems,)."""
    weak, strong = accuracy[:, WEAK], accuracy[:, STRONG]
    order = np.argsort(-gain, kind="stable")
    recovered = np.concatenate([[0.0], np.cumsum((strong - weak)[order])]) / (strong.sum() - weak.sum())
    return float(np.trapezoid(recovered, np.linspace(0, 1, len(recovered))))


def figures(correct: Array, cost: Array, seen: Outcomes) -> dict[str, float]:
    """One candidate's figures; predictions and outcomes of the same problems."""
    tokens = seen.tokens[..., 0]
    rule = swept(correct, cost, seen.accuracy, tokens)
    return {
        "AUC": auc(seen.accuracy[:, STRONG], correct[:, STRONG]),
        "APGR": apgr(correct[:, STRONG] - correct[:, WEAK], seen.accuracy),
        "closed": share_closed(rule, oracle(seen.accuracy, tokens), singles(seen.accuracy, tokens)),
    }


def crossed(candidate: str, seen: Outcomes, seed: int) -> tuple[Array, Array]:
    """P(correct) and expected cost of every problem, each predicted from the other half; (problems, models)."""
    represent, learn = CANDIDATES[candidate]
    order = np.random.default_rng(seed).permutation(len(seen.prompts))
    halves = np.array_split(order, 2)
    correct, cost = np.zeros_like(seen.accuracy), np.zeros_like(seen.accuracy)
    for train, test in (halves, halves[::-1]):
        part = seen.of(train)
        see = represent(part.prompts)
        predicted = learn(see(part.prompts), part)(see([seen.prompts[i] for i in test]))
        correct[test], cost[test] = predicted.correct, predicted.expected_tokens
    return correct, cost


def main() -> None:
    """Compare, and write `gsm8k.json` and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solutions", type=Path, help="GSM8K's example_model_solutions.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--seed", type=int, default=0)
    parsed = parser.parse_args()
    seen = read(parsed.solutions)
    rng = np.random.default_rng(parsed.seed)
    draws = [rng.integers(0, len(seen.prompts), len(seen.prompts)) for _ in range(RESAMPLES)]
    table: dict[str, Any] = {}
    plotted = {}
    for name in tqdm(CANDIDATES):
        correct, cost = crossed(name, seen, parsed.seed)
        plotted[name] = swept(correct, cost, seen.accuracy, seen.tokens[..., 0])
        spread = [figures(correct[rows], cost[rows], seen.of(rows)) for rows in draws]
        table[name] = {
            key: {
                "mean": value,
                **dict(zip(("low", "high"), np.quantile([s[key] for s in spread], (0.025, 0.975)), strict=True)),
            }
            for key, value in figures(correct, cost, seen).items()
        }
    single = dict(zip(MODELS, singles(seen.accuracy, seen.tokens[..., 0]), strict=True))
    said = {
        "problems": len(seen.prompts),
        "seed": parsed.seed,
        "resamples": RESAMPLES,
        "models": single,
        "candidates": table,
    }
    parsed.out.mkdir(parents=True, exist_ok=True)
    (parsed.out / "gsm8k.json").write_text(json.dumps(said, indent=1) + "\n")
    _plot(plotted, seen, parsed.out / "gsm8k.png")
    print(markdown(table))


def markdown(table: dict[str, Any]) -> str:
    """The table as documentation shows it."""
    lines = ["| | AUC | APGR | closed |", "| --- | --- | --- | --- |"]
    for name, row in table.items():
        cells = [f"{v['mean']:.3f} ({v['low']:.3f} to {v['high']:.3f})" for v in row.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _plot(rules: dict[str, list[tuple[float, float]]], seen: Outcomes, path: Path) -> None:
    tokens = seen.tokens[..., 0]
    single = singles(seen.accuracy, tokens)
    figure, axis = plt.subplots(figsize=(7, 4.6), layout="constrained")
    axis.plot(*zip(*hull(oracle(seen.accuracy, tokens)), strict=True), color="black", label="oracle")
    for name, rule in rules.items():
        axis.plot(
            *zip(*hull([*rule, *single]), strict=True), label=name, linewidth=2.5 if name == "counts, boosted" else 1
        )
    axis.plot(*zip(*hull(single), strict=True), color="grey", linestyle="--", label="mixing at random")
    for name, point in zip(MODELS, single, strict=True):
        axis.annotate(name, point, textcoords="offset points", xytext=(4, -10), fontsize="small")
    axis.scatter(*zip(*single, strict=True), color="grey", zorder=3)
    axis.set(xscale="log", xlabel="cost: billions of parameters x words written", ylabel="share right")
    axis.legend(frameon=False, fontsize="small")
    figure.savefig(path)
    plt.close(figure)


if __name__ == "__main__":
    main()
