"""How far from uniform are the difficulties of prompts that are of the same kind as the fitting prompts?

    python -m benchmarks.drift --gsm8k PATH/example_model_solutions.jsonl --out benchmarks/results

reads fresh prompts of the shipped family, and of its hard and easy prompts only. Of GSM8K it fits profiles on random
problems, with the answers of four real models (see `benchmarks.gsm8k_routing`), and reads the other problems. It writes
`drift.json`: for each kind of traffic the mean and the largest over draws of the distance, at the fifths that the
gateway looks at and anywhere, and of the share of unfamiliar prompts; and how often the gateway would see which sign of
drift. It takes minutes.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks import machine
from benchmarks.gsm8k_routing import MODELS
from gateway.ledger.drift import MAX_UNFAMILIAR, TOLERATED, drift_of
from models import profile as profiles
from models.profile import Profile
from training.profile import fit
from training.tasks.outcome import Graded, Outcome
from training.tasks.problems import Difficulty
from training.tasks.prompts import prompts

DRAWS = 10
FRESH = 1000
"""Prompts in a draw of the shipped family's."""
FITTED = (200, 400, 659)
"""Problems of GSM8K that a profile is fitted on."""


def abacus(family: Path, difficulty: Difficulty | None, seed: int) -> dict[str, Any]:
    """The figures of held-out prompts, all or of one difficulty."""
    profile = profiles.load(family / "profile.json")
    return figures(profile, (one.prompt for one in prompts("heldout", seed, FRESH, difficulty=difficulty)))


def gsm8k(rows: Sequence[dict[str, Any]], fitted: int, seed: int) -> dict[str, Any]:
    """The figures of problems that the profile was not fitted on; `rows` are the published solutions."""
    order = np.random.default_rng(seed).permutation(len(rows))
    outcomes = {name: [_graded(rows[i], name) for i in order[:fitted]] for name in MODELS}
    raw = fit.fit(outcomes, {name: [] for name in MODELS}, seed)
    read = figures(Profile.of(raw), (rows[i]["question"] for i in order[fitted:]))
    return {**read, "reader": raw["reader"]["name"]}


def figures(profile: Profile, texts: Iterable[str]) -> dict[str, Any]:
    """Distances to uniform, the share of unfamiliar prompts and the signs of drift."""
    predictions = [profile.predict(text) for text in texts]
    familiar = [one for one in predictions if one.familiar]
    difficulties = np.sort(np.array([one.difficulty for one in familiar if one.difficulty is not None], dtype=float))
    count = len(difficulties)  # 0 if the profile cannot rank prompts
    fifths = np.bincount(np.minimum((difficulties * 5).astype(int), 4), minlength=5)
    drift = drift_of(fifths.tolist(), len(predictions) - len(familiar), without=len(familiar) - count)
    above, below = np.arange(1, count + 1) / count - difficulties, difficulties - np.arange(count) / count
    return {
        "distance": drift.distance or 0.0,
        "anywhere": float(max(above.max(initial=0.0), below.max(initial=0.0))),
        "unfamiliar": drift.abstained_share,
        "signs": drift.signs,
    }


def summary(draws: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and largest distances over draws, and the number of draws with each sign."""
    table: dict[str, Any] = {"draws": len(draws)}
    for name in ("distance", "anywhere", "unfamiliar"):
        values = [draw[name] for draw in draws]
        table[name] = {"mean": round(float(np.mean(values)), 4), "largest": round(max(values), 4)}
    table["signs"] = dict(Counter(sign for draw in draws for sign in draw["signs"]))
    if readers := Counter(draw["reader"] for draw in draws if "reader" in draw):
        table["readers"] = dict(readers)
    return table


def _graded(row: dict[str, Any], model: str) -> Graded:
    words = len(row[model]["solution"].split())
    outcome = Outcome(bool(row[model]["is_correct"]), words, words, episodes=1, finished=True)
    return Graded(row["question"], "gsm8k", "", (outcome,))


def main() -> None:
    """Measure every kind of traffic and write `drift.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=Path, required=True, help="GSM8K's example_model_solutions.jsonl")
    parser.add_argument("--family", type=Path, default=Path("models/abacus"), help="the shipped family")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    arguments = parser.parse_args()
    table: dict[str, Any] = {
        "machine": machine.describe(),
        "seeds": list(range(DRAWS)),
        "prompts": FRESH,
        "tolerated": TOLERATED,
        "max unfamiliar": MAX_UNFAMILIAR,
    }
    traffic: dict[str, Any] = {}
    kinds: dict[str, Difficulty | None] = {"abacus": None, "abacus, hard": "hard", "abacus, easy": "easy"}
    for name, difficulty in kinds.items():
        traffic[name] = summary([abacus(arguments.family, difficulty, seed) for seed in tqdm(range(DRAWS), name)])
    rows = [json.loads(line) for line in arguments.gsm8k.read_text(encoding="utf-8").splitlines()]
    for fitted in FITTED:
        name = f"GSM8K, fitted on {fitted}"
        traffic[name] = summary([gsm8k(rows, fitted, seed) for seed in tqdm(range(DRAWS), name)])
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "drift.json").write_text(json.dumps({**table, "traffic": traffic}, indent=1) + "\n")
    print(json.dumps(traffic, indent=1))


if __name__ == "__main__":
    main()
