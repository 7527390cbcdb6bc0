import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.rewards.credit import (
    FLOOR,
    RATIO,
    TokenRewards,
    batch_normalised,
    counterfactual_advantages,
    counterfactual_credit,
    dense_rewards,
    episode_advantages,
    episode_credit,
    leave_one_out,
    normalised_costs,
    outcome_advantages,
    paper_advantages,
    token_rewards,
    truncated_mean,
)

rewards = st.integers(2, 8).flatmap(
    lambda size: st.lists(st.lists(st.floats(-5, 5), min_size=size, max_size=size), min_size=1, max_size=4)
)

costs = st.integers(2, 8).flatmap(
    lambda size: st.lists(
        st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 4000)), min_size=size, max_size=size),
        min_size=1,
        max_size=4,
    )
)


@given(rewards)
def test_each_reward_is_compared_with_the_mean_of_the_others(groups):
    result = leave_one_out(torch.tensor(groups).view(-1), len(groups[0])).tolist()
    expected = [r - sum(g[:i] + g[i + 1 :]) / (len(g) - 1) for g in groups for i, r in enumerate(g)]
    assert result == pytest.approx(expected, abs=1e-4)


@given(rewards)
def test_a_group_s_advantages_add_up_to_zero(groups):
    result = leave_one_out(torch.tensor(groups).view(-1), len(groups[0])).view(len(groups), -1)
    assert result.sum(1).tolist() == pytest.approx([0.0] * len(groups), abs=1e-4)


def test_leave_one_out_is_not_divided_by_a_standard_deviation():
    small = leave_one_out(torch.tensor([0.0, 0.01]), 2)
    large = leave_one_out(torch.tensor([0.0, 1.0]), 2)
    assert torch.allclose(large, 100 * small)


@pytest.mark.parametrize(("count", "size"), [(4, 1), (5, 2), (4, 3)])
def test_incomplete_groups_are_rejected(count, size):
    with pytest.raises(ValueError, match="whole groups"):
        leave_one_out(torch.zeros(count), size)


def counterfactual(outcome, worth, dense, size, weight=0.8):
    most = max(map(len, dense))
    rows = torch.tensor([row + [9.0] * (most - len(row)) for row in dense])
    worths = torch.tensor([row + [9.0] * (most + 1 - len(row)) for row in worth])
    counts = torch.tensor([len(row) for row in dense])
    return counterfactual_credit(torch.tensor(outcome), worths, rows, counts, group_size=size, progress_weight=weight)


@given(st.data())
def test_counterfactual_credit_compares_first_episodes_and_later_ones_with_stopping(data):
    size, most = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 4))
    value = st.floats(-1, 1)
    outcome = data.draw(st.lists(value, min_size=2 * size, max_size=2 * size))
    dense = [data.draw(st.lists(value, min_size=1, max_size=most)) for _ in outcome]
    worth = [data.draw(st.lists(value, min_size=len(row) + 1, max_size=len(row) + 1)) for row in dense]
    result = counterfactual(outcome, worth, dense, size)
    brought = [outcome[i] + 0.8 * row[0] for i, row in enumerate(dense)]
    for i, row in enumerate(dense):
        others = [brought[j] for j in range(i // size * size, i // size * size + size) if j != i]
        expected = [brought[i] - sum(others) / len(others)]
        expected += [outcome[i] + 0.8 * r - w for r, w in zip([*row[1:], 0], worth[i][1:], strict=True)]
        assert result[i].tolist() == pytest.approx(expected + [0.0] * (result.size(1) - len(expected)), abs=1e-5)


def test_a_check_that_finds_a_slip_is_rewarded_and_a_stop_elsewhere_is_not_blamed_for_it():
    result = counterfactual([1.0, 1.0], [[0.0, 0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [1.0]], 2)
    assert result[0, 1] == pytest.approx(1.8)
    assert result[1, 1] == 0, "a group's mean would have held the other's slip against it"


def test_a_check_that_finds_nothing_pays_for_itself_and_not_the_episode_before_it():
    result = counterfactual([1.0, 1.0], [[0.0, 1.0, 1.0], [0.0, 1.0]], [[1.0, -0.1], [1.0]], 2)
    assert result[0, 1] == pytest.approx(-0.08)
    assert result[0, 0] == result[1, 0] == result[1, 1] == 0


def test_a_first_episode_that_is_right_by_itself_earns_more_than_one_that_a_check_corrects():
    result = counterfactual([1.0, 1.0], [[0.0, 0.0, 1.0], [0.0, 1.0]], [[0.0, 1.0], [1.0]], 2)
    assert result[1, 0] == pytest.approx(0.8)
    assert result[0, 0] == pytest.approx(-0.8)


@given(st.data())
def test_episode_credit_compares_with_the_others_outcomes_and_episodes(data):
    size, most = data.draw(st.integers(2, 4)), data.draw(st.integers(1, 4))
    value = st.floats(-1, 1)
    outcome = data.draw(st.lists(value, min_size=2 * size, max_size=2 * size))
    dense = [data.draw(st.lists(value, min_size=1, max_size=most)) for _ in outcome]
    rows = torch.tensor([row + [9.0] * (most - len(row)) for row in dense])
    result = episode_credit(torch.tensor(outcome), rows, torch.tensor([len(row) for row in dense]), size, 0.8)
    for i, row in enumerate(dense):
        others = [j for j in range(i // size * size, i // size * size + size) if j != i]
        of_outcome = outcome[i] - sum(outcome[j] for j in others) / len(others)
        episodes = [r for j in others for r in dense[j]]
        expected = [of_outcome + 0.8 * (r - sum(episodes) / len(episodes)) for r in row]
        assert result[i].tolist() == pytest.approx(expected + [0.0] * (most - len(row)), abs=1e-5)


def test_a_group_of_equal_outcomes_still_learns_from_its_gains_and_without_them_adds_nothing():
    """So groups of equal outcomes need not be left out: with a dense reward they teach, and without one they are 0."""
    outcome, count = torch.ones(2), torch.tensor([1, 1])
    assert episode_credit(outcome, torch.tensor([[0.5], [0.3]]), count, 2, 1.0).flatten().tolist() == (
        pytest.approx([0.2, -0.2])
    )
    assert leave_one_out(outcome, 2).eq(0).all()


def test_without_a_dense_reward_episode_credit_is_leave_one_out():
    outcome = torch.tensor([1.0, 0.0, 0.5, 0.25])
    result = episode_credit(outcome, torch.zeros(4, 3), torch.tensor([1, 2, 3, 3]), 2, 0.8)
    torch.testing.assert_close(result[:, 0], leave_one_out(outcome, 2))


def test_episode_credit_does_not_favour_short_rollouts():
    """The hazard of the paper's per-token mean: the same gains in fewer tokens are the same advantages here."""
    gains = torch.tensor([[0.5, 0.0], [0.5, 0.0]])
    result = episode_credit(torch.ones(2), gains, torch.tensor([2, 2]), 2, 0.8)
    assert torch.equal(result[0], result[1])

    index = torch.tensor([[0, 1, -1, -1], [0, 0, 1, 1]])
    token = token_rewards(torch.ones(2), gains, torch.full((2, 4), -1.0), index, 0.8)
    paper = paper_advantages(token, token.mean_B, 2, slice(0, 2)).advantage_BT
    assert paper[0, 0] > 0 > paper[1, 0]


def test_token_reward_is_proportional_to_surprisal_within_episode():
    logp = torch.tensor([[-1.0, -3.0, -2.0, 0.0], [0.0, 0.0, -7.0, -7.0]])
    index = torch.tensor([[0, 0, 1, 1], [0, 0, -1, -1]])
    result = token_rewards(torch.tensor([1.0, 1.0]), torch.tensor([[0.5, -0.25], [0.1, 9.0]]), logp, index, 0.8)
    first, second = 1 / 2 + 0.8 * 0.5, 1 / 2 + 0.8 * -0.25
    assert result.reward_BT[0].tolist() == pytest.approx([first / 4, first * 3 / 4, second, 0])
    assert result.reward_BT[1].tolist() == pytest.approx([1.08 / 2, 1.08 / 2, 0, 0]), "nothing surprised: equal shares"
    assert result.mean_B.tolist() == pytest.approx([(first + second) / 4, 0.54])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=200))
def test_a_truncated_mean_leaves_out_the_ends(values):
    cut = int(len(values) * 0.025)
    middle = sorted(values)[cut : len(values) - cut]
    assert truncated_mean(torch.tensor(values, dtype=torch.float64)).item() == pytest.approx(sum(middle) / len(middle))


def test_an_outlier_does_not_move_a_truncated_mean():
    values = torch.ones(100)
    values[7] = 1e6
    assert truncated_mean(values) == 1


def test_paper_advantages_are_the_standard_score_in_the_group_times_the_token_s_ratio():
    reward = torch.tensor([[0.2, 0.4], [0.1, 0.1], [0.3, 0.1], [0.5, 0.5]])
    means = reward.mean(1)
    result = paper_advantages(TokenRewards(reward, means, torch.full((len(reward),), 100)), means, 2, slice(0, 4))
    for i, j in ((0, 1), (1, 0), (2, 3), (3, 2)):
        pair = means[[i, j]]
        score = (means[i] - pair.mean()) / (pair.std() + 1e-6)
        assert result.advantage_BT[i].tolist() == pytest.approx((score * reward[i] / means[i]).tolist())
    assert (result.floored_share, result.clipped_share) == (0, 0)


def test_small_means_are_floored_clipped_and_counted():
    reward = torch.tensor([[1.0, -1.0 + 1e-9], [0.1, 0.1]])
    token = TokenRewards(reward, reward.mean(1), torch.full((len(reward),), 100))
    result = paper_advantages(token, token.mean_B, 2, slice(0, 2))
    assert result.advantage_BT.isfinite().all()
    assert result.advantage_BT.abs().max() <= RATIO
    assert result.floored_share == 0.5
    assert result.clipped_share == 0.5
    assert token.mean_B[0].abs() < FLOOR / 100


def test_a_floored_mean_keeps_its_sign():
    reward = torch.tensor([[-1e-5, -3e-5], [0.9, 0.9]])
    token = TokenRewards(reward, reward.mean(1), torch.full((len(reward),), 100))
    result = paper_advantages(token, token.mean_B, 2, slice(0, 2))
    assert result.floored_share == 0.5
    assert result.advantage_BT[0].lt(0).all(), "the poorer rollout, all of whose tokens cost, is not rewarded"


def test_paper_advantages_can_reward_a_bad_token_of_a_poor_rollout():
    """A hazard of the paper's formula that is left in: A_i < 0 < m_i turns a negative reward into an advantage."""
    reward = torch.tensor([[0.5, -0.1], [0.9, 0.9]])
    token = TokenRewards(reward, reward.mean(1), torch.full((len(reward),), 100))
    assert paper_advantages(token, token.mean_B, 2, slice(0, 2)).advantage_BT[0, 1] > 0


def test_a_process_gets_its_own_rows_compared_with_those_of_all_processes():
    reward = torch.rand(4, 3)
    means = reward.mean(1)
    whole = paper_advantages(
        TokenRewards(reward, means, torch.full((len(reward),), 100)), means, 4, slice(0, 4)
    ).advantage_BT
    half = paper_advantages(
        TokenRewards(reward[2:], means[2:], torch.full((2,), 100)), means, 4, slice(2, 4)
    ).advantage_BT
    assert torch.equal(whole[2:], half)


def test_normalised_costs_average_one_per_rollout_and_keep_their_proportions():
    torch.manual_seed(0)
    cost = torch.rand(5, 3)
    assert normalised_costs(cost, 5).sum(1).mean().item() == pytest.approx(1)
    torch.testing.assert_close(normalised_costs(cost, 5), normalised_costs(7 * cost, 5))
    torch.testing.assert_close(normalised_costs(cost, 5) * cost[0, 0] / normalised_costs(cost, 5)[0, 0], cost)
    assert normalised_costs(torch.zeros(2, 2), 2).tolist() == [[0, 0], [0, 0]]


def test_costs_are_scaled_by_the_average_rollout_of_their_own_group():
    easy, hard = [[10.0, 10], [20, 0]], [[60.0, 20], [40, 0]]
    result = normalised_costs(torch.tensor(easy + hard), 2)
    assert result.tolist() == [pytest.approx(row) for row in ([0.5, 0.5], [1, 0], [1, 1 / 3], [2 / 3, 0])]


@given(costs)
def test_in_every_group_the_average_rollout_costs_one(rows):
    shares = normalised_costs(torch.tensor([cost for row in rows for cost in row], dtype=torch.float32), len(rows[0]))
    assert shares.view(len(rows), -1).sum(1).tolist() == pytest.approx([len(rows[0])] * len(rows), rel=1e-4)


def test_a_group_without_costs_keeps_costs_of_zero():
    assert normalised_costs(torch.zeros(2, 3), 2).tolist() == [[0, 0, 0]] * 2


def test_costs_of_an_incomplete_group_are_rejected():
    with pytest.raises(ValueError, match="not whole groups of 2"):
        normalised_costs(torch.ones(3, 2), 2)


OUTCOME, COUNT = torch.tensor([1.0, 0.0, 0.5, 0.25]), torch.tensor([2, 1, 2, 1])
DENSE = torch.tensor([[0.5, 0.25], [0.1, 9.0], [-0.5, 1.0], [0.2, 9.0]])
INDEX = torch.tensor([[0, 0, 1, 1], [0, 0, 0, -1], [0, 1, 1, -1], [0, 0, -1, -1]])
SECOND_HALF = slice(2, 4)


def test_without_a_dense_reward_every_token_of_a_rollout_has_its_advantage_and_padding_has_none():
    mask = (INDEX >= 0).long()
    result = outcome_advantages(OUTCOME, mask[SECOND_HALF], own=SECOND_HALF, group_size=2)
    assert result.tolist() == [[0.25, 0.25, 0.25, 0], [-0.25, -0.25, 0, 0]]


def test_every_token_has_the_advantage_of_its_own_episode():
    credit = episode_credit(OUTCOME, DENSE, COUNT, 2, 0.8)
    result = episode_advantages(
        OUTCOME, DENSE, COUNT, index_BT=INDEX[SECOND_HALF], own=SECOND_HALF, group_size=2, progress_weight=0.8
    )
    (a, b), (c, _) = credit[SECOND_HALF].tolist()
    assert result.tolist() == [[a, b, b, 0], [c, c, 0, 0]]


def test_the_tokens_that_stop_the_thinking_have_the_advantage_of_stopping():
    success = torch.tensor([[0.1, 0.6, 0.9], [0.1, 0.4, 0.4], [0.2, 0.7, 0.8], [0.2, 0.5, 0.5]])
    stopped = torch.tensor([[0, 0, 0, 1], [0, 1, 1, 0], [0, 0, 1, 0], [0, 1, 0, 0]]).bool()
    how = {"group_size": 2, "progress_weight": 0.8}
    credit = counterfactual_credit(OUTCOME, success * (1 - 0.4 / 2), DENSE, COUNT, **how)
    result = counterfactual_advantages(
        OUTCOME,
        success,
        DENSE,
        COUNT,
        index_BT=INDEX[SECOND_HALF],
        stopped_BT=stopped[SECOND_HALF],
        own=SECOND_HALF,
        outcome_alpha=0.4,
        **how,
    )
    (a, b, c), (d, e, _) = credit[SECOND_HALF].tolist()
    assert result.tolist() == [[a, b, c, 0], [d, e, 0, 0]]


def test_information_is_charged_on_one_scale_and_tokens_on_each_group_s_own_times_alpha():
    gain, cost = torch.full((4, 1), 0.5), torch.tensor([[1.0], [3.0], [10.0], [30.0]])
    how = {"compression_weight": 0.6, "alpha": 0.4, "group_size": 2}
    reward, charged = dense_rewards(gain, cost, charge="information", **how)
    assert charged.flatten().tolist() == pytest.approx([1 / 11, 3 / 11, 10 / 11, 30 / 11])
    torch.testing.assert_close(reward, gain - 0.6 * charged)
    reward, charged = dense_rewards(gain, cost, charge="tokens", **how)
    assert charged.flatten().tolist() == pytest.approx([0.4 * 0.5, 0.4 * 1.5] * 2)
    torch.testing.assert_close(reward, gain - 0.6 * charged)


def test_the_batch_s_standard_deviation_is_the_scale_and_groups_without_a_difference_stay_0():
    reward = torch.tensor([0.0, 0, 0, 0, 0, 1, 0, 0])
    plain = leave_one_out(reward, 4)
    normalised = batch_normalised(plain)
    assert normalised[:4].tolist() == [0] * 4
    assert normalised.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert torch.allclose(normalised * plain.std(correction=0), plain, atol=1e-5)
    assert batch_normalised(torch.zeros(4)).tolist() == [0] * 4


def test_all_processes_are_normalised_by_one_scale():
    reward, mask = torch.tensor([0.0, 1, 0, 0]), torch.ones(2, 3)
    parts = [outcome_advantages(reward, mask, own=slice(at, at + 2), group_size=4, normalise=True) for at in (0, 2)]
    expected = batch_normalised(leave_one_out(reward, 4))
    assert torch.allclose(torch.cat(parts)[:, 0], expected)
