"""Is the state directory its user's alone, whatever was there before?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config import ConfigError, Settings
from gateway.process import state_dir


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_the_gateway_keeps_there_is_closed_to_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "redis" / "appendonlydir").mkdir(parents=True, mode=0o755)
    for name in ("redis/appendonlydir/incr.aof", "ledger.spool.3.jsonl", "other.txt"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(0o664)
    state_dir.make_private(tmp_path)
    assert [mode(tmp_path / name) for name in (".", "redis", "redis/appendonlydir")] == [0o700] * 3
    assert [mode(tmp_path / name) for name in ("redis/appendonlydir/incr.aof", "ledger.spool.3.jsonl")] == [0o600] * 2
    assert mode(tmp_path / "other.txt") == 0o664
    (record,) = caplog.records
    assert "was open to other users: 5 files are private now" in record.getMessage()
    state_dir.make_private(tmp_path)
    assert len(caplog.records) == 1, "nothing is said if nothing is to be done"


@pytest.mark.parametrize("name", [".", "keys.json", "logs/engine.log"])
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / name).touch()
    lstat, stat = Path.lstat, Path.stat

    def given_away(path: Path, found: os.stat_result) -> os.stat_result:
        return os.stat_result((*found[:4], 12345, *found[5:])) if path == tmp_path / name else found

    monkeypatch.setattr(Path, "lstat", lambda path: given_away(path, lstat(path)))
    monkeypatch.setattr(Path, "stat", lambda path, **how: given_away(path, stat(path, **how)))
    with pytest.raises(ConfigError, match=r"belongs to another user \(uid 12345\)"):
        state_dir.make_private(tmp_path)


@pytest.mark.parametrize("name", ["lock", "keys.json", "logs/redis.log", "redis", "workers/1.ready"])
def test_a_link_is_refused_and_its_target_untouched(tmp_path: Path, name: str) -> None:
    (target := tmp_path / "target").touch(mode=0o644)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(target)
    with pytest.raises(ConfigError, match=f"{name} in .* is a symbolic link"):
        state_dir.make_private(tmp_path)
    assert mode(target) == 0o644


def test_a_fifo_or_a_file_for_a_directory_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ledger.spool.jsonl")
    with pytest.raises(ConfigError, match="is neither a file nor a directory"):
        state_dir.make_private(tmp_path)
    (tmp_path / "ledger.spool.jsonl").unlink()
    (tmp_path / "logs").touch()
    with pytest.raises(ConfigError, match=r"logs in .* is not a directory"):
        state_dir.make_private(tmp_path)


def test_a_lock_with_garbage_in_it_is_taken(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        (tmp_path / "lock").write_text("9" * 1000 + "\n")
        with state_dir.locked(Settings(state_dir=tmp_path)):
            assert (tmp_path / "lock").read_text() == str(os.getpid())
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["lock", "ledger.spool.jsonl"])
def test_a_file_with_a_second_name_is_refused_and_untouched(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "elsewhere"
    victim.write_text("precious")
    (tmp_path / name).hardlink_to(victim)
    with pytest.raises(ConfigError, match=f"{name} in .* has a second name"):
        state_dir.make_private(tmp_path)
    assert victim.read_text() == "precious"
