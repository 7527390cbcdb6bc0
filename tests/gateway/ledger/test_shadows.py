"""Are comparisons stored without text, and summed up with intervals?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.ledger import shadows
from gateway.ledger.shadows import MIN_PAIRS, Shadow, compare, matched_pairs
from tests.conftest import RedisServer, patient


def shadow(agrees: bool | None = True, verdict: int | None = None, time: float = 1.8e9) -> Shadow:
    return Shadow(time, "team-a", "alpha-0.2", agrees, verdict, 40, 120, 7)


def test_agreement_and_verdicts_are_shares_of_those_compared_and_judged() -> None:
    sample = [shadow(True, 0)] * 30 + [shadow(False, -1)] * 8 + [shadow(False, 1)] * 2 + [shadow(None)] * 5
    found = compare(sample)
    assert (found.compared, found.agreed, found.agreement) == (40, 30, 0.75)
    assert (found.judged, found.better, found.worse) == (40, 2, 8)
    assert found.difference == pytest.approx(-0.15)
    assert found.low is not None
    assert found.high is not None
    assert -0.35 < found.low < -0.15 < found.high < 0.02
    assert (found.routed_tokens, found.reference_tokens, found.judge_tokens) == (45 * 40, 45 * 120, 45 * 7)


def test_without_comparisons_there_is_no_figure() -> None:
    found = compare([])
    assert (found.agreement, found.difference, found.reference_tokens) == (None, None, 0)
    assert compare([shadow(True, 0)] * (MIN_PAIRS - 1)).difference is None


@given(better=st.integers(0, 200), worse=st.integers(0, 200), equal=st.integers(MIN_PAIRS, 200))
def test_the_interval_is_around_the_difference(better: int, worse: int, equal: int) -> None:
    found, turned = (matched_pairs(*pair, better + worse + equal) for pair in ((better, worse), (worse, better)))
    assert found[0] is not None
    assert turned[0] is not None
    assert -1 <= found[1] <= found[0] <= found[2] <= 1
    assert found[1] == pytest.approx(-turned[2])


async def test_comparisons_are_read_from_a_time_on(redis_server: RedisServer) -> None:
    redis = patient(redis_server.url)
    redis_server.client.xadd(shadows.STREAM, {"shadow": "torn"})
    for one in (shadow(time=1.8e9), shadow(False, 1, time=1.9e9)):
        await shadows.add(redis, one)
    assert await shadows.read(redis, 0) == [shadow(time=1.8e9), shadow(False, 1, time=1.9e9)]
    await redis.aclose()
