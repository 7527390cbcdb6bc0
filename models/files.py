"""How are files read that nobody vouches for, written so that a kill leaves old or new ones, and hashed?"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

MIB = 1_048_576


def open_regular(path: Path, flags: int = os.O_RDONLY, mode: int = 0o600) -> int:
    """Open a regular file and return its descriptor. Nothing blocks, whatever is at the path.

    Raises:
        OSError: there is none, or it is a FIFO, a device, a directory or a socket.
    """
    if path.exists() and not path.is_file():  # opening some devices already does something
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    file = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, mode)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return file


def read_bounded(path: Path, max_bytes: int, flags: int = 0) -> bytes:
    """The bytes of a regular file of at most `max_bytes`.

    Raises:
        OSError: as `open_regular` raises; or the file is larger.
    """
    with os.fdopen(open_regular(path, os.O_RDONLY | flags), "rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes // MIB} MiB", str(path))
    return content


def read_json(path: Path, max_bytes: int) -> object:
    """The value of a JSON file.

    Raises:
        OSError: as `read_bounded` raises.
        ValueError: the file is not JSON, or nested too deeply. The message is one line.
    """
    content = read_bounded(path, max_bytes)
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_private(path: Path, content: bytes) -> None:
    """Write a file atomically that only its owner may read. A link at the path is replaced and not followed."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as stream:
        stream.write(content)
    temporary.replace(path)


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
    """Hex digest of a regular file's bytes."""
    with os.fdopen(open_regular(file), "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_files(directory: Path, path: str) -> dict[str, str]:
    """SHA-256 of every file under `directory/path`, keyed by path relative to `directory`, sorted."""
    top = directory / path
    files = [top] if top.is_file() else sorted(p for p in top.rglob("*") if p.is_file())
    return {file.relative_to(directory).as_posix(): sha256(file) for file in files}
