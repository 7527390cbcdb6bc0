"""Which questions does a recipe use? Generated arithmetic, or questions drawn from its files and checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

from rich.console import Console

from training.config import Data
from training.errors import StageError
from training.job.record import fingerprint
from training.tasks import files
from training.tasks.problems import Split
from training.tasks.prompts import prompts
from training.tasks.question import Question

_console = Console(stderr=True, soft_wrap=True)


def questions(data: Data, split: Split, seed: int, count: int, *, wanted_by: str = "the recipe") -> Sequence[Question]:
    """`count` questions of a split, each followed by the recipe's instruction. Only training questions may repeat.

    `wanted_by` is the field or option that says how many, for the message.

    Raises:
        StageError: there are fewer questions, a file is missing or malformed, or a row cannot be used.
    """
    if data.path is None:
        try:
            hard_share = data.hard_share if split == "train" else None
            drawn: Sequence[Question] = prompts(split, seed, count, hard_share=hard_share)
        except ValueError as error:
            raise StageError(str(error)) from None
    else:
        drawn = _drawn(data, data.path, split, seed, count, wanted_by=wanted_by)
    return with_instruction(drawn, data.instruction)


def with_instruction(questions: Sequence[Question], instruction: str) -> Sequence[Question]:
    """The questions, each followed by the instruction after a line break; the same if it is empty."""
    if not instruction:
        return questions
    return [replace(question, prompt=f"{question.prompt}\n{instruction}") for question in questions]


def data_record(data: Data) -> dict[str, object]:
    """What the questions depend on: the content of the files, not their paths."""
    record: dict[str, object] = {**data.model_dump(exclude={"path", "test", "hard_share"})}
    if data.hard_share is not None:
        record["hard_share"] = data.hard_share
    record["files"] = fingerprint(data.path) if data.path else None
    if data.path:
        record["reading"] = files.VERSION
    if data.test:
        record["test"] = fingerprint(data.test)
    return record


def _drawn(data: Data, path: Path, split: Split, seed: int, count: int, *, wanted_by: str) -> list[Question]:
    pool = _read(data.task, path, data.test, data.skip_unverifiable)[split]
    if split != "train" and len(pool) < count:
        field, source = ("test", data.test) if data.test and split == "heldout" else ("path", path)
        raise StageError(
            f"data.{field}: {source} has {len(pool)} questions in the {split} split; {wanted_by} needs {count}"
        )
    return list(islice(files.shuffled(pool, seed), count))


@cache
def _read(task: str, path: Path, test: Path | None, skip_unverifiable: bool) -> dict[Split, list[Question]]:
    """The questions of the files, read once by a process; the first process says what was left out."""
    return files.read(task, path, test=test, skip_unverifiable=skip_unverifiable, say=_say)


def _say(line: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        _console.print(f"data: {line}", markup=False, highlight=False)
