"""Is the difference in quality estimated correctly, with scores missing, and does its interval cover the truth?"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.quality_interval import DEPLOYMENTS, simulate
from gateway.ledger.quality import MIN_SCORES, Score, compute_quality, estimate
from gateway.ledger.savings import Cell, Totals, cell_of, sum_totals, totals_of
from tests.gateway.entries import entry

FIFTHS = ("0.0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1.0")


def cell(difficulty: str = FIFTHS[0], fraction: float | None = 0.1, key: str = "", hour: int = 500_000) -> Cell:
    return Cell(hour, key, "alpha-0.2", difficulty, fraction)


def sums(one: Cell, routed: int, holdouts: int, predicted: float = 0.5) -> tuple[Cell, Totals]:
    """Requests with the same predicted success."""
    requests = routed + holdouts
    totals = Totals(requests, holdout=holdouts, eligible=routed, predicted=requests)
    return one, totals._replace(predicted_success=requests * predicted)


def scored(one: Cell, holdout: bool, values: Sequence[float], predicted: float = 0.5) -> list[Score]:
    return [Score(one, holdout, predicted, "thumbs", value) for value in values]


def test_the_difference_is_that_of_the_mean_scores_if_all_have_one() -> None:
    found = estimate(
        [sums(cell(), 400, 100)], [*scored(cell(), False, [1, 1, 0, 1] * 100), *scored(cell(), True, [1, 0] * 50)]
    )
    assert (found.routed.mean, found.holdout.mean) == (pytest.approx(0.75), pytest.approx(0.5))
    assert found.difference == pytest.approx(0.25)
    assert found.low is not None
    assert found.high is not None
    assert 0.1 < found.low < 0.25 < found.high < 0.4
    assert not found.uneven


def test_scores_that_come_for_easy_requests_only_weigh_as_much_as_those_requests_do() -> None:
    """Half of the requests are hard and nobody succeeds; holdouts get scores for easy ones five times as often."""
    easy, hard = cell(FIFTHS[0]), cell(FIFTHS[4])
    scores = [
        *scored(easy, False, [1.0] * 100), *scored(hard, False, [0.0] * 100),
        *scored(easy, True, [1.0] * 50), *scored(hard, True, [0.0] * 10),
    ]  # fmt: skip
    found = estimate([sums(easy, 900, 100), sums(hard, 900, 100)], scores)
    assert found.holdout.mean == pytest.approx(0.5)
    assert found.difference == pytest.approx(0.0)


def test_within_a_stratum_the_prediction_makes_up_for_the_scores_that_are_missing() -> None:
    """Success is as predicted, 0 or 1, for half of the requests each; scored are three good ones for one bad one."""
    scores = [
        one
        for arm in (False, True)
        for one in (*scored(cell(), arm, [1.0] * 60, 1.0), *scored(cell(), arm, [0.0] * 20, 0.0))
    ]
    found = estimate([sums(cell(), 900, 100, predicted=0.5)], scores)
    assert found.routed.mean == pytest.approx(0.5)
    assert found.holdout.mean == pytest.approx(0.5)


def test_with_too_few_scores_in_an_arm_nothing_is_measured() -> None:
    values = [1.0, 0.0] * MIN_SCORES
    for holdouts, is_measured in ((MIN_SCORES, True), (MIN_SCORES - 1, False)):
        scores = [*scored(cell(), False, values), *scored(cell(), True, values[:holdouts])]
        found = estimate([sums(cell(), 900, 100)], scores)
        assert (found.difference is not None) == is_measured
        assert (found.routed.scores, found.holdout.scores) == (len(values), holdouts)


def test_each_holdout_fraction_is_measured_by_itself() -> None:
    """Questions became hard when the fraction was lowered: pooled, the holdout would look better than it is."""
    before, after = cell(fraction=0.5), cell(fraction=0.1)
    scores = [
        *scored(before, False, [1.0] * 500), *scored(before, True, [1.0] * 500),
        *scored(after, False, [0.0] * 900), *scored(after, True, [0.0] * 100),
    ]  # fmt: skip
    found = estimate([sums(before, 500, 500), sums(after, 900, 100)], scores)
    assert found.difference == pytest.approx(0.0)
    assert found.holdout.mean == pytest.approx(0.5)


def test_scores_that_come_unevenly_are_reported_with_bounds() -> None:
    """Every routed request is scored, and half of the holdouts: the routed ones may be the better or the worse half."""
    scores = [*scored(cell(), False, [1.0, 0.0] * 450), *scored(cell(), True, [1.0, 0.0] * 25)]
    found = estimate([sums(cell(), 900, 100)], scores)
    assert found.uneven
    assert found.difference == pytest.approx(0.0)
    assert (found.bound_low, found.bound_high) == (pytest.approx(-0.5), pytest.approx(0.5))


def test_scores_that_come_more_often_at_one_holdout_fraction_are_not_uneven() -> None:
    """At each fraction both sides are scored alike; pooled, about half of the holdouts, and a fifth of the others."""
    before, after = cell(fraction=0.5), cell(fraction=0.1)
    scores = [
        *scored(before, False, [1.0, 0.0] * 225), *scored(before, True, [1.0, 0.0] * 225),
        *scored(after, False, [1.0, 0.0] * 225), *scored(after, True, [1.0, 0.0] * 25),
    ]  # fmt: skip
    found = estimate([sums(before, 500, 500), sums(after, 4500, 500)], scores)
    assert not found.uneven
    assert (found.bound_low, found.bound_high) == (None, None)
    assert found.routed.share == pytest.approx(found.holdout.share)
    assert (found.routed.requests, found.routed.scores) == (5000, 900)


def test_requests_at_a_holdout_fraction_without_scores_do_not_hide_that_scores_come_unevenly() -> None:
    """Scores began after the fraction was lowered: every routed request has one, and half of the holdouts."""
    before, after = cell(fraction=0.5), cell(fraction=0.1)
    scores = [*scored(after, False, [1.0, 0.0] * 450), *scored(after, True, [1.0, 0.0] * 25)]
    found = estimate([sums(before, 1000, 10), sums(after, 900, 100)], scores)
    assert found.uneven
    assert (found.routed.share, found.holdout.share) == (1.0, 0.5)
    assert (found.bound_low, found.bound_high) == (pytest.approx(-0.5), pytest.approx(0.5))


def test_bounds_are_those_of_each_holdout_fraction_weighted_by_its_requests() -> None:
    """At one fraction all succeed and at the other none does, so whichever scores are missing, nothing differs."""
    before, after = cell(fraction=0.5), cell(fraction=0.1)
    scores = [
        *scored(before, False, [1.0] * 500), *scored(before, True, [1.0] * 250),
        *scored(after, False, [0.0] * 900), *scored(after, True, [0.0] * 50),
    ]  # fmt: skip
    found = estimate([sums(before, 500, 500), sums(after, 900, 100)], scores)
    assert found.uneven
    assert (found.bound_low, found.bound_high) == (0.0, 0.0)


def test_the_groups_are_of_the_source_with_the_most_scores_of_holdouts() -> None:
    a, b = cell(key="a"), cell(key="b")
    thumbs = [one for at in (a, b) for arm in (False, True) for one in scored(at, arm, [1.0, 0.5] * 20)]
    judge = [one._replace(source="judge") for one in scored(a, False, [1.0] * 500)]
    quality = compute_quality([sums(a, 900, 100), sums(b, 900, 100)], [*thumbs, *judge], "key")
    assert (quality.source, list(quality.sources), list(quality.groups)) == ("thumbs", ["thumbs", "judge"], ["a", "b"])
    assert quality.groups["a"].routed.requests == 900
    assert quality.sources["thumbs"].routed.requests == 1800
    assert quality.total is quality.sources["thumbs"]
    assert compute_quality([], thumbs, source="nobody").total is not None


def test_what_took_no_part_in_a_draw_or_came_before_does_not_count() -> None:
    scores = [*scored(cell(fraction=None), False, [1.0] * 50), *scored(cell(fraction=0.0), False, [1.0] * 50)]
    assert compute_quality([], scores).sources == {}
    early = scored(cell(hour=7), True, [1.0] * 50)
    assert compute_quality([sums(cell(hour=7), 900, 100)], early, since_hour=8).sources == {}


def test_the_ledger_sums_the_predicted_success_of_both_arms() -> None:
    sample = [entry(), entry(decision="holdout", checkpoint="base", choice="alpha-0.2"), entry(holdout_fraction=None)]
    totals = sum_totals([totals_of(one) for one in sample])
    assert (totals.predicted, totals.predicted_success) == (2, pytest.approx(2 * 0.94))
    assert cell_of(sample[0]).checkpoint == cell_of(sample[1]).checkpoint


values = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=MIN_SCORES, max_size=60)


@given(routed=values, holdout=values, labels=st.lists(st.sampled_from(FIFTHS), min_size=60, max_size=60))
def test_any_scores_give_an_interval_around_the_difference(
    routed: list[float], holdout: list[float], labels: list[str]
) -> None:
    scores = [
        Score(cell(labels[i]), arm, 0.3 + 0.01 * i, "thumbs", value)
        for arm, some in ((False, routed), (True, holdout))
        for i, value in enumerate(some)
    ]
    cells = [sums(cell(label), 900, 100) for label in FIFTHS]
    found, mirrored = (
        estimate(cells, [one._replace(holdout=one.holdout != turned) for one in scores]) for turned in (False, True)
    )
    assert found.low is not None
    assert found.high is not None
    assert found.difference is not None
    assert -1 <= found.low <= found.high <= 1
    if abs(found.difference) <= 1:
        assert found.low <= found.difference <= found.high
    assert mirrored.difference == pytest.approx(-found.difference, abs=1e-9)
    assert estimate(cells, scores[::-1]).low == pytest.approx(found.low)


@pytest.mark.parametrize("kind", ["few requests", "almost always right", "easy ones here, hard ones there"])
def test_the_interval_covers_the_truth(kind: str) -> None:
    """`benchmarks.quality_interval` runs a thousand of each kind."""
    coverage = simulate(DEPLOYMENTS[kind], 60, seed=1)
    assert coverage.measured == 1.0
    assert coverage.covered >= 0.88


def test_the_plain_difference_of_means_does_not_cover_if_easy_requests_get_scores() -> None:
    assert simulate(DEPLOYMENTS["easy ones here, hard ones there"], 20, seed=1).plain < 0.5
