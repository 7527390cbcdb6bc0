"""Is traffic unlike the fitting prompts called drift, and traffic like them not?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from gateway.ledger.drift import TOLERATED, Drift, DriftReport, compute_drift, drift_of, wilson
from gateway.ledger.entry import Entry
from gateway.ledger.savings import cell_of, totals_of
from models import profile as profiles
from tests.gateway.entries import entry
from training.tasks.problems import Difficulty
from training.tasks.prompts import prompts


def report(*sample: Entry) -> DriftReport:
    return compute_drift((cell_of(one), totals_of(one)) for one in sample)


def abstaining(why: str = "unfamiliar", **changes: object) -> Entry:
    return entry(**{"decision": "abstained", "holdout_fraction": None, "difficulty": None, "abstention": why} | changes)


def test_the_distance_is_the_largest_at_the_limits_of_the_fifths() -> None:
    drift = drift_of((1, 1, 4, 2, 2))
    assert drift.distance == pytest.approx(0.2), "two of ten lie below 0.4"
    assert drift_of((20, 20, 20, 20, 20)).distance == pytest.approx(0.0)
    assert drift_of((0, 0, 0, 0, 7)).distance == pytest.approx(0.8)


def test_the_bound_is_that_of_dvoretzky_kiefer_and_wolfowitz() -> None:
    assert drift_of((37, 37, 37, 37, 36)).bound == pytest.approx(0.1001, abs=1e-4)  # sqrt(ln 40 / 368)


def test_a_sample_of_uniform_difficulties_is_within_the_bound_19_times_in_20() -> None:
    rng = np.random.default_rng(0)
    samples = [drift_of(rng.multinomial(300, [0.2] * 5).tolist()) for _ in range(1000)]
    within = np.mean([drift.distance is not None and drift.distance <= (drift.bound or 0) for drift in samples])
    assert within >= 0.95
    assert not any(drift.signs for drift in samples)


@pytest.mark.parametrize(
    ("fifths", "signs"),
    [
        ((10, 10, 20, 30, 30), ("harder",)),
        ((30, 30, 20, 10, 10), ("easier",)),
        ((40, 5, 10, 5, 40), ("more extreme",)),
        ((3, 27, 40, 27, 3), ("less extreme",)),
        ((25, 23, 20, 17, 15), ()),
    ],
)
def test_drift_has_a_direction(fifths: tuple[int, ...], signs: tuple[str, ...]) -> None:
    assert drift_of([100 * count for count in fifths]).signs == signs


def test_a_few_requests_are_not_drift_however_hard() -> None:
    assert drift_of((0, 0, 0, 0, 3)).signs == ()
    assert drift_of((0, 0, 0, 0, 4)).signs == ("harder",)


def test_the_tolerated_distance_is_no_drift_however_many_requests_show_it() -> None:
    just_tolerated = drift_of((110_000, 200_000, 200_000, 200_000, 290_000))
    assert just_tolerated.distance == pytest.approx(TOLERATED - 0.01)
    assert just_tolerated.signs == ()
    assert drift_of((80_000, 200_000, 200_000, 200_000, 320_000)).signs == ("harder",)


def test_wilsons_interval() -> None:
    assert wilson(10, 100) == pytest.approx((0.1, 0.0552, 0.1744), abs=1e-4)
    assert wilson(0, 50) == pytest.approx((0.0, 0.0, 0.0713), abs=1e-4)
    assert wilson(50, 50) == pytest.approx((1.0, 0.9287, 1.0), abs=1e-4)
    assert wilson(0, 0) == (None, None, None)


def test_many_unfamiliar_prompts_are_drift_of_their_own() -> None:
    assert drift_of([180] * 5, abstained=100).signs == ("unfamiliar",)
    assert drift_of([180] * 5, abstained=50).signs == (), "5.3 % (4.0 to 6.9 %)"
    assert drift_of([0] * 5, abstained=4).signs == (), "four prompts are not many"
    assert drift_of([0] * 5, abstained=5).signs == ("unfamiliar",)
    assert drift_of((0, 0, 0, 0, 900), abstained=100).signs == ("unfamiliar", "harder")


def test_only_requests_that_the_rule_chose_for_count() -> None:
    drift = report(
        entry(difficulty=0.1),
        entry(difficulty=1.0, status=502),
        entry(difficulty=0.2, decision="holdout", checkpoint="base"),
        entry(difficulty=0.2, decision="fallback", checkpoint="base"),
        entry(difficulty=0.9, decision="pinned", holdout_fraction=None),
        entry(difficulty=None, decision="none", holdout_fraction=None),
        abstaining(),
        abstaining(decision="fallback"),
        abstaining("unreadable"),
    ).total
    assert (drift.requests, drift.fifths) == (4, (1, 2, 0, 0, 1))
    assert (drift.abstained, drift.unreadable) == (2, 1)
    assert drift.abstained_share == pytest.approx(2 / 6), "an image is not compared with anything"


def test_a_routed_request_without_a_difficulty_counts_as_familiar_only() -> None:
    drift = report(*[entry(difficulty=None) for _ in range(40)], *[entry(difficulty=0.5)] * 2, abstaining()).total
    assert (drift.requests, sum(drift.fifths)) == (42, 2)
    assert drift.bound == pytest.approx(drift_of((0, 0, 2, 0, 0)).bound)
    assert drift.abstained_share == pytest.approx(1 / 43)
    alone = report(*[entry(difficulty=None) for _ in range(40)]).total
    assert (alone.requests, alone.distance, alone.bound, alone.signs) == (40, None, None, ())


def test_drift_is_seen_by_day() -> None:
    day, hour = 86_400.0, 3600.0
    monday = 20_000 * day
    before = [entry(time=monday + hour * n, difficulty=n / 20) for n in range(20)]
    after = [entry(time=monday + day + hour * (n % 20), difficulty=0.9) for n in range(40)]
    found = report(*after, *before)
    assert {name: drift.signs for name, drift in found.days.items()} == {"2024-10-04": (), "2024-10-05": ("harder",)}
    assert list(found.days) == ["2024-10-04", "2024-10-05"]
    assert found.total.requests == 60
    assert found.as_json() == {
        **asdict(found.total),
        "days": {name: asdict(drift) for name, drift in found.days.items()},
    }


def test_nothing_recorded_is_no_drift() -> None:
    assert report() == DriftReport(Drift(0, (0,) * 5, 0, 0, None, None, None, None, None, ()), {})


@pytest.mark.parametrize(("difficulty", "signs"), [(None, ()), ("hard", ("harder",)), ("easy", ("easier",))])
def test_fresh_prompts_of_the_shipped_family_are_no_drift_and_harder_ones_are(
    difficulty: Difficulty | None, signs: tuple[str, ...]
) -> None:
    profile = profiles.load(Path(profiles.__file__).parent / "abacus" / "profile.json")
    predictions = [profile.predict(one.prompt) for one in prompts("heldout", 1, 600, difficulty=difficulty)]
    drift = report(*(entry(difficulty=one.difficulty) for one in predictions if one.familiar)).total
    assert drift.requests == 600
    assert drift.signs == signs
    if difficulty is None:
        assert 0.02 < (drift.distance or 0) < TOLERATED, "more alike than the fitting prompts, and no more than that"
