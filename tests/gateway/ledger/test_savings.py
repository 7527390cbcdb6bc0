"""Are savings estimated and measured correctly, and does the interval cover the truth?"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.savings_interval import DEPLOYMENTS, simulate
from gateway.ledger.entry import Entry
from gateway.ledger.savings import (
    MIN_HOLDOUTS,
    By,
    HoldoutSample,
    Savings,
    Totals,
    TreatmentTotals,
    cell_of,
    compute_savings,
    measure,
    sum_totals,
    totals_of,
)
from tests.gateway.entries import entries, entry


def savings_of(sample: Sequence[Entry], by: By = "checkpoint", since_hour: int = 0) -> Savings:
    cells = ((cell_of(one), totals_of(one)) for one in sample)
    return compute_savings(cells, [one for one in sample if one.holdout], by, since_hour)


def holdout(**changes: Any) -> Entry:
    """A routed request that the reference served instead."""
    return entry(**({"decision": "holdout", "checkpoint": "base", "choice": "alpha-0.2"} | changes))


def test_the_estimate_is_expected_reference_tokens_minus_tokens_spent() -> None:
    savings = savings_of(
        [
            entry(checkpoint="alpha-0.4", reasoning_tokens=30, reference_tokens=100.0),
            entry(checkpoint="alpha-0.4", reasoning_tokens=50, reference_tokens=60.0),
            entry(checkpoint="base", reasoning_tokens=200, reference_tokens=180.0),
        ]
    )
    assert savings.groups["alpha-0.4"].totals.saved_tokens == 80.0
    assert savings.groups["base"].totals.saved_tokens == -20.0, "spending more than expected is shown as a loss"
    assert savings.total.totals.saved_tokens == 60.0
    assert savings.total.totals.saved_share == pytest.approx(60 / 340)


def test_checkpoints_and_keys_are_sorted_by_use_and_days_and_difficulties_in_ascending_order() -> None:
    sample = [
        entry(checkpoint="base", key="b", difficulty=0.1, time=1_800_000_000.0),
        entry(checkpoint="alpha-0.1", key="", difficulty=0.95, time=1_800_100_000.0),
        entry(checkpoint="alpha-0.1", key="", difficulty=1.0, time=1_800_100_000.0),
        entry(checkpoint="alpha-0.1", key="", difficulty=None, time=1_800_100_000.0),
    ]
    assert list(savings_of(sample).groups) == ["alpha-0.1", "base"]
    assert list(savings_of(sample, "key").groups) == ["(none)", "b"]
    assert list(savings_of(sample, "day").groups) == ["2027-01-15", "2027-01-16"]
    assert list(savings_of(sample, "difficulty").groups) == ["0.0-0.2", "0.8-1.0", "unknown"]


def test_a_request_that_was_not_routed_is_counted_and_saves_nothing() -> None:
    for one in (
        entry(decision="pinned", holdout_fraction=None, reasoning_tokens=70, reference_tokens=100.0),
        entry(decision="abstained", holdout_fraction=None, reasoning_tokens=70, reference_tokens=None),
    ):
        total = savings_of([one]).total.totals
        assert (total.requests, total.spent_tokens, total.estimated, total.saved_tokens) == (1, 70, 0, 0.0)
        assert total.saved_share is None


def test_a_request_whose_caller_left_is_not_in_the_estimate_but_is_measured() -> None:
    total = savings_of([entry(status=499, reasoning_tokens=3, reference_tokens=100.0)]).total.totals
    assert (total.requests, total.failed, total.spent_tokens, total.saved_tokens) == (1, 1, 3, 0.0)
    assert (total.eligible, total.eligible_spent_tokens, total.eligible_reference_tokens) == (1, 3, 100.0)


def test_a_holdout_is_counted_under_its_choice_and_saves_nothing() -> None:
    one = entry(decision="holdout", checkpoint="base", choice="alpha-0.4", reasoning_tokens=90, reference_tokens=100.0)
    savings = savings_of([one])
    total = savings.total.totals
    assert (total.requests, total.holdout, total.saved_tokens, total.eligible) == (1, 1, 0.0, 0)
    assert list(savings.groups) == ["alpha-0.4"]


def test_without_a_draw_there_is_an_estimate_but_no_measurement() -> None:
    savings = savings_of([entry(holdout_fraction=0.0, reasoning_tokens=40, reference_tokens=80.0)] * 1000)
    assert savings.total.totals.saved_tokens == 40_000
    assert savings.total.totals.eligible == 0
    assert savings.total.measured is None


def test_the_measurement_does_not_depend_on_the_profile() -> None:
    """The profile expects 80 tokens of the reference, which spends 120. The others spend 40."""
    others = [entry(reasoning_tokens=40, reference_tokens=80.0)] * 900
    holdouts = [holdout(reasoning_tokens=120 + (-1) ** i) for i in range(100)]
    measured = savings_of([*others, *holdouts]).total.measured
    assert measured is not None
    assert (measured.requests, measured.estimate) == (900, 900 * 40)
    assert measured.saved_tokens == pytest.approx(900 * 80)
    assert measured.low < 900 * 80 < measured.high < 900 * 81
    assert measured.drift
    corrected = [dataclasses.replace(one, reference_tokens=120.0) for one in [*others, *holdouts]]
    measured = savings_of(corrected).total.measured
    assert measured is not None
    assert not measured.drift


def test_too_few_holdouts_give_no_measurement() -> None:
    holdouts = [holdout(reasoning_tokens=i) for i in range(MIN_HOLDOUTS + 1)]
    assert savings_of([entry(), *holdouts]).total.measured is not None
    assert savings_of([entry(), *holdouts[1:]]).total.measured is None
    assert savings_of(holdouts).total.measured is None, "without other requests nothing can be saved"


def test_holdouts_of_the_same_budget_forced_length_are_not_informative() -> None:
    """Forty holdouts stopped at the cap would have spent more, and the few others make up the whole spread."""
    others = [entry(reasoning_tokens=20, budget=30)] * 1000
    capped = [holdout(reasoning_tokens=30, budget=30)] * 40
    some = [holdout(reasoning_tokens=i, budget=30) for i in range(MIN_HOLDOUTS)]
    assert savings_of([*others, *capped]).total.measured is None
    assert savings_of([*others, *capped, *some[1:]]).total.measured is None
    assert savings_of([*others, *capped, *some]).total.measured is not None
    alike = [holdout(reasoning_tokens=0, budget=0)] * 40
    assert savings_of([*others, *capped, *alike]).total.measured is None, "two caps are not a spread either"


def test_a_measurement_allows_only_a_few_assumed_token_counts() -> None:
    others = [entry(reasoning_tokens=20)] * 1000
    holdouts = [holdout(reasoning_tokens=80 + i) for i in range(100)]
    left = [holdout(reasoning_tokens=80, status=499, assumed=True)] * 6
    assert savings_of([*others, *holdouts, *left[:5]]).total.measured is not None
    assert savings_of([*others, *holdouts, *left]).total.measured is None
    gone = [entry(status=499, reasoning_tokens=20, assumed=True)] * 60
    assert savings_of([*others, *holdouts, *gone]).total.measured is None
    assert savings_of([*others, *holdouts, *gone]).total.totals.assumed == 60


def test_callers_who_leave_do_not_count_as_drift_of_the_profile() -> None:
    """The profile predicts complete answers, not those that end halfway."""
    rng = np.random.default_rng(0)
    sample: list[Entry] = []
    for drawn in rng.random(20_000) < 0.1:
        tokens, left = (100 if drawn else 30) + int(rng.integers(-9, 10)), bool(rng.random() < 0.2)
        kind = {"reasoning_tokens": tokens // 2 if left else tokens, "status": 499 if left else 200}
        sample.append((holdout if drawn else entry)(reference_tokens=100.0, **kind))
    measured = savings_of(sample).total.measured
    assert measured is not None
    assert measured.drift is False
    assert measured.answered_low is not None
    assert measured.answered_high is not None
    assert measured.answered_low < measured.estimate < measured.answered_high
    assert measured.estimate < measured.low, "it covers fewer requests than the measurement"
    wrong = [dataclasses.replace(one, reference_tokens=110.0) for one in sample]
    measured = savings_of(wrong).total.measured
    assert measured is not None
    assert measured.drift is True


def test_a_holdout_whose_engine_failed_is_still_a_holdout() -> None:
    """If such holdouts were excluded, or counted among the others, the savings would be overstated."""
    holdouts = [holdout(decision="fallback", holdout=True, checkpoint="alpha-0.2", reasoning_tokens=0)] * 10
    holdouts += [holdout(reasoning_tokens=100 + (-1) ** i) for i in range(90)]
    total = savings_of([*[entry(reasoning_tokens=0)] * 900, *holdouts]).total
    assert (total.totals.holdout, total.totals.eligible) == (100, 900)
    assert total.measured is not None
    assert total.measured.saved_tokens == pytest.approx(900 * 90)


def test_periods_in_which_every_request_was_a_holdout_are_not_measured() -> None:
    all_drawn = [holdout(holdout_fraction=1.0, reasoning_tokens=500 + i) for i in range(50)]
    some = [holdout(reasoning_tokens=100 + (-1) ** i) for i in range(60)]
    measured = savings_of([entry(reasoning_tokens=40), *some, *all_drawn]).total.measured
    assert measured is not None
    assert measured.saved_tokens == pytest.approx(60)


def test_each_holdout_fraction_is_measured_separately() -> None:
    """Hard questions at 0.5, then easy ones at 0.1. Measured together, the holdouts would be too hard."""
    rng = np.random.default_rng(3)
    sample: list[Entry] = []
    truth = others = 0
    for fraction, tokens, count in ((0.5, 1000, 400), (0.1, 100, 4000), (0.01, 100_000, 200)):
        for drawn in rng.random(count) < fraction:
            kind = {"reasoning_tokens": int(tokens + rng.normal(0, 10)) if drawn else 0, "holdout_fraction": fraction}
            sample.append((holdout if drawn else entry)(**kind))
            if not drawn and fraction > 0.01:
                truth, others = truth + tokens, others + 1
    measured = savings_of(sample).total.measured
    assert measured is not None
    assert measured.low < truth < measured.high < 1.01 * truth
    assert measured.requests == others, "the fraction with too few holdouts is not measured"


def test_hours_with_missing_holdouts_are_not_measured() -> None:
    """Only the latest holdouts are kept, and earlier questions may have been different."""
    others = [entry(time=3600.0 * hour, reasoning_tokens=0) for hour in range(20) for _ in range(20)]
    holdouts = [
        holdout(time=3600.0 * (i % 20), reasoning_tokens=1000 if i % 20 < 10 else 10 + (-1) ** (i // 20))
        for i in range(200)
    ]
    cells = [(cell_of(one), totals_of(one)) for one in [*others, *holdouts]]
    latest = [one for one in holdouts if one.time >= 3600.0 * 10][1:]  # one of hour 10 is missing
    measured = compute_savings(cells, latest).total.measured
    assert measured is not None
    assert (measured.requests, measured.saved_tokens) == (180, pytest.approx(1800, rel=0.01))


def test_holdouts_of_hours_without_sums_are_not_used() -> None:
    """Sums expire with time, holdouts by number, and earlier questions may have been harder."""
    old = [holdout(time=3600.0 * (i % 10), reasoning_tokens=1000) for i in range(100)]
    new = [holdout(time=3600.0 * 5000, reasoning_tokens=20 + (-1) ** i) for i in range(100)]
    others = [entry(time=3600.0 * 5000, reasoning_tokens=0)] * 100
    cells = [(cell_of(one), totals_of(one)) for one in [*others, *new]]
    measured = compute_savings(cells, [*old, *new]).total.measured
    assert measured is not None
    assert measured.saved_tokens == pytest.approx(2000)


def test_savings_start_at_the_given_hour() -> None:
    holdouts = [
        holdout(time=hour * 3600.0, reasoning_tokens=10 + (-1) ** hour if hour >= 40 else 10_000) for hour in range(100)
    ]
    savings = savings_of([*holdouts, entry(time=90 * 3600.0, reasoning_tokens=0)], since_hour=40)
    assert savings.total.totals.requests == 61
    assert savings.total.measured is not None
    assert savings.total.measured.saved_tokens == pytest.approx(10)


def test_without_entries_nothing_is_saved() -> None:
    assert savings_of([]).total.totals == Totals()
    assert savings_of([]).total.measured is None


@given(st.lists(entries(), max_size=30), st.randoms(use_true_random=False), st.sampled_from(["key", "checkpoint"]))
def test_the_total_is_the_sum_of_the_groups_in_any_order(sample: list[Entry], shuffle: random.Random, by: By) -> None:
    savings = savings_of(sample, by)
    shuffle.shuffle(sample)
    assert savings_of(sample, by).total.totals.requests == savings.total.totals.requests == len(sample)
    assert sum_totals([group.totals for group in savings.groups.values()]) == pytest.approx(savings.total.totals)


@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_the_measurement_scales_with_the_tokens(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.lognormal(4, 0.5, 60), rng.lognormal(4, 0.7, 60)
    plain = measure(HoldoutSample(x, y), TreatmentTotals(500, 500 * 50.0, 500 * 20.0))
    scaled = measure(HoldoutSample(x, y * factor), TreatmentTotals(500, 500 * 50.0, 500 * 20.0 * factor))
    assert plain is not None
    assert scaled == pytest.approx([factor * part for part in plain])


def test_with_many_holdouts_resampling_gives_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sample = HoldoutSample(rng.lognormal(4, 0.5, 3000), rng.lognormal(4, 0.5, 3000))
    others = TreatmentTotals(100_000, 100_000 * 60.0, 0.0)
    normal = measure(sample, others)
    monkeypatch.setattr("gateway.ledger.savings.NORMAL_HOLDOUTS", 10_000)
    assert normal == pytest.approx(measure(sample, others), rel=0.01)


def test_with_few_other_requests_the_interval_is_as_wide_as_their_own_spread() -> None:
    """What ten requests would have spent stays uncertain, however many holdouts there are."""
    y = np.random.default_rng(0).normal(100, 20, 1000)
    interval = measure(HoldoutSample(np.full(1000, 100.0), y), TreatmentTotals(10, 1000.0, 0.0))
    assert interval is not None
    assert (interval[2] - interval[1]) / 2 == pytest.approx(1.96 * 20 * 10**0.5, rel=0.1)


@pytest.mark.parametrize("kind", ["the default holdout", "few requests", "most without thinking"])
def test_the_interval_covers_the_truth_95_percent_of_the_time(kind: str) -> None:
    coverage = simulate(DEPLOYMENTS[kind], deployments=1000, seed=0)
    assert coverage.measured == 1
    assert 0.93 <= coverage.covered <= 0.97
    assert coverage.narrowed > 1.05, "the covariate must narrow the interval"


@pytest.mark.parametrize("kind", ["one in 20 ten times as long", "one in 50 thirty times as long"])
def test_rare_long_requests_that_nobody_foresees_are_covered_less_often_and_more_with_more_holdouts(kind: str) -> None:
    """The documentation says how often; no interval knows of what its holdout has not drawn."""
    few, many = (simulate(DEPLOYMENTS[f"{kind}, {n} holdouts"], deployments=200, seed=0).covered for n in (50, 200))
    assert few < many < 0.95


def test_no_interval_is_given_if_a_budget_forces_nearly_all_holdouts() -> None:
    coverage = simulate(DEPLOYMENTS["a budget that stops nearly all"], deployments=50, seed=0)
    assert coverage.measured < 0.1
