"""Does the interval of `laconic savings` cover the truth as often as it should? Deployments with a known truth.

    python -m benchmarks.savings_interval --out benchmarks/results

simulates traffic whose questions become harder, with lognormal lengths that a budget may end, a profile that is wrong
in scale, in slope and on every single question, and a random holdout. In some kinds of traffic, a few questions take
many times the tokens of the others, which the profile cannot see. Both sides of every request are drawn, so it is known
what the routed requests would have spent on the reference checkpoint. It reports the share of deployments with enough
informative holdouts for an interval, the share of those whose 95 % interval covers the truth, and how many times as
wide the interval is without the covariate. It takes minutes.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gateway.ledger.savings import MIN_HOLDOUTS, HoldoutSample, Interval, TreatmentTotals, count_informative, measure


@dataclass(frozen=True)
class Deployment:
    """One kind of traffic."""

    requests: int
    holdout_fraction: float
    skew: float
    """Standard deviation of log tokens between two runs of one question."""
    drift: float
    """By how much the share of hard questions, 0.2 at first, has grown at the end."""
    slope: float
    """Of the profile's log expectation on the true one; 1 is right."""
    blur: float
    """Standard deviation of the profile's log expectation about that."""
    budget: float = np.inf
    """Tokens at which thinking stops."""
    budgeted: float = 0.0
    """Share of requests that have it; the others have none."""
    outliers: float = 0.0
    """Share of questions that take many times the tokens, which the profile cannot see."""
    outlying: float = 1.0
    """How many times."""


@dataclass(frozen=True)
class Coverage:
    """Over many deployments of one kind."""

    measured: float
    """Share for which there was an interval."""
    covered: float
    """Share of those whose interval covers the truth."""
    narrowed: float
    """Mean factor by which the covariate narrows it."""


DEPLOYMENTS = {
    "the default holdout": Deployment(10_000, 0.02, 0.6, 0.5, 0.7, 0.3),
    "few requests": Deployment(2_000, 0.1, 0.6, 0.5, 0.7, 0.3),
    "a long tail": Deployment(10_000, 0.05, 0.8, 0.5, 0.7, 0.3),
    "a good profile": Deployment(5_000, 0.05, 0.4, 0.3, 1.0, 0.1),
    "half under a tight budget": Deployment(2_000, 0.1, 0.6, 0.5, 0.7, 0.3, budget=30, budgeted=0.5),
    "most without thinking": Deployment(4_000, 0.1, 0.6, 0.5, 0.7, 0.3, budget=0, budgeted=0.8),
    "a budget that stops nearly all": Deployment(2_000, 0.1, 0.6, 0.5, 0.7, 0.3, budget=20, budgeted=1.0),
    "one in 20 ten times as long, 50 holdouts": Deployment(
        2_500, 0.02, 0.6, 0.5, 0.7, 0.3, outliers=0.05, outlying=10.0
    ),
    "one in 20 ten times as long, 200 holdouts": Deployment(
        10_000, 0.02, 0.6, 0.5, 0.7, 0.3, outliers=0.05, outlying=10
    ),
    "one in 50 thirty times as long, 50 holdouts": Deployment(
        2_500, 0.02, 0.6, 0.5, 0.7, 0.3, outliers=0.02, outlying=30.0
    ),
    "one in 50 thirty times as long, 200 holdouts": Deployment(
        10_000, 0.02, 0.6, 0.5, 0.7, 0.3, outliers=0.02, outlying=30.0
    ),
}


def simulate(kind: Deployment, deployments: int, seed: int) -> Coverage:
    """How often `measure` covers the truth, over many deployments of one kind."""
    rng = np.random.default_rng(seed)
    covered, factors = 0, list[float]()
    for _ in range(deployments):
        if (drawn := _one(kind, rng)) is None:
            continue
        truth, (_, low, high), (_, widest_low, widest_high) = drawn
        covered += low <= truth <= high
        factors.append((widest_high - widest_low) / (high - low))
    measured = len(factors)
    narrowed = float(np.mean(factors)) if measured else 1.0
    return Coverage(measured / deployments, covered / max(measured, 1), narrowed)


def _one(kind: Deployment, rng: np.random.Generator) -> tuple[float, Interval, Interval] | None:
    hard = rng.random(kind.requests) < 0.2 + kind.drift * np.linspace(0, 1, kind.requests)
    log_tokens = np.log(np.where(hard, 160.0, 60.0)) + 0.4 * rng.standard_normal(kind.requests)
    longer = log_tokens
    if kind.outliers:
        longer = log_tokens + np.log(kind.outlying) * (rng.random(kind.requests) < kind.outliers)
    cap = np.where(rng.random(kind.requests) < kind.budgeted, kind.budget, np.inf)
    reference = np.minimum(np.exp(longer + kind.skew * rng.standard_normal(kind.requests)).round(), cap)
    chosen = np.minimum(np.exp(longer - 0.9 + kind.skew * rng.standard_normal(kind.requests)).round(), cap)
    expected = np.exp(kind.slope * log_tokens + 0.8 + kind.blur * rng.standard_normal(kind.requests))
    expected = np.minimum(expected, cap)
    held = rng.random(kind.requests) < kind.holdout_fraction
    if count_informative(zip(cap[held].tolist(), reference[held].astype(int).tolist(), strict=True)) < MIN_HOLDOUTS:
        return None
    sample = HoldoutSample(expected[held], reference[held])
    others = TreatmentTotals(int((~held).sum()), float(expected[~held].sum()), float(chosen[~held].sum()))
    adjusted, plain = measure(sample, others), measure(sample, others, adjust=False)
    if adjusted is None or plain is None:
        raise ValueError("too few holdouts to measure with")
    return float((reference - chosen)[~held].sum()), adjusted, plain


def main() -> None:
    """Simulate every kind and write `savings_interval.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--deployments", type=int, default=1000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = {}
    for name, kind in tqdm(DEPLOYMENTS.items()):
        coverage = simulate(kind, arguments.deployments, arguments.seed)
        traffic = {what: value for what, value in asdict(kind).items() if value != np.inf}
        results[name] = traffic | {what: round(share, 3) for what, share in asdict(coverage).items()}
    table = {"deployments": arguments.deployments, "seed": arguments.seed, "kinds": results}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "savings_interval.json").write_text(json.dumps(table, indent=1) + "\n")
    print(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
