"""Does `laconic export` write every entry, and reject files that it cannot write?"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pyarrow import parquet

from gateway.commands import export
from gateway.config import ConfigError
from gateway.ledger.entry import Entry
from tests.conftest import RedisServer
from tests.gateway.commands.running import exit_code, record_three_requests, run
from tests.gateway.entries import entry


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
async def test_export_writes_every_entry(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    await record_three_requests(redis_server, tmp_path)
    file = tmp_path / f"requests.{form}"
    run("export", str(file), "--redis", redis_server.url, "--since", "24h")
    assert capsys.readouterr().out == f"2 entries written to {file}\n"
    rows = (
        parquet.read_table(file).to_pylist()
        if form == "parquet"
        else list(map(json.loads, file.read_text().splitlines()))
    )
    assert [row["reasoning_tokens"] for row in rows] == [30, 1500]
    assert not file.with_name(f"{file.name}.part").exists()


async def test_export_to_a_directory_fails_and_names_it(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record_three_requests(redis_server, tmp_path)
    (tmp_path / "dir.jsonl").mkdir()
    with pytest.raises(AssertionError, match="SystemExit"):
        run("export", str(tmp_path / "dir.jsonl"), "--redis", redis_server.url)
    assert f"cannot write {tmp_path / 'dir.jsonl'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "message"), [("requests.xlsx", "must end in"), ("none/requests.jsonl", "there is no directory none")]
)
def test_export_to_an_unusable_file_is_rejected(file: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("export", file) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["there.jsonl", "link.jsonl", "dangling.jsonl"])
async def test_export_replaces_a_file_or_a_link_only_with_force(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    await record_three_requests(redis_server, tmp_path)
    (there := tmp_path / "there.jsonl").write_text("precious")
    (tmp_path / "link.jsonl").symlink_to(there)
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "new")
    file = tmp_path / name
    with pytest.raises(AssertionError, match="SystemExit"):
        run("export", str(file), "--redis", redis_server.url)
    assert capsys.readouterr().err == f"laconic export: file: {file} exists; pass --force to replace it\n"
    assert there.read_text() == "precious"

    run("export", str(file), "--redis", redis_server.url, "--force")
    assert not file.is_symlink()
    assert (len(file.read_text().splitlines()), file.stat().st_mode & 0o777) == (3, 0o600)
    assert (there.read_text() == "precious") == (file != there)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("planted", ["link", "file"])
async def test_export_writes_to_no_partial_file_that_it_did_not_make(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], planted: str
) -> None:
    await record_three_requests(redis_server, tmp_path)
    (victim := tmp_path / "victim").write_text("precious")
    part = tmp_path / "requests.jsonl.part"
    if planted == "link":
        part.symlink_to(victim)
    else:
        part.write_text("another export's")
    file = tmp_path / "requests.jsonl"
    with pytest.raises(AssertionError, match="SystemExit"):
        run("export", str(file), "--redis", redis_server.url)
    assert f"{part} exists" in capsys.readouterr().err
    assert os.path.lexists(part), "it is not removed either"
    run("export", str(file), "--redis", redis_server.url, "--force")
    assert len(file.read_text().splitlines()) == 3
    assert victim.read_text() == "precious"


async def test_a_file_made_during_an_export_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"

    async def source() -> AsyncIterator[Entry]:
        yield entry()
        file.write_text("precious")

    with pytest.raises(ConfigError, match="exists"):
        await export.writer(file)(source(), {})
    assert file.read_text() == "precious"
    assert not file.with_name("requests.jsonl.part").exists()
