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
    assert (found.judged, found.better, found.worse, found.unjudged) == (10, 2, 8, 0)
    assert found.difference == pytest.approx(-0.15)
    assert found.low is not None
    assert found.high is not None
    assert -0.35 < found.low < -0.15 < found.high < 0.02
    assert (found.routed_tokens, found.reference_tokens, found.judge_tokens) == (45 * 40, 45 * 120, 45 * 7)


def test_pairs_without_a_verdict_are_missing_and_not_equal() -> None:
    """A judge that fails on half of the pairs that differ must not halve the difference."""
    agreeing, worse, better = [shadow(True, 0)] * 700, [shadow(False, -1)] * 120, [shadow(False, 1)] * 60
    equal, failed = [shadow(False, 0)] * 120, [shadow(False, None)] * 150
    whole = compare([*agreeing, *worse, *better, *equal])
    half = compare([*agreeing, *worse[::2], *better[::2], *equal[::2], *failed])
    assert whole.difference == half.difference == pytest.approx(-0.06)
    assert (half.judged, half.unjudged) == (150, 150)
    assert whole.low is not None
    assert half.low is not None
    assert half.low < whole.low < -0.06, "the interval is wider"


def test_a_judge_that_hardly_ever_answers_shows_no_difference() -> None:
    agreeing, failed = [shadow(True, 0)] * 700, [shadow(False, None)] * 300
    assert compare([*agreeing, *failed]).difference is None
    assert compare([*agreeing, *failed, *[shadow(False, -1)] * 9]).difference is None
    assert compare([*agreeing, *failed, *[shadow(False, -1)] * 10]).difference is not None
    assert compare([shadow(True, None)] * 40).difference is None, "there was no judge"


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
