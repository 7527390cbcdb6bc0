"""How is the overthinking base made? From random weights, by supervised training on program-written traces.

transformers' `Trainer` does the loop, the logging and the checkpoints. Ours is the data: batches of about equal token
counts, sorted by length, reproducible from their index, with easier prompts first.
"""

from __future__ import annotations

import math
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, SequentialSampler
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM, Trainer, TrainingArguments, set_seed

from training.base import traces
from training.base.muon import Muon
from training.base.tokenizer import ANSWER_PREFIX
from training.job.metrics import JsonLines, show_in_bar
from training.job.planning import architecture
from training.job.precision import autocast_bf16
from training.job.resume import MarkComplete, last_checkpoint
from training.recipe_base import BaseStage
from training.tasks.problems import DIFFICULTIES
from training.tasks.prompts import Prompt, stream

_BLOCK = 16
"""Batches whose examples are sorted by length together."""
_SYSTEM = ("You are a helpful assistant.", "You are a careful math tutor.", "Answer the question.", "Be brief.")

Example = tuple[list[int], list[int]]
"""Token ids, and labels that are -100 on tokens outside the loss."""


def new_model(stage: BaseStage, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A Qwen3 with random weights and tied embeddings."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        **architecture(stage).model_dump(exclude={"model_type", "vocab_size"}),
        max_position_embeddings=stage.context_tokens,
        rope_theta=10_000.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config)


def encode(
    prompt: Prompt, trace: traces.Trace, tokenizer: PreTrainedTokenizerFast, rng: random.Random, truncated: float
) -> Example:
    """One training example, with the prompt and slipped digits masked.

    With probability `truncated`, the thinking is truncated and only the answer is learned.
    """
    messages = [{"role": "user", "content": prompt.prompt}]
    if rng.random() < 0.1:
        messages.insert(0, {"role": "system", "content": rng.choice(_SYSTEM)})
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    labels = [-100] * len(ids)

    def append(text: str, learned: bool = True) -> None:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        ids.extend(tokens)
        labels.extend(tokens if learned else [-100] * len(tokens))

    append("\n")
    for i, episode in enumerate(trace.episodes):
        append(traces.EPISODE_BREAK if i else "")
        for piece in episode:
            append(piece.text, piece.learned)
    append("\n")
    if rng.random() < truncated and all(piece.learned for episode in trace.episodes for piece in episode):
        _truncate(ids, labels, tokenizer, rng)
    append(f"</think>\n\n{ANSWER_PREFIX}{trace.answer}.<|im_end|>")
    return ids, labels


def _truncate(ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
    """Truncate the thinking at a random token (30 %: at the start) and mask all of it from the loss."""
    start = next(i for i, label in enumerate(labels) if label != -100)
    end = start if rng.random() < 0.3 else rng.randint(start, len(ids))
    del ids[end:], labels[end:]
    labels[:] = [-100] * len(labels)
    if end == start:  # as the chat template does when thinking is switched off
        newline = tokenizer.encode(traces.EPISODE_BREAK)
        ids.extend(newline)
        labels.extend([-100] * len(newline))


class Batches(Dataset[dict[str, torch.Tensor]]):
    """One batch of about `batch_tokens` tokens per step; each depends on the seed and its index alone."""

    def __init__(self, stage: BaseStage, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        self.stage, self.tokenizer, self.seed = stage, tokenizer, seed
        self._block = lru_cache(maxsize=1)(self._make_block)

    def __len__(self) -> int:
        return self.stage.steps

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self._block(index // _BLOCK)[index % _BLOCK]

    def _make_block(self, block: int) -> list[dict[str, torch.Tensor]]:
        rng = random.Random(f"base/{self.seed}/{block}")
        progress = block * _BLOCK / self.stage.steps
        streams = {d: stream("train", self.seed * 1_000_003 + block, difficulty=d, practice=True) for d in DIFFICULTIES}
        examples: list[Example] = []
        tokens = 0
        checks = traces.LEARNING if progress < self.stage.few_checks_first else traces.OVERTHINKING
        while tokens < self.stage.batch_tokens * _BLOCK:
            prompt = next(streams[rng.choices(DIFFICULTIES, self._difficulty_weights(progress))[0]])
            examples.append(
                encode(prompt, traces.write(prompt.chain, rng, checks), self.tokenizer, rng, self.stage.truncated)
            )
            tokens += len(examples[-1][0])
        examples.sort(key=lambda example: len(example[0]))
        rows: list[list[Example]] = [[] for _ in range(_BLOCK)]
        before = 0
        for example in examples:
            rows[before * _BLOCK // tokens].append(example)
            before += len(example[0])
        batches = [_pad(row, self.tokenizer.pad_token_id) for row in rows]
        rng.shuffle(batches)
        return batches

    def _difficulty_weights(self, progress: float) -> tuple[float, float, float]:
        if progress >= self.stage.easy_first:
            return (0.25, 0.33, 0.42)
        hard = progress / self.stage.easy_first * 0.42
        return (0.65 - hard, 0.35, hard)


def _pad(rows: list[Example], pad: int) -> dict[str, torch.Tensor]:
    """A right-padded batch. It needs no attention mask: with causal attention no token attends to later padding."""
    width = max(len(ids) for ids, _ in rows)
    input_ids = torch.tensor([ids + [pad] * (width - len(ids)) for ids, _ in rows])
    labels = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    return {"input_ids": input_ids, "labels": labels}


class _BaseTrainer(Trainer):
    """A `Trainer` that takes the batches in order, because `Batches` has shuffled them."""

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset if train_dataset is not None else self.train_dataset)


def lr_fraction(stage: BaseStage, step: int) -> float:
    """The learning rate at a step as a share of its peak, in (0, 1]: linear warm-up, then a cosine down to 0.02."""
    warmup = max(1, int(stage.warmup * stage.steps))
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / (stage.steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(progress * math.pi))


def train(stage: BaseStage, tokenizer: PreTrainedTokenizerFast, seed: int, work: Path) -> Qwen3ForCausalLM:
    """Train the base, or resume from the last complete checkpoint in `work`."""
    set_seed(seed)
    model = new_model(stage, tokenizer)
    if stage.compile:
        model.compile(dynamic=True)
    optimizer = Muon(model.named_parameters(), lr=stage.lr)

    arguments = TrainingArguments(
        output_dir=str(work),
        max_steps=stage.steps,
        per_device_train_batch_size=1,
        bf16=autocast_bf16(),
        use_cpu=not torch.cuda.is_available(),
        max_grad_norm=1.0,
        logging_steps=20,
        save_steps=stage.save_every,
        save_total_limit=2,
        report_to=["tensorboard"],
        seed=seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    trainer = _BaseTrainer(
        model,
        arguments,
        data_collator=lambda batch: batch[0],
        train_dataset=Batches(stage, tokenizer, seed),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_fraction(stage, step))),
        callbacks=[MarkComplete(), JsonLines(work.parent / "metrics.jsonl")],
    )
    show_in_bar(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    return model


def fold_temperature(model: Qwen3ForCausalLM, temperature: float) -> None:
    """Divide the logits by `temperature`, in place, by scaling the weight of the last norm.

    Sampling at temperature 1 then equals sampling at `temperature` before; greedy decoding does not change
    (docs/decisions/0006-temperature.md).
    """
    with torch.no_grad():
        model.model.norm.weight.div_(temperature)
