"""What did a checkpoint answer, and was it right? Measurements as plain data, kept as JSON lines; no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models.files import write_text


@dataclass(frozen=True)
class Outcome:
    """One judged completion. Tokens are counted as the engine does: what was sampled before `</think>`."""

    correct: bool
    reasoning_tokens: int
    tokens: int
    episodes: int
    finished: bool
    after_first: float | None = None
    """The model's probability of the gold answer, had it stopped thinking after its first episode; where measured."""
    surprisal: float | None = None
    """-log P of the thinking with its `</think>`, in nats: how unsure of itself it was; where measured."""


@dataclass(frozen=True)
class Graded:
    """One prompt with the outcomes of its samples."""

    prompt: str
    task: str
    difficulty: str
    outcomes: tuple[Outcome, ...]

    @property
    def accuracy(self) -> float:
        """pass@1: the mean over samples."""
        return float(np.mean([o.correct for o in self.outcomes]))

    @property
    def reasoning_tokens(self) -> float:
        return float(np.mean([o.reasoning_tokens for o in self.outcomes]))


@dataclass(frozen=True)
class BudgetForced:
    """One answer after thinking that was stopped."""

    prompt: str
    budget: int
    """Reasoning tokens that were left of it."""
    correct: bool


def save(rows: Sequence[Graded], path: Path) -> None:
    """One JSON line per prompt; whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def load(path: Path) -> list[Graded]:
    """Read what `save` wrote."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Graded(r["prompt"], r["task"], r["difficulty"], tuple(Outcome(**o) for o in r["outcomes"])) for r in rows]


def save_budget_forced(cuts: Sequence[BudgetForced], path: Path) -> None:
    """One JSON object per line; whole or not at all."""
    write_text(path, "".join(json.dumps(asdict(cut)) + "\n" for cut in cuts))


def load_budget_forced(path: Path) -> list[BudgetForced]:
    """What `save` wrote."""
    return [BudgetForced(**json.loads(line)) for line in path.read_text().splitlines()]
