"""What does the rule do with prompts that its profile was not fitted on? Five profiles, each of four fifths of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold

from models.encoder import Encoder
from models.floor import Floor
from models.prediction import Prediction, forecasts_of
from models.profile import Profile
from models.rule import cheapest_good_enough
from training.profile import fit, floor
from training.profile.cascade import simulated
from training.profile.floor import Outcomes, Way
from training.tasks.outcome import Graded

Array = NDArray[np.float64]
FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """Prompts that are held out of a fit."""

    prompts: Sequence[int]
    """Their positions among all prompts."""
    profile: Profile
    """Fitted on the others."""
    outcomes: Mapping[str, Sequence[Graded]]
    """Of these prompts by choice: the levels, and the profile's escalations, simulated."""


def folds(outcomes: Mapping[str, Sequence[Graded]], seed: int, encoder: Encoder | None = None) -> Iterator[Fold]:
    """Each fifth of the prompts, with a profile that was fitted on the other four; `encoder` as for `fit.fit`."""
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


def decided(
    held_out: Sequence[Fold], tolerances: Sequence[float], reference: str, *, escalates: bool = True
) -> NDArray[np.float64]:
    """Accuracy and tokens of what the rule chooses at each tolerance, (tolerances, prompts, 2).

    Args:
        held_out: all folds.
        tolerances: to decide at.
        reference: gets the prompts that a fold's profile is unfamiliar with.
        escalates: whether escalations may be chosen.
    """
    decisions = np.zeros((len(tolerances), sum(len(fold.prompts) for fold in held_out), 2))
    for fold in held_out:
        for row, prompt in enumerate(fold.prompts):
            prediction = fold.profile.predict(fold.outcomes[reference][row].prompt)
            for which, choice in enumerate(_choices(prediction, tolerances, reference, escalates=escalates)):
                graded = fold.outcomes[choice][row]
                decisions[which, prompt] = graded.accuracy, graded.reasoning_tokens
    return decisions


def _choices(prediction: Prediction, tolerances: Sequence[float], reference: str, *, escalates: bool) -> Iterator[str]:
    if not prediction.familiar:
        yield from (reference for _ in tolerances)
        return
    choices = {name: one for name, one in prediction.choices.items() if escalates or one.escalation is None}
    forecasts = forecasts_of(choices, None)
    yield from (cheapest_good_enough(forecasts, tolerance) for tolerance in tolerances)


def of_reference(held_out: Sequence[Fold], reference: str) -> Array:
    """Accuracy and tokens of the reference on every prompt, (prompts, 2)."""
    measured = np.zeros((sum(len(fold.prompts) for fold in held_out), 2))
    for fold in held_out:
        measured[fold.prompts] = [[row.accuracy, row.reasoning_tokens] for row in fold.outcomes[reference]]
    return measured


def certified(
    held_out: Sequence[Fold], reference: str, seed: int, floors: Sequence[float] = floor.FLOORS
) -> list[Floor]:
    """What keeps each of the floors, the lowest first.

    Args:
        held_out: all folds.
        reference: whose quality is to be kept.
        seed: as for `training.profile.floor.certify`.
        floors: shares of the reference's accuracy, in (0, 1].
    """
    names: list[Way] = ["alone", "escalating"] if any(fold.profile.escalations for fold in held_out) else ["alone"]
    ways: dict[Way, list[Outcomes]] = {
        way: [Outcomes(*one.T) for one in decided(held_out, floor.TOLERANCES, reference, escalates=way == "escalating")]
        for way in names
    }
    return [
        floor.certify(one, Outcomes(*of_reference(held_out, reference).T), ways, seed) for one in sorted(set(floors))
    ]
