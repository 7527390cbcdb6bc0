"""What did the cold start change? Accuracy and tokens before and after it, and answers after every budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from training.coldstart.sampler import sampler
from training.config import Recipe
from training.job import checkpoints
from training.measure import figures
from training.recipe_base import ColdStart
from training.rollouts.grade import Grader
from training.rollouts.params import SamplingParams
from training.rollouts.sample import encoded
from training.tasks.outcome import Graded, Outcome
from training.tasks.question import Question
from training.tasks.source import with_instruction
from training.tasks.verify import final_answer, is_correct

BUDGETS = (0, 16, 64, 128)
"""Thinking tokens after which it is ended, to see whether an answer follows."""


def measure(recipe: Recipe, stage: ColdStart, source: Path, questions: Sequence[Question]) -> dict[str, Any]:
    """Greedy answers to the questions by the untrained model, with the instruction, and by the trained one, without.

    Returns:
        `before` and `after` as `training.measure.figures` summarises them (before, every token counts as reasoning);
        `closed`, the share of completions that close their thinking and end; and for each budget the share of
        `answered` and `correct` completions.
    """
    params = SamplingParams(recipe.family.max_tokens, 0.0, 1, recipe.seed)
    directory = recipe.run_dir / "base" / "model"
    with sampler(recipe, source) as sample:
        untrained = checkpoints.load_tokenizer(source)
        completions = sample(encoded(untrained, with_instruction(questions, stage.instruction)), params)
    before = [_plain(ids, question, untrained) for ids, question in zip(completions, questions, strict=True)]
    tokenizer = checkpoints.load_tokenizer(directory)
    with sampler(recipe, directory) as sample:
        prompts = encoded(tokenizer, questions)
        completions = sample(prompts, params)
        grade = Grader(tokenizer)
        after = [grade(ids, question.answer) for ids, question in zip(completions, questions, strict=True)]
        forced: dict[str, dict[str, float]] = {}
        for budget in BUDGETS:
            # Thinking that ends by itself before the budget is not touched by it.
            began = [
                grade.budget_forced(ids, min(budget, outcome.reasoning_tokens))
                for ids, outcome in zip(completions, after, strict=True)
            ]
            answers = sample([p + b for p, b in zip(prompts, began, strict=True)], params)
            texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
            right = [is_correct(text, question.answer) for text, question in zip(texts, questions, strict=True)]
            answered = [final_answer(text) is not None for text in texts]
            forced[str(budget)] = {"answered": _share(answered), "correct": _share(right)}
    closed = [outcome.finished and outcome.reasoning_tokens < outcome.tokens for outcome in after]
    return {
        "before": _summary(questions, before, recipe.seed),
        "after": _summary(questions, after, recipe.seed),
        "closed": _share(closed),
        "budgets": forced,
    }


def closed(path: Path) -> float:
    """The share of completions that close their thinking, from a report."""
    return float(json.loads(path.read_text())["closed"])


def _plain(ids: Sequence[int], question: Question, tokenizer: PreTrainedTokenizerBase) -> Outcome:
    finished = bool(ids) and ids[-1] == tokenizer.eos_token_id
    text = tokenizer.decode(ids, skip_special_tokens=True)
    right = finished and is_correct(text, question.answer)
    return Outcome(correct=right, reasoning_tokens=len(ids), tokens=len(ids), episodes=1, finished=finished)


def _summary(questions: Sequence[Question], outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    rows = [Graded(q.prompt, q.task, q.difficulty, (o,)) for q, o in zip(questions, outcomes, strict=True)]
    return figures.summarise(rows, seed).model_dump()


def _share(values: Sequence[bool]) -> float:
    return round(sum(values) / len(values), 4)
