"""What does a checkpoint answer when a budget ends its thinking? Measured at budgets smaller than its thinking.

As vLLM does at a `thinking_token_budget`, the thinking is closed where the budget ends, and the answer is sampled from
there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.measure.drawing import Draw
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
    draw: Draw | None = None,
) -> list[BudgetForced]:
    """One budget-forced answer per prompt: sample a completion, end its thinking at a random budget, sample an answer.

    The budget is below the length of the thinking and uniform in log(1 + budget). Prompts whose completion has no
    thinking are left out. `on_batch` receives the number of completions so far, of two per prompt. `draw` samples from
    the model; None: in this process.
    """
    ids = encoded(tokenizer, prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(ids[i]))
    eos: int = tokenizer.eos_token_id
    draw = draw or partial(sample, model)
    completions = draw([ids[i] for i in order], params, eos=eos, on_batch=on_batch)
    grade, rng = Grader(tokenizer), np.random.default_rng(params.seed)
    forced: list[tuple[int, int, list[int]]] = []
    for i, completion in zip(order, completions, strict=True):
        if (thinking_tokens := grade(completion, prompts[i].answer).reasoning_tokens) > 0:
            budget = int(np.expm1(rng.uniform(0, np.log1p(thinking_tokens))))
            forced.append((i, budget, grade.budget_forced(completion, budget)))
    answers = draw(
        [ids[i] + thinking for i, _, thinking in forced],
        replace(params, seed=None),
        eos=eos,
        on_batch=lambda done: on_batch(len(prompts) + done),
    )
    return [
        BudgetForced(prompts[i].prompt, budget, grade(thinking + answer, prompts[i].answer).correct)
        for (i, budget, thinking), answer in zip(forced, answers, strict=True)
    ]
