"""Which rows are questions to use? Leaves out repeats, refuses or skips what cannot be used, and says what and why.

A row without a question, without an answer that can be verified, or with another answer than the same question has
elsewhere, is refused, or skipped with `data.skip_unverifiable`. A question that repeats with the same answer is used
once. A training question that is also in the test file is not trained on (docs/decisions/0044-own-data.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.errors import StageError
from training.tasks.question import Question
from training.tasks.rows import Row, Unusable
from training.tasks.sameness import key
from training.tasks.verify import is_verifiable, same_answer

NO_QUESTION = "no question"
NO_ANSWER = "no answer"
UNVERIFIABLE = "an answer that cannot be verified"
CONTRADICTED = "another answer than the same question has in another row"
_SHOWN = 8
"""Row numbers that a message has at most."""


@dataclass(frozen=True)
class Used:
    """A question and the row that it comes from."""

    question: Question
    row: Row


class Screen:
    """Screens the rows of one file."""

    def __init__(self, path: Path, *, skip: bool, say: Callable[[str], None]) -> None:
        """With `skip`, unusable rows are left out instead of refused. `say` receives one line for each kind of them."""
        self._path, self._skip, self._say = path, skip, say
        self._left_out: dict[str, list[int]] = {}

    def questions(self, rows: Sequence[Row], make: Callable[[Row], Question]) -> list[Used]:
        """The distinct questions of the rows, in their order.

        Args:
            rows: the rows of the file.
            make: makes a question of one, or raises `Unusable`.

        Raises:
            StageError: a row cannot be used and nothing is skipped. Names file, row, field, and the setting.
        """
        same: dict[str, list[Used]] = {}
        for used in self._usable(rows, make):
            same.setdefault(key(used.question.prompt), []).append(used)
        kept: list[Used] = []
        repeated: list[int] = []
        for first, *others in same.values():
            if another := next((each for each in others if not _agree(first, each)), None):
                self._refuse(
                    f"{another.row.where}: the same question as in {_short(first.row)}, but another answer,"
                    f" {another.question.answer!r} instead of {first.question.answer!r}",
                    "correct or remove one",
                )
                self._left_out.setdefault(CONTRADICTED, []).extend(each.row.number for each in (first, *others))
                continue
            kept.append(first)
            repeated += [each.row.number for each in others]
        self._report(len(rows), sorted(repeated))
        return kept

    def without(self, train: Iterable[Used], heldout: Iterable[Used], test: Path) -> list[Used]:
        """The training questions that are not among the held-out ones of the file `test`."""
        keys = {key(used.question.prompt) for used in heldout}
        kept: list[Used] = []
        leaked: list[int] = []
        for used in train:
            if key(used.question.prompt) in keys:
                leaked.append(used.row.number)
            else:
                kept.append(used)
        if leaked:
            self._say(
                f"{self._path}: {_rows(leaked)} with a question that is in {test}, too: kept for the test,"
                " not trained on"
            )
        return kept

    def why_none(self) -> str:
        """How many rows were left out and why, to follow a message that nothing is left; empty if none was."""
        parts = [f"{_rows(numbers)} with {kind}" for kind, numbers in self._left_out.items() if numbers]
        return f": 0 questions are left, without {', '.join(parts)}" if parts else ""

    def _usable(self, rows: Sequence[Row], make: Callable[[Row], Question]) -> Iterable[Used]:
        for row in rows:
            try:
                question = make(row)
                if not key(question.prompt):
                    raise Unusable(NO_QUESTION, f"{row.where}: the question is empty, {question.prompt[:20]!r}")
                if not _is_verifiable(question.answer):
                    raise Unusable(
                        UNVERIFIABLE if question.answer.strip() else NO_ANSWER,
                        f"{row.where}: its answer cannot be verified, {question.answer[:60]!r}, of the question"
                        f" {question.prompt[:60]!r}",
                    )
            except Unusable as unusable:
                self._refuse(str(unusable), "correct it")
                self._left_out.setdefault(unusable.kind, []).append(row.number)
            else:
                yield Used(question, row)

    def _refuse(self, what: str, instead: str) -> None:
        if not self._skip:
            raise StageError(f"data: {what}: {instead}, or skip such rows with data.skip_unverifiable: true")

    def _report(self, count: int, repeated: list[int]) -> None:
        parts = [f"{_rows(numbers)} with {kind}" for kind, numbers in self._left_out.items() if numbers]
        if parts:
            left_out = sum(map(len, self._left_out.values()))
            self._say(f"{self._path}: {left_out:,} of {count:,} rows skipped: {', '.join(parts)}")
        if repeated:
            self._say(f"{self._path}: {_rows(repeated)} that repeat a question and its answer: used once")


def _agree(one: Used, other: Used) -> bool:
    return same_answer(one.question.answer, other.question.answer)


def _short(row: Row) -> str:
    """Where a row is in its file: `line 3`."""
    return row.where.rpartition(", ")[2]


def _rows(numbers: Sequence[int]) -> str:
    """`2 rows (887 and 1010)`, with the first few numbers."""
    numbers = sorted(numbers)
    shown = [*map(str, numbers[:_SHOWN])]
    if len(numbers) > _SHOWN:
        listed = f"{', '.join(shown)} and others"
    else:
        listed = shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
    return f"{len(numbers):,} row{'s' if len(numbers) > 1 else ''} ({listed})"


_is_verifiable = cache(is_verifiable)
