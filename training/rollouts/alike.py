"""Do the first steps have anything to learn from? If all rollouts are wrong, or all are right, a run warns once."""

from __future__ import annotations

from torch import Tensor

STEPS = 2
"""Steps of one process that are watched; a resumed run watches again."""


class Alike:
    """Watches the verdicts of the first steps."""

    def __init__(self, steps: int) -> None:
        """`steps`: of the whole training; with fewer than `STEPS`, all of them are watched."""
        self._last = min(STEPS, steps)
        self._seen: list[int] = []
        self._correct = self._finished = self._closed = self._count = 0

    def after(self, step: int, correct: Tensor, finished: Tensor, closed: Tensor, *, example: str) -> str | None:
        """A warning if this is the last of the first steps and all verdicts were alike; else None.

        Args:
            step: its number, from 1.
            correct: whether each rollout of all processes is right, (B,).
            finished: whether it ended by itself.
            closed: whether it also closed its thinking.
            example: what the grader saw in one rollout of this step.
        """
        if len(self._seen) >= self._last:
            return None
        self._seen.append(step)
        self._count += len(correct)
        self._correct += int(correct.sum())
        self._finished += int(finished.sum())
        self._closed += int(closed.sum())
        if len(self._seen) < self._last or 0 < self._correct < self._count:
            return None
        which = f"of step {step}" if len(self._seen) == 1 else f"of steps {self._seen[0]} to {step}"
        if self._correct:
            return (
                f"all {self._count} rollouts {which} were right, so there is only their length to learn from:"
                " are the questions too easy, or does the verifier accept too much?"
            )
        return (
            f"all {self._count} rollouts {which} were wrong, so there is nothing to learn from:"
            f" {self._count - self._finished} were cut off (family.max_tokens),"
            f" {self._finished - self._closed} never closed their thinking; one {example}."
            " Check the answer's format (data.instruction), the verifier on this answer, and the questions' difficulty"
        )
