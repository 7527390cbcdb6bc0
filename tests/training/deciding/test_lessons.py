"""A decision is worth what its best later stop gains, less the price of getting there; right checks are imitated."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.deciding.lessons import SHARP_WEIGHT, decision_loss, first_worth, lessons, worths
from training.deciding.tried import Attempt, Tried

shares = st.floats(0, 1)
episodes = st.lists(st.tuples(shares, st.integers(1, 60)), min_size=1, max_size=6)


@given(episodes, st.floats(0.0001, 0.05))
def test_a_decision_is_worth_its_best_later_stop(drawn: list[tuple[float, int]], price: float) -> None:
    success, tokens = [j for j, _ in drawn], [n for _, n in drawn]
    found = worths(success, tokens, price)
    assert len(found) == len(drawn) - 1
    for k, worth in enumerate(found):
        stops = [success[m] - price * sum(tokens[k + 1 : m + 1]) for m in range(k + 1, len(drawn))]
        assert worth == pytest.approx(max(stops) - success[k], abs=1e-9)


def test_a_check_of_a_right_pass_is_worth_minus_its_price_however_long_the_base_goes_on() -> None:
    assert worths([1.0, 1.0, 1.0, 1.0], [20, 25, 30, 30], 0.002) == pytest.approx([-0.05, -0.06, -0.06])


def test_a_wrong_pass_that_a_third_settles_is_worth_thinking_on_from() -> None:
    assert worths([0.0, 0.5, 1.0, 1.0], [20, 25, 25, 25], 0.002) == pytest.approx([0.9, 0.45, -0.05])


def tried(success: float, *attempts: list[float]) -> Tried:
    """Two tokens of prompt, a pass of three tokens, a blank line, and episodes of two tokens and a blank line."""
    made = [
        Attempt(
            list(range(10, 10 + 3 * len(one) - 1)), [4 + 3 * k + 2 for k in range(len(one) - 1)], one, [3] * len(one)
        )
        for one in attempts
    ]
    return Tried([7, 8], [0, 1, 2, 3], 3, success, 3, made)


def test_what_ends_right_is_imitated_and_decisions_are_not() -> None:
    first, onward = lessons([tried(0.0, [0.5, 1.0])], 0.01)
    assert first.ids == [7, 8, 0, 1, 2, 3]
    assert first.kept == [0, 0, 1, 1, 1, 0]
    assert not any(first.learned)
    assert first.worth == [0, 0, 0, 0, 0, 1]
    assert onward.ids == [7, 8, 0, 1, 2, 3, 10, 11, 12, 13, 14]
    assert not any(onward.kept)
    assert onward.learned == [0, 0, *[0, 0, 0], 0, *[1, 1], 0, *[1, 1]]
    assert onward.worth == pytest.approx([0, 0, 0, 0, 0, 0, 0, 0, 0.5, 0, 0])


def test_thinking_that_ends_wrong_is_not_imitated_but_its_decision_is_learned() -> None:
    first, onward = lessons([tried(0.2, [0.1])], 0.01)
    assert first.worth[-1] == -1
    assert not any(onward.learned)


def test_the_worth_of_a_second_episode_is_the_mean_over_the_attempts_in_units_of_the_mean() -> None:
    mixed = tried(0.0, [0.0], [1.0], [0.0], [1.0])
    assert first_worth(mixed, 0.01) == pytest.approx(0.5 - 0.03)
    first, onward, mended, right = lessons([mixed, tried(1.0)], 0.01)
    assert (first.worth[-1], right.worth[-1]) == pytest.approx((0.47 / 0.25, -0.03 / 0.25))
    assert not any(onward.learned)
    assert not any(mended.worth)
    assert mended.learned == [0] * 6 + [1, 1]


def test_a_right_pass_is_kept_and_thinking_on_costs_a_check_as_long() -> None:
    assert first_worth(tried(1.0), 0.01) == pytest.approx(-0.03)
    [lesson] = lessons([tried(1.0)], 0.01)
    assert lesson.kept == [0, 0, 1, 1, 1, 0]
    assert not any(lesson.learned)
    assert lesson.worth == [0, 0, 0, 0, 0, -1]


@given(st.floats(-6, -0.01), st.floats(-1, 1).filter(lambda worth: abs(worth) > 0.01), st.sampled_from([0.0, 0.5, 1.0]))
def test_a_step_makes_what_is_worth_it_likelier(logp: float, worth: float, sharp: float) -> None:
    value = torch.tensor([logp], requires_grad=True)
    decision_loss(value, torch.tensor([worth]), sharp).sum().backward()
    assert value.grad is not None
    assert value.grad.item() * worth < 0


def test_where_worths_differ_the_first_loss_ends_in_between_and_the_last_at_an_end() -> None:
    worth = torch.tensor([0.9, *[-0.1] * 6])  # together 0.3
    logit = torch.linspace(-8, 8, 1601)[:, None].expand(-1, 7)
    blunt, sharp = (decision_loss(torch.nn.functional.logsigmoid(logit), worth, s).sum(1) for s in (0.0, 1.0))
    assert torch.sigmoid(logit[blunt.argmin(), 0]) == pytest.approx(0.9 / 1.5, abs=0.01)
    assert sharp.argmin() == 1600
    assert sharp[-1] == pytest.approx(-0.3 * SHARP_WEIGHT, abs=0.01)
