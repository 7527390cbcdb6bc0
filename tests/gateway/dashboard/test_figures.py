"""Are the dashboard's figures those that the ledger's own functions compute?"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest

from gateway.access.cost import Price
from gateway.access.keys import Key
from gateway.access.prices import PriceList
from gateway.access.usage import Usage
from gateway.dashboard import figures
from gateway.dashboard.figures import Reading, Setting
from gateway.ledger.entry import Entry
from gateway.ledger.ledger import LedgerSnapshot
from gateway.ledger.money import compute_money
from gateway.ledger.savings import cell_of, compute_savings, sum_totals, totals_of
from gateway.ledger.usage import usage_of
from models.family import Family
from tests.gateway.dashboard.books import week
from tests.gateway.entries import entry

NOW = 1_800_000_000.0
NOTHING = Reading(LedgerSnapshot(0, [], []), [], [], [], {})


def key(name: str, **grant: int | Decimal) -> Key:
    return Key.model_validate({"name": name, "sha256": "a" * 64, "hint": "wxyz", "created": 1.0, **grant})


def setting(family: Family, *keys: Key) -> Setting:
    return Setting(family, keys, 0.02, None, 0.05, {"engines": []})


def snapshot(entries: Sequence[Entry]) -> LedgerSnapshot:
    by_cell = itertools.groupby(sorted(entries, key=cell_of_any), key=cell_of)
    cells = [(cell, sum_totals([totals_of(one) for one in some])) for cell, some in by_cell]
    return LedgerSnapshot(0, cells, [one for one in entries if one.holdout])


def cell_of_any(one: Entry) -> tuple[str, ...]:
    return tuple(str(part) for part in cell_of(one))


def test_an_empty_ledger_has_an_overview(family: Family) -> None:
    shown = figures.overview(NOTHING, setting(family), "7d", NOW)
    assert shown["savings"]["total"]["requests"] == 0
    assert shown["savings"]["total"]["saved_share"] is None
    assert shown["over_time"] == shown["decisions"] == shown["keys"] == []
    assert shown["frontier"]["requests"] == shown["what_if"]["requests"] == 0


def test_a_week_has_the_savings_of_v1_savings(family: Family) -> None:
    entries = week(family, NOW)
    books = snapshot(entries)
    shown = figures.overview(Reading(books, [], [], entries[::-1], {}), setting(family), "7d", NOW)
    assert shown["savings"] == compute_savings(books.cells, books.holdouts).as_json()
    assert shown["savings"]["total"]["measured"] is not None
    days = compute_savings(books.cells, books.holdouts, "day").groups.values()
    by_day = [{name: one[name] for name in one if name != "start"} for one in shown["over_time"]]
    assert by_day == [day.as_json() for day in days]
    assert shown["decisions"][0]["id"] == entries[-1].id


def test_the_points_of_time_are_days_or_hours_in_order(family: Family) -> None:
    reading = Reading(snapshot(week(family, NOW, 500)), [], [], [], {})
    days, hours = (figures.over_time(reading, setting(family), hourly=hourly) for hourly in (False, True))
    for points, seconds in ((days, 86_400), (hours, 3600)):
        starts = [one["start"] for one in points]
        assert starts == sorted(set(starts))
        assert all(start % seconds == 0 for start in starts)
        assert sum(one["requests"] for one in points) == 500
    assert len(hours) > len(days)


def test_with_prices_the_money_is_that_of_v1_savings_and_adds_up_over_time(family: Family) -> None:
    entries = week(family, NOW, 500)
    prices = PriceList("EUR", {one.name: Price(1_000, 100, 3_000, 2_000) for one in family.checkpoints})
    lines = [line for one in entries for line in usage_of(one, cell_of(one))]
    reading, priced = Reading(snapshot(entries), [], [], [], {}, lines), replace(setting(family), prices=prices)
    shown = figures.overview(reading, priced, "7d", NOW)
    of = compute_money(lines, reading.snapshot.holdouts, prices, family.reference, by="checkpoint")
    assert shown["money"] == of.as_json()
    assert of.total.total > 0
    for points in (shown["over_time"], figures.over_time(reading, priced, hourly=True)):
        assert sum(one["money"]["total"] for one in points) == pytest.approx(of.total.total)
    assert "money" not in figures.overview(reading, setting(family), "7d", NOW)


def test_a_key_shows_its_limits_with_what_is_used_of_them(family: Family) -> None:
    limited = key("team-a", requests_per_minute=10, reasoning_tokens_per_day=1000)
    usage = {"team-a": Usage(requests=4, minute_tokens=50, day_tokens=300, reserved=20)}
    books = snapshot([entry(key="team-a"), entry(key="gone"), entry(key="")])
    shown = figures.overview(Reading(books, [], [], [], usage), setting(family, limited, key("idle")), "7d", NOW)
    by_name = {one["name"]: one for one in shown["keys"]}
    assert by_name["team-a"]["limits"] == [
        {"name": "requests_per_minute", "most": 10, "used": 4},
        {"name": "reasoning_tokens_per_day", "most": 1000, "used": 320},
    ]
    assert {name: one["revoked"] for name, one in by_name.items()} == {
        "team-a": False, "gone": True, "(none)": False, "idle": False,
    }  # fmt: skip
    assert by_name["idle"]["requests"] == 0
    assert "sha256" not in str(shown["keys"])


def test_limits_in_money_are_shown_in_units_of_the_currency_and_what_nobody_counts_without_a_use(
    family: Family,
) -> None:
    keys = (
        key("team-a", money_per_day=5, money_per_month=Decimal("20.5"), max_concurrency=3),
        key("unread", requests_per_minute=10),
    )
    usage = {
        "team-a": Usage(4, 0, 0, 0, day_money=1_250_000_000, month_money=3_000_000_000, reserved_money=500_000_000)
    }
    shown = figures.overview(Reading(snapshot([]), [], [], [], usage), setting(family, *keys), "7d", NOW)
    by_name = {one["name"]: one["limits"] for one in shown["keys"]}
    assert by_name["team-a"] == [
        {"name": "money_per_day", "most": 5.0, "used": 1.75},
        {"name": "money_per_month", "most": 20.5, "used": 3.5},
        {"name": "max_concurrency", "most": 3, "used": None},
    ]
    assert by_name["unread"] == [{"name": "requests_per_minute", "most": 10, "used": None}]
    json.dumps(shown)


@pytest.mark.parametrize("keys", [figures.MAX_KEYS, 3 * figures.MAX_KEYS])
def test_a_bounded_number_of_keys_is_shown(family: Family, keys: int) -> None:
    some = [key(f"key-{number}") for number in range(keys)]
    assert len(figures.overview(NOTHING, setting(family, *some), "7d", NOW)["keys"]) == figures.MAX_KEYS
