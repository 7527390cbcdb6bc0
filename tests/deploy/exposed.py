"""What does a gateway expose in `/metrics`, and does a PromQL query fit that? Queries are parsed, never evaluated."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TypeVar

import promql_parser
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import AggregateExpr, BinaryExpr, Call, Expr, MatchOp, VectorSelector

TARGET_LABELS = frozenset({"instance", "job"})
"""What Prometheus adds to every sample."""
FOR_COUNTERS = frozenset({"rate", "irate", "increase"})
FOR_GAUGES = frozenset({"deriv", "delta", "idelta", "min_over_time", "max_over_time", "avg_over_time"})


_Node = TypeVar("_Node", bound=Expr)


@dataclass(frozen=True)
class Sample:
    """One series: its labels, and whether it can only grow."""

    labels: dict[str, str]
    is_counter: bool


Exposed = dict[str, list[Sample]]
"""By the name of a series, such as `laconic_overhead_seconds_bucket`."""


def parse(exposition: str) -> Exposed:
    """The series of an exposition in Prometheus' text format."""
    found: Exposed = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(
                Sample(dict(sample.labels), family.type in {"counter", "histogram"})
            )
    return found


def problems(query: str, exposed: Exposed) -> list[str]:
    """What in the query does not fit: unknown metrics and labels, selectors that match nothing, wrong functions.

    Raises:
        ValueError: it is not PromQL.
    """
    found: list[str] = []
    parsed = promql_parser.parse(query)
    for selector in _every(parsed, VectorSelector):
        found += _of_selector(selector, exposed)
    for call in _every(parsed, Call):
        if call.func.name in FOR_COUNTERS | FOR_GAUGES:
            for selector in _every(call.args[0], VectorSelector):
                wants_counter = call.func.name in FOR_COUNTERS
                if any(sample.is_counter != wants_counter for sample in exposed.get(selector.name or "", [])):
                    found.append(
                        f"{call.func.name} of {selector.name}, which is {'no' if wants_counter else 'a'} counter"
                    )
    for aggregate in _every(parsed, AggregateExpr):
        found += _of_grouping(aggregate, exposed)
    for both in _every(parsed, BinaryExpr):
        if both.modifier is not None and both.modifier.matching is not None:
            labels = set(both.modifier.matching.labels)
            known = {label for one in _every(both, VectorSelector) for label in labels_of(one, exposed)}
            found += [f"{label} is no label of {query}" for label in labels - known]
    return found


def labels_of(selector: VectorSelector, exposed: Exposed) -> frozenset[str]:
    """The labels of the series that a selector matches."""
    return TARGET_LABELS.union(*(sample.labels for sample in exposed.get(selector.name or "", [])))


def names(query: str) -> set[str]:
    """The names of the metrics in a query."""
    return {selector.name or "" for selector in _every(promql_parser.parse(query), VectorSelector)}


def _of_selector(selector: VectorSelector, exposed: Exposed) -> list[str]:
    samples = exposed.get(selector.name or "")
    if samples is None:
        return [f"{selector.name} is not exposed"]
    matchers = [one for one in selector.matchers.matchers if one.name not in TARGET_LABELS]
    if not any(all(_matches(one, sample.labels) for one in matchers) for sample in samples):
        return [f"{selector} matches nothing"]
    unknown = {one.name for one in matchers} - labels_of(selector, exposed)
    return [f"{label} is no label of {selector.name}" for label in unknown]


def _of_grouping(aggregate: AggregateExpr, exposed: Exposed) -> list[str]:
    modifier = aggregate.modifier
    if modifier is None:
        return []
    selectors = _every(aggregate, VectorSelector)
    known = {label for one in selectors for label in labels_of(one, exposed)}
    what = " and ".join(one.name or "" for one in selectors)
    return [f"{label} is no label to group {what} by" for label in modifier.labels if label not in known]


def _matches(matcher: promql_parser.Matcher, labels: dict[str, str]) -> bool:
    value = labels.get(matcher.name, "")
    if matcher.op in (MatchOp.Equal, MatchOp.NotEqual):
        return (value == matcher.value) is (matcher.op == MatchOp.Equal)
    return (re.fullmatch(matcher.value, value) is not None) is (matcher.op == MatchOp.Re)


def _every(expression: Expr, kind: type[_Node]) -> list[_Node]:
    """The nodes of one kind, in depth-first order."""
    nodes: list[_Node] = []

    def visit(node: Expr) -> None:
        if isinstance(node, kind):
            nodes.append(node)

    promql_parser.walk(expression, pre_visit=visit)
    return nodes
