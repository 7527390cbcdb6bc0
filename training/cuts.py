"""What does a checkpoint answer when its thinking is stopped? Measured at budgets that are smaller than its thinking.

As vLLM does at a `thinking_token_budget`: the thinking is closed where the budget ends, and the answer is sampled from
there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.judge import Judge
from training.record import write_text
from training.rollout import encoded, sample
from training.tasks.question import Question


@dataclass(frozen=True)
class Cut:
    """One answer after thinking that was stopped."""

    prompt: str
    budget: int
    """Reasoning tokens that were left of it."""
    correct: bool


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Question],
    *,
    temperature: float,
    max_tokens: int,
    seed: int,
    on_batch: Callable[[int], None] = lambda _: None,
) -> list[Cut]:
    """Think about every prompt once, stop at a budget drawn from 0 up to where the thinking would have ended, answer.

    Budgets are drawn uniformly in log(1 + budget). Prompts that were not thought about at all are left out. `on_batch`
    hears how many completions are done, of two for each prompt.
    """
    torch.manual_seed(seed)
    ids = encoded(tokenizer, prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    how = {"temperature": temperature, "eos": tokenizer.eos_token_id}
    asked = [ids[i] for i in order]
    whole = sample(model, asked, max_tokens=max_tokens, on_batch=on_batch, **how)  # pyright: ignore[reportArgumentType]
    judge, rng = Judge(tokenizer), np.random.default_rng(seed)
    stopped: list[tuple[int, int, list[int]]] = []
    for i, completion in zip(order, whole, strict=True):
        if (thought := judge(completion, prompts[i].answer).reasoning_tokens) > 0:
            budget = int(np.expm1(rng.uniform(0, np.log1p(thought))))
            stopped.append((i, budget, judge.stopped(completion, budget)))
    starts = [ids[i] + thinking for i, _, thinking in stopped]
    answers = sample(model, starts, max_tokens=max_tokens, on_batch=lambda done: on_batch(len(asked) + done), **how)  # pyright: ignore[reportArgumentType]
    return [
        Cut(prompts[i].prompt, budget, judge(thinking + answer, prompts[i].answer).correct)
        for (i, budget, thinking), answer in zip(stopped, answers, strict=True)
    ]


def save(cuts: Sequence[Cut], path: Path) -> None:
    """One JSON object per line; whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(cut)) + "\n" for cut in cuts))


def load(path: Path) -> list[Cut]:
    """What `save` wrote."""
    return [Cut(**json.loads(line)) for line in path.read_text().splitlines()]
