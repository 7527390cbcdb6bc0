"""Which arithmetic questions are there, how hard are they, and which belong to which split?

A problem is a chain of signed terms, each a number or a product of two: 12 + 6 * 7 - 8. Its kind says how it is made,
by reasoning-gym's `chain_sum` and `products` if they can. Its difficulty says how many terms and digits it has. Splits
are disjoint by construction: a chain's split is a hash of its terms *without their order or wording*, so a held-out
question is never a training question in other words.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Literal, get_args

from training.tasks.question import DIFFICULTIES, Difficulty

Split = Literal["train", "validation", "heldout"]
Kind = Literal["sum", "product", "mixed", "story", "missing"]
SPLITS: tuple[Split, ...] = get_args(Split)
KINDS: tuple[Kind, ...] = get_args(Kind)
_SEED_WORDS: dict[Split, str] = {"train": "train", "validation": "test", "heldout": "heldout"}
"""What a seed says for a split: `validation` was once called `test`, and the same seed must draw the same questions."""
_PRACTICE = (4, 1, 2, 3, 2)
"""Weights of the kinds in traces: products are learned from few examples; sums, also in stories, need many."""


@dataclass(frozen=True)
class Term:
    """`sign * product(factors)`, with one or two non-negative factors."""

    sign: Literal[1, -1]
    factors: tuple[int, ...]

    @property
    def size(self) -> int:
        """The term's magnitude, without its sign."""
        return self.factors[0] * (self.factors[1] if len(self.factors) == 2 else 1)

    @property
    def value(self) -> int:
        return self.sign * self.size


@dataclass(frozen=True)
class Chain:
    """A problem before it is phrased as text."""

    kind: Kind
    difficulty: Difficulty
    terms: tuple[Term, ...]

    @property
    def answer(self) -> int:
        return sum(term.value for term in self.terms)

    @property
    def split(self) -> Split:
        """One chain in ten is `validation`, one in ten `heldout`, the others `train`. The order of terms is ignored."""
        canonical = sorted((term.sign, *sorted(term.factors)) for term in self.terms)
        bucket = hashlib.blake2b(repr(canonical).encode(), digest_size=4).digest()[0] % 10
        return "validation" if bucket == 0 else "heldout" if bucket == 1 else "train"


def draw(rng: random.Random, kind: Kind, difficulty: Difficulty) -> Chain:
    """One random chain of the given kind and difficulty, of any split."""
    terms = _GENERATORS[kind](rng, difficulty)
    return Chain(kind, difficulty, terms)


def chains(
    split: Split,
    seed: int,
    *,
    kind: Kind | None = None,
    difficulty: Difficulty | None = None,
    practice: bool = False,
) -> Iterator[Chain]:
    """An endless, reproducible stream of a split's chains.

    Difficulties take turns unless one is given. Kinds are equally likely unless one is given; for `practice`, they are
    weighted by `_PRACTICE`.
    """
    for index in count():
        rng = random.Random(seed_of(split, f"{seed}/{index}"))
        wanted_kind = kind or rng.choices(KINDS, weights=_PRACTICE if practice else None)[0]
        wanted_difficulty = difficulty or DIFFICULTIES[index % len(DIFFICULTIES)]
        while (chain := draw(rng, wanted_kind, wanted_difficulty)).split != split or (
            chain.answer < 0 and rng.random() < 0.8
        ):
            pass
        yield chain


def seed_of(split: Split, rest: str) -> str:
    """The seed of a random generator that draws from a split, e.g. `heldout/7`."""
    return f"{_SEED_WORDS[split]}/{rest}"


def _sum(rng: random.Random, difficulty: Difficulty) -> tuple[Term, ...]:
    terms, digits = {
        "easy": rng.choice(((2, 1), (2, 2), (3, 1))),
        "medium": (3, 2),
        "hard": rng.choice(((4, 2), (5, 2), (6, 2), (3, 3))),
    }[difficulty]
    return _chain_sum(rng, terms, digits)


def _product(rng: random.Random, difficulty: Difficulty) -> tuple[Term, ...]:
    if difficulty == "medium":
        return (Term(1, _shuffled(rng, (rng.randint(11, 99), rng.randint(3, 9)))),)
    digits = 1 if difficulty == "easy" else 2
    expression = _expression(rng, "products", min_terms=2, max_terms=2, min_digits=digits, max_digits=digits)
    left, right = map(int, re.findall(r"\d+", expression))
    return (Term(1, (left, right)),)


def _mixed(rng: random.Random, difficulty: Difficulty) -> tuple[Term, ...]:
    """A product among the terms of a sum."""
    plain, digits = {"easy": (1, 1), "medium": (2, 2), "hard": (rng.choice((2, 3)), 2)}[difficulty]
    terms = list(_chain_sum(rng, plain, digits)) if plain > 1 else [Term(1, (rng.randint(1, 30),))]
    large = (
        rng.randint(2, 9)
        if difficulty == "easy"
        else rng.randint(11, 30)
        if difficulty == "medium"
        else rng.randint(12, 99)
    )
    product = Term(rng.choice((1, 1, -1)), _shuffled(rng, (large, rng.randint(2, 9))))
    terms.insert(rng.randint(0, len(terms)), product)
    if terms[0].sign < 0:
        terms[0] = Term(1, terms[0].factors)
    return tuple(terms)


def _story(rng: random.Random, difficulty: Difficulty) -> tuple[Term, ...]:
    """A sum whose running total never falls below zero, so that a story can count things that a person owns."""
    if difficulty != "hard" and rng.random() < 0.25:
        return _product(rng, difficulty)
    while True:
        terms = _sum(rng, difficulty)
        total = 0
        if all((total := total + term.value) >= 0 for term in terms):
            return terms


def _missing(rng: random.Random, difficulty: Difficulty) -> tuple[Term, ...]:
    """What must be added to b to get a: a - b with a > b."""
    top = {"easy": 60, "medium": 300, "hard": 999}[difficulty]
    whole = rng.randint(top // 3, top)
    return (Term(1, (whole,)), Term(-1, (rng.randint(1, whole - 1),)))


_GENERATORS = {"sum": _sum, "product": _product, "mixed": _mixed, "story": _story, "missing": _missing}


def _chain_sum(rng: random.Random, terms: int, digits: int) -> tuple[Term, ...]:
    """reasoning-gym's chain of `terms` numbers with up to `digits` digits each.

    `chain_sum` draws all numbers of a problem with the same length, but people also ask for 47 - 8. So some of the
    numbers are shortened.
    """
    expression = _expression(rng, "chain_sum", min_terms=terms, max_terms=terms, min_digits=digits, max_digits=digits)
    parts = re.findall(r"([+-]?)\s*(\d+)", expression)
    numbers = [int(number) for _, number in parts]
    if rng.random() < 0.6:
        numbers = [_shortened(rng, number) for number in numbers]
    return tuple(Term(-1 if sign == "-" else 1, (n,)) for (sign, _), n in zip(parts, numbers, strict=True))


def _expression(rng: random.Random, dataset: str, **settings: int) -> str:
    """The expression of one problem of reasoning-gym."""
    import reasoning_gym  # here, because it takes seconds, and plans and questions from files do not need it

    task = reasoning_gym.create_dataset(dataset, seed=rng.getrandbits(31), size=1, **settings)[0]
    return task["metadata"]["expression"]


def _shortened(rng: random.Random, number: int) -> int:
    """The number, or with probability 0.5 only its last digits; never 0."""
    keep = rng.randint(1, len(str(number)))
    return (number % 10**keep if rng.random() < 0.5 else number) or number


def _shuffled(rng: random.Random, factors: tuple[int, int]) -> tuple[int, int]:
    return factors if rng.random() < 0.5 else (factors[1], factors[0])
