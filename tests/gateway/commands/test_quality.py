"""Does `laconic quality` say what was saved and what it cost, and what to beware of?"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.ledger import feedback, shadows
from gateway.ledger.entry import Entry
from gateway.ledger.ledger import Ledger
from gateway.ledger.shadows import Shadow
from tests.conftest import RedisServer
from tests.gateway.commands.running import run
from tests.gateway.entries import entry


async def record(server: RedisServer, tmp_path: Path, score_of: Callable[[int, Entry], float | None]) -> None:
    """Record 200 requests, every fourth a holdout that spends about 120 tokens instead of 40, and their scores."""
    ledger = Ledger(server.url, tmp_path)
    await ledger.start()
    sample = [
        entry(
            time=time.time() - 1, key="team-a", choice="alpha-0.2", decision="routed" if i % 4 else "holdout",
            reasoning_tokens=40 if i % 4 else 110 + i % 21,
        )
        for i in range(200)
    ]  # fmt: skip
    for one in sample:
        ledger.put(one)
    for i, one in enumerate(sample):
        if (score := score_of(i, one)) is not None:
            await feedback.record(ledger.redis, one, "thumbs", score)
    await ledger.aclose()


async def test_the_sentence_has_the_savings_and_the_quality(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record(redis_server, tmp_path, lambda i, _: float(i % 3 != 0))
    run("quality", "--redis", redis_server.url, "--by", "key")
    printed = capsys.readouterr().out
    pattern = r"saved 6\d % of reasoning tokens \(6\d to 6\d\), quality [+-]\d\.\d points \(-1\d\.\d to \+1\d\.\d\)"
    assert re.search(pattern + ", as thumbs scores it", printed)
    assert "team-a" in printed
    run("savings", "--redis", redis_server.url)
    assert re.search(pattern, capsys.readouterr().out)


async def test_uneven_scores_are_warned_about(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record(redis_server, tmp_path, lambda i, one: float(i % 3 != 0) if one.holdout or i % 4 == 1 else None)
    run("quality", "--redis", redis_server.url)
    printed = " ".join(capsys.readouterr().out.split())
    assert "33.3% of routed requests and 100.0% of holdouts have a score" in printed
    assert "difference is between" in printed


async def test_too_few_scores_are_counted(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record(redis_server, tmp_path, lambda i, _: 1.0 if i < 8 else None)
    run("quality", "--redis", redis_server.url)
    assert "thumbs has 6 and 2" in " ".join(capsys.readouterr().out.split())
    run("quality", "--redis", redis_server.url, "--json", "--source", "thumbs")
    quality = json.loads(capsys.readouterr().out)
    assert quality["sources"]["thumbs"]["routed"] == {"requests": 150, "scores": 6, "mean": None, "share": 0.04}


async def test_without_scores_the_command_says_where_they_come_from(
    redis_server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run("quality", "--redis", redis_server.url)
    assert "POST /v1/feedback" in capsys.readouterr().out


async def test_an_export_has_the_scores(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await record(redis_server, tmp_path, lambda i, _: 0.5 if i == 0 else None)
    run("export", str(tmp_path / "entries.jsonl"), "--redis", redis_server.url)
    rows = [json.loads(line) for line in (tmp_path / "entries.jsonl").read_text().splitlines()]
    assert [row["scores"] for row in rows] == [{"thumbs": 0.5}] + [{}] * 199


async def test_shadow_comparisons_are_summed_up(
    redis_server: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(redis_server.url, tmp_path)
    for agrees, verdict in [(True, 0)] * 30 + [(False, -1)] * 9 + [(False, 1)]:
        await shadows.add(ledger.redis, Shadow(time.time(), "", "alpha-0.2", agrees, verdict, 40, 120, 7))
    await ledger.redis.aclose()
    run("quality", "--redis", redis_server.url)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Of 40 answers that the reference gave, too" in printed
    assert "agreed with the reference in 75.0 % (59.8 to 85.8)" in printed
    assert "The judge prefers 1 routed answers and 9 of the reference: -20.0 points" in printed
    assert "Comparing cost 4,800 tokens of the reference and 280 of the judge." in printed
