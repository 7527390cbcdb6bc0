"""Are the adoption benchmark's questions reproducible, and are those it measures on apart from those it is asked?"""

from __future__ import annotations

import io
from pathlib import Path

from benchmarks import questions
from training.adopt import prompts
from training.tasks.problems import Split


def _written(split: Split, count: int) -> str:
    file = io.StringIO()
    questions.write(file, split, 1, count)
    return file.getvalue()


def test_the_same_arguments_give_the_same_questions() -> None:
    assert _written("validation", 20) == _written("validation", 20)


def test_the_splits_have_no_question_in_common() -> None:
    assert set(_written("validation", 200).splitlines()).isdisjoint(_written("heldout", 400).splitlines())


def test_laconic_adopt_reads_them_with_their_answers(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text(_written("heldout", 20))
    read = prompts.read(path)
    assert len(read) == 20
    assert all(request.gold and int(request.gold) is not None for request in read)
