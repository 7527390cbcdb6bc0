"""Does the interval of `laconic quality` cover the truth as often as it should? Deployments with a known truth.

    python -m benchmarks.quality_interval --out benchmarks/results

simulates traffic with questions of every difficulty, routing that is worse by a known amount, a profile that is wrong
in scale, in shift and on every single question, a random holdout, and scores that most requests never get: at random,
more often for easy questions, or for easy ones on one side of the draw and hard ones on the other. It reports the share
of deployments with enough scores for an interval, the share of those whose 95 % interval covers the truth, the same for
the plain difference of means with a normal interval, and both intervals' mean widths. It takes about three minutes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from gateway.ledger.quality import MIN_SCORES, Score, estimate
from gateway.ledger.savings import Cell, Totals, difficulty_label

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Deployment:
    """One kind of traffic."""

    requests: int
    holdout_fraction: float
    scored: float
    """Mean share of requests that get a score."""
    missing: Literal["at random", "by difficulty", "by difficulty and arm"]
    """What decides who gets one."""
    easiness: float = 1.5
    """Mean logit of the reference's success."""
    loss: float = 0.12
    """How much lower routed success is: by this, times p (1 - p) for a reference that succeeds with p."""
    graded: bool = False
    """Whether scores are in between 0 and 1, too."""


@dataclass(frozen=True)
class Coverage:
    """Over many deployments of one kind."""

    measured: float
    """Share for which there was an interval."""
    covered: float
    """Share of those whose interval covers the truth."""
    plain: float
    """The same for the difference of means."""
    width: float
    """Mean width of the interval, in score."""
    plain_width: float


DEPLOYMENTS = {
    "the default holdout": Deployment(10_000, 0.02, 0.3, "at random"),
    "few requests": Deployment(2_000, 0.1, 0.3, "at random"),
    "almost always right": Deployment(10_000, 0.02, 0.3, "at random", easiness=4.0),
    "no loss": Deployment(10_000, 0.05, 0.2, "at random", loss=0.0),
    "more scores for easy ones": Deployment(10_000, 0.05, 0.2, "by difficulty"),
    "graded scores": Deployment(10_000, 0.05, 0.2, "by difficulty", graded=True),
    "easy ones here, hard ones there": Deployment(10_000, 0.05, 0.2, "by difficulty and arm"),
    "the same in ten times the traffic": Deployment(100_000, 0.05, 0.2, "by difficulty and arm"),
}


@dataclass(frozen=True)
class Traffic:
    """One deployment's requests, with arrays of shape (requests,)."""

    difficulty: Vector
    predicted: Vector
    holdout: NDArray[np.bool_]
    score: Vector
    scored: NDArray[np.bool_]
    truth: float
    """Mean success of routing minus that of the reference, over all requests."""


def simulate(kind: Deployment, deployments: int, seed: int) -> Coverage:
    """How often `estimate` covers the truth, over many deployments of one kind."""
    rng = np.random.default_rng(seed)
    covered, plainly, widths = 0, 0, list[tuple[float, float]]()
    for _ in range(deployments):
        traffic = draw(kind, rng)
        found = estimate(*as_ledger(traffic, kind.holdout_fraction))
        if found.low is None or found.high is None:
            continue
        low, high = _plain(traffic)
        covered += found.low <= traffic.truth <= found.high
        plainly += low <= traffic.truth <= high
        widths.append((found.high - found.low, high - low))
    measured = len(widths)
    width, plain_width = np.mean(widths, axis=0) if measured else (0.0, 0.0)
    shares = (covered / max(measured, 1), plainly / max(measured, 1))
    return Coverage(measured / deployments, *shares, float(width), float(plain_width))


def draw(kind: Deployment, rng: np.random.Generator) -> Traffic:
    """One deployment."""
    easiness = rng.standard_normal(kind.requests)
    seen = easiness + 0.5 * rng.standard_normal(kind.requests)
    reference = _sigmoid(kind.easiness + 1.5 * easiness)
    routed = np.clip(reference - kind.loss * reference * (1 - reference), 0, 1)
    difficulty = 1 - seen.argsort().argsort() / kind.requests
    holdout = rng.random(kind.requests) < kind.holdout_fraction
    success = np.where(holdout, reference, routed)
    if kind.graded:
        score = rng.beta(4 * success + 0.01, 4 * (1 - success) + 0.01)
        success, routed, reference = (_beta_mean(p) for p in (success, routed, reference))
    else:
        score = (rng.random(kind.requests) < success).astype(float)
    easy, hard = 1.6 - 1.2 * difficulty, 0.4 + 1.2 * difficulty
    likely: Vector = {
        "at random": np.ones(kind.requests),
        "by difficulty": easy,
        "by difficulty and arm": np.where(holdout, hard, easy),
    }[kind.missing]
    scored = rng.random(kind.requests) < kind.scored * likely
    predicted = _sigmoid(0.7 * kind.easiness + seen)
    return Traffic(difficulty, predicted, holdout, score, scored, float((routed - reference).mean()))


def as_ledger(traffic: Traffic, fraction: float) -> tuple[list[tuple[Cell, Totals]], list[Score]]:
    """The sums and the scores that the ledger would have of it."""
    labels = [difficulty_label(min(one, 1.0)) for one in traffic.difficulty.tolist()]
    cells = {label: Cell(0, "", "chosen", label, fraction) for label in sorted(set(labels))}
    named = np.array(labels)
    sums: list[tuple[Cell, Totals]] = []
    for label, cell in cells.items():
        here = named == label
        holdouts = int((here & traffic.holdout).sum())
        requests, success = int(here.sum()), float(traffic.predicted[here].sum())
        totals = Totals(requests, holdout=holdouts, eligible=requests - holdouts, predicted=requests)
        sums.append((cell, totals._replace(predicted_success=success)))
    scores = [
        Score(cells[labels[i]], bool(traffic.holdout[i]), float(traffic.predicted[i]), "", float(traffic.score[i]))
        for i in np.flatnonzero(traffic.scored).tolist()
    ]
    return sums, scores


def _plain(traffic: Traffic) -> tuple[float, float]:
    """The interval of the difference of means, as if scores were missing at random and normal."""
    routed, holdout = (traffic.score[traffic.scored & (traffic.holdout == arm)] for arm in (False, True))
    assert min(len(routed), len(holdout)) >= MIN_SCORES
    difference = float(routed.mean() - holdout.mean())
    width = 1.96 * float(np.sqrt(routed.var(ddof=1) / len(routed) + holdout.var(ddof=1) / len(holdout)))
    return difference - width, difference + width


def _beta_mean(p: Vector) -> Vector:
    return (4 * p + 0.01) / 4.02


def _sigmoid(z: Vector) -> Vector:
    return 1 / (1 + np.exp(-z))


def main() -> None:
    """Simulate every kind and write `quality_interval.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--deployments", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = {}
    for name, kind in tqdm(DEPLOYMENTS.items()):
        coverage = simulate(kind, arguments.deployments, arguments.seed)
        results[name] = asdict(kind) | {what: round(share, 3) for what, share in asdict(coverage).items()}
    table = {"deployments": arguments.deployments, "seed": arguments.seed, "kinds": results}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "quality_interval.json").write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
