"""What would routing do on prompts that the profile was not fitted on? The rule, cross-validated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from models.encoder import Encoder
from models.family import Estimate
from models.profile import Profile
from models.rule import cheapest_good_enough, forecasts_of
from training.measure.figures import interval
from training.profile import fit
from training.profile.cascade import simulated
from training.tasks.outcome import Graded

Array = NDArray[np.float64]
FOLDS = 5
RESAMPLES = 2000


@dataclass(frozen=True)
class Comparison:
    """The routed choice, beside one level. Differences are paired by prompt; all have 95 % intervals."""

    accuracy: Estimate
    tokens: Estimate
    accuracy_difference: Estimate
    """Routed minus the level."""
    tokens_share: Estimate
    """Routed tokens as a share of the level's."""


@dataclass(frozen=True)
class Fold:
    """Prompts that are held out of a fit."""

    prompts: Sequence[int]
    """Their positions among all prompts."""
    profile: Profile
    """Fitted on the others."""
    outcomes: Mapping[str, Sequence[Graded]]
    """Of these prompts by choice: the levels, and the profile's escalations, simulated."""


def routed(
    outcomes: Mapping[str, Sequence[Graded]],
    tolerance: float,
    fallback: str,
    seed: int,
    encoder: Encoder | None = None,
) -> Array:
    """Return accuracy and tokens of what the rule chooses for each prompt, (prompts, 2).

    Each prompt is decided by a profile that was fitted on other prompts. An unfamiliar prompt gets `fallback`.
    """
    decided = np.zeros((len(next(iter(outcomes.values()))), 2))
    for fold in folds(outcomes, seed, encoder):
        for row, prompt in enumerate(fold.prompts):
            prediction = fold.profile.predict(fold.outcomes[fallback][row].prompt)
            choice = fallback
            if prediction.familiar:
                choice = cheapest_good_enough(forecasts_of(prediction.choices, None), tolerance)
            graded = fold.outcomes[choice][row]
            decided[prompt] = graded.accuracy, graded.reasoning_tokens
    return decided


def folds(outcomes: Mapping[str, Sequence[Graded]], seed: int, encoder: Encoder | None = None) -> Iterator[Fold]:
    """Each fifth of the prompts, with a profile that was fitted on the other four."""
    prompts = np.arange(len(next(iter(outcomes.values()))))
    for train, test in KFold(FOLDS, shuffle=True, random_state=seed).split(prompts):
        training = {name: [rows[i] for i in train] for name, rows in outcomes.items()}
        profile = Profile.of(fit.fit(training, {name: [] for name in training}, seed, encoder), encoder)
        others = {name: [rows[i] for i in test] for name, rows in outcomes.items()}
        others |= {
            name: simulated(others[pair.first], others[pair.second], pair.surprisal)
            for name, pair in profile.escalations.items()
        }
        yield Fold(test.tolist(), profile, others)


def compare(decided: Array, rows: Sequence[Graded], seed: int) -> Comparison:
    """Return the routed choice beside one level, intervals from resampling prompts."""
    level = np.array([[row.accuracy, row.reasoning_tokens] for row in rows])
    draws = np.random.default_rng(seed).integers(0, len(decided), (RESAMPLES, len(decided)))
    ours, theirs = decided[draws].mean(1), level[draws].mean(1)
    mean, other = decided.mean(0), level.mean(0)
    share = mean[1] / other[1] if other[1] else 1.0
    shares = np.divide(ours[:, 1], theirs[:, 1], out=np.ones(RESAMPLES), where=theirs[:, 1] > 0)
    return Comparison(
        accuracy=interval(decided[:, 0].tolist(), seed, shares=True),
        tokens=_estimate(mean[1], ours[:, 1]),
        accuracy_difference=_estimate(mean[0] - other[0], ours[:, 0] - theirs[:, 0]),
        tokens_share=_estimate(share, shares),
    )


def _estimate(mean: float, resampled: Array) -> Estimate:
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(mean=float(mean), low=min(float(mean), float(low)), high=max(float(mean), float(high)))
