"""Does predicting difficulty from the prompt help where it is hard? Routing between four real models on GSM8K.

    python -m benchmarks.gsm8k_routing PATH/example_model_solutions.jsonl --out docs/profile

The file is published with GSM8K (arXiv 2110.14168): 1,319 test problems, each with the answers of a 6B and a 175B
model, fine-tuned alone and with a verifier that picks one of 100 solutions. Every way to predict difficulty is fitted
on one half of the problems and measured on the other, both ways round; intervals are from resampling problems. It
takes minutes; `make generated` then updates the page.

- *AUC*: of P(the 175B with verifier is right).
- *APGR*: RouteLLM's average performance gap recovered (arXiv 2406.18665, eq. 8). The weak model is the 6B with
  verifier, the strong one the 175B with verifier. Problems go to the strong model in the order of their predicted
  gain, and the average is over the share that goes there. Sending at random has 0.5.
- *closed*: the share of the gap between mixing the four at random and the oracle, as in `benchmarks.frontiers`. It is
  never below 0, so its interval says nothing about 0. A solution costs a model's billions of parameters times its
  words, and a hundred times that with a verifier.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import plots, predictors
from benchmarks.frontiers import hull, oracle, share_closed, singles, swept
from benchmarks.intervals import with_interval
from benchmarks.predictors import Outcomes, Predictor, Represent
from training.profile.scores import auc

Array = NDArray[np.float64]
MODELS = {"6b_finetuning": 6, "175b_finetuning": 175, "6b_verification": 600, "175b_verification": 17_500}
"""Billions of parameters times solutions written for one answer."""
WEAK, STRONG = (list(MODELS).index(name) for name in ("6b_verification", "175b_verification"))
CANDIDATES: dict[str, tuple[Callable[[Sequence[str]], Represent], Callable[[Array, Outcomes], Predictor]]] = {
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
    return recovered(gain, accuracy[:, WEAK], accuracy[:, STRONG])


def recovered(gain: Array, weak: Array, strong: Array) -> float:
    """APGR of sending prompts from a weak model to a strong one in the order of `gain`; all are (prompts,)."""
    order = np.argsort(-gain, kind="stable")
    share = np.concatenate([[0.0], np.cumsum((strong - weak)[order])]) / (strong.sum() - weak.sum())
    return float(np.trapezoid(share, np.linspace(0, 1, len(share))))


def figures(correct: Array, cost: Array, measured: Outcomes) -> dict[str, float]:
    """One candidate's figures; predictions and outcomes of the same problems."""
    tokens = measured.tokens[..., 0]
    rule = swept(correct, cost, measured.accuracy, tokens)
    return {
        "AUC": auc(measured.accuracy[:, STRONG], correct[:, STRONG]),
        "APGR": apgr(correct[:, STRONG] - correct[:, WEAK], measured.accuracy),
        "closed": share_closed(rule, oracle(measured.accuracy, tokens), singles(measured.accuracy, tokens)),
    }


def crossed(candidate: str, measured: Outcomes, seed: int) -> tuple[Array, Array]:
    """P(correct) and expected cost of every problem, each predicted from the other half; (problems, models)."""
    represent, learn = CANDIDATES[candidate]
    order = np.random.default_rng(seed).permutation(len(measured.prompts))
    halves = np.array_split(order, 2)
    correct, cost = np.zeros_like(measured.accuracy), np.zeros_like(measured.accuracy)
    for train, test in (halves, halves[::-1]):
        part = measured.of(train)
        see = represent(part.prompts)
        predicted = learn(see(part.prompts), part)(see([measured.prompts[i] for i in test]))
        correct[test], cost[test] = predicted.correct, predicted.expected_tokens
    return correct, cost


def main() -> None:
    """Compare, and write `gsm8k.json` and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solutions", type=Path, help="GSM8K's example_model_solutions.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    measured = read(arguments.solutions)
    rng = np.random.default_rng(arguments.seed)
    draws = [rng.integers(0, len(measured.prompts), len(measured.prompts)) for _ in range(RESAMPLES)]
    tokens = measured.tokens[..., 0]
    points = singles(measured.accuracy, tokens)
    table: dict[str, Any] = {}
    rules = {}
    for name in tqdm(CANDIDATES):
        correct, cost = crossed(name, measured, arguments.seed)
        rules[name] = hull([*swept(correct, cost, measured.accuracy, tokens), *points])
        spread = [figures(correct[rows], cost[rows], measured.of(rows)) for rows in draws]
        table[name] = {
            key: with_interval(value, [one[key] for one in spread])
            for key, value in figures(correct, cost, measured).items()
        }
    results = {
        "problems": len(measured.prompts),
        "seed": arguments.seed,
        "resamples": RESAMPLES,
        "points": dict(zip(MODELS, points, strict=True)),
        "candidates": table,
        "rules": rules,
        "oracle": hull(oracle(measured.accuracy, tokens)),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "gsm8k.json").write_text(json.dumps(results, indent=1) + "\n")
    plots.gsm8k(results, arguments.out / "gsm8k.png")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
