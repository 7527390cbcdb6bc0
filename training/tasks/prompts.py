"""The prompts of the shipped family's mix: problems put into words, without repeats."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from training.tasks import problems
from training.tasks.phrasing import phrase
from training.tasks.problems import Chain, Difficulty, Kind, Split
from training.tasks.question import Question

_EXHAUSTED = 500
"""So many repeats one after the other mean that there is nothing new to be found."""


@dataclass(frozen=True)
class Prompt(Question):
    """A question of the mix; `chain` is what the trace writer works from."""

    chain: Chain


def prompts(
    split: Split, seed: int, count: int, *, task: Kind | None = None, difficulty: Difficulty | None = None
) -> list[Prompt]:
    """`count` different prompts of a split; the same arguments give the same prompts.

    Raises:
        ValueError: `task` has fewer different prompts in this split than asked for.
    """
    found: dict[str, Prompt] = {}
    repeats = 0
    for prompt in stream(split, seed, task=task, difficulty=difficulty):
        if len(found) == count:
            break
        repeats = repeats + 1 if prompt.prompt in found else 0
        if repeats > _EXHAUSTED:
            raise ValueError(
                f"count: {split} has only about {len(found)} different prompts of this kind, {count} were asked for"
            )
        found.setdefault(prompt.prompt, prompt)
    return list(found.values())


def stream(
    split: Split,
    seed: int,
    *,
    task: Kind | None = None,
    difficulty: Difficulty | None = None,
    practice: bool = False,
) -> Iterator[Prompt]:
    """An endless, reproducible stream of prompts, with repeats; for `practice` with kinds as traces have them."""
    rng = random.Random(f"phrase/{split}/{seed}")
    for chain in problems.chains(split, seed, kind=task, difficulty=difficulty, practice=practice):
        yield Prompt(phrase(chain, rng), str(chain.answer), chain.kind, chain.difficulty, chain)
