"""Does `laconic usage` show who used what, as a table, JSON and CSV?"""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path

import pytest

from gateway.ledger.ledger import Ledger
from tests.conftest import RedisServer
from tests.gateway.commands.running import cells_of, exit_code, run
from tests.gateway.entries import entry
from tests.gateway.prices import write_prices


async def record(server: RedisServer, tmp_path: Path) -> None:
    """Two requests of today and one of last week, each of 20 prompt, 40 reasoning and 5 answer tokens."""
    now = time.time()
    ledger = Ledger(server.url, tmp_path)
    await ledger.start()
    for key, team, at in (("app-1", "research", now), ("app-2", "research", now), ("app-3", "", now - 7 * 86_400)):
        ledger.put(entry(key=key, team=team, time=at, checkpoint="alpha-0.4"))
    await ledger.aclose()


async def test_usage_is_a_table_with_a_total(
    redis_server: RedisServer, tmp_path: Path, family_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record(redis_server, tmp_path)
    prices = ("--prices", str(write_prices(tmp_path)), "--family", str(family_dir))
    run("usage", "--redis", redis_server.url, "--by", "team,key", *prices)
    rows = [cells_of(line) for line in capsys.readouterr().out.splitlines()]
    assert ["research", "app-1", "1", "0", "20", "0", "0", "40", "5", "0.0002"] in rows
    assert ["total", "", "3", "0", "60", "0", "0", "120", "15", "0.0004"] in rows


async def test_usage_as_json_and_csv_adds_up(
    redis_server: RedisServer, tmp_path: Path, family_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record(redis_server, tmp_path)
    priced = ("--prices", str(write_prices(tmp_path)), "--family", str(family_dir), "--redis", redis_server.url)
    run("usage", "--json", "--by", "team", "--since", "24h", *priced)
    found = json.loads(capsys.readouterr().out)
    assert [(row["team"], row["requests"]) for row in found["rows"]] == [("research", 2)]
    run("usage", "--csv", "--by", "key", "--until", "2d", *priced)
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["key"], row["reasoning_tokens"], row["cost"]) == ("app-3", "40", "0.00015")
    run("usage", "--redis", redis_server.url, "--json")
    assert "cost" not in json.loads(capsys.readouterr().out)["total"]


async def test_savings_are_in_money_with_prices(
    redis_server: RedisServer, tmp_path: Path, family_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record(redis_server, tmp_path)
    priced = ("--prices", str(write_prices(tmp_path)), "--family", str(family_dir), "--redis", redis_server.url)
    run("savings", "--json", *priced)
    money = json.loads(capsys.readouterr().out)["money"]
    assert money["total"]["spent"] == pytest.approx(3 * 150_000 / 1e9)
    assert money["total"]["reference"] == pytest.approx(3 * (20 * 10_000 + 80 * 30_000 + 5 * 20_000) / 1e9)
    run("savings", *priced)
    printed = capsys.readouterr().out
    assert "In USD: 0.0076 saved of 0.0081" in printed
    assert "all requests cost 0.0004" in printed or "all requests cost 0.0005" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--by", "moon"], "'moon' is not one of"),
        (["--since", "soon"], "is not a moment"),
        (["--prices", "none"], "prices: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str], said: str, redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("usage", "--redis", redis_server.url, *arguments) == 2
    assert said in capsys.readouterr().err
