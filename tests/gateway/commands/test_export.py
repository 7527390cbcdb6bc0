"""Does `laconic export` write every entry, and reject files that it cannot write?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pyarrow import parquet

from tests.conftest import RedisServer
from tests.gateway.commands.running import exit_code, record_three_requests, run


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
