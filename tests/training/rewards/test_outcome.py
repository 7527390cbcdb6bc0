"""What is a whole rollout worth, by each rule?"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.rewards.length import length_reward
from training.rewards.outcome import (
    no_thinking_reward,
    outcome_reward,
    overlong_penalty,
    solve_rate_reward,
    truncation_reward,
)

LONGEST = 1000
groups = st.integers(1, 8).flatmap(
    lambda size: st.lists(
        st.lists(st.tuples(st.integers(0, 1), st.integers(1, LONGEST)), min_size=size, max_size=size),
        min_size=1,
        max_size=4,
    )
)


def columns(rows):
    flat = [pair for row in rows for pair in row]
    return torch.tensor([c for c, _ in flat]), torch.tensor([n for _, n in flat])


@given(groups, st.sampled_from(["alpha", "truncation", "solve_rate"]))
def test_alpha_zero_rewards_correctness_alone_by_every_rule(rows, rule):
    correct, tokens = columns(rows)
    result = outcome_reward(rule, correct, tokens, group_size=len(rows[0]), alpha=0.0, max_tokens=LONGEST)
    assert result.tolist() == correct.tolist()


@given(groups, st.floats(0, 0.99))
def test_the_solve_rate_scales_the_price_of_a_token(rows, alpha):
    correct, tokens = columns(rows)
    expected = [
        right - alpha * max(sum(r for r, _ in row) / len(row), 1 / len(row)) * length / LONGEST
        for row in rows
        for right, length in row
    ]
    result = solve_rate_reward(correct, tokens, len(rows[0]), alpha, max_tokens=LONGEST)
    assert result.tolist() == pytest.approx(expected, abs=1e-5)


def test_an_easy_prompt_pays_more_for_the_same_tokens_than_a_hard_one():
    correct = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0])
    reward = solve_rate_reward(correct, torch.full((8,), 500), 4, 0.4, max_tokens=LONGEST)
    assert reward.tolist() == pytest.approx([0.8] * 4 + [0.95] + [-0.05] * 3)


def test_a_response_beyond_the_limit_counts_as_wrong():
    reward = truncation_reward(torch.tensor([1, 1, 0, 1]), torch.tensor([100, 101, 1, 99]), 100)
    assert reward.tolist() == [1, 0, 0, 1]


def test_the_limit_of_a_checkpoint_follows_from_its_alpha():
    correct, tokens = torch.ones(3), torch.tensor([699, 700, 701])
    reward = outcome_reward("truncation", correct, tokens, group_size=3, alpha=0.3, max_tokens=LONGEST)
    assert reward.tolist() == [1, 1, 0]


def test_the_rule_alpha_is_the_length_reward():
    correct, tokens = torch.tensor([1, 0, 1, 1]), torch.tensor([5, 9, 7, 3])
    reward = outcome_reward("alpha", correct, tokens, group_size=4, alpha=0.4, max_tokens=LONGEST)
    assert torch.equal(reward, length_reward(correct, tokens, 4, 0.4))


@pytest.mark.parametrize(("tokens", "penalty"), [(1, 0), (800, 0), (850, -0.25), (999, -0.995), (1000, -1)])
def test_the_penalty_grows_linearly_over_the_window(tokens, penalty):
    result = overlong_penalty(torch.tensor([tokens]), max_tokens=1000, window=200)
    assert result.item() == pytest.approx(penalty)


@pytest.mark.parametrize("window", [0, -1, 1001])
def test_a_window_outside_the_response_is_refused(window):
    with pytest.raises(ValueError, match="window must be in 1"):
        overlong_penalty(torch.tensor([1]), max_tokens=1000, window=window)


def test_skipping_the_thinking_earns_a_bonus_and_is_compared_with_the_reference():
    thinks = torch.tensor([True, False, True, False])
    reward = no_thinking_reward(torch.tensor([1, 1, 0, 0]), thinks, torch.full((4,), 0.6), 4, 0.05)
    assert reward.tolist() == pytest.approx([0.4, 0.45, -0.6, -0.55])


@pytest.mark.parametrize("rule", ["alpha", "truncation", "solve_rate"])
@pytest.mark.parametrize(
    ("correct", "tokens", "size", "alpha", "said"),
    [
        (torch.ones(4), torch.ones(4), 4, 1.0, "alpha must be in"),
        (torch.ones(4), torch.ones(4), 4, -0.1, "alpha must be in"),
        (torch.ones(4), torch.ones(3), 4, 0.1, r"\(B,\)"),
    ],
)
def test_what_makes_no_sense_is_refused_by_every_rule(rule, *, correct, tokens, size, alpha, said):
    with pytest.raises(ValueError, match=said):
        outcome_reward(rule, correct, tokens, group_size=size, alpha=alpha, max_tokens=LONGEST)


@pytest.mark.parametrize("rule", ["truncation", "solve_rate"])
@pytest.mark.parametrize("max_tokens", [0, -1])
def test_a_longest_response_of_no_tokens_is_refused_where_it_counts(rule, max_tokens):
    with pytest.raises(ValueError, match="max_tokens must be at least 1"):
        outcome_reward(rule, torch.ones(4), torch.ones(4), group_size=4, alpha=0.1, max_tokens=max_tokens)


@pytest.mark.parametrize("rule", ["alpha", "truncation", "solve_rate"])
@given(rows=groups)
def test_whether_a_response_is_correct_may_be_a_boolean_in_every_rule(rule, rows):
    correct, tokens = columns(rows)
    given_as = [
        outcome_reward(rule, one, tokens, group_size=len(rows[0]), alpha=0.3, max_tokens=LONGEST)
        for one in (correct, correct.bool(), correct.float())
    ]
    assert torch.equal(given_as[0], given_as[1])
    assert torch.equal(given_as[0], given_as[2])


@pytest.mark.parametrize("rule", ["alpha", "solve_rate"])
def test_incomplete_groups_are_refused_where_groups_count(rule):
    with pytest.raises(ValueError, match="whole groups"):
        outcome_reward(rule, torch.ones(5), torch.ones(5), group_size=4, alpha=0.1, max_tokens=LONGEST)


def test_a_negative_bonus_is_refused():
    with pytest.raises(ValueError, match="bonus must be"):
        no_thinking_reward(torch.ones(2), torch.ones(2), torch.zeros(2), 2, -0.1)
