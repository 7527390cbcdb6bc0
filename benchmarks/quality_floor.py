"""Does the quality floor hold? Fits to simulated prompts whose true kept quality is known.

    python -m benchmarks.quality_floor --out docs/profile

draws a population of 20,000 prompts for each kind of family, in which P(right) of every checkpoint is known for every
prompt: sigmoid(a_c skill + b_c + noise), an item response model. One kind has the accuracies that were measured for
GSM8K's four models; those named *cheap* are the hardest for the bound, because a cheap checkpoint keeps a little less
than the floor. Each fit draws its prompts, with two samples each, fits a profile, decides each fifth of the prompts by
a profile of the others, and lets `training.profile.floor` certify tolerances. Then the profile decides the whole
population at the certified tolerance, and what it truly keeps is compared with the floor.

The profile is a small one, so that thousands of fits take minutes: one number is seen of a prompt, easiness is linear
in it, and tokens are a checkpoint's mean. The scales, the escalations, the rule and the certificate are the product's
own formulas. Of kinds with surprisals, escalations are chosen anew by every fit. It goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.model_selection import KFold
from tqdm import tqdm

from benchmarks import machine
from benchmarks.frontiers import chosen
from training.measure.figures import interval
from training.profile import cascade, floor
from training.profile.floor import Outcomes, Way
from training.profile.logistic import fit_logistic, fit_scale, sigmoid

Array = NDArray[np.float64]
POPULATION = 20_000
SAMPLES = 2
FOLDS = 5


@dataclass(frozen=True)
class Kind:
    """One kind of family. The first checkpoint is the reference."""

    floor: float
    prompts: int
    """That each fit sees."""
    accuracy: tuple[float, ...]
    tokens: tuple[float, ...]
    """Reasoning tokens of each checkpoint, the most first."""
    own: float
    """Standard deviation of what makes a prompt hard for one checkpoint and not for the others, in logits."""
    seen: float
    """Correlation of what is seen of a prompt with the skill that it takes."""
    surprisal: float | None = None
    """By how many standard deviations wrong thinking is more surprising than right thinking; None: not measured."""
    fits: int = 1000
    """Fits with escalations take ten times as long."""


_GSM8K = (0.5625, 0.3904, 0.3472, 0.2168)
_GSM8K_TOKENS = (958_387.0, 29_198.0, 8_486.0, 291.0)
KINDS = {
    "GSM8K's accuracies": Kind(0.9, 150, _GSM8K, _GSM8K_TOKENS, 1.0, 0.5),
    "the prompt tells which": Kind(0.95, 300, (0.8, 0.79, 0.78), (1000.0, 300.0, 50.0), 1.5, 0.9),
    "all alike": Kind(0.98, 300, (0.9, 0.9, 0.9), (1000.0, 300.0, 50.0), 0.0, 0.7),
    "cheap keeps 94 %": Kind(0.95, 300, (0.9, 0.846), (1000.0, 100.0), 0.3, 0.3),
    "cheap keeps 94.4 %, few prompts": Kind(0.95, 150, (0.9, 0.85), (1000.0, 100.0), 0.0, 0.0),
    "cheap keeps 89.5 %, few prompts": Kind(0.9, 100, (0.8, 0.716), (1000.0, 100.0), 0.0, 0.0),
    "cheap keeps 94.4 %, escalations": Kind(0.95, 200, (0.9, 0.85), (1000.0, 50.0), 0.3, 0.3, surprisal=1.0),
}


class Population(NamedTuple):
    """Prompts, and the truth about them."""

    seen: Array
    """(prompts,)."""
    right: Array
    """P(right), (prompts, checkpoints)."""


class Fit(NamedTuple):
    """A small profile."""

    weights: Array
    """Of easiness: of a constant and of what is seen."""
    scales: Array
    """a and b of every choice, (choices, 2)."""
    cost: Array
    """Mean tokens of every choice, (choices,)."""
    pairs: Sequence[tuple[int, int, float]]
    """The choices behind the checkpoints: first, second, and the surprisal above which the second answers."""


def population(kind: Kind, seed: int) -> Population:
    """The prompts of a kind; each checkpoint's mean accuracy is that of the kind."""
    rng = np.random.default_rng(seed)
    skill = 1.5 * rng.standard_normal(POPULATION)
    blur = rng.standard_normal(POPULATION)
    seen = kind.seen * skill / 1.5 + np.sqrt(1 - kind.seen**2) * blur
    columns: list[Array] = []
    for accuracy in kind.accuracy:
        logits = skill + kind.own * rng.standard_normal(POPULATION)
        low, high = -20.0, 20.0
        for _ in range(50):  # the shift that gives the mean accuracy
            middle = (low + high) / 2
            low, high = (middle, high) if sigmoid(logits + middle).mean() < accuracy else (low, middle)
        columns.append(sigmoid(logits + low))
    return Population(seen, np.stack(columns, axis=1))


def one_fit(kind: Kind, people: Population, seed: int) -> dict[str, float]:
    """What one fit certifies and what that truly keeps, as shares of the reference's accuracy and tokens."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(POPULATION, kind.prompts, replace=False)
    seen = people.seen[rows]
    right = (rng.random((kind.prompts, len(kind.accuracy), SAMPLES)) < people.right[rows][..., None]).astype(float)
    surprisal = None
    if kind.surprisal is not None:
        surprisal = rng.standard_normal(right.shape) - kind.surprisal * right
    certificate = _certificate(kind, seen, right, surprisal, seed)
    way = certificate.way(may_escalate=True)
    if way is None:
        return {"certified": 0.0, "kept": 1.0, "tokens": 1.0}
    profile = fitted(kind, seen, right, surprisal)
    pick = _decided(profile, people.seen, way.tolerance, escalates=way is certificate.escalating)
    truth, tokens = _truth(kind, people, profile)
    everybody = np.arange(POPULATION)
    return {
        "certified": 1.0,
        "kept": float(truth[everybody, pick].mean() / people.right[:, 0].mean()),
        "tokens": float(tokens[everybody, pick].mean() / kind.tokens[0]),
    }


def _certificate(kind: Kind, seen: Array, right: Array, surprisal: Array | None, seed: int) -> floor.Floor:
    """As `training.profile.crossfit` and `training.profile.floor` make it, of profiles of four fifths."""
    names: list[Way] = ["alone"] if surprisal is None else ["alone", "escalating"]
    accuracy = {way: np.zeros((len(floor.TOLERANCES), len(seen))) for way in names}
    tokens = {way: np.zeros((len(floor.TOLERANCES), len(seen))) for way in names}
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(seen):
        profile = fitted(kind, seen[train], right[train], None if surprisal is None else surprisal[train])
        outcome, cost = _choices(kind, profile.pairs, right[test], None if surprisal is None else surprisal[test])
        for (which, tolerance), way in product(enumerate(floor.TOLERANCES), names):
            pick = _decided(profile, seen[test], tolerance, escalates=way == "escalating")
            rows = np.arange(len(test))
            accuracy[way][which, test] = outcome[rows, pick]
            tokens[way][which, test] = cost[rows, pick]
    ways: dict[Way, list[Outcomes]] = {
        way: [Outcomes(a, t) for a, t in zip(accuracy[way], tokens[way], strict=True)] for way in names
    }
    reference = Outcomes(right[:, 0].mean(1), np.full(len(seen), kind.tokens[0]))
    return floor.certify(kind.floor, reference, ways, seed)


def fitted(kind: Kind, seen: Array, right: Array, surprisal: Array | None) -> Fit:
    """A small profile of these prompts; `right` and `surprisal` are (prompts, checkpoints, samples)."""
    x = np.column_stack([np.ones_like(seen), seen])
    weights = fit_logistic(x, right.mean((1, 2)), np.zeros(2))
    easiness = x @ weights
    pairs = [] if surprisal is None else _worthwhile(kind, right, surprisal)
    accuracy, cost = _choices(kind, pairs, right, surprisal)
    scales = np.array([fit_scale(easiness, column) for column in accuracy.T])
    return Fit(weights, scales, cost.mean(0), pairs)


def _worthwhile(kind: Kind, right: Array, surprisal: Array) -> list[tuple[int, int, float]]:
    """The escalations on the frontier, as `training.profile.cascade` chooses them."""
    count = len(kind.tokens)
    pairs = [
        (first, second, float(threshold))
        for first in range(1, count)
        for second in range(first)
        for threshold in np.quantile(surprisal[:, first], [1 - share for share in cascade.SHARES])
    ]
    accuracy, cost = _choices(kind, pairs, right, surprisal)
    points = {str(i): (float(c), float(a)) for i, (c, a) in enumerate(zip(cost.mean(0), accuracy.mean(0), strict=True))}
    best = cascade.frontier(points)
    return [pair for i, pair in enumerate(pairs) if str(i + count) in best]


def _choices(
    kind: Kind, pairs: Sequence[tuple[int, int, float]], right: Array, surprisal: Array | None
) -> tuple[Array, Array]:
    """Accuracy and tokens of every checkpoint and escalation on every prompt, both (prompts, choices)."""
    accuracy = [right[:, c].mean(1) for c in range(right.shape[1])]
    cost = [np.full(len(right), tokens) for tokens in kind.tokens]
    for first, second, threshold in pairs:
        assert surprisal is not None
        unsure = surprisal[:, first] > threshold
        accuracy.append(np.where(unsure, right[:, second], right[:, first]).mean(1))
        cost.append(kind.tokens[first] + kind.tokens[second] * unsure.mean(1))
    return np.stack(accuracy, axis=1), np.stack(cost, axis=1)


def _truth(kind: Kind, people: Population, profile: Fit) -> tuple[Array, Array]:
    """True P(right) and expected tokens of every choice on every prompt, both (prompts, choices)."""
    truth = [people.right[:, c] for c in range(people.right.shape[1])]
    cost = [np.full(POPULATION, tokens) for tokens in kind.tokens]
    for first, second, threshold in profile.pairs:
        assert kind.surprisal is not None
        right = people.right[:, first]
        sure_right = right * norm.cdf(threshold + kind.surprisal)
        sure = sure_right + (1 - right) * norm.cdf(threshold)
        truth.append(sure_right + (1 - sure) * people.right[:, second])
        cost.append(kind.tokens[first] + kind.tokens[second] * (1 - sure))
    return np.stack(truth, axis=1), np.stack(cost, axis=1)


def _decided(profile: Fit, seen: Array, tolerance: float, *, escalates: bool) -> NDArray[np.intp]:
    """The gateway's rule for every prompt: the number of the choice, (prompts,)."""
    count = len(profile.cost) if escalates else len(profile.cost) - len(profile.pairs)
    easiness = profile.weights[0] + profile.weights[1] * seen
    success = sigmoid(np.outer(easiness, profile.scales[:count, 0]) + profile.scales[:count, 1]).round(4)
    return chosen(success, np.tile(profile.cost[:count], (len(seen), 1)), tolerance)


def report(kind: Kind, fits: Sequence[dict[str, float]]) -> dict[str, Any]:
    """How often the floor was missed, and what routing at the certified tolerance is worth."""
    kept = np.array([fit["kept"] for fit in fits])
    certified = np.array([fit["certified"] for fit in fits])
    return {
        **{name: value for name, value in asdict(kind).items() if value is not None},
        "below the floor": interval([float(one < kind.floor) for one in kept], 0, shares=True).model_dump(),
        "certified": interval(certified.tolist(), 0, shares=True).model_dump(),
        "kept": float(kept.mean()),
        "tokens": float(np.mean([fit["tokens"] for fit in fits])),
    }


def main() -> None:
    """Simulate every kind and write `floor.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--work", type=Path, default=Path("runs/quality-floor.jsonl"), help="where fits are kept")
    parser.add_argument("--seed", type=int, default=0, help="of the first fit")
    arguments = parser.parse_args()
    where = machine.describe()
    arguments.work.parent.mkdir(parents=True, exist_ok=True)
    arguments.work.touch()
    kept = [json.loads(line) for line in arguments.work.read_text().splitlines()]
    kinds: dict[str, Any] = {}
    for name, kind in KINDS.items():
        drawn_from = {what: value for what, value in asdict(kind).items() if what != "fits"}
        of = {"kind": name, "seed": arguments.seed, **json.loads(json.dumps(drawn_from))}
        done = [row["fit"] for row in kept if row["of"] == of][: kind.fits]
        people = population(kind, arguments.seed)
        with arguments.work.open("a") as log:
            for number in tqdm(range(len(done), kind.fits), name, initial=len(done), total=kind.fits):
                done.append(one_fit(kind, people, arguments.seed + number))
                log.write(json.dumps({"of": of, "fit": done[-1]}) + "\n")
        kinds[name] = report(kind, done)
    table = {"machine": where, "seed": arguments.seed, "kinds": kinds}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "floor.json").write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps({name: kind["below the floor"] for name, kind in kinds.items()}, indent=1))


if __name__ == "__main__":
    main()
