import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.rewards.length import length_reward


def written_out(correct: list[int], lengths: list[int], alpha: float) -> list[float]:
    """The paper's formula for one group, in plain Python."""
    right = [n for n, c in zip(lengths, correct, strict=True) if c]
    if not right:
        return [0.0] * len(lengths)
    mean = sum(right) / len(right)
    std = math.sqrt(sum((n - mean) ** 2 for n in right) / len(right))
    return [
        c * (1 - alpha / (1 + math.exp(-max(-60.0, min(60.0, (n - mean) / (std + 1e-7))))))
        for n, c in zip(lengths, correct, strict=True)
    ]


groups = st.integers(2, 8).flatmap(
    lambda size: st.lists(
        st.lists(st.tuples(st.integers(0, 1), st.integers(1, 4000)), min_size=size, max_size=size),
        min_size=1,
        max_size=4,
    )
)


@given(groups, st.floats(0, 0.99))
def test_the_length_reward_is_the_paper_s_formula(rows, alpha):
    flat = [pair for row in rows for pair in row]
    result = length_reward(torch.tensor([c for c, _ in flat]), torch.tensor([n for _, n in flat]), len(rows[0]), alpha)
    expected = [r for row in rows for r in written_out([c for c, _ in row], [n for _, n in row], alpha)]
    assert result.tolist() == pytest.approx(expected, abs=1e-5)


@given(groups)
def test_alpha_zero_rewards_correctness_alone(rows):
    correct = torch.tensor([c for row in rows for c, _ in row])
    lengths = torch.tensor([n for row in rows for _, n in row])
    assert torch.equal(length_reward(correct, lengths, len(rows[0]), 0.0), correct.float())


def test_a_group_without_a_correct_response_earns_nothing():
    assert length_reward(torch.zeros(4), torch.tensor([1.0, 2, 3, 4]), 4, 0.4).tolist() == [0, 0, 0, 0]


def test_one_correct_response_gets_one_minus_half_alpha():
    assert length_reward(torch.tensor([0.0, 1, 0]), torch.tensor([9.0, 5, 1]), 3, 0.4).tolist() == pytest.approx(
        [0, 0.8, 0]
    )


def test_equally_long_correct_responses_get_one_minus_half_alpha():
    assert length_reward(torch.ones(3), torch.full((3,), 7.0), 3, 0.2).tolist() == pytest.approx([0.9] * 3)


def test_the_lengths_of_incorrect_responses_do_not_matter():
    correct = torch.tensor([1.0, 1, 0, 1])
    short, long = torch.tensor([10.0, 20, 1, 30]), torch.tensor([10.0, 20, 99_999, 30])
    assert torch.equal(length_reward(correct, short, 4, 0.3), length_reward(correct, long, 4, 0.3))


def test_a_shorter_correct_response_earns_more():
    rewards = length_reward(torch.ones(3), torch.tensor([10.0, 20, 30]), 3, 0.3)
    assert rewards[0] > rewards[1] > rewards[2]


@pytest.mark.parametrize("alpha", [-0.1, 1.0, 2.0, math.nan])
def test_alpha_outside_its_range_is_rejected(alpha):
    with pytest.raises(ValueError, match="alpha"):
        length_reward(torch.ones(2), torch.ones(2), 2, alpha)


def test_incomplete_groups_are_rejected():
    with pytest.raises(ValueError, match="whole groups"):
        length_reward(torch.ones(5), torch.ones(5), 2, 0.1)
    with pytest.raises(ValueError, match="must both be"):
        length_reward(torch.ones(4), torch.ones(5), 2, 0.1)
