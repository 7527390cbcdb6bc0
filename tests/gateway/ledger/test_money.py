"""Is the money that was saved of the same requests as the tokens, and measured with an interval that holds?"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.access.cost import Price, Spent
from gateway.access.prices import PriceList
from gateway.ledger.entry import Entry
from gateway.ledger.money import Money, SavedMoney, compute_money
from gateway.ledger.outcome import unreported
from gateway.ledger.savings import Savings, cell_of, compute_savings, totals_of
from gateway.ledger.usage import report, usage_of
from tests.gateway.entries import entry

REASONING_ONLY = PriceList("USD", dict.fromkeys(("base", "alpha-0.2", "alpha-0.4"), Price(0, 0, 10**6, 0)))
FULL = PriceList(
    "USD",
    {
        "base": Price(300_000, 30_000, 900_000, 600_000),
        "alpha-0.2": Price(200_000, 20_000, 700_000, 500_000),
        "alpha-0.4": Price(100_000, 10_000, 500_000, 400_000),
    },
)


def traffic(seed: int, holdout_share: float = 0.2, size: int = 400) -> list[Entry]:
    """Requests with prompts of very different lengths; the reference thinks about 100 tokens, the others 40."""
    rng, found = random.Random(seed), []
    for _ in range(size):
        prompt, hard = rng.choice([20, 200, 20_000]), rng.lognormvariate(0, 0.5)
        plain = {"prompt_tokens": prompt, "cached_tokens": prompt // 2, "holdout_fraction": holdout_share}
        reference = {"reference_tokens": 100 * hard, "reference_answer_tokens": 10.0}
        if rng.random() < holdout_share:
            thought = round(100 * hard * rng.lognormvariate(0, 0.2))
            found.append(
                entry(
                    **plain, **reference, decision="holdout", checkpoint="base", choice="alpha-0.2",
                    reasoning_tokens=thought, answer_tokens=10,
                )
            )  # fmt: skip
        else:
            found.append(entry(**plain, **reference, reasoning_tokens=round(40 * hard), answer_tokens=10))
    return found


def of(sample: list[Entry], prices: PriceList) -> SavedMoney:
    lines = [line for one in sample for line in usage_of(one, cell_of(one))]
    return compute_money(lines, [one for one in sample if one.holdout], prices, "base", by="checkpoint")


def tokens_of(sample: list[Entry]) -> Savings:
    cells = [(cell_of(one), totals_of(one)) for one in sample]
    return compute_savings(cells, [one for one in sample if one.holdout])


def test_where_only_reasoning_costs_money_is_tokens_times_the_price() -> None:
    sample = traffic(1)
    money, tokens = of(sample, REASONING_ONLY).total, tokens_of(sample).total
    assert money.spent == pytest.approx(tokens.totals.estimated_spent_tokens / 1e6)
    assert money.saved == pytest.approx(tokens.totals.saved_tokens / 1e6, rel=1e-4)
    assert money.measured is not None
    assert tokens.measured is not None
    assert money.measured.saved == pytest.approx(tokens.measured.saved_tokens / 1e6, rel=1e-3)
    assert money.measured.low == pytest.approx(tokens.measured.low / 1e6, rel=1e-3)
    assert money.measured.high == pytest.approx(tokens.measured.high / 1e6, rel=1e-3)
    assert money.measured.requests == tokens.measured.requests


def test_the_interval_covers_what_was_saved() -> None:
    """The truth is each request at the reference's prices and lengths, minus its cost. Prompts vary a thousandfold."""
    covered = 0
    for seed in range(40):
        sample = traffic(seed)
        routed = [one for one in sample if not one.holdout]
        truth = sum(
            (one.prompt_tokens * 5_000 + one.prompt_tokens * 50_000)
            + (100 * one.reasoning_tokens / 40 * 1.0202 * 900_000 - one.reasoning_tokens * 700_000)
            + 10 * 100_000
            for one in routed
        ) / 1e12  # fmt: skip
        measured = of(sample, FULL).total.measured
        assert measured is not None
        covered += measured.low <= truth <= measured.high
    assert covered >= 34


def test_a_prompt_that_costs_the_same_everywhere_does_not_widen_the_interval() -> None:
    sample = traffic(3)
    dear = PriceList("USD", dict.fromkeys(("base", "alpha-0.2"), Price(10**7, 10**6, 10**6, 0)))
    assert of(sample, dear).total.measured == of(sample, REASONING_ONLY).total.measured


def test_an_escalation_pays_the_prompt_twice_and_each_checkpoint_s_own_price() -> None:
    one = entry(
        checkpoint="base", choice="alpha-0.4>base@10%", prompt_tokens=100, reasoning_tokens=50, answer_tokens=9,
        first_checkpoint="alpha-0.4", first_reasoning_tokens=20, first_answer_tokens=4,
        reference_tokens=80.0, reference_answer_tokens=6.0,
    )  # fmt: skip
    total = of([one], FULL).total
    first = 100 * 100_000 + 20 * 500_000 + 4 * 400_000
    second = 100 * 300_000 + 30 * 900_000 + 5 * 600_000
    assert total.spent == total.total == pytest.approx((first + second) / 1e12)
    assert total.reference == pytest.approx((100 * 300_000 + 80 * 900_000 + 6 * 600_000) / 1e12)
    assert total.saved == pytest.approx(total.reference - total.spent)


def test_failures_and_pinned_requests_cost_and_save_nothing() -> None:
    pinned = entry(decision="pinned", holdout_fraction=None)
    failed = entry(status=502)
    total = of([pinned, failed], FULL).total
    assert (total.spent, total.reference, total.saved) == (0, 0, 0)
    assert total.total == pytest.approx(2 * (20 * 200_000 + 40 * 700_000 + 5 * 500_000) / 1e12)
    assert total.measured is None


@given(
    expected=st.none() | st.floats(0, 2_000),
    answer=st.none() | st.floats(0, 100),
    status=st.sampled_from([200, 503]),
    tokens=st.tuples(st.integers(0, 1_000), st.integers(0, 1_000)),
)
def test_silence_of_another_router_never_saves_more_than_a_report(
    expected: float | None, answer: float | None, status: int, tokens: tuple[int, int]
) -> None:
    """As in tokens, what is never reported counts as the longest that it could have been."""
    plain = {"reference_tokens": expected, "reference_answer_tokens": answer}
    silent = unreported(entry(**plain, prompt_tokens=0, reasoning_tokens=0, answer_tokens=0), "envoy", 1_000)
    reasoning, said = tokens[0], min(tokens[1], 1_000 - tokens[0])
    told = entry(**plain, status=status, reasoning_tokens=reasoning, answer_tokens=said)
    assert of([silent], FULL).total.saved <= of([told], FULL).total.saved


def test_hiding_costly_requests_lowers_the_money_that_seems_saved() -> None:
    usual, costly = [entry() for _ in range(20)], [entry(reasoning_tokens=900) for _ in range(5)]
    told = of([*usual, *costly], FULL).total
    silent = of([*usual, *(unreported(one, "envoy", 1_000) for one in costly)], FULL).total
    assert silent.saved < told.saved < of(usual, FULL).total.saved
    assert silent.spent <= silent.total


def test_without_a_forecast_of_answers_the_reference_s_are_as_long_as_those_given() -> None:
    total = of([entry(answer_tokens=30)], FULL).total
    assert total.reference == pytest.approx((20 * 300_000 + 80 * 900_000 + 30 * 600_000) / 1e12)


def test_assumed_tokens_and_missing_holdouts_are_not_measured() -> None:
    sample = traffic(2)
    assert of(sample + [entry(assumed=True, holdout_fraction=0.2)] * 60, FULL).total.measured is None
    lines = [line for one in sample for line in usage_of(one, cell_of(one))]
    holdouts = [one for one in sample if one.holdout][1:]
    assert compute_money(lines, holdouts, FULL, "base", by="key").total.measured is None


def test_comparisons_cost_what_the_reference_and_the_judge_took() -> None:
    spent = [(Spent(100, 40, 20, 10), Spent(200, 0, 5, 1))] * 2
    found = compute_money([], [], FULL, "base", by="day", shadows=spent)
    assert found.shadows == pytest.approx(2 * (60 * 300_000 + 40 * 30_000 + 20 * 900_000 + 10 * 600_000) / 1e12)
    assert found.judge is None
    judged = PriceList("USD", FULL.checkpoints, judge=Price(1, 1, 3, 2))
    assert compute_money([], [], judged, "base", by="day", shadows=spent).judge == pytest.approx(2 * 217 / 1e12)


def test_a_request_whose_checkpoint_has_no_price_is_counted_and_is_in_no_amount() -> None:
    known, gone = entry(), entry(checkpoint="gone", prompt_tokens=7, reasoning_tokens=3_000, answer_tokens=11)
    total = of([known, gone], FULL).total
    assert total == replace(of([known], FULL).total, unpriced_tokens=7 + 3_000 + 11)
    lines = [line for one in (known, gone) for line in usage_of(one, cell_of(one))]
    assert total.unpriced_tokens == report(lines, (), FULL).total.unpriced
    default = replace(FULL, default=Price(0, 0, 0, 0))
    assert of([known, gone], default).total.unpriced_tokens == 0
    assert of([known, gone], default).total.reference > total.reference


@pytest.mark.parametrize(
    ("choice", "checkpoint", "first"),
    [
        ("gone>base@10%", "base", "gone"),
        ("alpha-0.4>gone@10%", "gone", "alpha-0.4"),
        ("alpha-0.4>gone@10%", "alpha-0.4", ""),
    ],
)
def test_an_escalation_is_left_out_whole_if_one_of_its_checkpoints_has_no_price(
    choice: str, checkpoint: str, first: str
) -> None:
    thought = 20 if first else 0
    one = entry(checkpoint=checkpoint, choice=choice, first_checkpoint=first, first_reasoning_tokens=thought)
    total = of([one], FULL).total
    assert (total.spent, total.reference, total.saved) == (0, 0, 0)


def test_money_is_measured_only_where_nearly_all_tokens_have_a_price() -> None:
    sample = traffic(4)
    tokens = sum(one.prompt_tokens + one.reasoning_tokens + one.answer_tokens for one in sample)

    def with_unpriced(share: float) -> Money:
        spent = round(tokens * share / (1 - share))
        gone = entry(
            checkpoint="gone", holdout_fraction=0.2, prompt_tokens=0, reasoning_tokens=spent, answer_tokens=0
        )  # fmt: skip
        return of([*sample, gone], FULL).total

    alone = of(sample, FULL).total.measured
    assert alone is not None
    assert with_unpriced(0.009).measured == alone
    assert with_unpriced(0.011).measured is None


def test_without_a_price_of_the_reference_nothing_is_saved_or_measured() -> None:
    rest = PriceList("USD", {name: price for name, price in FULL.checkpoints.items() if name != "base"})
    total = of(traffic(5), rest).total
    assert (total.spent, total.reference, total.saved, total.measured) == (0, 0, 0, None)
    assert total.total > 0
    assert total.unpriced_tokens > 0
