"""What does a checkpoint answer when its thinking is stopped? Measured at budgets that are smaller than its thinking.

As vLLM does at a `thinking_token_budget`: the thinking is closed where the budget ends, and the answer is sampled from
there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.rollouts.grade import Grader
from training.rollouts.params import SamplingParams
from training.rollouts.sample import encoded, sample
from training.tasks.outcome import BudgetForced
from training.tasks.question import Question


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Question],
    params: SamplingParams,
    *,
    on_batch: Callable[[int], None] = lambda _: None,
) -> list[BudgetForced]:
    """Think about every prompt once, stop at a budget drawn from 0 up to where the thinking would have ended, answer.

    Budgets are drawn uniformly in log(1 + budget). Prompts that were not thought about at all are left out. `on_batch`
    hears how many completions are done, of two for each prompt.
    """
    ids = encoded(tokenizer, prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    eos: int = tokenizer.eos_token_id
    asked = [ids[i] for i in order]
    whole = sample(model, asked, params, eos=eos, on_batch=on_batch)
    judge, rng = Grader(tokenizer), np.random.default_rng(params.seed)
    stopped: list[tuple[int, int, list[int]]] = []
    for i, completion in zip(order, whole, strict=True):
        if (thought := judge(completion, prompts[i].answer).reasoning_tokens) > 0:
            budget = int(np.expm1(rng.uniform(0, np.log1p(thought))))
            stopped.append((i, budget, judge.stopped(completion, budget)))
    starts = [ids[i] + thinking for i, _, thinking in stopped]
    answers = sample(
        model, starts, replace(params, seed=None), eos=eos, on_batch=lambda done: on_batch(len(asked) + done)
    )
    return [
        BudgetForced(prompts[i].prompt, budget, judge(thinking + answer, prompts[i].answer).correct)
        for (i, budget, thinking), answer in zip(stopped, answers, strict=True)
    ]
