"""How does transformers' `Trainer` run a supervised fine-tuning here? The settings that all of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainingArguments

from training.job.precision import autocast_bf16


class Tuning(Protocol):
    """What a recipe's section says of a fine-tuning."""

    @property
    def batch(self) -> int: ...
    @property
    def micro_batch(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def save_every(self) -> int: ...


def micro_batch(batch: int, most: int) -> int:
    """The largest number up to `most` that divides the batch, so that micro-batches make up exactly that batch."""
    return max(size for size in range(1, min(batch, most) + 1) if batch % size == 0)


def supervised(settings: Tuning, *, epochs: int, seed: int, work: Path, **others: Any) -> TrainingArguments:
    """The arguments of one fine-tuning: a cosine from `lr`, and checkpoints in `work`.

    Args:
        settings: the recipe's section.
        epochs: how often everything is learned.
        seed: of the order.
        work: directory for checkpoints.
        others: arguments of this fine-tuning alone.
    """
    micro = micro_batch(settings.batch, settings.micro_batch)
    return TrainingArguments(
        output_dir=str(work),
        num_train_epochs=epochs,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=settings.batch // micro,
        learning_rate=settings.lr,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        bf16=autocast_bf16(),
        use_cpu=not torch.cuda.is_available(),
        save_steps=settings.save_every,
        save_total_limit=2,
        report_to=[],
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=False,
        **others,
    )
