"""How do the arms of an experiment compare? Means and differences over seeds, with 95 % t-intervals.

Each seed is a training of its own, measured on prompts of its own. Arms of one seed share training and evaluation
prompts, so differences are taken seed by seed, over the seeds that both have, and intervals are over the seeds' means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from models.family import Estimate
from training.config import Reward
from training.experiments.experiment import Measures, Result

Figures = dict[str, Estimate | None]


@dataclass(frozen=True)
class Arm:
    """A recipe's checkpoint at one alpha, or the base, with its measures by seed."""

    recipe: str
    reward: Reward | None
    alpha: float | None
    by_seed: Mapping[int, Measures]
    steps: str = ""
    """How long it was trained, such as `128`, or `64, then deciding`."""

    @property
    def name(self) -> str:
        """The recipe and its alpha, e.g. `l2t 0.2`."""
        return self.recipe if self.alpha is None else f"{self.recipe} {self.alpha:g}"

    @property
    def figures(self) -> Figures:
        """Every figure with its interval over seeds; None if a seed had nothing to measure."""
        by_seed = [_with_difference(measures) for measures in self.by_seed.values()]
        figures: Figures = {}
        for name in by_seed[0]:
            values = [measures[name] for measures in by_seed]
            measured = [value for value in values if value is not None]
            figures[name] = _clipped(name, over_seeds(measured)) if len(measured) == len(values) else None
        return figures


WRONG_MINUS_RIGHT = "second episodes, wrong minus right first"
"""The share of rollouts that think on after a wrong first episode, minus that after a right one."""


def _with_difference(measures: Measures) -> Measures:
    """With `WRONG_MINUS_RIGHT` of every part, such as "overall" or "hard"."""
    wrong, right = "second episodes after a wrong first", "second episodes after a right first"
    added: Measures = {}
    for name, after_wrong in measures.items():
        if name.startswith(wrong):
            part = name.removeprefix(wrong)
            after_right = measures[f"{right}{part}"]
            both = f"{WRONG_MINUS_RIGHT}{part}"
            added[both] = None if after_wrong is None or after_right is None else after_wrong - after_right
    return {**measures, **added}


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of one value per seed, with its 95 % t-interval.

    Raises:
        ValueError: fewer than two.
    """
    if len(values) < 2:
        raise ValueError(f"an interval over seeds needs at least two, got {len(values)}")
    mean = float(np.mean(values))
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values)))
    return Estimate(mean=mean, low=mean - half, high=mean + half)


def _clipped(figure: str, estimate: Estimate) -> Estimate:
    """The interval clipped to the figure's range: tokens are not negative, all other figures are shares, or differ."""
    lowest = -1.0 if figure.startswith(WRONG_MINUS_RIGHT) else 0.0
    highest = math.inf if "tokens" in figure else 1.0
    return Estimate(mean=estimate.mean, low=max(lowest, estimate.low), high=min(highest, estimate.high))


def difference(arm: Arm, other: Arm, figure: str) -> Estimate:
    """`arm` minus `other`, seed by seed, over the seeds that both have."""
    return over_seeds([_value(own, figure) - _value(theirs, figure) for own, theirs in _both(arm, other)])


def ratio(arm: Arm, other: Arm, figure: str) -> Estimate:
    """`arm` as a share of `other`, seed by seed, over the seeds that both have."""
    return over_seeds([_value(own, figure) / _value(theirs, figure) for own, theirs in _both(arm, other)])


def _both(arm: Arm, other: Arm) -> list[tuple[Measures, Measures]]:
    return [(own, other.by_seed[seed]) for seed, own in arm.by_seed.items() if seed in other.by_seed]


def gain_over_baseline_frontier(arm: Arm, baselines: Sequence[Arm]) -> Estimate | None:
    """Accuracy of `arm` minus that of the baselines at equal tokens, seed by seed, over the seeds that all have.

    The baselines are joined by straight lines over their tokens. None if in some seed the arm is outside their token
    range.
    """
    gains: list[float] = []
    for seed, own in arm.by_seed.items():
        if any(seed not in other.by_seed for other in baselines):
            continue
        tokens, accuracy = _tokens_and_accuracy(own)
        points = sorted(_tokens_and_accuracy(other.by_seed[seed]) for other in baselines)
        if not points or not points[0][0] <= tokens <= points[-1][0]:
            return None
        xs, ys = zip(*points, strict=True)
        gains.append(accuracy - float(np.interp(tokens, xs, ys)))
    return over_seeds(gains)


def _tokens_and_accuracy(measures: Measures) -> tuple[float, float]:
    return _value(measures, "tokens, overall"), _value(measures, "accuracy, overall")


def _value(measures: Measures, figure: str) -> float:
    """A figure that every seed has; only second episodes may be missing."""
    value = measures[figure]
    assert value is not None
    return value


def arms_of(by_recipe: Mapping[str, Sequence[Result]]) -> list[Arm]:
    """The base, then every checkpoint of every recipe, each with its measures by seed."""
    results = sorted((result for seeds in by_recipe.values() for result in seeds), key=lambda result: result.seed)
    arms = [Arm("base", None, None, {result.seed: result.checkpoints["base"] for result in results})]
    for recipe, seeds in by_recipe.items():
        arms += [
            Arm(recipe, seeds[0].reward, alpha, {one.seed: one.checkpoints[name] for one in seeds}, _steps(seeds[0]))
            for name, alpha in seeds[0].alphas.items()
        ]
    return arms


def _steps(result: Result) -> str:
    return f"{result.made_from['steps']}{', then deciding' if result.made_from.get('deciding') else ''}"
