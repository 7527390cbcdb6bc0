"""deploy/prometheus: does it scrape the gateway's real endpoint, and does every alert ask for what is exposed?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, BinaryExpr, Call, Expr, MatrixSelector, VectorSelector

from gateway.config import Settings
from tests.deploy.exposed import Exposed, labels_of, problems

ROOT = Path(__file__).parent.parent.parent
DIRECTORY = ROOT / "deploy/prometheus"
CONFIG: dict[str, Any] = yaml.safe_load((DIRECTORY / "prometheus.yml").read_text())
GROUPS: list[dict[str, Any]] = yaml.safe_load((DIRECTORY / "rules.yml").read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
DURATION = re.compile(r"[1-9]\d*[smhd]")


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_asks_for_what_the_gateway_exposes(alert: str, exposed: Exposed) -> None:
    assert problems(RULES[alert]["expr"], exposed) == []


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_says_what_is_wrong_how_bad_it_is_and_what_to_do(alert: str) -> None:
    rule = RULES[alert]
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert DURATION.fullmatch(rule.get("for", "1m"))


@pytest.mark.parametrize("alert", RULES)
def test_an_annotation_names_only_labels_that_the_alert_has(alert: str, exposed: Exposed) -> None:
    """After an aggregation, those that it keeps; otherwise those of the metric."""
    rule = RULES[alert]
    named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert named <= kept_labels(rule["expr"], exposed)


def kept_labels(query: str, exposed: Exposed) -> set[str]:
    """The labels of a query's result, as far as these rules need it."""

    def of(node: Expr) -> set[str]:
        match node:
            case AggregateExpr():
                return set(node.modifier.labels) if node.modifier is not None else set()
            case BinaryExpr():
                return of(node.lhs)
            case Call():
                return of(node.args[-1]) - {"le"}
            case MatrixSelector():
                return of(node.vector_selector)
            case VectorSelector():
                return set(labels_of(node, exposed))
            case _:
                return set()

    return of(promql_parser.parse(query))


def test_every_alert_is_explained_where_an_operator_looks() -> None:
    page = (ROOT / "docs/how-to/monitor.md").read_text()
    assert re.findall(r"^\| `(Laconic\w+)` \|", page, re.MULTILINE) == list(RULES)


def test_the_quality_alert_waits_for_the_default_tolerance() -> None:
    assert f"< -{Settings().quality_tolerance}" in RULES["LaconicQualityLost"]["expr"]


def test_the_files_that_are_named_are_mounted() -> None:
    mounts = dict(mount.rsplit(":", 2)[:2][::-1] for mount in SERVICES["prometheus"]["volumes"])
    assert mounts["/etc/prometheus/prometheus.yml"] == "./deploy/prometheus/prometheus.yml"
    for name in CONFIG["rule_files"]:
        assert mounts[f"/etc/prometheus/{name}"] == f"./deploy/prometheus/{name}"
    (job,) = CONFIG["scrape_configs"]
    assert job["authorization"]["credentials_file"] in mounts


def test_it_scrapes_where_the_gateway_of_the_same_file_listens() -> None:
    (job,) = CONFIG["scrape_configs"]
    assert job["metrics_path"] == "/metrics"
    (flag,) = [word for word in SERVICES["gateway"]["command"] if word.startswith("--port=")]
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{flag.removeprefix('--port=')}"]}]
    assert SERVICES["gateway"]["network_mode"] == SERVICES["prometheus"]["network_mode"] == "host"
