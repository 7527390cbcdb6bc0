"""What did a checkpoint answer, and was it correct? Outcomes as plain data, stored as JSON lines; no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from models.files import write_text


@dataclass(frozen=True)
class Outcome:
    """One graded completion. Reasoning tokens are counted as the engine does: those sampled before `</think>`."""

    correct: bool
    reasoning_tokens: int
    tokens: int
    episodes: int
    finished: bool
    after_first: float | None = None
    """The model's probability of the gold answer if its thinking ends after its first episode; None if not measured."""
    surprisal: float | None = None
    """-log P of the thinking and its `</think>`, in nats; high if the model was unsure. None if not measured."""

    @property
    def answer_tokens(self) -> int:
        """The tokens that are no reasoning: those of the answer, and the marks that end thinking and answer."""
        return max(self.tokens - self.reasoning_tokens, 0)


@dataclass(frozen=True)
class Graded:
    """One prompt with the outcomes of its samples."""

    prompt: str
    task: str
    difficulty: str
    outcomes: tuple[Outcome, ...]

    @property
    def accuracy(self) -> float:
        """pass@1: the share of correct samples."""
        return float(np.mean([o.correct for o in self.outcomes]))

    @property
    def reasoning_tokens(self) -> float:
        """The mean over samples."""
        return float(np.mean([o.reasoning_tokens for o in self.outcomes]))


@dataclass(frozen=True)
class BudgetForced:
    """One answer after thinking that a budget ended."""

    prompt: str
    budget: int
    """The reasoning tokens that the budget allowed."""
    correct: bool


def save(rows: Sequence[Graded], path: Path) -> None:
    """Write one JSON line per prompt, atomically."""
    write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def load(path: Path) -> list[Graded]:
    """Read the rows that `save` wrote."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [Graded(r["prompt"], r["task"], r["difficulty"], tuple(Outcome(**o) for o in r["outcomes"])) for r in rows]


def save_budget_forced(answers: Sequence[BudgetForced], path: Path) -> None:
    """Write one JSON line per answer, atomically."""
    write_text(path, "".join(json.dumps(asdict(answer)) + "\n" for answer in answers))


def load_budget_forced(path: Path) -> list[BudgetForced]:
    """Read the answers that `save_budget_forced` wrote."""
    return [BudgetForced(**json.loads(line)) for line in path.read_text().splitlines()]
