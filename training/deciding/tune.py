"""How is a decision learned? Supervised fine-tuning of a checkpoint: its adapter goes on training, or all weights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, set_seed

from training.deciding.lessons import Lesson, decision_loss
from training.job.metrics import JsonLines, show_in_bar
from training.job.resume import MarkComplete, last_checkpoint
from training.job.supervised import supervised
from training.recipe_deciding import Deciding

DECISION_WEIGHT, KEEPING_WEIGHT, IMITATION_WEIGHT = 1.0, 0.1, 0.02
"""Of the loss of a decision, of the KL of a pass's token, and of the -log P of an imitated one. Few tokens decide."""
BLUNT, SHARP = 0.5, 1.0
"""Up to which share of the steps decisions are learned by cross-entropy alone, and from which by their worth alone."""


GROUPED = 50
"""Batches among which lessons are sorted by length."""


class DecidingTrainer(Trainer):
    """transformers' `Trainer` with the loss of `training.deciding.lessons`."""

    def __init__(self, before: PreTrainedModel, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._before = before
        self.model_accepts_loss_kwargs = False  # so that the loss of a micro-batch is divided by their number

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, **_: Any
    ) -> Tensor | tuple[Tensor, Any]:
        """Mean over the rollouts of the weighted sum of their tokens' losses."""
        kept_BT, learned_BT, worth_BT = (inputs[name][:, 1:] for name in ("kept", "learned", "worth"))
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        logp_BTV = outputs.logits[:, :-1].float().log_softmax(-1)
        logp_BT = logp_BTV.gather(2, inputs["input_ids"][:, 1:, None]).squeeze(2)
        decides_BT = worth_BT != 0
        decided_N = decision_loss(logp_BT[decides_BT], worth_BT[decides_BT], self.sharp)
        imitated = -(logp_BT * learned_BT).sum()
        loss = (DECISION_WEIGHT * decided_N.sum() + IMITATION_WEIGHT * imitated) / len(logp_BT)
        if kept_BT.any():
            loss = loss + KEEPING_WEIGHT * self._moved(inputs, logp_BTV, kept_BT > 0) / len(logp_BT)
        return (loss, outputs) if return_outputs else loss

    def _moved(self, inputs: dict[str, Tensor], logp_BTV: Tensor, kept_BT: Tensor) -> Tensor:
        """Sum of KL(before || now) over the kept tokens."""
        with torch.no_grad():
            logits_BTV = self._before(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        before_NV = logits_BTV[:, :-1][kept_BT].float().log_softmax(-1)
        return kl_div(logp_BTV[kept_BT], before_NV, reduction="sum", log_target=True)

    @property
    def sharp(self) -> float:
        """How far from the first loss of a decision to the last, from 0 to 1."""
        done = self.state.global_step / max(1, self.state.max_steps)
        return min(1.0, max(0.0, (done - BLUNT) / (SHARP - BLUNT)))


def tune(
    model: PreTrainedModel | PeftModel,
    before: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    lessons: Sequence[Lesson],
    settings: Deciding,
    *,
    seed: int,
    work: Path,
) -> PreTrainedModel | PeftModel:
    """Train the model on the lessons, or resume from the last complete checkpoint in `work`.

    Args:
        model: a model, or one with an adapter that can be trained.
        before: the same weights, frozen: first passes are to stay as it writes them.
        tokenizer: its.
        lessons: what to learn.
        settings: how.
        seed: of the order.
        work: directory for checkpoints; the training's log is beside it.
    """
    set_seed(seed)
    order = ordered(lessons, settings.batch, settings.epochs, seed)
    arguments = supervised(
        settings,
        epochs=1,  # `ordered` has all of them
        seed=seed,
        work=work,
        logging_steps=5,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
    )
    trainer = DecidingTrainer(
        before,
        model=model,
        args=arguments,
        data_collator=padded,
        train_dataset=Dataset.from_list([asdict(lesson) for lesson in order]),
        processing_class=tokenizer,
        callbacks=[MarkComplete(), JsonLines(work.with_name("deciding.jsonl"))],
    )
    show_in_bar(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    return trainer.accelerator.unwrap_model(trainer.model)


def ordered(lessons: Sequence[Lesson], batch: int, epochs: int, seed: int) -> list[Lesson]:
    """All epochs in the order of training: batches of similar length, which come in any order.

    transformers' own grouping by length goes from long to short again and again, and what long lessons teach is
    forgotten by the end of the short ones.
    """
    rng = random.Random(f"deciding/{seed}")
    found: list[Lesson] = []
    for _ in range(epochs):
        shuffled = rng.sample(lessons, len(lessons))
        groups = [shuffled[i : i + batch * GROUPED] for i in range(0, len(shuffled), batch * GROUPED)]
        by_length = [lesson for group in groups for lesson in sorted(group, key=lambda one: len(one.ids))]
        batches = [by_length[i : i + batch] for i in range(0, len(by_length), batch)]
        last = batches.pop()  # it may be smaller, so it stays where it does not shift the others
        rng.shuffle(batches)
        found += [lesson for one in [*batches, last] for lesson in one]
    return found


def padded(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of lessons, padded on the right."""
    width = max(len(row["ids"]) for row in rows)

    def column(name: str, fill: float) -> Tensor:
        return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows])

    mask = torch.tensor([[1] * len(row["ids"]) + [0] * (width - len(row["ids"])) for row in rows])
    return {
        "input_ids": column("ids", 0),
        "attention_mask": mask,
        "kept": column("kept", 0.0),
        "learned": column("learned", 0.0),
        "worth": column("worth", 0.0),
    }
