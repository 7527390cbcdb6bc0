"""Which questions does a recipe ask for? Made, or drawn from its files, and checked."""

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
    """`count` questions of a split with the recipe's instruction; only training questions may come more than once.

    Raises:
        StageError: there are fewer, a file is missing or malformed, or a gold answer cannot be verified; names it.
    """
    if data.path is None:
        try:
            found: Sequence[Question] = prompts(split, seed, count)
        except ValueError as error:
            raise StageError(str(error)) from None
    else:
        found = _drawn(data, data.path, split, seed, count)
    if not data.instruction:
        return found
    return [replace(question, prompt=f"{question.prompt}\n{data.instruction}") for question in found]


def data_record(data: Data) -> dict[str, object]:
    """What the questions depend on: the files themselves, not where they lie."""
    return {**data.model_dump(exclude={"path"}), "files": fingerprint(data.path) if data.path else None}


def _drawn(data: Data, path: Path, split: Split, seed: int, count: int) -> list[Question]:
    pool = _read(data.task, path)[split]
    found: list[Question] = []
    for number, question in enumerate(files.shuffled(pool, seed)):
        if len(found) == count:
            return found
        if number >= len(pool) and (split != "train" or not found):
            break
        if _is_verifiable(question.answer):
            found.append(question)
        elif not data.skip_unverifiable:
            raise StageError(
                f"data.path: {path} has a gold answer that nothing can be compared with, {question.answer!r}, of the"
                f" question {question.prompt[:60]!r}: correct it, or leave such out with data.skip_unverifiable"
            )
    raise StageError(f"data.path: {path} has {len(found)} questions in the {split} split, {count} were asked for")


_read = cache(files.read)
_is_verifiable = cache(is_verifiable)
