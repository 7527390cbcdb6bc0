"""What is a question? A prompt with the answer that it is judged by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """`task` says where it comes from, `difficulty` what it is reported under."""

    prompt: str
    answer: str
    task: str
    difficulty: str

    def as_row(self) -> dict[str, str]:
        """The public JSONL row."""
        return {"prompt": self.prompt, "answer": self.answer, "task": self.task, "difficulty": self.difficulty}
