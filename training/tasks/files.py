"""Which questions are in these files? Reads, checks and splits GSM8K, MATH, and any file of questions and answers.

What each task reads, from the directory `path`:

    gsm8k   train.jsonl and test.jsonl as published (question, answer ending in "#### N"); test.jsonl is the
            heldout split
    math    train.json(l) and math500.json(l) or test.json(l); the second is the heldout split
    jsonl   one file; a tenth each is the validation and the heldout split

A tenth of GSM8K's and MATH's training questions is the validation split. The questions of a test file of the user's own
(`test`) are the heldout split of any task. Rows of all files but GSM8K's have columns of these names, in any case:

    question     prompt, problem, question
    answer       answer, final_answer, expected_answer, gold, or else a solution with \\boxed; a number or text
    difficulty   level, difficulty; may be absent

A question's split is a hash of its words, so it stays the same when the file changes. `training/tasks/screening.py`
says which rows are used.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from training.errors import StageError
from training.tasks.problems import SPLITS, Split
from training.tasks.question import Question
from training.tasks.rows import Row, Unusable, require_column
from training.tasks.rows import read as read_rows
from training.tasks.sameness import key
from training.tasks.screening import NO_ANSWER, NO_QUESTION, Screen, Used
from training.tasks.verify import final_answer

VERSION = 2
"""Bump when the same files give other questions; runs that read files by other rules are not continued."""
QUESTION = ("prompt", "problem", "question")
ANSWER = ("answer", "final_answer", "expected_answer", "gold")
SOLUTION = "solution"
DIFFICULTY = ("level", "difficulty")
ENDS_WITH_ANSWER = re.compile(r"####\s*(.+?)\s*$")
"""How a worked solution of GSM8K states its answer."""


def read(
    task: str,
    path: Path,
    *,
    test: Path | None = None,
    skip_unverifiable: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> dict[Split, list[Question]]:
    """All questions of a task's files, by split.

    Args:
        task: `gsm8k`, `math` or `jsonl`.
        path: the task's directory or file.
        test: a file of test questions, instead of the task's own heldout split.
        skip_unverifiable: leave out rows that cannot be used, instead of refusing the file.
        say: receives one line for each kind of rows that are left out.

    Raises:
        StageError: a file is missing, empty or malformed, or has rows that cannot be used. Names the file, the row and
            the field.
    """
    screened = partial(_screened, skip=skip_unverifiable, say=say)
    if task == "jsonl" and test is None:
        screen, used = screened(_one_of(path), partial(_row, task))
        questions = [each.question for each in used]
        by_split: dict[Split, list[Question]] = {
            split: [q for q in questions if _split(q) == split] for split in SPLITS
        }
    else:
        train_file, own_test = _files(task, path)
        make = _gsm8k if task == "gsm8k" else partial(_row, task)
        test_file = own_test() if test is None else _one_of(test)
        _, heldout = screened(test_file, make if test is None else partial(_row, task))
        screen, used = screened(train_file(), make)
        train = [each.question for each in screen.without(used, heldout, test_file)]
        by_split = {
            "train": [q for q in train if _split(q) != "validation"],
            "validation": [q for q in train if _split(q) == "validation"],
            "heldout": [each.question for each in heldout],
        }
    if empty := [split for split in SPLITS if not by_split[split]]:
        raise StageError(f"data.path: {path} has no questions for the {empty[0]} split{screen.why_none()}")
    return by_split


def shuffled(pool: list[Question], seed: int) -> Iterator[Question]:
    """An endless stream of the questions, shuffled by the seed; none repeats before all have been drawn."""
    rng = random.Random(f"draw/{seed}")
    while True:
        yield from rng.sample(pool, len(pool))


def _files(task: str, path: Path) -> tuple[Callable[[], Path], Callable[[], Path]]:
    """What finds a task's training file, and its own test file."""
    if task == "jsonl":
        return partial(_one_of, path), partial(_one_of, path)
    tests = {"gsm8k": ("test",), "math": ("math500", "test")}[task]
    return partial(_one_of, path, "train"), partial(_one_of, path, *tests)


def _screened(
    path: Path, make: Callable[[Row], Question], *, skip: bool, say: Callable[[str], None]
) -> tuple[Screen, list[Used]]:
    rows = read_rows(path)
    require_column(rows, QUESTION)
    require_column(rows, (*ANSWER, SOLUTION))
    screen = Screen(path, skip=skip, say=say)
    return screen, screen.questions(rows, make)


def _gsm8k(row: Row) -> Question:
    answer = ENDS_WITH_ANSWER.search(row.text("answer", kind=NO_ANSWER))
    if not answer:
        raise Unusable(NO_ANSWER, f"{row.where}: answer must end with a line '#### N'")
    return Question(row.text("question", kind=NO_QUESTION), answer[1].replace(",", ""), "gsm8k", "gsm8k")


def _row(task: str, row: Row) -> Question:
    """A question of MATH, of a test set or of a user's own file."""
    prompt = row.text(*QUESTION, kind=NO_QUESTION)
    try:
        answer = row.text(*ANSWER, kind=NO_ANSWER)
    except Unusable:
        if not row.has(SOLUTION):
            raise
        answer = ""
    if not answer.strip() and row.has(SOLUTION):
        answer = final_answer(row.text(SOLUTION, kind=NO_ANSWER)) or ""
    try:
        difficulty = row.text(*DIFFICULTY, kind="no difficulty")
    except Unusable:
        difficulty = ""
    if task == "math":
        return Question(prompt, answer, task, f"level {difficulty.removeprefix('Level ') or 'unknown'}")
    return Question(prompt, answer, task, difficulty or "all")


def _split(question: Question) -> Split:
    """A tenth of the questions each is `validation` and `heldout`. Questions of the same words share a split."""
    words = " ".join(re.findall(r"\w+", question.prompt.lower())) or key(question.prompt)
    bucket = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4]) % 10
    return "validation" if bucket == 0 else "heldout" if bucket == 1 else "train"


def _one_of(path: Path, *names: str) -> Path:
    """The file that there is; without `names`, `path` itself."""
    candidates = [path / f"{name}.{ending}" for name in names for ending in ("jsonl", "json")] if names else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if not names and path.is_dir():
        raise StageError(f"data.path: {path} is a directory; name the file in it")
    raise StageError(f"data.path: {' or '.join(map(str, candidates))} is missing")
