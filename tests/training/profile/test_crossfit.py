"""Is every prompt decided by a profile that has not seen it, and what does that certify?"""

from __future__ import annotations

import numpy as np
import pytest

from training.profile import crossfit
from training.tasks.outcome import Graded, Outcome
from training.tasks.prompts import prompts

COUNT = 200
QUESTIONS = prompts("validation", 3, COUNT)


def graded(right: float, tokens: int, seed: int = 0, surprisal: float | None = None) -> list[Graded]:
    rng = np.random.default_rng(seed)
    drawn = (bool(one < right) for one in rng.random(COUNT))
    return [
        Graded(q.prompt, q.task, q.difficulty, (Outcome(one, tokens, tokens + 5, 1, True, surprisal=surprisal),))
        for q, one in zip(QUESTIONS, drawn, strict=True)
    ]


def test_every_prompt_is_held_out_of_the_fit_that_decides_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted: list[set[str]] = []
    fit = crossfit.fit.fit
    monkeypatch.setattr(
        crossfit.fit,
        "fit",
        lambda outcomes, *rest: fitted.append({row.prompt for row in outcomes["max"]}) or fit(outcomes, *rest),
    )
    held_out: list[int] = []
    for fold in crossfit.folds({"max": graded(0.9, 100), "brief": graded(0.9, 10)}, 0):
        here = {QUESTIONS[at].prompt for at in fold.prompts}
        assert [row.prompt for row in fold.outcomes["brief"]] == [QUESTIONS[at].prompt for at in fold.prompts]
        assert not here & fitted[-1]
        assert len(here | fitted[-1]) == COUNT
        held_out += fold.prompts
    assert sorted(held_out) == list(range(COUNT))


def test_a_brief_level_that_is_as_good_is_certified() -> None:
    outcomes = {"max": graded(0.9, 100), "brief": graded(0.9, 10)}
    low, high = crossfit.certified(list(crossfit.folds(outcomes, 0)), "max", 0, [0.95, 0.9])
    assert (low.floor, high.floor) == (0.9, 0.95)
    assert low.alone is not None
    assert low.alone.kept == 1
    assert low.alone.low > 0.9
    assert low.alone.tokens < 0.4
    assert low.escalating is None  # nothing can escalate
    assert low.prompts == COUNT


def test_a_brief_level_that_is_worse_is_not_certified_at_a_tolerance_that_would_choose_it() -> None:
    """It is 15 points worse, so a tolerance of 0.2 chooses it; one of 0.05 does not."""
    outcomes = {"max": graded(1.0, 100), "brief": graded(0.85, 10, seed=1)}
    (floor,) = crossfit.certified(list(crossfit.folds(outcomes, 0)), "max", 0, [0.9])
    assert floor.alone is not None
    assert floor.alone.tolerance < 0.2
    assert floor.alone.tokens > 0.9


def test_without_escalations_none_is_decided() -> None:
    rng = np.random.default_rng(0)
    brief = [
        Graded(q.prompt, q.task, q.difficulty, (Outcome(bool(s < 2), 10, 15, 1, True, surprisal=float(s)),))
        for q, s in zip(QUESTIONS, rng.random(COUNT) * 2.2, strict=True)
    ]
    held_out = list(crossfit.folds({"max": graded(1.0, 100), "brief": brief}, 0))
    assert all(fold.profile.escalations for fold in held_out)
    with_escalations, alone = (crossfit.decided(held_out, [0.0, 0.3], "max", escalates=e) for e in (True, False))
    assert set(alone[..., 1].ravel()) == {10, 100}
    assert 110 in with_escalations[..., 1]
    (floor,) = crossfit.certified(held_out, "max", 0, [0.9])
    assert floor.escalating is not None
