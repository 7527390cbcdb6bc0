import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.credit import leave_one_out

rewards = st.integers(2, 8).flatmap(
    lambda size: st.lists(st.lists(st.floats(-5, 5), min_size=size, max_size=size), min_size=1, max_size=4)
)


@given(rewards)
def test_each_reward_is_compared_with_the_mean_of_the_others(groups):
    found = leave_one_out(torch.tensor(groups).view(-1), len(groups[0])).tolist()
    expected = [r - sum(g[:i] + g[i + 1 :]) / (len(g) - 1) for g in groups for i, r in enumerate(g)]
    assert found == pytest.approx(expected, abs=1e-4)


@given(rewards)
def test_a_group_s_advantages_add_up_to_zero(groups):
    found = leave_one_out(torch.tensor(groups).view(-1), len(groups[0])).view(len(groups), -1)
    assert found.sum(1).tolist() == pytest.approx([0.0] * len(groups), abs=1e-4)


def test_it_is_not_divided_by_a_standard_deviation():
    small = leave_one_out(torch.tensor([0.0, 0.01]), 2)
    large = leave_one_out(torch.tensor([0.0, 1.0]), 2)
    assert torch.allclose(large, 100 * small)


@pytest.mark.parametrize(("count", "size"), [(4, 1), (5, 2), (4, 3)])
def test_broken_groups_are_refused(count, size):
    with pytest.raises(ValueError, match="whole groups"):
        leave_one_out(torch.zeros(count), size)
