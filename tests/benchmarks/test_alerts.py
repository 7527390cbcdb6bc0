from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.alerts import exposed, expression, firing

QUALITY = expression("LaconicQualityLost")


def scraped(**values: float) -> str:
    """The gauge's exposition, by source."""
    head = "# TYPE laconic_quality_difference_high gauge\n"
    return head + "".join(f'laconic_quality_difference_high{{source="{k}"}} {v}\n' for k, v in values.items())


@given(st.floats(-1, 1))
@example(-0.005)
def test_the_quality_alert_fires_if_the_upper_end_is_below_the_tolerance(high: float) -> None:
    assert bool(firing(QUALITY, exposed(scraped(verifier=high)))) is (high < -0.005)


def test_it_fires_by_source_and_says_which() -> None:
    found = firing(QUALITY, exposed(scraped(thumbs=0.1, verifier=-0.02)))
    assert found == {(("source", "verifier"),): -0.02}


def test_what_is_not_measured_does_not_fire() -> None:
    assert firing(QUALITY, exposed(scraped(verifier=math.nan))) == {}
    assert firing(QUALITY, exposed("")) == {}


def test_the_largest_of_a_group_counts_whatever_is_not_a_number() -> None:
    text = "# TYPE a gauge\n" + 'a{pod="3",s="x"} NaN\na{pod="1",s="x"} 1\na{pod="2",s="x"} 3\na{pod="1",s="y"} 0\n'
    metrics = exposed(text)
    assert firing("max by (s) (a) > 2", metrics) == {(("s", "x"),): 3.0}
    assert firing("min by (s) (a) > 0", metrics) == {(("s", "x"),): 1.0}
    assert firing('sum(a{pod!="3"}) >= (4)', metrics) == {(): 4.0}
    assert len(firing("a > -(1)", metrics)) == 3
    assert firing('a{pod=~"1|2",s!~"y"} <= 1', metrics) == {(("pod", "1"), ("s", "x")): 1.0}


@pytest.mark.parametrize(
    "query",
    [
        "rate(a[1m]) > 0",
        "avg(a) > 0",
        "max without (s) (a) > 0",
        "a > bool 0",
        "a > a",
        "a and a",
        "a offset 1m > 0",
        "topk(1, a) > 0",
        "-a > 0",
        "1",
    ],
)
def test_what_is_not_known_is_an_error_and_never_silent(query: str) -> None:
    with pytest.raises(ValueError, match=r"known|number"):
        firing(query, exposed(scraped(verifier=0.0)))


def test_an_alert_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(LookupError, match="LaconicNoSuchThing"):
        expression("LaconicNoSuchThing")
