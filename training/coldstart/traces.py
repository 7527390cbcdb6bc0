"""What does a cold-started model learn? Traces: its own right answers, as thinking between marks and a stated answer.

A trace whose thinking was ended by a budget teaches only its answer. The model would otherwise learn to stop anywhere.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from training.job.checkpoints import THINK_END
from training.recipe_base import ColdStart
from training.tasks.verify import final_answer, is_correct

_BOX = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_STATES = re.compile(r"answer is|\\boxed|\\fbox|####", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_LEFT_OPEN = re.compile(r"(?:\n[^\n]*:|\\\[|\$\$?|\*\*)\s*$")
"""What introduces an answer that is no longer there: a line that ends in a colon, an opened formula."""
_PARAGRAPH = "\n\n"
"""What comes before the closing mark: the break after which the untrained model states its answer. The trained one
then has to choose once, between the mark and that sentence."""


@dataclass(frozen=True)
class Trace:
    """One answer to learn."""

    question: str
    thinking: str
    answer: str
    """As the model shall state it."""
    forced: bool = False
    """A budget ended the thinking: only the answer is learned."""


def thinking_of(completion: str) -> str:
    """The reasoning of a completion, without the sentence that only states its answer."""
    text = completion.strip()
    stated = [match.start() for match in _STATES.finditer(text)]
    starts = [0] + [match.end() for match in _SENTENCE_END.finditer(text)]
    if stated:
        start = max(at for at in starts if at <= stated[-1])
        before = text[:start].rstrip()
        while (left := _LEFT_OPEN.search(before)) is not None:
            before = before[: left.start()].rstrip()
        if before and "=" not in text[start:]:  # a calculation is reasoning, even if it ends in the answer
            text = before
    return _BOX.sub(r"\1", text)


def right_ones(question: str, completions: Sequence[str], gold: str, stage: ColdStart) -> list[Trace]:
    """Traces of at most `stage.keep` different right completions, chosen by their lengths.

    Args:
        question: as the trained model will be asked.
        completions: the untrained model's, those that ended by themselves.
        gold: the gold answer.
        stage: how many, which, and how answers are stated. Two of spread lengths are the shortest and the longest.
    """
    thoughts = {thinking_of(text) for text in completions if final_answer(text) is not None and is_correct(text, gold)}
    ordered = sorted((thought for thought in thoughts if thought), key=lambda thought: (len(thought), thought))
    count = min(stage.keep, len(ordered))
    last = len(ordered) - 1 if stage.lengths == "spread" else count - 1
    chosen = sorted(set(np.linspace(0, last, count).round().astype(int).tolist()))
    return [Trace(question, ordered[at], stage.answer.replace("{}", gold)) for at in chosen]


def cut_at_a_budget(thinking: Sequence[int], rng: random.Random) -> list[int]:
    """The first tokens of some thinking, as a budget leaves them: their number is uniform in log(1 + budget)."""
    return list(thinking[: int(np.expm1(rng.uniform(0, np.log1p(len(thinking)))))])


def encode(trace: Trace, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """A trace as token ids and labels, which are -100 on tokens outside the loss. The tokenizer has the marks."""
    prompt: list[int] = tokenizer.apply_chat_template(
        [{"role": "user", "content": trace.question}], add_generation_prompt=True, return_dict=False
    )
    end = THINK_END if trace.forced else f"{_PARAGRAPH}{THINK_END}"
    thinking = tokenizer.encode(f"{trace.thinking}{end}", add_special_tokens=False)
    answer = [*tokenizer.encode(f"\n\n{trace.answer}", add_special_tokens=False), tokenizer.eos_token_id]
    learned = answer if trace.forced else thinking + answer
    ids = prompt + thinking + answer
    return {"input_ids": ids, "labels": [-100] * (len(ids) - len(learned)) + learned}
