from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from models.files import (
    MIB,
    atomic_directory,
    hash_files,
    read_bounded,
    read_json,
    sha256,
    write_json,
    write_private,
    write_text,
)


def test_json_is_written_with_its_directories_and_no_temporary_file_remains(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "gate.json", {"a": 1})
    assert (tmp_path / "new" / "gate.json").read_text() == '{\n "a": 1\n}\n'
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["gate.json"]


def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rows.jsonl"
    write_text(file, "old")

    def fail(path: Path, _: str) -> None:
        path.write_bytes(b"ne")
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        write_text(file, "new")
    assert file.read_text() == "old"


def test_a_directory_appears_complete_or_stays_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    with atomic_directory(target) as unfinished:
        (unfinished / "weights").write_text("first")
        assert not target.exists()

    def write_interrupted() -> None:
        with atomic_directory(target) as unfinished:
            (unfinished / "weights").write_text("second")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_interrupted()
    assert (target / "weights").read_text() == "first"
    with atomic_directory(target) as unfinished:
        (unfinished / "other").write_text("third")
    assert [path.name for path in target.iterdir()] == ["other"]
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
    target.rename(tmp_path / "adapter.old")  # the state after a kill between the two renames
    with pytest.raises(KeyboardInterrupt):
        write_interrupted()
    assert [path.name for path in target.iterdir()] == ["other"], "the old directory is not lost"


def test_files_are_hashed_by_their_path_in_the_directory(tmp_path: Path) -> None:
    write_text(tmp_path / "b", "2")
    write_json(tmp_path / "deep" / "a", 1)
    assert hash_files(tmp_path, ".") == {"b": sha256(tmp_path / "b"), "deep/a": sha256(tmp_path / "deep" / "a")}
    assert hash_files(tmp_path, "b") == {"b": sha256(tmp_path / "b")}
    assert sha256(tmp_path / "b") == "d4735e3a265e16eee03f59718b9b5d03019c07d8b6c51f90da3a666eec13ab35"


def test_a_file_larger_than_its_bound_is_not_read(tmp_path: Path) -> None:
    (file := tmp_path / "file").write_bytes(b"x" * MIB)
    assert len(read_bounded(file, MIB)) == MIB
    file.write_bytes(b"x" * (MIB + 1))
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_bounded(file, MIB)


@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "socket"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "path"
    with socket.socket(socket.AF_UNIX) as listener:
        match kind:
            case "fifo":
                os.mkfifo(path)
            case "directory":
                path.mkdir()
            case "device":
                path = Path("/dev/zero")
            case _:
                listener.bind(str(path))
        with pytest.raises(OSError, match="not a regular file"):
            read_bounded(path, MIB)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 100_000, b"", b"\xff", b"9" * 5000])
def test_what_is_no_json_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (file := tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError) as refused:  # noqa: PT011  any message
        read_json(file, MIB)
    assert "\n" not in str(refused.value)


def test_a_private_file_replaces_a_link_and_not_its_target(tmp_path: Path) -> None:
    (target := tmp_path / "target").write_text("precious")
    (file := tmp_path / "file").symlink_to(target)
    write_private(file, b"mine")
    assert (file.read_text(), target.read_text(), file.is_symlink()) == ("mine", "precious", False)
    assert file.stat().st_mode & 0o777 == 0o600
    write_private(file, b"again")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["file", "target"]
