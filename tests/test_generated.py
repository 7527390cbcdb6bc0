"""Is every generated file what its generator writes today, and does writing it twice change nothing?"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import generated

ROOT = generated.ROOT
COPIED = ("README.md", "docs", "benchmarks", "models")


@pytest.fixture(scope="module")
def written_twice(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """The files of a copy of the repository: as committed, written once, and written twice."""
    copy = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    states = [contents(copy)]
    for _ in range(2):
        generated.write(copy)
        states.append(contents(copy))
    return states


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def different(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def test_every_generated_file_is_up_to_date(written_twice: list[dict[str, bytes]]) -> None:
    committed, once, _ = written_twice
    assert different(committed, once) == [], "run `make generated` and commit what it writes"


def test_writing_every_generated_file_twice_changes_nothing(written_twice: list[dict[str, bytes]]) -> None:
    _, once, twice = written_twice
    assert different(once, twice) == []
