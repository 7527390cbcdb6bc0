"""What does a refit believe of choices that the ledger says little of?"""

from __future__ import annotations

import numpy as np
import pytest

from gateway.config import shipped_family
from models import profile as profiles
from models.features import FEATURES, logs
from models.forest import Forests
from models.stored import StoredProfile
from training.profile.refit import Reading, Row, candidates, fitted_on, with_scales
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
                easiness=prediction.easiness, limit=None, tokens=round(forecast.tokens),
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


def test_a_level_that_runs_away_in_three_requests_of_ten_is_predicted_to() -> None:
    seen = [
        Row(**{**vars(row), "tokens": 8000, "score": 0.0}) if number % 10 < 3 else row
        for number, row in enumerate(rows(drop=0.0))
    ]
    after = candidates(STORED, seen, 0)["recalibrated"]
    predicted = [after.choices(row)[SERVED] for row in seen[::7]]
    right = float(np.mean([row.score for row in seen if row.score is not None]))
    assert right < 0.7
    assert float(np.mean([one.p_correct for one in predicted])) == pytest.approx(right, abs=0.04)
    assert float(np.mean([one.p_within(2000) for one in predicted])) == pytest.approx(0.7, abs=0.1)
    assert after.choices(seen[0])[OTHER].p_within(2000) == 1.0, "another level does not, for all that is known"


def test_what_a_budget_ended_says_nothing_of_success_and_length_without_one() -> None:
    seen = rows(drop=0.0)
    cut = [Row(**{**vars(row), "limit": 10, "tokens": 10, "score": 0.0}) for row in seen]
    assert fitted_on(cut) == 0
    assert fitted_on(seen) == len(seen)
    both, alone = (candidates(STORED, some, 0)["recalibrated"].stored for some in (seen + cut, seen))
    assert both.scales == alone.scales
    assert both.residuals == alone.residuals
