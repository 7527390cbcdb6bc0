"""How is a file written so that a kill leaves the old one or the new one, and how is it hashed?"""

from __future__ import annotations

import hashlib
import json
import os
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


def sha256(file: Path) -> str:
    """Hex digest of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(directory: Path, path: str) -> dict[str, str]:
    """SHA-256 of every file under `directory/path`, keyed by path relative to `directory`, sorted."""
    top = directory / path
    files = [top] if top.is_file() else sorted(p for p in top.rglob("*") if p.is_file())
    return {file.relative_to(directory).as_posix(): sha256(file) for file in files}
