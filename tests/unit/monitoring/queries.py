"""Every PromQL expression that is committed, and the metrics in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from moorage_cli.metrics_page import METRICS

ROOT = Path(__file__).parents[3]
DASHBOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
ALERTS = ROOT / "compose" / "prometheus" / "alerts.yaml"

_VARIABLES = {"$__rate_interval": "1m", "$__range": "15m", "$job": ".*"}
_METRIC = re.compile(r"\b(?:moorage|process)_[a-z0-9_]+|\bup\b")

MOORAGE_SERIES = {series for entries in METRICS.values() for entry in entries for series in entry.series}
OTHER_SERIES = {
    "up",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}
"""Of Prometheus and of prometheus-client."""


class Expression(NamedTuple):
    where: str
    text: str
    """With values in place of Grafana's variables."""

    @property
    def metrics(self) -> set[str]:
        return set(_METRIC.findall(self.text))


def panels(dashboard: Any) -> Iterator[Any]:
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def of_dashboards() -> Iterator[Expression]:
    for path in DASHBOARDS:
        dashboard = json.loads(path.read_text("utf-8"))
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield _expression(f"{path.stem}: {panel['title']}: {target['refId']}", target["expr"])
        for annotation in dashboard["annotations"]["list"]:
            yield _expression(f"{path.stem}: annotation {annotation['name']}", annotation["expr"])


def of_alerts() -> Iterator[Expression]:
    for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]:
        for rule in group["rules"]:
            yield _expression(rule["alert"], rule["expr"])


def _expression(where: str, text: str) -> Expression:
    for variable, value in _VARIABLES.items():
        text = text.replace(variable, value)
    return Expression(where, text)
