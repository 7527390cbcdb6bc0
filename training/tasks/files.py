"""Which questions are in these files? Reads, checks and splits GSM8K, MATH, and any JSONL of prompt and answer.

What each task reads, from the directory `path`:

    gsm8k   train.jsonl and test.jsonl as published (question, answer ending in "#### N"); test.jsonl is the
            heldout split
    math    train.json(l) and math500.json(l) or test.json(l) (problem, answer or solution with \\boxed, level or
            difficulty); the second is the heldout split
    jsonl   one file of rows with prompt, answer and optionally difficulty; a tenth each is the validation
            and the heldout split

A tenth of GSM8K's and MATH's training questions is the validation split. A question's split is a hash of its words, so
it stays the same when the file changes. A held-out question that is also in the training file is never trained on.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import StageError
from training.tasks.problems import SPLITS, Split
from training.tasks.question import Question
from training.tasks.verify import final_answer

_GSM8K_ANSWER = re.compile(r"####\s*(.+?)\s*$")


@dataclass(frozen=True)
class _Row:
    """A row of a file, and how error messages refer to it."""

    where: str
    fields: Mapping[str, Any]

    def text(self, *names: str) -> str:
        """The first of these fields that the row has, as text.

        Raises:
            StageError: the row has none of them, or the value is neither text nor a number.
        """
        for name in names:
            if name in self.fields:
                value = self.fields[name]
                if isinstance(value, float) and value.is_integer():
                    value = int(value)
                if not isinstance(value, str | int | float) or isinstance(value, bool):
                    raise StageError(f"{self.where}: {name} must be text, got {json.dumps(value)[:60]}")
                return str(value)
        raise StageError(f"{self.where}: {' or '.join(names)} is missing")


def read(task: str, path: Path) -> dict[Split, list[Question]]:
    """All questions of a task's files, by split.

    Raises:
        StageError: a file is missing, empty or malformed. Names the file, the row and the field.
    """
    by_split: dict[Split, list[Question]]
    if task == "jsonl":
        questions = [_jsonl(row) for row in _rows(_one_of(path))]
        by_split = {split: [q for q in questions if _split(q) == split] for split in SPLITS}
    else:
        make = {"gsm8k": _gsm8k, "math": _math}[task]
        names = {"gsm8k": ("train", ("test",)), "math": ("train", ("math500", "test"))}[task]
        heldout = [make(row) for row in _rows(_one_of(path, *names[1]))]
        heldout_keys = {_key(q) for q in heldout}
        train = [q for row in _rows(_one_of(path, names[0])) if _key(q := make(row)) not in heldout_keys]
        by_split = {
            "train": [q for q in train if _split(q) != "validation"],
            "validation": [q for q in train if _split(q) == "validation"],
            "heldout": heldout,
        }
    if empty := [split for split in SPLITS if not by_split[split]]:
        raise StageError(f"data.path: {path} has no questions for the {empty[0]} split")
    return by_split


def shuffled(pool: list[Question], seed: int) -> Iterator[Question]:
    """An endless stream of the questions, shuffled by the seed; none repeats before all have been drawn."""
    rng = random.Random(f"draw/{seed}")
    while True:
        yield from rng.sample(pool, len(pool))


def _gsm8k(row: _Row) -> Question:
    answer = _GSM8K_ANSWER.search(row.text("answer"))
    if not answer:
        raise StageError(f"{row.where}: answer must end with a line '#### N'")
    return Question(row.text("question"), answer[1].replace(",", ""), "gsm8k", "gsm8k")


def _math(row: _Row) -> Question:
    answer = row.text("answer", "solution")
    if "answer" not in row.fields:
        answer = final_answer(answer) or ""
    level = row.text("level", "difficulty").removeprefix("Level ")
    return Question(row.text("problem"), answer, "math", f"level {level}")


def _jsonl(row: _Row) -> Question:
    difficulty = row.text("difficulty") if "difficulty" in row.fields else "all"
    return Question(row.text("prompt"), row.text("answer"), "jsonl", difficulty)


def _split(question: Question) -> Split:
    """A tenth of the questions each is `validation` and `heldout`."""
    bucket = int.from_bytes(hashlib.sha256(_key(question).encode()).digest()[:4]) % 10
    return "validation" if bucket == 0 else "heldout" if bucket == 1 else "train"


def _key(question: Question) -> str:
    """The words of a question, so that the split ignores case, punctuation and white space."""
    return " ".join(re.findall(r"\w+", question.prompt.lower()))


def _one_of(path: Path, *names: str) -> Path:
    candidates = [path / f"{name}.{ending}" for name in names for ending in ("jsonl", "json")] if names else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise StageError(f"data.path: {' or '.join(map(str, candidates))} is missing")


def _rows(path: Path) -> Iterator[_Row]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: cannot be read ({error})") from None
    for where, fields in (_array if path.suffix == ".json" else _lines)(path, text):
        if not isinstance(fields, dict):
            raise StageError(f"{where}: must be an object with fields, got {json.dumps(fields)[:60]}")
        yield _Row(where, fields)


def _array(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        values = json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise StageError(f"{path}: not JSON ({error})") from None
    if not isinstance(values, list):
        raise StageError(f"{path}: must be a list of rows")
    for number, value in enumerate(values, 1):
        yield f"{path}, row {number}", value


def _lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: strings may contain U+2028 and the like
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line, parse_constant=_reject_constant)
            except (ValueError, RecursionError) as error:
                raise StageError(f"{path}, line {number}: not JSON ({error})") from None


def _reject_constant(word: str) -> float:
    raise ValueError(f"{word} is not a number in JSON")
