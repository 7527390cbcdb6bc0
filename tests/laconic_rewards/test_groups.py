"""Rewards of rollouts whose groups are named: the trainer's own values, in any order."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laconic_rewards import Rollout, Settings, advantages, leave_one_out, length_reward, rewards

ROLLOUTS = st.lists(
    st.builds(Rollout, st.sampled_from("abc"), st.booleans(), st.integers(0, 100)), min_size=1, max_size=12
)
SETTINGS = st.builds(
    Settings,
    rule=st.sampled_from(["alpha", "truncation", "solve_rate"]),
    alpha=st.floats(0, 0.9),
    max_tokens=st.just(100),
    overlong_window=st.integers(0, 100),
)


def test_adjacent_groups_are_rewarded_as_the_trainer_does():
    asked = [Rollout("q", True, 10), Rollout("q", True, 30), Rollout("q", False, 5)]
    rollouts = [*asked, Rollout("r", True, 7), Rollout("r", True, 9), Rollout("r", False, 1)]
    expected = length_reward(torch.tensor([1.0, 1, 0, 1, 1, 0]), torch.tensor([10, 30, 5, 7, 9, 1]), 3, 0.4)
    assert torch.equal(rewards(rollouts, Settings(alpha=0.4)), expected)
    assert torch.equal(advantages(rollouts, Settings(alpha=0.4)), leave_one_out(expected, 3))


@given(ROLLOUTS, SETTINGS, st.randoms(use_true_random=False))
def test_the_order_of_a_batch_changes_nothing(rollouts: list[Rollout], settings: Settings, rng: random.Random):
    order = list(range(len(rollouts)))
    rng.shuffle(order)
    shuffled = advantages([rollouts[at] for at in order], settings)
    torch.testing.assert_close(shuffled, advantages(rollouts, settings)[order])


@given(ROLLOUTS, SETTINGS)
def test_a_group_is_compared_with_itself_alone(rollouts: list[Rollout], settings: Settings):
    mine = [at for at, rollout in enumerate(rollouts) if rollout.group == rollouts[0].group]
    alone = advantages([rollouts[at] for at in mine], settings)
    torch.testing.assert_close(advantages(rollouts, settings)[mine], alone)
    assert alone.sum().item() == pytest.approx(0, abs=1e-4)


def test_a_rollout_alone_in_its_group_has_nothing_to_be_compared_with():
    assert advantages([Rollout("q", True, 9), Rollout("r", False, 3)], Settings()).tolist() == [0, 0]


def test_the_overlong_punishment_is_added():
    rollouts = [Rollout("q", True, 100), Rollout("q", True, 50)]
    assert rewards(rollouts, Settings(max_tokens=100, overlong_window=50)).tolist() == [0, 1]


def test_normalised_advantages_have_a_standard_deviation_of_one():
    rollouts = [Rollout("q", True, 1), Rollout("q", False, 1), Rollout("r", False, 1), Rollout("r", False, 1)]
    assert advantages(rollouts, Settings(normalise=True)).std(correction=0).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rule": "shortest"}, "rule"),
        ({"alpha": 1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"rule": "truncation"}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"overlong_window": 5}, "max_tokens"),
        ({"max_tokens": 4, "overlong_window": 5}, "overlong_window"),
    ],
)
def test_settings_out_of_range_are_named(settings, named):
    with pytest.raises(ValueError, match=f"^{named} must be"):
        Settings(**settings)


def test_negative_lengths_are_refused():
    with pytest.raises(ValueError, match="tokens must be at least 0, got -1 in rollout 1"):
        rewards([Rollout("q", True, 1), Rollout("q", True, -1)], Settings())
