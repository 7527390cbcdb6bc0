"""Is what a key has used in the windows of now read as it was counted?"""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.access import windows
from gateway.access.keys import Key
from gateway.access.limits import Limiter
from gateway.access.usage import Usage, read_usage, usage_of
from tests.conftest import RedisServer, patient


async def test_what_the_limiter_counts_is_what_is_read(redis_server: RedisServer, tmp_path: Path) -> None:
    key = Key(
        name="team-a", sha256="a" * 64, hint="wxyz", created=1.0, requests_per_minute=9, reasoning_tokens_per_day=999
    )
    limiter = Limiter(redis_server.url, tmp_path)
    await limiter.start()
    first, _ = await limiter.reserve(key, "req_1", 100)
    await limiter.reserve(key, "req_2", 50)
    limiter.settle(first, 30)
    redis = patient(redis_server.url)
    while (usage := (await read_usage(redis, ["team-a", "team-b"]))["team-a"]).day_tokens == 0:
        pass
    assert usage.reserved == 50
    assert usage.day_tokens == 30
    assert usage.requests in (0, 1, 2), "a minute may have ended meanwhile"
    assert (await read_usage(redis, ["team-b"]))["team-b"] == Usage(0, 0, 0, 0)
    await redis.aclose()
    await limiter.aclose()


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (600, Usage(3, 40, 500, 7, 60, 800, 9)),  # the same minute
        (599 + 61, Usage(0, 0, 500, 7, 60, 800, 9)),  # the next one
        (540, Usage(3, 40, 500, 7, 60, 800, 9)),  # the clock went back
        (86_400, Usage(0, 0, 0, 7, 0, 800, 9)),  # the next day
        (31 * 86_400 - 1, Usage(0, 0, 0, 7, 0, 800, 9)),  # the last second of January 1970
        (31 * 86_400, Usage(0, 0, 0, 7, 0, 0, 9)),  # the next month
        (365 * 86_400, Usage(0, 0, 0, 7, 0, 0, 9)),  # a January again
    ],
)
def test_only_the_windows_of_now_count(now: int, expected: Usage) -> None:
    assert usage_of(["10", "3", "40", "0", "500", "7", "60", "800", "9"], now) == expected


def test_a_key_that_sent_nothing_has_used_nothing() -> None:
    assert usage_of([None] * 9, 600) == Usage(0, 0, 0, 0)


def test_the_state_is_where_the_limiter_keeps_it() -> None:
    assert windows.KEYS[0].format("team-a") == "{laconic:limits}:team-a"
