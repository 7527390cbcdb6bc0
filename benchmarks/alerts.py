"""Does an alert rule of deploy/prometheus fire on what a gateway exposes? Its PromQL is parsed and evaluated here.

Only what such a rule needs is known: selectors, `max`, `min` and `sum` with or without `by`, and comparisons with a
number. Anything else is an error. A rule's `for` is not looked at: the expression is true or it is not.
"""

from __future__ import annotations

import math
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families
from promql_parser import AggregateExpr, BinaryExpr, Expr, MatchOp, NumberLiteral, ParenExpr, UnaryExpr, VectorSelector

RULES = Path(__file__).parents[1] / "deploy" / "prometheus" / "rules.yml"
Labels = tuple[tuple[str, str], ...]
"""Names and values, sorted by name."""
Series = Mapping[Labels, float]
Exposed = Mapping[str, Series]
"""By the metric's name."""
_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_AGGREGATED: dict[str, Callable[[list[float]], float]] = {"max": max, "min": min, "sum": sum}


def expression(alert: str, rules: Path = RULES) -> str:
    """The PromQL of the alert with this name.

    Raises:
        LookupError: there is no such alert.
    """
    groups: list[dict[str, Any]] = yaml.safe_load(rules.read_text())["groups"]
    for rule in (rule for group in groups for rule in group["rules"]):
        if rule.get("alert") == alert:
            return rule["expr"]
    raise LookupError(f"{rules}: no alert is called {alert}")


def exposed(text: str) -> Exposed:
    """The series of an exposition in Prometheus' text format."""
    found: defaultdict[str, dict[Labels, float]] = defaultdict(dict)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name][tuple(sorted(sample.labels.items()))] = sample.value
    return dict(found)


def firing(query: str, metrics: Exposed) -> dict[Labels, float]:
    """The series for which the expression of an alert holds; empty if it does not fire.

    Raises:
        ValueError: the expression is not PromQL, is a number, or uses something that is not known here.
    """
    return dict(_series(promql_parser.parse(query), metrics))


def _evaluated(expr: Expr, metrics: Exposed) -> Series | float:
    match expr:
        case NumberLiteral():
            return float(expr.val)
        case ParenExpr():
            return _evaluated(expr.expr, metrics)
        case UnaryExpr():
            return -_number(expr.expr, metrics)
        case VectorSelector():
            return _selected(expr, metrics)
        case AggregateExpr():
            return _aggregated(expr, metrics)
        case BinaryExpr():
            return _compared(expr, metrics)
        case _:
            raise ValueError(f"{expr}: {type(expr).__name__} is not known here")


def _number(expr: Expr, metrics: Exposed) -> float:
    value = _evaluated(expr, metrics)
    if isinstance(value, Mapping):
        raise ValueError(f"{expr}: only numbers are known here")
    return value


def _series(expr: Expr, metrics: Exposed) -> Series:
    value = _evaluated(expr, metrics)
    if not isinstance(value, Mapping):
        raise ValueError(f"{expr} is a number, no series")
    return value


def _selected(selector: VectorSelector, metrics: Exposed) -> Series:
    matchers = selector.matchers.matchers
    if selector.offset is not None or selector.at is not None:
        raise ValueError(f"{selector}: only the present is known here")
    return {
        labels: value
        for labels, value in metrics.get(selector.name or "", {}).items()
        if all(_matches(one, dict(labels).get(one.name, "")) for one in matchers)
    }


def _matches(matcher: promql_parser.Matcher, value: str) -> bool:
    if matcher.op in (MatchOp.Equal, MatchOp.NotEqual):
        return (value == matcher.value) is (matcher.op == MatchOp.Equal)
    return (re.fullmatch(matcher.value, value) is not None) is (matcher.op == MatchOp.Re)


def _aggregated(expr: AggregateExpr, metrics: Exposed) -> Series:
    how = _AGGREGATED.get(str(expr.op))
    modifier = expr.modifier
    if how is None or (modifier is not None and not _groups_by(modifier)):
        raise ValueError(f"{expr}: this aggregation is not known here")
    by = set(modifier.labels) if modifier is not None else set[str]()
    groups: defaultdict[Labels, list[float]] = defaultdict(list)
    for labels, value in _series(expr.expr, metrics).items():
        groups[tuple(pair for pair in labels if pair[0] in by)].append(value)
    # Prometheus' max and min prefer anything to NaN.
    return {labels: how([v for v in values if not math.isnan(v)] or values) for labels, values in groups.items()}


def _groups_by(modifier: promql_parser.AggModifier) -> bool:
    return modifier.type == promql_parser.AggModifierType.By


def _compared(expr: BinaryExpr, metrics: Exposed) -> Series:
    compare = _COMPARED.get(str(expr.op))
    if compare is None or (expr.modifier is not None and expr.modifier.return_bool):
        raise ValueError(f"{expr}: of binary operators, only comparisons are known here")
    limit = _number(expr.rhs, metrics)
    return {labels: value for labels, value in _series(expr.lhs, metrics).items() if compare(value, limit)}
