"""What does a refit believe of choices that the ledger says little of?"""

from __future__ import annotations

import numpy as np
import pytest

from gateway.config import shipped_family
from models import profile as profiles
from models.features import FEATURES, logs
from models.forest import Forests
from models.stored import StoredProfile
from training.profile.refit import Reading, Row, with_scales
from training.tasks.prompts import prompts

STORED = profiles.read(shipped_family() / "profile.json")
SERVED, OTHER, ESCALATION = "alpha-0.4", "alpha-0.2", "alpha-0.2>alpha-0.1@5%"
PROMPTS = [one.prompt for one in prompts("heldout", 5, 240)]


def rows(drop: float, few: int = 0) -> list[Row]:
    """Requests that `SERVED` answered, and the last `few` of them `OTHER`; `drop` logits worse than predicted."""
    rng, profile = np.random.default_rng(0), profiles.Profile(STORED)
    found: list[Row] = []
    for number, prompt in enumerate(PROMPTS):
        served = OTHER if number >= len(PROMPTS) - few else SERVED
        prediction = profile.predict(prompt)
        forecast = prediction.forecasts(None)[served]
        success = 1 / (1 + (1 - forecast.success) / forecast.success * np.exp(drop))
        found.append(
            Row(
                time=float(number), checkpoint=served, served=served, counts=prediction.counts,
                easiness=prediction.easiness, limit=None, tokens=round(forecast.tokens), finished=True,
                score=float(rng.random() < success), forecast=forecast,
            )
        )  # fmt: skip
    return found


def success(stored: StoredProfile, choice: str, of: list[Row]) -> float:
    """Mean P(correct) that a profile predicts of a choice."""
    reading = Reading(stored)
    return float(np.mean([reading.choices(row)[choice].p_correct for row in of[::7]]))


def refitted(seen: list[Row]) -> StoredProfile:
    """The profile with new scales."""
    forest = Forests([STORED.correct], len(FEATURES), 1)
    easiness = np.array([float(forest(logs(row.counts))[0, 0]) for row in seen])
    return with_scales(STORED, seen, easiness)


@pytest.mark.parametrize("choice", [OTHER, ESCALATION, "base"])
def test_a_choice_without_rows_changed_as_the_others_did(choice: str) -> None:
    seen = rows(drop=2.0)
    right = float(np.mean([row.score for row in seen if row.score is not None]))
    assert success(STORED, choice, seen) > right + 0.15
    assert success(refitted(seen), choice, seen) == pytest.approx(right, abs=0.06)
    assert success(refitted(seen), SERVED, seen) == pytest.approx(right, abs=0.03)


def test_a_few_lucky_rows_do_not_make_a_choice_the_best() -> None:
    seen = [row if row.served == SERVED else Row(**{**vars(row), "score": 1.0}) for row in rows(drop=2.0, few=10)]
    assert success(refitted(seen), OTHER, seen) < success(refitted(seen), SERVED, seen) + 0.1


def test_many_rows_are_believed() -> None:
    seen = rows(drop=0.0, few=120)
    worse = [row if row.served == SERVED else Row(**{**vars(row), "score": 0.0}) for row in seen]
    assert success(refitted(worse), OTHER, worse) < success(refitted(worse), SERVED, worse) - 0.4
