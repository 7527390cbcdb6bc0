"""deploy/grafana: does every panel ask for what the gateway exposes, and does Grafana find it?"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.exposed import Exposed, names, problems

ROOT = Path(__file__).parent.parent.parent
DIRECTORY = ROOT / "deploy/grafana"
DASHBOARD: dict[str, Any] = json.loads((DIRECTORY / "dashboards/laconic.json").read_text())
PANELS: dict[str, dict[str, Any]] = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
DATA_SOURCES: list[dict[str, Any]] = yaml.safe_load(
    (DIRECTORY / "provisioning/datasources/prometheus.yml").read_text()
)["datasources"]


def queries(panel: dict[str, Any]) -> list[str]:
    """A panel's queries as Prometheus gets them."""
    assert panel["targets"]
    return [target["expr"].replace("$__rate_interval", "5m").replace("$job", "laconic") for target in panel["targets"]]


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_asks_for_what_the_gateway_exposes(title: str, exposed: Exposed) -> None:
    assert [problem for query in queries(PANELS[title]) for problem in problems(query, exposed)] == []


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_has_a_unit_and_says_what_it_shows(title: str) -> None:
    panel = PANELS[title]
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"]
    assert all(target["legendFormat"] for target in panel["targets"])
    identifiers = [target["refId"] for target in panel["targets"]]
    assert len(set(identifiers)) == len(identifiers)


@pytest.mark.parametrize("title", PANELS)
def test_a_legend_names_labels_that_the_query_keeps(title: str) -> None:
    for target in PANELS[title]["targets"]:
        kept = {label for labels in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in labels.split(", ")}
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= kept - {"le"}


def test_every_metric_of_the_gateway_is_on_the_dashboard(exposed: Exposed) -> None:
    shown = {name for panel in PANELS.values() for query in queries(panel) for name in names(query)}
    series = {re.sub(r"_(bucket|count|sum)$", "", name) for name in exposed if not name.endswith("_created")}
    assert series - {re.sub(r"_(bucket|count|sum)$", "", name) for name in shown} == {"up"}


def test_no_panel_covers_another() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        mine = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not mine & cells, panel["title"]
        cells |= mine
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_data_source_is_chosen_by_whoever_looks() -> None:
    """No uid of one installation is in the dashboard, so it can be imported elsewhere."""
    sources = re.findall(r'"uid": "([^"]*)"', json.dumps(DASHBOARD["panels"]) + json.dumps(DASHBOARD["templating"]))
    assert set(sources) == {"${datasource}"}
    assert DASHBOARD["templating"]["list"][0]["name"] == "datasource"


def test_grafana_reads_from_the_prometheus_beside_it() -> None:
    (source,) = DATA_SOURCES
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    flag = f"--web.listen-address={source['url'].removeprefix('http://')}"
    assert flag in SERVICES["prometheus"]["command"]


def test_dashboards_and_provisioning_are_mounted_where_grafana_looks() -> None:
    mounts = dict(mount.rsplit(":", 2)[:2][::-1] for mount in SERVICES["grafana"]["volumes"])
    (provider,) = yaml.safe_load((DIRECTORY / "provisioning/dashboards/laconic.yml").read_text())["providers"]
    assert mounts[provider["options"]["path"]] == "./deploy/grafana/dashboards"
    assert mounts["/etc/grafana/provisioning"] == "./deploy/grafana/provisioning"
