"""Is the truth that the simulation compares with right, and does it notice a bound that does not hold?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import quality_floor
from benchmarks.quality_floor import KINDS, Fit, Kind, one_fit, population, report

CHEAP = Kind(0.95, 150, (0.9, 0.8), (1000.0, 100.0), 0.0, 0.0)
"""The cheap checkpoint keeps 89 %."""


def test_checkpoints_have_the_accuracies_of_the_kind() -> None:
    for kind in KINDS.values():
        assert population(kind, 0).right.mean(0) == pytest.approx(kind.accuracy, abs=1e-6)


def test_an_escalation_is_worth_what_it_is_when_sampled() -> None:
    kind = replace(CHEAP, surprisal=1.0)
    people, rng = population(kind, 0), np.random.default_rng(0)
    fitted = Fit(np.zeros(2), np.zeros((3, 2)), np.zeros(3), [(1, 0, 0.3)])
    truth, tokens = quality_floor._truth(kind, people, fitted)
    right = rng.random(people.right.shape) < people.right
    unsure = rng.standard_normal(len(right)) - right[:, 1] > 0.3
    assert truth[:, 2].mean() == pytest.approx(np.where(unsure, right[:, 0], right[:, 1]).mean(), abs=0.01)
    assert tokens[:, 2].mean() == pytest.approx(100 + 1000 * unsure.mean(), rel=0.02)


def test_a_fit_that_certifies_too_much_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    people = population(CHEAP, 0)
    assert all(one_fit(CHEAP, people, seed)["kept"] >= 0.95 for seed in range(5))
    monkeypatch.setattr(quality_floor.floor, "p_value", lambda *_: 0.0)
    fits = [one_fit(CHEAP, people, seed) for seed in range(5)]
    assert {round(fit["kept"], 2) for fit in fits} == {0.89}
    assert report(CHEAP, fits)["below the floor"]["mean"] == 1
