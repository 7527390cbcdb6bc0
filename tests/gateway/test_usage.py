"""Does everybody see their own usage, and an admin all of it, as JSON and as CSV?"""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path
from typing import Any

import pytest

from gateway.ledger.usage import DIMENSIONS
from tests.conftest import RedisServer
from tests.gateway.arrivals import let_a_holdout_arrive_once_holdouts_are_read
from tests.gateway.commands.running import record_holdouts
from tests.gateway.fakes import EASY, FakeEngine, Gateway, error, running
from tests.gateway.test_money_limits import COST, key, priced

__all__ = ["priced"]


async def usage(gateway: Gateway, headers: dict[str, str], requests: int, query: str = "") -> dict[str, Any]:
    """The usage, as soon as it has that many requests."""
    async with asyncio.timeout(30):
        while True:
            found = (await gateway.client.get(f"/v1/usage?{query}", headers=headers)).json()
            if found["total"]["requests"] >= requests:
                return found
            await asyncio.sleep(0.01)


async def test_an_admin_sees_all_and_a_key_its_own(priced: Gateway) -> None:
    boss = await key(priced, "boss", admin=True)
    one, two = await key(priced, "app-1", team="research"), await key(priced, "app-2", team="research")
    for headers in (one, one, two):
        await priced.ask(EASY, headers=headers)
    every = await usage(priced, boss, 3, "by=team,key")
    assert [(row["team"], row["key"], row["requests"]) for row in every["rows"]] == [
        ("research", "app-1", 2), ("research", "app-2", 1),
    ]  # fmt: skip
    assert every["total"]["cost"] == pytest.approx(3 * COST / 1e9)
    assert (every["total"]["currency"], every["total"]["prompt_tokens"]) == ("USD", 3 * 17)
    own = await usage(priced, two, 1, "by=team,key,day,checkpoint")
    assert [(row["key"], row["checkpoint"], row["reasoning_tokens"]) for row in own["rows"]] == [
        ("app-2", "alpha-0.4", 4)
    ]
    assert own["by"] == list(DIMENSIONS)
    assert (await priced.client.get("/v1/usage")).status_code == 401


async def test_csv_comes_if_the_caller_wants_it(priced: Gateway) -> None:
    await priced.ask(EASY)
    await usage(priced, {}, 1)
    asked = [
        ("format=csv", {}), ("", {"accept": "text/csv"}), ("", {"accept": "text/csv;q=1, application/json"}),
    ]  # fmt: skip
    for query, headers in asked:
        response = await priced.client.get(f"/v1/usage?by=key,day&{query}", headers=headers)
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        (row,) = csv.DictReader(io.StringIO(response.text, newline=""))
        assert (row["key"], row["requests"], row["cost"]) == ("(none)", "1", f"{COST / 1e9:.6f}")
    for query, headers in (("format=json", {"accept": "text/csv"}), ("", {"accept": "application/json, text/csv"})):
        response = await priced.client.get(f"/v1/usage?{query}", headers=headers)
        assert response.headers["content-type"] == "application/json"


async def test_a_window_is_of_whole_hours(priced: Gateway) -> None:
    await priced.ask(EASY)
    await usage(priced, {}, 1)
    found = await usage(priced, {}, 1, "since=1h&until=2999-01-01")
    assert (found["since"] % 3600, found["until"] % 3600) == (0, 0)
    past = (await priced.client.get("/v1/usage?until=2020-01-01T00:30Z")).json()
    assert (past["total"]["requests"], past["rows"]) == (0, [])
    assert past["until"] == 1_577_840_400


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("by=moon", "by"), ("by=key,key", "by"), ("by=", "by"), ("since=x", "since"), ("until=2027-13-01", "until"),
        ("format=xml", "format"), ("till=1h", "till"), ("since=", "since"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_a_400_that_names_the_parameter(gateway: Gateway, query: str, param: str) -> None:
    response = await gateway.client.get(f"/v1/usage?{query}")
    assert response.status_code == 400
    assert error(response)["param"] == param


async def test_without_prices_there_is_no_cost(gateway: Gateway) -> None:
    await gateway.ask(EASY)
    assert "cost" not in (await usage(gateway, {}, 1))["total"]


async def test_without_redis_usage_is_a_503(family_dir: Any, mortal_redis: RedisServer, engine: FakeEngine) -> None:
    mortal_redis.start()
    async with running(family_dir, mortal_redis.url, [engine.url]) as gateway:
        mortal_redis.kill()
        response = await gateway.client.get("/v1/usage")
    assert (response.status_code, error(response)["code"]) == (503, "store_unavailable")


async def test_savings_are_in_money_with_prices(priced: Gateway) -> None:
    await priced.ask(EASY)
    await usage(priced, {}, 1)
    money = (await priced.client.get("/v1/savings")).json()["money"]
    assert money["currency"] == "USD"
    assert money["total"]["spent"] == pytest.approx(COST / 1e9)
    assert money["total"]["reference"] == pytest.approx((17 * 10_000 + 100 * 30_000 + 5 * 20_000) / 1e9, rel=0.2)
    assert (money["total"]["measured"], money["shadows"]) == (None, 0)
    assert set(money["groups"]) == {"alpha-0.4"}


async def test_a_holdout_that_arrives_between_two_reads_does_not_hide_the_money_that_was_measured(
    priced: Gateway, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_holdouts(redis_server, tmp_path / "before")
    let_a_holdout_arrive_once_holdouts_are_read(monkeypatch, redis_server, tmp_path)
    money = (await priced.client.get("/v1/savings")).json()["money"]
    assert money["total"]["measured"]["requests"] == 100
