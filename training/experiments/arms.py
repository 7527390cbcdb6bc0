"""How do the arms of an experiment compare? Means and differences over seeds, with 95 % t-intervals.

Each seed is a training of its own, measured on prompts of its own. Arms of one seed share training and evaluation
prompts, so differences are taken seed by seed, and intervals are over the seeds' means.
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
    by_seed: tuple[Measures, ...]

    @property
    def name(self) -> str:
        """The recipe and its alpha, e.g. `l2t 0.2`."""
        return self.recipe if self.alpha is None else f"{self.recipe} {self.alpha:g}"

    @property
    def figures(self) -> Figures:
        """Every figure with its interval over seeds; None if a seed had nothing to measure."""
        figures: Figures = {}
        for name in self.by_seed[0]:
            values = [measures[name] for measures in self.by_seed]
            measured = [value for value in values if value is not None]
            figures[name] = _clipped(name, over_seeds(measured)) if len(measured) == len(values) else None
        return figures


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
    """The interval clipped to the figure's range: tokens are not negative, all other figures are shares."""
    highest = math.inf if "tokens" in figure else 1.0
    return Estimate(mean=estimate.mean, low=max(0.0, estimate.low), high=min(highest, estimate.high))


def difference(arm: Arm, other: Arm, figure: str) -> Estimate:
    """`arm` minus `other`, seed by seed."""
    pairs = zip(arm.by_seed, other.by_seed, strict=True)
    return over_seeds([_value(own, figure) - _value(theirs, figure) for own, theirs in pairs])


def ratio(arm: Arm, other: Arm, figure: str) -> Estimate:
    """`arm` as a share of `other`, seed by seed."""
    pairs = zip(arm.by_seed, other.by_seed, strict=True)
    return over_seeds([_value(own, figure) / _value(theirs, figure) for own, theirs in pairs])


def gain_over_baseline_frontier(arm: Arm, baselines: Sequence[Arm]) -> Estimate | None:
    """Accuracy of `arm` minus that of the baselines at equal tokens, seed by seed.

    The baselines are joined by straight lines over their tokens. None if in some seed the arm is outside their token
    range.
    """
    gains: list[float] = []
    for seed, own in enumerate(arm.by_seed):
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
    any_recipe = next(iter(by_recipe.values()))
    arms = [Arm("base", None, None, tuple(result.checkpoints["base"] for result in any_recipe))]
    for recipe, seeds in by_recipe.items():
        arms += [
            Arm(recipe, seeds[0].reward, alpha, tuple(result.checkpoints[name] for result in seeds))
            for name, alpha in seeds[0].alphas.items()
        ]
    return arms
