"""One training step with a group that spans processes. Each process writes its advantages. Run by test_trainer.py.

usage: python -m tests.training.two_processes OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from accelerate import PartialState

from tests.training.conftest import TINY
from training import trainer
from training.base import train
from training.base.tokenizer import build
from training.config import DenseReward, FamilyStage
from training.rewards import dense
from training.rewards.compression import scores
from training.rewards.information_gain import answer_probabilities
from training.rollouts.batch import Rollouts
from training.tasks.prompts import prompts

STAGE = FamilyStage(steps=1, prompts_per_step=1, rollouts=4, max_tokens=24, lora_rank=2)
ALPHA = 0.4
ARMS: dict[str, dict[str, object] | None] = {
    "none": None,
    "episode": {"credit": "episode"},
    "counterfactual": {"credit": "counterfactual"},
    "paper": {"credit": "paper"},
    "tokens": {"credit": "counterfactual", "charge": "tokens", "compression_weight": 3},
    "free": {"credit": "counterfactual", "charge": "tokens", "compression_weight": 0},
    "even": {"credit": "counterfactual", "compression_weight": 0},
    "known": {"credit": "episode", "compression_weight": 0.6, "progress_weight": 0.8},
    "tamed": {"score": "rao", "per": "token", "winsorise": 0.8, "scale": "running", "proxy_rank": 4},
    "solved": {"credit": "counterfactual", "charge": "tokens", "compression_weight": 3, "redundancy": "solve_rate"},
}
"""Settings of the dense reward; None is without it. In `even` every probe gives the gold answer probability 0.5. In
`known` each episode gains a thousandth of its rollout's tokens, and costs the square of a tenth of its own tokens."""


def scripted(self: trainer.CheckpointTrainer, prompt_ids: list[list[int]], *_: object, **__: object) -> tuple:
    """Rollouts of known correctness and length: each is longer than the one before; only the second is incorrect."""
    first = self.accelerator.process_index * len(prompt_ids)
    completions = []
    for i in range(first, first + len(prompt_ids)):
        answer = "0" if i == 1 else self.train_dataset[0]["gold"]
        thought = "\n\n".join(["7" * (2 * i + 1)] * (i % 3 + 1))
        completions.append(self.processing_class.encode(f"{thought}</think>\n\nThe answer is {answer}.<|im_end|>"))
    return completions, None


def half(_model: object, _rollouts: object, ends_BK: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return torch.full((len(ends_BK), ends_BK.size(1) + 1), 0.5)


def known_success(_model: object, rollouts: Rollouts, ends_BK: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return rollouts.completion_mask_BT.sum(1, keepdim=True) / 1000 * torch.arange(ends_BK.size(1) + 1)


def known_scores(_o: object, _i: object, index_BT: torch.Tensor, most: int, **_: object) -> torch.Tensor:
    return (index_BT[:, :, None] == torch.arange(most)).sum(1) / 10


def main(out: Path) -> None:
    trainer.CheckpointTrainer._generate_single_turn = scripted
    loss = trainer.CheckpointTrainer._compute_loss
    tokenizer = build(TINY.vocabulary, seed=0, prompts=300)
    questions = prompts("train", 0, 1)
    advantages: dict[str, dict[str, list[float]]] = {arm: {} for arm in ARMS}
    for arm, settings in ARMS.items():

        def watched(
            self: trainer.CheckpointTrainer, model: torch.nn.Module, inputs: dict, arm: str = arm
        ) -> torch.Tensor:
            for row, mask in zip(inputs["advantages"], inputs["completion_mask"], strict=True):
                advantages[arm][str(int(mask.sum()))] = [round(value, 5) for value in row[mask.bool()].tolist()]
            return loss(self, model, inputs)

        trainer.CheckpointTrainer._compute_loss = watched
        dense.answer_probabilities = {"even": half, "known": known_success}.get(arm, answer_probabilities)
        dense.scores = known_scores if arm == "known" else scores
        torch.manual_seed(0)
        paid = settings and DenseReward.model_validate({"max_episodes": 4, **settings})
        stage = STAGE.model_copy(update={"reward": "l2t", "dense": paid} if paid else {})
        work = out / arm / "work"
        trainer.train(train.new_model(TINY, tokenizer), tokenizer, stage, questions, alpha=ALPHA, seed=0, work=work)
    state = PartialState()
    (out / f"advantages-{state.process_index}-of-{state.num_processes}.json").write_text(json.dumps(advantages))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
