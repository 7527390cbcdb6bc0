from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger import Entry
from gateway.savings import Totals, summarise
from tests.gateway.entries import entries, entry


def test_saving_is_expected_reference_tokens_minus_tokens_spent() -> None:
    savings = summarise(
        [
            entry(checkpoint="alpha-0.4", reasoning_tokens=30, reference_tokens=100.0),
            entry(checkpoint="alpha-0.4", reasoning_tokens=50, reference_tokens=60.0),
            entry(checkpoint="base", reasoning_tokens=200, reference_tokens=180.0),
        ]
    )
    assert savings.checkpoints["alpha-0.4"].saved_tokens == 80.0
    assert savings.checkpoints["base"].saved_tokens == -20.0, "thinking longer than expected is a loss and shown as one"
    assert savings.total.saved_tokens == 60.0
    assert savings.total.saved_share == pytest.approx(60 / 340)


def test_checkpoints_stand_most_used_first() -> None:
    savings = summarise([entry(checkpoint="base"), entry(checkpoint="alpha-0.1"), entry(checkpoint="alpha-0.1")])
    assert list(savings.checkpoints) == ["alpha-0.1", "base"]


def test_a_request_without_prediction_counts_but_is_not_estimated() -> None:
    total = summarise([entry(reasoning_tokens=70, reference_tokens=None)]).total
    assert (total.requests, total.spent_tokens, total.estimated, total.saved_tokens) == (1, 70, 0, 0.0)
    assert total.saved_share is None


def test_a_caller_who_left_saved_nothing() -> None:
    total = summarise([entry(status=499, reasoning_tokens=3, reference_tokens=100.0)]).total
    assert (total.requests, total.failed, total.spent_tokens, total.saved_tokens) == (1, 1, 3, 0.0)


def test_a_holdout_is_counted_and_is_no_saving() -> None:
    total = summarise([entry(decision="holdout", checkpoint="base", reasoning_tokens=90, reference_tokens=100.0)]).total
    assert (total.requests, total.holdout, total.saved_tokens) == (1, 1, 0.0)


def test_nothing_recorded_is_nothing_saved() -> None:
    assert summarise([]).total == Totals()


@given(st.lists(entries(), max_size=30), st.randoms(use_true_random=False))
def test_total_is_the_sum_of_the_checkpoints_in_any_order(sample: list[Entry], shuffle: random.Random) -> None:
    savings = summarise(sample)
    shuffle.shuffle(sample)
    assert summarise(sample).total.requests == savings.total.requests == len(sample)
    for field in dataclasses.fields(Totals):
        parts = sum(getattr(totals, field.name) for totals in savings.checkpoints.values())
        assert getattr(savings.total, field.name) == pytest.approx(parts)
