import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.rewards import decisions
from training.rewards.decisions import before_fork, decision_advantages, opening_tokens, thinking_on


def test_thinking_on_is_worth_what_it_ended_with_less_every_later_price():
    success = torch.tensor([[0.0, 0.5, 0.4, 0.9]])
    price = torch.tensor([[0.3, 0.1, 0.2]])
    worth = thinking_on(success, price, torch.tensor([3]))
    assert worth[0].tolist() == pytest.approx([0.9 - 0.6, 0.9 - 0.5 - 0.3, 0.9 - 0.4 - 0.2])


def test_nothing_is_worth_anything_after_the_last_episode():
    success = torch.tensor([[0.0, 0.5, 0.5, 0.5]])  # constant after the last episode, as the grader returns it
    worth = thinking_on(success, torch.full((1, 3), 0.1), torch.tensor([1]))
    assert worth[0].tolist() == pytest.approx([0.4, 0.0, 0.0])


def test_the_first_token_of_every_later_episode_decided_to_think_on():
    index = torch.tensor([[0, 0, 1, 1, 2], [0, 1, 1, -1, -1]])
    expected = [[False, False, True, False, True], [False, True, False, False, False]]
    assert opening_tokens(index).tolist() == expected


@given(st.floats(0.02, 0.9), st.floats(-1, 1))
def test_a_decision_s_logit_moves_by_its_worth_however_likely_it_was(p, worth):
    """d log p / d logit is 1 - p, so advantage times it is the worth."""
    logit = torch.tensor(math.log(p / (1 - p)), dtype=torch.float64, requires_grad=True)
    logp = torch.nn.functional.logsigmoid(logit)
    advantage = decision_advantages(torch.tensor([[worth]], dtype=torch.float64), logp.detach()[None, None])
    (advantage * logp).sum().backward()
    assert logit.grad.item() == pytest.approx(worth, abs=1e-9)


@pytest.mark.parametrize(
    ("logit", "worth", "moves"), [(-4.5, -1, False), (-4.5, 1, True), (4.5, 1, False), (4.5, -1, True)]
)
def test_a_logit_that_is_far_out_is_only_pushed_back(logit, worth, moves):
    logp = torch.nn.functional.logsigmoid(torch.tensor([[float(logit)]]))
    assert bool(decision_advantages(torch.tensor([[float(worth)]]), logp) != 0) is moves


def test_a_nearly_certain_decision_is_divided_by_a_tenth_at_least():
    advantage = decision_advantages(torch.tensor([[-1.0]]), torch.tensor([[math.log(0.99)]]))
    assert advantage.item() == pytest.approx(-decisions.LARGEST_FACTOR)


def test_episodes_before_the_fork_are_the_policy_s_own():
    assert before_fork(torch.tensor([1, 10**9]), 3).tolist() == [[True, False, False], [True, True, True]]


def test_the_log_says_what_forks_brought_after_right_and_after_wrong_episodes():
    success = torch.tensor([[0.0, 0.2, 0.9], [0.0, 0.9, 0.9], [0.0, 0.9, 0.9]])
    worth = torch.tensor([[0.9, 0.6], [0.9, -0.1], [0.9, 0.0]])
    opens = torch.tensor([[False, True], [False, True], [False, False]])
    logp = torch.full((3, 2), math.log(0.25))
    logged = decisions.figures(worth, success, logp, opens, torch.tensor([1, 1, 10**9]))
    assert logged == pytest.approx(
        {"fork/share": 2 / 3, "fork/probability": 0.25, "fork/worth_after_right": -0.1, "fork/worth_after_wrong": 0.6}
    )
