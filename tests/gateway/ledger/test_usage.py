"""Do usage and cost add up to the ledger to the last token, whatever they are grouped by?"""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
from decimal import Decimal
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gateway.access.cost import Price, cost
from gateway.access.prices import PriceList
from gateway.ledger.entry import Entry
from gateway.ledger.ledger import Ledger, read_usage
from gateway.ledger.savings import cell_of
from gateway.ledger.usage import DIMENSIONS, Line, Usage, money, report, usage_of
from tests.conftest import RedisServer, patient
from tests.gateway.entries import entries, entry

PRICES = PriceList(
    "USD", {"base": Price(3, 1, 9, 7), "alpha-0": Price(2, 1, 5, 4), "alpha-0.4": Price(0, 0, 2, 2)}
)  # fmt: skip
ESCALATED = entry(
    checkpoint="base", choice="alpha-0.4>base@10%", prompt_tokens=20, reasoning_tokens=50, answer_tokens=9,
    first_checkpoint="alpha-0.4", first_reasoning_tokens=15, first_answer_tokens=2, team="research", key="app-1",
    cached_tokens=16,
)  # fmt: skip


def lines_of(several: list[Entry]) -> list[tuple[Line, Usage]]:
    return [line for one in several for line in usage_of(one, cell_of(one))]


def test_an_escalated_request_counts_once_and_each_checkpoint_s_tokens_are_its_own() -> None:
    found = report(lines_of([ESCALATED]), ("checkpoint",), PRICES)
    first, second = found.rows
    assert (first.labels, second.labels) == (("alpha-0.4",), ("base",))
    assert first.usage._replace(expected_reasoning=0, expected_answer=0) == Usage(
        repeated_prompt_tokens=20, reasoning_tokens=15, answer_tokens=2
    )
    assert second.usage[:8] == Usage(1, 0, 0, 20, 16, 0, 35, 7)[:8]
    assert (first.cost, second.cost) == (2 * 15 + 2 * 2, 4 * 3 + 16 * 1 + 35 * 9 + 7 * 7)
    assert found.total.usage.prompt_tokens == 20, "as the caller's usage has it"


@given(st.lists(entries(), max_size=8), st.sets(st.sampled_from(DIMENSIONS)))
def test_totals_equal_the_ledger_whatever_they_are_grouped_by(several: list[Entry], by: set[str]) -> None:
    found = report(lines_of(several), [one for one in DIMENSIONS if one in by], PRICES)
    total = found.total.usage
    assert total.requests == len(several)
    assert total.failed == sum(one.status != 200 for one in several)
    assert total.prompt_tokens == sum(one.prompt_tokens for one in several)
    assert total.cached_tokens == sum(one.cached_tokens or 0 for one in several)
    assert total.reasoning_tokens == sum(one.reasoning_tokens for one in several)
    assert total.answer_tokens == sum(one.answer_tokens for one in several)
    assert found.total.cost == sum(
        cost(PRICES.checkpoints[p.checkpoint], p.spent) for one in several for p in one.parts
    )
    for column in Usage._fields:
        assert sum(getattr(row.usage, column) for row in found.rows) == getattr(total, column)
    assert sum(row.cost for row in found.rows) == found.total.cost
    assert len({row.labels for row in found.rows}) == len(found.rows)


async def test_what_redis_has_adds_up_to_the_entries_and_counts_none_twice(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    hours = itertools.cycle([1_800_000_000.0, 1_800_003_700.0, 1_800_100_000.0])
    several = [
        entry(
            time=next(hours),
            key=f"app-{n % 3}",
            team="research" if n % 3 else "",
            reasoning_tokens=n,
            status=200 + n % 2,
        )
        for n in range(100)
    ]
    several.append(ESCALATED)
    ledger = Ledger(redis_server.url, tmp_path)
    await ledger.start()
    for one in [*several, *several[:30]]:
        ledger.put(one)
    await ledger.aclose()
    redis = patient(redis_server.url)
    found = await read_usage(redis, 0)
    assert report(found, DIMENSIONS, PRICES) == report(lines_of(several), DIMENSIONS, PRICES)
    window = await read_usage(redis, 1_800_003_700.0, 1_800_003_601.0)
    assert {line.hour for line, _ in window} == {1_800_003_700 // 3600}
    await redis.aclose()


async def test_a_sum_that_overflows_does_not_hold_up_the_ledger(redis_server: RedisServer, tmp_path: Path) -> None:
    ledger = Ledger(redis_server.url, tmp_path)
    await ledger.start()
    for _ in range(3):
        ledger.put(entry(reference_tokens=2.0**53))
    async with asyncio.timeout(20):
        while ledger.pending:
            await asyncio.sleep(0.01)
    assert ledger.healthy
    total = report(await read_usage(ledger.redis, 0), (), None).total.usage
    assert (total.requests, total.reasoning_tokens) == (3, 120), "the other sums go on"
    await ledger.aclose()


def test_csv_has_exact_amounts_and_json_numbers() -> None:
    found = report(lines_of([ESCALATED]), ("team", "key"), PRICES)
    (row,) = csv.DictReader(io.StringIO(found.as_csv(), newline=""))
    assert (row["team"], row["key"], row["requests"], row["reasoning_tokens"]) == ("research", "app-1", "1", "50")
    assert Decimal(row["cost"]) * 10**12 == found.total.cost
    assert found.as_json()["total"]["cost"] == float(money(found.total.cost))
    without = report(lines_of([ESCALATED]), ("team",), None)
    assert "cost" not in without.as_json()["total"]
    assert "cost" not in without.as_csv()


def test_tokens_without_a_price_are_said_and_not_costed() -> None:
    found = report(
        lines_of([entry(checkpoint="gone", prompt_tokens=1, reasoning_tokens=2, answer_tokens=3)]), (), PRICES
    )
    assert (found.total.cost, found.total.unpriced) == (0, 6)


def test_who_has_no_key_or_team_is_named_so() -> None:
    assert [row.labels for row in report(lines_of([entry()]), ("team", "key"), None).rows] == [("(none)", "(none)")]
