"""Are scores stored once per request and source, with what the ledger knows of the request, and bounded?"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.ledger import feedback
from gateway.ledger.entry import Entry
from gateway.ledger.feedback import FEEDBACK, FullError, ScoredRequest, find_entry, read_requests, read_scores, record
from gateway.ledger.ledger import Ledger, read_snapshot
from gateway.ledger.savings import cell_of
from tests.conftest import RedisServer
from tests.gateway.entries import entry


@pytest.fixture
async def ledger(redis_server: RedisServer, tmp_path: Path) -> AsyncIterator[Ledger]:
    made = Ledger(redis_server.url, tmp_path)
    await made.start()
    yield made
    await made.aclose()


async def recorded(ledger: Ledger, **changes: object) -> Entry:
    """An entry of now that Redis has."""
    one = entry(**({"time": time.time()} | changes))
    ledger.put(one)
    while await find_entry(ledger.redis, one.id, one.time) is None:
        pass
    return one


async def requests(ledger: Ledger) -> list[ScoredRequest]:
    return [one async for one in read_requests(ledger.redis, 0)]


async def test_an_entry_is_found_by_its_id(ledger: Ledger) -> None:
    one, other = await recorded(ledger), await recorded(ledger)
    assert await find_entry(ledger.redis, one.id, time.time()) == one
    assert await find_entry(ledger.redis, other.id, time.time()) == other
    assert await find_entry(ledger.redis, "req_unknown", time.time()) is None


async def test_an_entry_is_found_for_seven_days(ledger: Ledger) -> None:
    one = await recorded(ledger, time=time.time() - 86_400)
    last = one.time + feedback.MAX_AGE_DAYS * 86_400
    assert await find_entry(ledger.redis, one.id, last - 1) is not None
    assert await find_entry(ledger.redis, one.id, last + 1) is None


async def test_a_score_has_what_the_ledger_knows_of_the_request_and_no_more(
    ledger: Ledger, redis_server: RedisServer
) -> None:
    one = await recorded(ledger, key="team-a")
    assert not await record(ledger.redis, one, "thumbs", 0.1)
    (found,) = await requests(ledger)
    assert found == ScoredRequest(one.id, round(one.time, 3), cell_of(one), False, 0.94, {"thumbs": 0.1})
    (stored,) = redis_server.client.hgetall(FEEDBACK.format(day=int(one.time // 86_400))).values()
    assert set(json.loads(stored)) == {"time", "cell", "holdout", "predicted", "scores"}
    assert redis_server.client.ttl(FEEDBACK.format(day=int(one.time // 86_400))) > 89 * 86_400


async def test_a_repeated_score_replaces_that_of_its_source_only(ledger: Ledger) -> None:
    one = await recorded(ledger)
    assert not await record(ledger.redis, one, "thumbs", 1.0)
    assert not await record(ledger.redis, one, "judge", 0.5)
    assert await record(ledger.redis, one, "thumbs", 0.0)
    assert [found.scores for found in await requests(ledger)] == [{"thumbs": 0.0, "judge": 0.5}]


async def test_sources_and_requests_are_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = await recorded(ledger), await recorded(ledger)
    for i in range(feedback.MAX_SOURCES_A_REQUEST):
        await record(ledger.redis, one, f"source-{i}", 1.0)
    with pytest.raises(FullError, match="sources"):
        await record(ledger.redis, one, "one-more", 1.0)
    assert await record(ledger.redis, one, "source-0", 0.0), "what is there can still be replaced"
    monkeypatch.setattr(feedback, "MAX_REQUESTS_A_DAY", 1)
    with pytest.raises(FullError, match="requests"):
        await record(ledger.redis, other, "thumbs", 1.0)


async def test_only_requests_in_a_draw_are_compared(ledger: Ledger) -> None:
    drawn = await recorded(ledger, decision="holdout", checkpoint="base", choice="alpha-0.2")
    pinned = await recorded(ledger, decision="pinned", holdout_fraction=None)
    for one in (drawn, pinned):
        await record(ledger.redis, one, "thumbs", 1.0)
    (score,) = await read_scores(ledger.redis, 0)
    assert (score.holdout, score.source, score.score) == (True, "thumbs", 1.0)
    assert await read_scores(ledger.redis, time.time() + 3600) == []


async def test_what_cannot_be_read_is_skipped(ledger: Ledger, redis_server: RedisServer) -> None:
    one = await recorded(ledger)
    await record(ledger.redis, one, "thumbs", 1.0)
    for id_, torn in (("a", "{"), ("b", "[]"), ("c", '{"cell": 3}')):
        redis_server.client.hset(FEEDBACK.format(day=int(one.time // 86_400)), id_, torn)
    assert [found.id for found in await requests(ledger)] == [one.id]


async def test_an_entry_that_an_earlier_version_recorded_is_not_counted_twice(
    ledger: Ledger, redis_server: RedisServer
) -> None:
    """It kept the ids of a day in a set; an entry may still be in its spool."""
    one = entry(time=time.time())
    redis_server.client.sadd(f"{{laconic:ledger}}:ids:{int(one.time // 86_400)}", one.id)
    ledger.put(one)
    await recorded(ledger)
    snapshot = await read_snapshot(ledger.redis, 0)
    assert sum(totals.requests for _, totals in snapshot.cells) == 1
