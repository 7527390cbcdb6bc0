"""What is a question? A prompt and its gold answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Difficulty = Literal["easy", "medium", "hard"]
"""How hard an arithmetic question is. Questions from files have other difficulties, or none."""
DIFFICULTIES: tuple[Difficulty, ...] = get_args(Difficulty)


@dataclass(frozen=True)
class Question:
    """`task` says where the question comes from; figures are reported by `difficulty`."""

    prompt: str
    answer: str
    task: str
    difficulty: str

    def as_row(self) -> dict[str, str]:
        """The question as a row of the public JSONL format."""
        return {"prompt": self.prompt, "answer": self.answer, "task": self.task, "difficulty": self.difficulty}
