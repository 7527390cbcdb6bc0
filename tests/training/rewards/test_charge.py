"""Is the tamed charge what an independent computation in float64 says, episode by episode and step by step?"""

from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.config import DenseReward
from training.rewards.charge import DECAY, RunningMean, information_cost, mean_rollout, prices, winsorised
from training.rewards.compression import DAMPING, scores
from training.rewards.credit import dense_rewards
from training.trainer import CheckpointTrainer

RANK, EPISODES, GROUP = 2, 3, 2
Rollout = list[np.ndarray]
"""The proxy gradients of each episode's tokens, (tokens, RANK, 2): one column for either factor."""


def reference(steps: list[list[Rollout]], settings: DenseReward) -> list[list[list[float]]]:
    """Charges by step, rollout and episode: loops, an explicit inverse, no function of ours."""
    charges, history = [], []
    for rollouts in steps:
        every = [np.outer(token[:, 0], token[:, 1]).ravel() for r in rollouts for episode in r for token in episode]
        fisher = sum(np.outer(g, g) for g in every) / len(every)
        fisher += np.eye(RANK**2) * DAMPING * np.trace(fisher) / RANK**2
        costs = []
        for rollout in rollouts:
            costs.append([])
            for episode in rollout:
                total = sum(np.outer(token[:, 0], token[:, 1]).ravel() for token in episode)
                rao = total @ np.linalg.inv(fisher) @ total
                cost = rao if settings.score == "rao" else rao**2
                costs[-1].append(cost / len(episode) if settings.per == "token" else cost)
        if settings.winsorise is not None:
            limit = interpolated_quantile([c for row in costs for c in row], settings.winsorise)
            costs = [[min(c, limit) for c in row] for row in costs]
        history.append(sum(map(sum, costs)) / len(costs))
        weights = [0.9**age for age in range(len(history))]
        mean = sum(w * m for w, m in zip(weights, reversed(history), strict=True)) / sum(weights)
        scale = mean if settings.scale == "running" else history[-1]
        charges.append([[c / scale for c in row] for row in costs])
    return charges


def interpolated_quantile(values: list[float], quantile: float) -> float:
    ordered = sorted(values)
    place = quantile * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def ours(steps: list[list[Rollout]], settings: DenseReward) -> list[list[list[float]]]:
    logged: list[dict[str, float]] = []
    trainer = SimpleNamespace(
        _dense=settings,
        _forks=None,
        charge_scale=RunningMean(),
        _log=logged.append,
        _alpha=0.3,
        num_generations=GROUP,
        _correct=torch.ones(len(steps[0])),
    )
    result = []
    for rollouts in steps:
        flat = [np.concatenate(rollout) for rollout in rollouts]
        width = max(map(len, flat)) + 1
        factors = torch.zeros(2, len(rollouts), width, RANK, dtype=torch.float64)
        index = torch.full((len(rollouts), width), -1)
        for row, (rollout, tokens) in enumerate(zip(rollouts, flat, strict=True)):
            factors[:, row, : len(tokens)] = torch.tensor(tokens).permute(2, 0, 1)
            index[row, : len(tokens)] = torch.tensor([k for k, episode in enumerate(rollout) for _ in episode])
        score = scores(factors[0], factors[1], index, EPISODES)
        cost = information_cost(score, index, score=settings.score, per=settings.per)
        count, gain = index.amax(1) + 1, torch.full_like(cost, 0.25)
        reward, charged = CheckpointTrainer._dense_rewards(
            trainer, gain, cost, torch.full((len(rollouts), EPISODES + 1), 0.5), count
        )
        torch.testing.assert_close(reward, 0.25 - settings.compression_weight * charged)
        result.append([row[: len(rollout)] for row, rollout in zip(charged.tolist(), rollouts, strict=True)])
    return result


def drawn(seed: int, steps: int) -> list[list[Rollout]]:
    """Steps of four rollouts whose tokens have heavy-tailed gradients."""
    rng = np.random.default_rng(seed)
    return [
        [
            [rng.standard_t(3, (int(rng.integers(1, 6)), RANK, 2)) for _ in range(int(rng.integers(1, EPISODES + 1)))]
            for _ in range(2 * GROUP)
        ]
        for _ in range(steps)
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"score": "rao"},
        {"per": "token"},
        {"winsorise": 0.6},
        {"scale": "running"},
        {"score": "rao", "per": "token", "winsorise": 0.6, "scale": "running"},
    ],
)
def test_the_charge_equals_an_independent_computation_over_three_steps(settings):
    dense = DenseReward.model_validate(settings)
    for seed in range(3):
        steps = drawn(seed, 3)
        for own, expected in zip(ours(steps, dense), reference(steps, dense), strict=True):
            for row, by_hand in zip(own, expected, strict=True):
                assert row == pytest.approx(by_hand, rel=1e-8)


def test_every_taming_makes_the_largest_episodes_a_smaller_part_of_the_charge():
    steps = drawn(7, 40)

    def top_share(**settings: object) -> float:
        costs = sorted(c for step in ours(steps, DenseReward.model_validate(settings)) for row in step for c in row)
        return sum(costs[-len(costs) // 20 :]) / sum(costs)

    as_in_the_paper = top_share()
    unsquared = top_share(score="rao")
    assert unsquared < 0.7 * as_in_the_paper
    assert top_share(winsorise=0.8) < as_in_the_paper
    assert top_share(score="rao", winsorise=0.8) < unsquared


costs = st.lists(st.lists(st.floats(0, 1e6), min_size=1, max_size=5), min_size=1, max_size=6)


@given(costs, st.floats(0.01, 0.99))
def test_only_costs_above_the_quantile_of_existing_episodes_change(rows, quantile):
    padded = torch.zeros(len(rows), 5, dtype=torch.float64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
    result = winsorised(padded, torch.tensor([len(row) for row in rows]), quantile)
    limit = interpolated_quantile([c for row in rows for c in row], quantile)
    for own, row in zip(result.tolist(), rows, strict=True):
        assert own[: len(row)] == pytest.approx([min(c, limit) for c in row], rel=1e-9, abs=1e-9)
        assert own[len(row) :] == [0] * (5 - len(row))


def test_a_batch_of_padding_has_no_quantile_and_stays_as_it_is():
    assert winsorised(torch.zeros(2, 3), torch.zeros(2), 0.99).eq(0).all()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_a_running_mean_weighs_each_step_by_its_age(values):
    mean = list(accumulate(values, RunningMean.after, initial=RunningMean()))[-1]
    weights = [DECAY**age for age in reversed(range(len(values)))]
    assert mean.value == pytest.approx(np.average(values, weights=weights), rel=1e-9, abs=1e-9)


def test_a_running_mean_is_its_first_value_and_before_it_0():
    assert RunningMean().value == 0
    assert RunningMean().after(3.5).value == pytest.approx(3.5)


def test_a_rollout_s_cost_is_the_sum_over_its_episodes():
    assert mean_rollout(torch.tensor([[1.0, 2.0], [4.0, 0.0]])) == 3.5


def test_nothing_to_charge_so_far_is_a_charge_of_0():
    how = {"charge": "information", "compression_weight": 0.6, "alpha": 0.0, "group_size": 2}
    reward, charged = dense_rewards(torch.ones(2, 2), torch.zeros(2, 2), scale=0.0, **how)
    assert charged.eq(0).all()
    assert reward.eq(1).all()


SUCCESS = torch.tensor([[0.1, 0.9, 1.0], [0.1, 0.2, 0.2], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
CORRECT = torch.tensor([1.0, 0.0, 0.0, 0.0])


def test_redundant_thinking_is_charged_where_the_answer_was_certain_before_the_episode():
    tokens, how = torch.full((4, 2), 10.0), {"charge": "tokens", "compression_weight": 1, "alpha": 0.4, "group_size": 2}
    _, charged = dense_rewards(torch.zeros(4, 2), tokens, price=prices("certainty", SUCCESS, CORRECT, 2), **how)
    expected = [0.4 / 2 * p for p in (0.1, 0.9, 0.1, 0.2, 0, 0, 0, 0)]
    assert charged.flatten().tolist() == pytest.approx(expected), "half of a mean rollout's tokens, times J_k-1"


def test_a_prompt_s_price_can_be_its_solve_rate():
    price = prices("solve_rate", SUCCESS, CORRECT, 2)
    assert price is not None
    assert price.tolist() == [[0.5], [0.5], [0.0], [0.0]]


def test_without_redundancy_the_price_is_the_same_everywhere():
    assert prices("none", SUCCESS, CORRECT, 2) is None
