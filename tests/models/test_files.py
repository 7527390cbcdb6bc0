from __future__ import annotations

from pathlib import Path

import pytest

from models.files import atomic_directory, hash_files, sha256, write_json, write_text


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
