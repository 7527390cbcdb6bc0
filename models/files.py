"""How are files written so that a kill leaves the old ones or the new ones, and how are they hashed?"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: readers see the old content or the new, never a part."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write a value as indented JSON, atomically; missing parent directories are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1) + "\n")


@contextmanager
def atomic_directory(directory: Path) -> Generator[Path]:
    """Yields a directory to write to, and moves it to `directory` at the end; an older one is replaced."""
    unfinished, old = (directory.with_name(f"{directory.name}.{state}") for state in ("unfinished", "old"))
    if old.exists() and not directory.exists():  # a kill came between the two renames
        old.rename(directory)
    for leftover in (unfinished, old):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    if directory.exists():
        directory.rename(old)
    unfinished.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(directory: Path, path: str) -> dict[str, str]:
    """SHA-256 of every file under `directory/path`, keyed by path relative to `directory`, sorted."""
    top = directory / path
    files = [top] if top.is_file() else sorted(p for p in top.rglob("*") if p.is_file())
    return {file.relative_to(directory).as_posix(): sha256(file) for file in files}
