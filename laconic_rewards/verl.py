"""How does verl train with Laconic's rewards? By a scorer, and an advantage estimator that knows the group.

verl scores each answer alone, but our rewards compare an answer with the others to its prompt. So the scorer says only
whether an answer is right, and the estimator prices its length. Write a module of your own:

    # short_answers.py
    from laconic_rewards import Settings
    from laconic_rewards.verl import compute_score, register

    register("laconic", Settings(alpha=0.2))

and start verl with

    VERL_USE_EXTERNAL_MODULES=short_answers python -m verl.trainer.main_ppo \\
        algorithm.adv_estimator=laconic \\
        reward.custom_reward_function.path=short_answers.py ...

It is written for verl 0.9 and needs nothing of it but `verl.trainer.ppo.core_algos.register_adv_est`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from torch import Tensor

from laconic_rewards.answers import is_right
from laconic_rewards.groups import Rollout, Settings, advantages

Estimator = Callable[..., tuple[Tensor, Tensor]]
SCORE_TOLERANCE = 1e-3
"""How far a score may be from 0 or 1."""


def compute_score(
    data_source: str,  # noqa: ARG001 - verl's name and order
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,  # noqa: ARG001
    *,
    marked: bool = True,
    **_: Any,
) -> float:
    """1.0 where the answer after the thinking is right, else 0.0: verl's `custom_reward_function`.

    Args:
        data_source: not read.
        solution_str: the response, decoded.
        ground_truth: the gold answer.
        extra_info: not read.
        marked: the model closes its thinking with `</think>`, and a response that does not is wrong, for else an
            unfinished calculation could be taken for an answer. Set it to false for other models, by verl's
            `reward.custom_reward_function.reward_kwargs`.
    """
    return float(is_right(solution_str, str(ground_truth), marked=marked))


def estimator(settings: Settings) -> Estimator:
    """An advantage estimator as verl calls it: `advantages` of each response, on all of its tokens."""

    def estimate(
        token_level_rewards: Tensor,
        response_mask: Tensor,
        index: Sequence[Any] | None = None,
        config: Any = None,  # noqa: ARG001 - verl passes its settings
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Advantages and returns, both (B, T).

        Args:
            token_level_rewards: their sum is 1 where the response is right, else 0, (B, T).
            response_mask: 1 where there is a token of the response, (B, T).
            index: names each row's prompt, (B,).
            config: not read.

        Raises:
            ValueError: without `index` there are no groups; or a response is neither right nor wrong.
        """
        if index is None:
            raise ValueError("index: verl gave no uid of the prompts, so there are no groups to compare")
        right_B, tokens_B = _right(token_level_rewards.sum(-1)).tolist(), response_mask.sum(-1).long().tolist()
        rollouts = [Rollout(*each) for each in zip(index, right_B, tokens_B, strict=True)]
        advantage_B = advantages(rollouts, settings).to(token_level_rewards)
        advantage_BT = advantage_B[:, None] * response_mask
        return advantage_BT, advantage_BT

    return estimate


def _right(scores: Tensor) -> Tensor:
    """Whether each response is right, by its score: 1 is right, 0 is wrong."""
    right_B = scores > 0.5
    off_B = (scores.float() - right_B.float()).abs()
    if not bool((off_B <= SCORE_TOLERANCE).all()):
        worst = scores[off_B.nan_to_num(float("inf")).argmax()].item()
        raise ValueError(
            f"token_level_rewards: a response has the score {worst:.4g}, but 1 is right, 0 is wrong, and nothing is"
            " between. Return 1 or 0 from the reward function. If it does, set algorithm.use_kl_in_reward=False, for it"
            " takes a penalty off each score; put the penalty into the loss by actor_rollout_ref.actor.use_kl_loss=True"
        )
    return right_B


def register(name: str, settings: Settings) -> None:
    """Register an estimator in verl, for `algorithm.adv_estimator=NAME`.

    Raises:
        ModuleNotFoundError: verl is not installed.
        ValueError: verl has another estimator of that name.
    """
    import_module("verl.trainer.ppo.core_algos").register_adv_est(name)(estimator(settings))
