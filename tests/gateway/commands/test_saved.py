"""Does `laconic savings` say what was saved in money?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.commands.saved import money_sentences
from gateway.ledger.money import Money, SavedMoney
from tests.conftest import RedisServer
from tests.gateway.arrivals import let_a_holdout_arrive_once_holdouts_are_read
from tests.gateway.commands.running import record_holdouts, run
from tests.gateway.prices import write_prices


async def test_a_holdout_that_arrives_between_two_reads_does_not_hide_what_was_measured(
    redis_server: RedisServer,
    tmp_path: Path,
    family_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await record_holdouts(redis_server, tmp_path)
    let_a_holdout_arrive_once_holdouts_are_read(monkeypatch, redis_server, tmp_path)
    priced = ("--prices", str(write_prices(tmp_path)), "--family", str(family_dir), "--redis", redis_server.url)
    run("savings", "--json", *priced)
    assert json.loads(capsys.readouterr().out)["money"]["total"]["measured"]["requests"] == 100


def test_tokens_without_a_price_are_said() -> None:
    def sentences(unpriced: int) -> str:
        total = Money(1.0, 3.0, 2.0, 1.0, None, unpriced)
        return "\n".join(money_sentences(SavedMoney("USD", {}, total, 0.0, None)))

    assert "12,345 tokens are of checkpoints without a price, and in no amount. With more than 1%" in sentences(12_345)
    assert "without a price" not in sentences(0)
