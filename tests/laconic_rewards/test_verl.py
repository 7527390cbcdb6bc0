"""verl's own calls: a scorer for each answer, an advantage estimator for the batch.

verl is no dependency: it needs Ray. The calls are written as verl 0.9.1 makes them, in
`verl.trainer.ppo.ray_trainer.compute_advantage` and `verl.experimental.reward_loop.reward_manager.naive`. Where verl is
installed, it makes them itself.
"""

from __future__ import annotations

import asyncio
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from laconic_rewards import Rollout, Settings, advantages
from laconic_rewards.verl import compute_score, estimator, register

UIDS = np.array(["q", "r", "q", "r"], dtype=object)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
SCORES = torch.tensor([[0, 0, 1.0, 0], [0, 1.0, 0, 0], [1.0, 0, 0, 0], [0, 0, 0, 0]])
"""verl puts a response's score on its last token."""


def as_verl_calls(settings: Settings):
    return estimator(settings)(token_level_rewards=SCORES, response_mask=MASK, config={"gamma": 1.0}, index=UIDS)


def test_every_token_of_a_response_has_its_advantage_and_padding_has_none():
    expected = advantages(
        [Rollout("q", True, 3), Rollout("r", True, 2), Rollout("q", True, 1), Rollout("r", False, 4)],
        Settings(alpha=0.2),
    )
    given, returns = as_verl_calls(Settings(alpha=0.2))
    torch.testing.assert_close(given, expected[:, None] * MASK)
    assert torch.equal(given, returns)
    assert given.dtype == SCORES.dtype


def test_of_two_right_answers_the_shorter_one_is_preferred():
    advantage, _ = as_verl_calls(Settings(alpha=0.2))
    assert advantage[2, 0] > 0 > advantage[0, 0]


def test_without_prompts_ids_there_are_no_groups():
    with pytest.raises(ValueError, match="index"):
        estimator(Settings())(token_level_rewards=SCORES, response_mask=MASK, config=None)


def kl_in_the_reward(kld: float) -> torch.Tensor:
    """`algorithm.use_kl_in_reward=True`: verl takes beta * kld off each token's score. An estimate of it may be < 0."""
    return SCORES - 0.001 * kld * MASK


@pytest.mark.parametrize("kld", [-2.0, 2.0, float("nan")])
def test_scores_with_a_penalty_in_them_are_refused_for_a_wrong_response_could_look_right(kld: float):
    with pytest.raises(ValueError, match="use_kl_in_reward=False"):
        estimator(Settings())(kl_in_the_reward(kld), MASK, index=UIDS)


def test_a_score_between_right_and_wrong_is_refused():
    with pytest.raises(ValueError, match=r"the score 0\.7, but 1 is right"):
        estimator(Settings())(0.7 * SCORES, MASK, index=UIDS)


def test_a_rounded_score_is_still_right_or_wrong():
    given, _ = estimator(Settings(alpha=0.2))(SCORES + 1e-5, MASK, index=UIDS)
    assert torch.equal(given, as_verl_calls(Settings(alpha=0.2))[0])


def test_the_scorer_takes_what_verl_s_reward_managers_give():
    def scored(solution_str, **reward_kwargs):
        extra_info = {"num_turns": None, "rollout_reward_scores": {}}
        return compute_score(
            data_source="openai/gsm8k",
            solution_str=solution_str,
            ground_truth="42",
            extra_info=extra_info,
            **reward_kwargs,
        )

    assert scored("6 * 7</think>42") == 1.0
    assert scored("42") == 0.0
    assert scored("42", marked=False) == 1.0
    assert scored("6 * 7</think>42", reward_router_address="localhost:1", reward_model_tokenizer=None) == 1.0


def test_it_registers_itself_by_verl_s_decorator(monkeypatch: pytest.MonkeyPatch):
    registry = {}
    verl = ModuleType("verl.trainer.ppo.core_algos")
    verl.register_adv_est = lambda name: lambda function: registry.setdefault(name, function)  # type: ignore[attr-defined]
    for name in ("verl", "verl.trainer", "verl.trainer.ppo"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, verl.__name__, verl)
    register("laconic", Settings(alpha=0.2))
    given, _ = registry["laconic"](token_level_rewards=SCORES, response_mask=MASK, config=None, index=UIDS)
    assert torch.equal(given, as_verl_calls(Settings(alpha=0.2))[0])


def test_verl_itself_gives_the_same_advantages():
    ray_trainer = pytest.importorskip("verl.trainer.ppo.ray_trainer", reason="verl is not installed")
    from verl.protocol import DataProto  # type: ignore[import-not-found]  # noqa: PLC0415

    register("laconic", Settings(alpha=0.2))
    batch = DataProto.from_dict(
        tensors={"token_level_rewards": SCORES, "response_mask": MASK}, non_tensors={"uid": UIDS}
    )
    computed = ray_trainer.compute_advantage(batch, "laconic", config={})
    assert torch.equal(computed.batch["advantages"], as_verl_calls(Settings(alpha=0.2))[0])


def test_verl_s_reward_manager_judges_by_the_scorer():
    naive = pytest.importorskip("verl.experimental.reward_loop.reward_manager.naive", reason="verl is not installed")
    from verl.protocol import DataProto  # type: ignore[import-not-found]  # noqa: PLC0415

    async def judged(response: str) -> float:
        class Tokenizer:
            def decode(self, ids: torch.Tensor, *, skip_special_tokens: bool) -> str:
                return "".join(chr(token) for token in ids.tolist())

        manager = naive.NaiveRewardManager(None, Tokenizer(), compute_score)
        ids = torch.tensor([[ord(character) for character in response]])
        item = DataProto.from_dict(
            tensors={"responses": ids, "attention_mask": torch.ones_like(ids)},
            non_tensors={
                "data_source": np.array(["gsm8k"], dtype=object),
                "reward_model": np.array([{"ground_truth": "42"}], dtype=object),
            },
        )
        return (await manager.run_single(item))["reward_score"]

    assert asyncio.run(judged("6 * 7</think>42")) == 1.0
    assert asyncio.run(judged("6 * 7</think>41")) == 0.0
