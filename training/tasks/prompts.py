"""Which prompts does the shipped family train on? Arithmetic problems phrased as text."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from training.tasks import problems
from training.tasks.phrasing import phrase
from training.tasks.problems import Chain, Difficulty, Kind, Split
from training.tasks.question import Question

_EXHAUSTED = 500
"""After so many repeats in a row, a split counts as exhausted."""
_HARDEST: Difficulty = "hard"


@dataclass(frozen=True)
class Prompt(Question):
    """A question with the `chain` from which traces are written."""

    chain: Chain


def prompts(
    split: Split,
    seed: int,
    count: int,
    *,
    task: Kind | None = None,
    difficulty: Difficulty | None = None,
    hard_share: float | None = None,
) -> list[Prompt]:
    """`count` different prompts of a split; the same arguments give the same prompts.

    Args:
        split: whose prompts.
        seed: another seed draws others.
        count: how many.
        task: only this kind.
        difficulty: only this difficulty. Without it, difficulties take turns.
        hard_share: share of the prompts that are hard, from 0 to 1, spread evenly; for None, they take their turn.

    Raises:
        ValueError: this split has fewer different prompts of this task and difficulty.
    """
    hard = others = stream(split, seed, task=task, difficulty=difficulty)
    if hard_share is not None:
        hard = stream(split, seed, task=task, difficulty=_HARDEST)
        others = (prompt for prompt in others if prompt.difficulty != _HARDEST)
    distinct: dict[str, Prompt] = {}
    share = hard_share or 0.0
    for place in range(count):
        is_hard = int((place + 1) * share + 0.5) > int(place * share + 0.5)
        drawn = islice(hard if is_hard else others, _EXHAUSTED + 1)
        new = next((prompt for prompt in drawn if prompt.prompt not in distinct), None)
        if new is None:
            raise ValueError(f"count: {split} has only about {place} different prompts of this kind, not {count}")
        distinct[new.prompt] = new
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
