"""Is a rollout credited the same whether its group lies in one process or in two?"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training import two_processes
from training.rewards.credit import leave_one_out
from training.rewards.length import length_reward
from training.tasks.prompts import prompts


def launched(processes: int, out: Path) -> dict[str, dict[str, list[float]]]:
    """Advantages by arm and by the rollout's length."""
    launcher = ["torch.distributed.run", "--nproc-per-node", str(processes)]
    launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--local-addr", "localhost", "-m"]
    subprocess.run(
        [sys.executable, "-m", *(launcher if processes > 1 else []), "tests.training.two_processes", str(out)],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )
    parts = sorted(out.glob("advantages-*.json"))
    assert len(parts) == processes
    result: dict[str, dict[str, list[float]]] = {arm: {} for arm in two_processes.ARMS}
    for part in parts:
        for arm, rows in json.loads(part.read_text()).items():
            assert len(rows) == two_processes.STAGE.rollouts // processes
            result[arm] |= rows
    return result


@pytest.fixture(scope="module")
def spanned(tmp_path_factory):
    """The advantages of the same rollouts by one process and by two."""
    return launched(1, tmp_path_factory.mktemp("one")), launched(2, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("arm", two_processes.ARMS)
def test_a_group_that_spans_two_processes_has_the_advantages_of_one(spanned, arm):
    one, two = (result[arm] for result in spanned)
    assert one.keys() == two.keys()
    for length, advantages in one.items():
        assert two[length] == pytest.approx(advantages, abs=1e-4)


def test_without_a_dense_reward_a_rollout_s_tokens_share_its_leave_one_out_advantage(spanned):
    advantages = spanned[1]["none"]
    lengths = sorted(map(int, advantages))
    reward = length_reward(torch.tensor([1.0, 0, 1, 1]), torch.tensor(lengths), 4, two_processes.ALPHA)
    expected = leave_one_out(reward, 4).tolist()
    for length, value in zip(lengths, expected, strict=True):
        assert advantages[str(length)] == pytest.approx([value] * length, abs=1e-5)


@pytest.mark.parametrize("arm", [arm for arm, settings in two_processes.ARMS.items() if settings])
def test_with_a_dense_reward_the_tokens_of_a_rollout_differ(spanned, arm):
    assert any(len(set(advantages)) > 1 for advantages in spanned[1][arm].values())


def test_charged_tokens_cost_alpha_in_their_own_episode_and_the_outcome_is_not_discounted(spanned, tokenizer):
    """Compared with an arm whose tokens are free. Rollout i thinks i % 3 + 1 episodes of 2 i + 1 digits."""
    charged, free = spanned[0]["tokens"], spanned[0]["free"]
    thought = [["7" * (2 * i + 1)] * (i % 3 + 1) for i in range(4)]
    episodes = [[len(tokenizer.encode("\n\n" * (k > 0) + text)) for k, text in enumerate(t)] for t in thought]
    price = 0.8 * two_processes.ALPHA * 3 / (sum(map(sum, episodes)) / 4)
    gold = prompts("train", 0, 1)[0].answer
    answers = [f"</think>\n\nThe answer is {0 if i == 1 else gold}.<|im_end|>" for i in range(4)]
    whole = [str(len(tokenizer.encode("\n\n".join(t) + answer))) for t, answer in zip(thought, answers, strict=True)]
    for i, counts in enumerate(episodes):
        difference = [c - f for c, f in zip(charged[whole[i]], free[whole[i]], strict=True)]
        others = [episodes[j][0] for j in range(4) if j != i]
        assert difference[0] == pytest.approx(-price * (counts[0] - sum(others) / 3), abs=1e-4)
        at = counts[0]
        for k in range(1, len(counts)):
            assert difference[at] == pytest.approx(-price * counts[k], abs=1e-4)
            at += counts[k]
        assert difference[-1] == 0, "after the stop there is nothing left to pay for"
    stops = [free[length][-1] for length in whole]
    assert stops[1] < 0.1
    assert min(stops[0], *stops[2:]) > 0.9, "a correct answer is worth 1 at any length; this model expects about 0"


def test_a_price_by_solve_rate_charges_three_quarters_where_three_of_four_rollouts_are_right(spanned):
    solved, charged, free = (spanned[0][arm] for arm in ("solved", "tokens", "free"))
    for length, values in solved.items():
        expected = [f + 0.75 * (c - f) for c, f in zip(charged[length], free[length], strict=True)]
        assert values == pytest.approx(expected, abs=1e-4)


def test_stopping_is_worth_the_reward_of_a_rollout_of_mean_length(spanned):
    """Stopping is right with probability 0.5 everywhere. What follows the first episode is compared with that."""
    even = spanned[0]["even"]
    lengths = sorted(map(int, even))
    correct = [1.0 if even[str(length)][-1] > 0 else 0.0 for length in lengths]
    assert sorted(correct) == [0, 1, 1, 1]
    reward = length_reward(torch.tensor(correct), torch.tensor(lengths), 4, two_processes.ALPHA)
    for length, value in zip(lengths, reward.tolist(), strict=True):
        assert even[str(length)][-1] == pytest.approx(value - 0.5 * (1 - two_processes.ALPHA / 2), abs=1e-4)


def test_an_episode_earns_its_gain_less_its_scaled_cost(spanned, tokenizer):
    """By hand from the paper: A_ik = A_i + 0.8 (r_ik - the others' mean), r_ik = gain - 0.6 C_ik / mean cost."""
    thought = [["7" * (2 * i + 1)] * (i % 3 + 1) for i in range(4)]
    counts = [[len(tokenizer.encode("\n\n" * (k > 0) + text)) for k, text in enumerate(t)] for t in thought]
    gold = prompts("train", 0, 1)[0].answer
    for i, own in enumerate(counts):
        own[-1] += len(tokenizer.encode(f"</think>\n\nThe answer is {0 if i == 1 else gold}.<|im_end|>"))
    lengths = [sum(own) for own in counts]
    cost = [[(n / 10) ** 2 for n in own] for own in counts]
    mean_cost = sum(map(sum, cost)) / 4
    earned = [[sum(own) / 1000 - 0.6 * c / mean_cost for c in row] for own, row in zip(counts, cost, strict=True)]
    outcome = length_reward(torch.tensor([1.0, 0, 1, 1]), torch.tensor(lengths), 4, two_processes.ALPHA).tolist()
    for i, own in enumerate(counts):
        others = [value for j, row in enumerate(earned) if j != i for value in row]
        beyond = outcome[i] - (sum(outcome) - outcome[i]) / 3
        advantages, at = spanned[0]["known"][str(lengths[i])], 0
        for n, value in zip(own, earned[i], strict=True):
            expected = beyond + 0.8 * (value - sum(others) / len(others))
            assert advantages[at : at + n] == pytest.approx([expected] * n, abs=1e-4)
            at += n


def test_stopping_is_credited_to_the_decision_to_stop(spanned, tokenizer):
    """The fourth rollout thinks one episode of seven digits."""
    thought = len(tokenizer.encode("7" * 7))
    whole = len(
        tokenizer.encode("7" * 7 + "</think>\n\nThe answer is {}.<|im_end|>".format(prompts("train", 0, 1)[0].answer))
    )
    own, episode = (spanned[0][arm][str(whole)] for arm in ("counterfactual", "episode"))
    assert len(set(own[:thought])) == len(set(own[thought:])) == 1
    assert own[0] != own[-1]
    assert len(set(episode)) == 1, "episode credit does not distinguish that decision"
