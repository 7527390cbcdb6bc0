"""Which questions does a recipe use? Generated arithmetic, or questions drawn from its files and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from training.config import Data
from training.errors import StageError
from training.job.record import fingerprint
from training.tasks import files
from training.tasks.problems import Split
from training.tasks.prompts import prompts
from training.tasks.question import Question
from training.tasks.verify import is_verifiable


def questions(data: Data, split: Split, seed: int, count: int) -> Sequence[Question]:
    """`count` questions of a split, each followed by the recipe's instruction. Only training questions may repeat.

    Raises:
        StageError: there are fewer questions, a file is missing or malformed, or a gold answer cannot be verified.
    """
    if data.path is None:
        try:
            drawn: Sequence[Question] = prompts(split, seed, count)
        except ValueError as error:
            raise StageError(str(error)) from None
    else:
        drawn = _drawn(data, data.path, split, seed, count)
    return with_instruction(drawn, data.instruction)


def with_instruction(questions: Sequence[Question], instruction: str) -> Sequence[Question]:
    """The questions, each followed by the instruction after a line break; the same if it is empty."""
    if not instruction:
        return questions
    return [replace(question, prompt=f"{question.prompt}\n{instruction}") for question in questions]


def data_record(data: Data) -> dict[str, object]:
    """What the questions depend on: the content of the files, not their path."""
    return {**data.model_dump(exclude={"path"}), "files": fingerprint(data.path) if data.path else None}


def _drawn(data: Data, path: Path, split: Split, seed: int, count: int) -> list[Question]:
    pool = _read(data.task, path)[split]
    drawn: list[Question] = []
    for number, question in enumerate(files.shuffled(pool, seed)):
        if len(drawn) == count:
            return drawn
        if number >= len(pool) and (split != "train" or not drawn):
            break
        if _is_verifiable(question.answer):
            drawn.append(question)
        elif not data.skip_unverifiable:
            raise StageError(
                f"data.path: {path} has a gold answer that cannot be verified, {question.answer!r}, of the question"
                f" {question.prompt[:60]!r}: correct it, or skip such questions with data.skip_unverifiable: true"
            )
    raise StageError(f"data.path: {path} has {len(drawn)} questions in the {split} split; the recipe needs {count}")


_read = cache(files.read)
_is_verifiable = cache(is_verifiable)
