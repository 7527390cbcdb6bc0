"""Do features of the text, added to the counts, predict how long an answer is? On four real models, prompts held out.

    python -m benchmarks.answer_tokens PATH/example_model_solutions.jsonl --out docs/profile

The file is published with GSM8K (`benchmarks.gsm8k_routing`): four models' solutions of 1,319 problems. A solution is
the model's whole output, so its length stands for thinking and answer alike; a token is a word or a sign. Every problem
is predicted by a forest that was fitted on the other four fifths as `training.profile.answers` does, from counts
(`models/features.py`), from the text (`models/text.py`) or from both; and by one that saw only 200 of those, as many as
`laconic adopt` measures. It takes a minute.

- *error*: root mean square error of the expected tokens, in tokens.
- *log error*: mean square error of the predicted mean of log(1 + tokens).
- *minus counts*: by how much an error is lower than from counts, as a share of that, paired; negative if it is higher.
- *off*: by how much the mean of the expected tokens misses that of the solutions, as a share, mean over the models.

Intervals are from resampling problems.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, KFold
from tqdm import tqdm

from benchmarks.gsm8k_routing import MODELS
from benchmarks.intervals import with_interval
from models.features import features_of
from models.forest import Forest, Forests
from models.text import text_of
from training.profile import answers

Array = NDArray[np.float64]
FOLDS, RESAMPLES = 5, 1000
FEW = 200
TOKEN = re.compile(r"\w+|[^\w\s]")
INPUTS: Mapping[str, Callable[[str], Array]] = {
    "counts": lambda prompt: features_of(prompt, ()),
    "text": text_of,
    "counts and text": lambda prompt: np.concatenate([features_of(prompt, ()), text_of(prompt)]),
}


class Predicted(NamedTuple):
    """Of every problem at every model, (problems, models)."""

    log_tokens: Array
    expected: Array


def read(file: Path) -> tuple[list[str], Array]:
    """The problems, and the tokens of each model's solution, (problems, models)."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    tokens = [[len(TOKEN.findall(row[name]["solution"])) for name in MODELS] for row in rows]
    return [row["question"] for row in rows], np.array(tokens, dtype=float)


def crossed(x: Array, tokens: Array, seed: int, most: int | None = None) -> Predicted:
    """Predictions of every problem from the other folds, or from `most` of their problems; x is (problems, width)."""
    log_tokens, expected = np.zeros_like(tokens), np.zeros_like(tokens)
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(x):
        known = np.random.default_rng(seed).permutation(train)[:most]
        log_tokens[test], expected[test] = _predicted(x[known], tokens[known], x[test], seed)
    return Predicted(log_tokens, expected)


def constant(tokens: Array, seed: int, most: int | None = None) -> Predicted:
    """The means of the same problems, whatever the problem."""
    log_tokens, expected = np.zeros_like(tokens), np.zeros_like(tokens)
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(tokens):
        known = np.random.default_rng(seed).permutation(train)[:most]
        log_tokens[test], expected[test] = np.log1p(tokens[known]).mean(0), tokens[known].mean(0)
    return Predicted(log_tokens, expected)


def _predicted(x: Array, tokens: Array, fresh: Array, seed: int) -> tuple[Array, Array]:
    """Predicted mean log tokens and expected tokens of fresh problems, each (problems, models)."""
    models = tokens.shape[1]
    inputs = np.column_stack([np.repeat(x, models, axis=0), np.tile(np.arange(models, dtype=float), len(x))])
    problem = np.repeat(np.arange(len(x)), models)
    folds = list(GroupKFold(FOLDS, shuffle=True, random_state=seed).split(inputs, groups=problem))
    fitted = answers.fit(inputs, tokens.reshape(-1, 1), models, folds, seed)
    assert fitted is not None
    forest = Forests([Forest.model_validate(fitted.forest)], x.shape[1], models)
    mean = np.stack([forest(row)[:, 0] for row in fresh])
    return mean, np.maximum(fitted.scales * np.exp(mean) - 1, 0.0)


def figures(predicted: Predicted, tokens: Array) -> dict[str, float]:
    """The errors of some problems' predictions."""
    return {
        "error": float(np.sqrt(((tokens - predicted.expected) ** 2).mean())),
        "log error": float(((np.log1p(tokens) - predicted.log_tokens) ** 2).mean()),
        "off": float(np.abs(predicted.expected.mean(0) / tokens.mean(0) - 1).mean()),
    }


def compared(prompts: list[str], tokens: Array, seed: int, most: int | None = None) -> dict[str, dict[str, Any]]:
    """Every kind of input with its figures, and how much lower its errors are than from counts."""
    predicted = {"constant": constant(tokens, seed, most)} | {
        name: crossed(np.stack([see(prompt) for prompt in prompts]), tokens, seed, most)
        for name, see in tqdm(INPUTS.items())
    }
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(prompts), len(prompts)) for _ in range(RESAMPLES)]
    whole = {name: figures(one, tokens) for name, one in predicted.items()}
    resampled = {
        name: [figures(Predicted(one.log_tokens[rows], one.expected[rows]), tokens[rows]) for rows in draws]
        for name, one in predicted.items()
    }
    return {
        name: {
            **{key: with_interval(mean, [draw[key] for draw in resampled[name]]) for key, mean in one.items()},
            "minus counts": {
                key: with_interval(
                    1 - one[key] / whole["counts"][key],
                    [1 - a[key] / b[key] for a, b in zip(resampled[name], resampled["counts"], strict=True)],
                )
                for key in ("error", "log error")
            },
        }
        for name, one in whole.items()
    }


def main() -> None:
    """Compare, and write `answer_tokens.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solutions", type=Path, help="GSM8K's example_model_solutions.jsonl")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prompts, tokens = read(arguments.solutions)
    results = {
        "problems": len(prompts),
        "seed": arguments.seed,
        "resamples": RESAMPLES,
        "tokens": dict(zip(MODELS, tokens.mean(0).tolist(), strict=True)),
        "fitted on four fifths": compared(prompts, tokens, arguments.seed),
        f"fitted on {FEW}": compared(prompts, tokens, arguments.seed, FEW),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "answer_tokens.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
