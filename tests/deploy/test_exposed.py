"""Would a query that does not fit the gateway's metrics be noticed? The checks of the other tests in this directory."""

from __future__ import annotations

import pytest

from tests.deploy.exposed import Exposed, names, parse, problems

EXPOSITION = """
# TYPE spent_tokens_total counter
spent_tokens_total{checkpoint="base",status="200"} 3
# TYPE took_seconds histogram
took_seconds_bucket{le="+Inf"} 1
took_seconds_count 1
took_seconds_sum 0.5
# TYPE waiting gauge
waiting{engine="a"} 1
"""


@pytest.fixture
def small() -> Exposed:
    return parse(EXPOSITION)


@pytest.mark.parametrize(
    "query",
    [
        "sum by (checkpoint, instance) (rate(spent_tokens_total[5m]))",
        'sum(rate(spent_tokens_total{status=~"2..", status!="204"}[5m]))',
        "histogram_quantile(0.9, sum by (le) (rate(took_seconds_bucket[5m])))",
        'min by (engine) (waiting{job="laconic"}) == 0 and on (engine) deriv(waiting[5m]) > 0',
    ],
)
def test_a_query_that_fits_has_no_problem(query: str, small: Exposed) -> None:
    assert problems(query, small) == []


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("spent_tokens", "spent_tokens is not exposed"),
        ('spent_tokens_total{status="500"}', 'spent_tokens_total{status="500"} matches nothing'),
        ('spent_tokens_total{engine!="a"}', "engine is no label of spent_tokens_total"),
        ("sum by (engine) (spent_tokens_total)", "engine is no label to group spent_tokens_total by"),
        ("rate(waiting[5m])", "rate of waiting, which is no counter"),
        ("deriv(spent_tokens_total[5m])", "deriv of spent_tokens_total, which is a counter"),
        ("waiting / on (key) waiting", "key is no label of waiting / on (key) waiting"),
    ],
)
def test_what_does_not_fit_is_named(query: str, problem: str, small: Exposed) -> None:
    assert problems(query, small) == [problem]


def test_what_is_not_promql_is_refused(small: Exposed) -> None:
    with pytest.raises(ValueError, match="unclosed"):
        problems("sum by (", small)


def test_the_names_of_a_query_are_those_of_its_metrics() -> None:
    assert names("rate(a_total[5m]) / sum(b) > 0.5") == {"a_total", "b"}
