"""Which prompts does the shipped family train on? Arithmetic problems phrased as text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from training.tasks import problems
from training.tasks.phrasing import phrase
from training.tasks.problems import Chain, Difficulty, Kind, Split
from training.tasks.question import Question

_EXHAUSTED = 500
"""After so many repeats in a row, a split counts as exhausted."""


@dataclass(frozen=True)
class Prompt(Question):
    """A question with the `chain` from which traces are written."""

    chain: Chain


def prompts(
    split: Split, seed: int, count: int, *, task: Kind | None = None, difficulty: Difficulty | None = None
) -> list[Prompt]:
    """`count` different prompts of a split; the same arguments give the same prompts.

    Raises:
        ValueError: this split has fewer different prompts of this task and difficulty.
    """
    distinct: dict[str, Prompt] = {}
    repeats = 0
    for prompt in stream(split, seed, task=task, difficulty=difficulty):
        if len(distinct) == count:
            break
        repeats = repeats + 1 if prompt.prompt in distinct else 0
        if repeats > _EXHAUSTED:
            raise ValueError(
                f"count: {split} has only about {len(distinct)} different prompts of this kind, not {count}"
            )
        distinct.setdefault(prompt.prompt, prompt)
    return list(distinct.values())


def stream(
    split: Split,
    seed: int,
    *,
    task: Kind | None = None,
    difficulty: Difficulty | None = None,
    practice: bool = False,
) -> Iterator[Prompt]:
    """An endless, reproducible stream of prompts, with repeats. `practice` weights kinds as for traces."""
    rng = random.Random(f"phrase/{problems.seed_of(split, str(seed))}")
    for chain in problems.chains(split, seed, kind=task, difficulty=difficulty, practice=practice):
        yield Prompt(phrase(chain, rng), str(chain.answer), chain.kind, chain.difficulty, chain)
