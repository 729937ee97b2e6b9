from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
import yaml
from grafana.generate import DASHBOARDS as GENERATED
from grafana.generate import text
from tests.unit.monitoring.queries import DASHBOARDS, ROOT, panels

LOADED: dict[str, Any] = {path.stem: json.loads(path.read_text("utf-8")) for path in DASHBOARDS}


@pytest.fixture(params=LOADED, ids=str)
def dashboard(request: pytest.FixtureRequest) -> Any:
    return LOADED[request.param]


def test_the_files_are_what_the_code_says() -> None:
    written = {path.stem: path.read_text("utf-8") for path in DASHBOARDS}
    assert written == {name: text(dashboard) for name, dashboard in GENERATED.items()}, (
        "write them anew: python -m grafana.generate"
    )


def test_panels_say_what_is_normal_and_have_a_unit(dashboard: Any) -> None:
    for panel in panels(dashboard):
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "prometheus"}


def test_ids_are_unique_and_panels_do_not_overlap(dashboard: Any) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    squares = [
        {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        for g in (panel["gridPos"] for panel in dashboard["panels"])
    ]
    assert all(first.isdisjoint(second) for first, second in combinations(squares, 2))
    assert all(x < 24 for square in squares for x, _ in square)


def test_letters_of_queries_are_unique_in_a_panel(dashboard: Any) -> None:
    for panel in panels(dashboard):
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters))


def test_dashboards_link_to_one_another_and_mark_what_happened(dashboard: Any) -> None:
    assert dashboard["links"][0]["tags"] == dashboard["tags"] == ["moorage"]
    names = {annotation["name"] for annotation in dashboard["annotations"]["list"]}
    assert names == {"Restores", "Failures", "Failed checkpoints", "New leader"}


def test_the_data_source_is_provisioned_with_the_scrape_interval() -> None:
    provisioned = yaml.safe_load((ROOT / "compose/grafana/datasources/prometheus.yaml").read_text("utf-8"))
    prometheus = yaml.safe_load((ROOT / "compose/prometheus/prometheus.yaml").read_text("utf-8"))
    (source,) = provisioned["datasources"]
    assert source["uid"] == "prometheus"
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_grafana_opens_on_the_checkpoints() -> None:
    grafana = yaml.safe_load((ROOT / "compose/monitoring.yaml").read_text("utf-8"))["services"]["grafana"]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    folder = next(v.split(":")[1] for v in grafana["volumes"] if v.startswith("../grafana/dashboards:"))
    assert home == f"{folder}/checkpoints.json"
