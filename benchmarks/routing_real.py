"""How well does a profile route between real models? The reader that fitting chooses, beside every single one.

    python -m benchmarks.routing_real TABLE --prompt question --models 6b_finetuning,175b_verification --out FILE.json

TABLE is a CSV or JSONL file with a prompt and an outcome of each model in every row: true or false, a number in
[0, 1], or an object with `is_correct` (as in GSM8K's example_model_solutions.jsonl). Every prompt is predicted by a
profile's reader that was fitted on the other four fifths; what a reader chooses for itself, and which one is chosen,
is decided within those. P(right) of each model is `training.profile.logistic.fit_scale` of the reader's easiness.

- *log loss*: of P(right), over all models, in nats. Lower is better.
- *APGR*: RouteLLM's average performance gap recovered (arXiv 2406.18665, eq. 8) from the least to the most accurate
  model. Prompts go to the strong model in the order of their predicted gain; at random, it is 0.5.

Intervals are from resampling prompts. `auto` minus `length` is paired.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold
from tqdm import tqdm

from benchmarks.gsm8k_routing import recovered
from benchmarks.intervals import with_interval
from models import encoder as encoders
from models.encoder import Encoder
from models.features import features_of
from training.profile import readers
from training.profile.logistic import fit_scale, sigmoid
from training.profile.scores import log_loss

Array = NDArray[np.float64]
FOLDS, RESAMPLES = 5, 1000


def read(table: Path, prompt: str, models: Sequence[str]) -> tuple[list[str], Array]:
    """The prompts, and whether each model was right, (prompts, models)."""
    text = table.read_bytes().decode("utf-8-sig")  # line ends as they are: a prompt may have some
    lines = [line for line in text.split("\n") if line.strip()]
    rows = list(csv.DictReader(io.StringIO(text))) if table.suffix == ".csv" else [*map(json.loads, lines)]
    return [row[prompt] for row in rows], np.array([[_right(row[model]) for model in models] for row in rows])


def _right(outcome: Any) -> float:
    value = outcome["is_correct"] if isinstance(outcome, Mapping) else outcome
    words = {"true": 1.0, "false": 0.0}
    return words[value.lower()] if isinstance(value, str) and value.lower() in words else float(value)


def crossed(
    prompts: Sequence[str], right: Array, seed: int, encoder: Encoder | None = None
) -> tuple[dict[str, Array], list[str]]:
    """P(right) of every prompt by reader, predicted from the other folds, (prompts, models); what `auto` chose."""
    seen = readers.see(prompts, np.stack([features_of(prompt, ()) for prompt in prompts]), encoder)
    predicted = {name: np.zeros_like(right) for name in ("auto", *seen.readers)}
    chosen: list[str] = []
    for train, test in tqdm(list(KFold(FOLDS, shuffle=True, random_state=seed).split(prompts))):
        share = right[train].mean(1)
        part, inner = seen.of(train), list(KFold(FOLDS, shuffle=True, random_state=seed).split(train))
        choice = readers.choose(part, share, inner, seed)
        for name, easiness in choice.every.items():
            scales = [fit_scale(easiness, right[train, model]) for model in range(right.shape[1])]
            values = readers.values_of(choice.fitted[name], seen, test)
            predicted[name][test] = sigmoid(np.stack([a * values + b for a, b in scales], axis=1))
        chosen.append(choice.stored["name"])
        predicted["auto"][test] = predicted[chosen[-1]][test]
    return predicted, chosen


def figures(predicted: Array, right: Array) -> dict[str, float]:
    """Log loss and APGR of some prompts' predictions."""
    weak, strong = int(right.mean(0).argmin()), int(right.mean(0).argmax())
    gain = predicted[:, strong] - predicted[:, weak]
    return {
        "log loss": log_loss(right, predicted),
        "APGR": recovered(gain, right[:, weak], right[:, strong]),
    }


def main() -> None:
    """Compare, print the table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--prompt", default="prompt", help="the column of the prompts")
    parser.add_argument("--models", required=True, help="the columns of the outcomes, separated by commas")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    parser.add_argument("--no-encoder", action="store_true", help="leave the sentence encoder out, though installed")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    prompts, right = read(arguments.table, arguments.prompt, arguments.models.split(","))
    encoder = encoders.load() if encoders.is_installed() and not arguments.no_encoder else None
    predicted, chosen = crossed(prompts, right, arguments.seed, encoder)
    rng = np.random.default_rng(arguments.seed)
    draws = [rng.integers(0, len(prompts), len(prompts)) for _ in range(RESAMPLES)]
    resampled = {name: [figures(p[rows], right[rows]) for rows in draws] for name, p in predicted.items()}
    table = {
        name: {
            key: with_interval(value, [one[key] for one in resampled[name]]) for key, value in figures(p, right).items()
        }
        for name, p in predicted.items()
    }
    gained = {
        key: with_interval(
            table["auto"][key]["mean"] - table["length"][key]["mean"],
            [auto[key] - length[key] for auto, length in zip(resampled["auto"], resampled["length"], strict=True)],
        )
        for key in table["auto"]
    }
    results = {
        "prompts": len(prompts),
        "models": arguments.models.split(","),
        "seed": arguments.seed,
        "resamples": RESAMPLES,
        "chosen": chosen,
        "readers": table,
        "auto minus length": gained,
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    for name, row in [*table.items(), ("auto minus length", gained)]:
        print(
            f"{name:20}",
            *(f"{key} {one['mean']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for key, one in row.items()),
        )
    print("auto chose", ", ".join(chosen))


if __name__ == "__main__":
    main()
