"""Is the base fit to become a family? It must overthink, and its checking must pay on hard questions.

Measured on fresh questions, by difficulty: accuracy, accuracy with only the first episode of thinking, and episodes.
Without the later episodes, easy questions must lose almost nothing (their checks are waste) and hard ones at least 20
points (their checks are worth something). The base must check about equally often at every difficulty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.rollouts.grade import Grader
from training.rollouts.params import SamplingParams
from training.rollouts.sample import encoded, sample
from training.tasks.problems import DIFFICULTIES
from training.tasks.prompts import prompts

ANSWER_TOKENS = 24
"""Most tokens of an answer after the first episode."""


@dataclass(frozen=True)
class Figures:
    """Means over the questions of one difficulty at one temperature."""

    accuracy: float
    cut_accuracy: float
    """Accuracy with the thinking stopped after its first episode; under this name in published gate.json files."""
    episodes: float
    reasoning_tokens: float


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    params: SamplingParams,
    *,
    count: int,
    seed: int,
    on_batch: Callable[[int], None] = lambda _: None,
) -> dict[str, Figures]:
    """Figures for each difficulty on `count` validation questions; `on_batch` receives how many are done."""
    grade = Grader(tokenizer)
    eos: int = tokenizer.eos_token_id
    figures: dict[str, Figures] = {}
    torch.manual_seed(seed)
    for index, difficulty in enumerate(DIFFICULTIES):
        questions = prompts("validation", seed, count, difficulty=difficulty)
        ids = encoded(tokenizer, questions)
        completions = sample(
            model,
            ids,
            params,
            eos=eos,
            on_batch=lambda done, earlier=index * count: on_batch(earlier + done),
        )
        starts = [grade.after_first_episode(completion) for completion in completions]
        answers = sample(
            model,
            [p + s for p, s in zip(ids, starts, strict=True)],
            replace(params, max_tokens=ANSWER_TOKENS),
            eos=eos,
        )
        full = [grade(c, q.answer) for c, q in zip(completions, questions, strict=True)]
        first = [grade(s + a, q.answer) for s, a, q in zip(starts, answers, questions, strict=True)]
        figures[difficulty] = Figures(
            accuracy=float(np.mean([o.correct for o in full])),
            cut_accuracy=float(np.mean([o.correct for o in first])),
            episodes=float(np.mean([o.episodes for o in full])),
            reasoning_tokens=float(np.mean([o.reasoning_tokens for o in full])),
        )
    return figures


def verdict(at_1: dict[str, Figures], at_0: dict[str, Figures]) -> list[str]:
    """The figures at temperature 1 and 0 that are out of range, one line each; empty if the base passes."""
    easy, medium, hard = (at_1[d] for d in DIFFICULTIES)
    checks = [
        ("easy accuracy at temperature 1", easy.accuracy, 0.97, 1.0),
        ("easy accuracy at temperature 0", at_0["easy"].accuracy, 0.97, 1.0),
        ("easy accuracy lost without later episodes", easy.accuracy - easy.cut_accuracy, -1.0, 0.02),
        ("medium accuracy at temperature 1", medium.accuracy, 0.90, 1.0),
        ("medium accuracy at temperature 0", at_0["medium"].accuracy, 0.90, 1.0),
        ("hard accuracy at temperature 1", hard.accuracy, 0.75, 0.90),
        ("hard accuracy at temperature 0", at_0["hard"].accuracy, 0.75, 1.0),
        ("hard accuracy after the first episode at temperature 1", hard.cut_accuracy, 0.50, 0.65),
        ("hard accuracy lost without later episodes at temperature 1", hard.accuracy - hard.cut_accuracy, 0.20, 1.0),
        (
            "hard accuracy lost without later episodes at temperature 0",
            at_0["hard"].accuracy - at_0["hard"].cut_accuracy,
            0.10,
            1.0,
        ),
        *((f"{d} episodes at temperature 1", at_1[d].episodes, 2.5, 4.5) for d in DIFFICULTIES),
    ]
    return [
        f"{what} is {value:.3f}, not in [{low:g}, {high:g}]"
        for what, value, low, high in checks
        if not low <= value <= high
    ]


def report(at_1: dict[str, Figures], at_0: dict[str, Figures], count: int, seed: int) -> dict[str, Any]:
    """The content of gate.json."""
    return {
        "prompts_per_difficulty": count,
        "seed": seed,
        "split": "validation",
        "temperature_1": {d: asdict(f) for d, f in at_1.items()},
        "temperature_0": {d: asdict(f) for d, f in at_0.items()},
        "failures": verdict(at_1, at_0),
    }
