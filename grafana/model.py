"""What the dashboards are made of: panels and annotations, and the JSON that Grafana reads.

Our own few lines in place of grafana-foundation-sdk: the SDK's builders leave ids, query letters, data source and look
to the caller, so that with it these functions would be as long, and its versions follow Grafana's, not ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from string import ascii_uppercase
from typing import Any

Json = dict[str, Any]

WIDTH = 24
SCRAPE_INTERVAL = "5s"
DATA_SOURCE = {"type": "prometheus", "uid": "prometheus"}
GREEN, YELLOW, RED, BLUE, GREY = "green", "yellow", "red", "blue", "#6e7077"


@dataclass(frozen=True)
class Query:
    expr: str
    legend: str = ""


@dataclass(frozen=True, kw_only=True)
class Panel:
    """``description`` says what is normal, and what to do when it isn't."""

    title: str
    description: str
    kind: str
    queries: Sequence[Query]
    unit: str
    width: int
    height: int
    defaults: Json = field(default_factory=dict)
    """The look of all values."""
    overrides: Sequence[Json] = ()
    """The look of some."""
    options: Json = field(default_factory=dict)
    transformations: Sequence[Json] = ()
    instant: bool = False

    def to_json(self, number: int, x: int, y: int) -> Json:
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": DATA_SOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "targets": [self._target(*lettered) for lettered in zip(ascii_uppercase, self.queries, strict=False)],
            "fieldConfig": {"defaults": {"unit": self.unit, **self.defaults}, "overrides": list(self.overrides)},
            "options": self.options,
            "transformations": list(self.transformations),
        }

    def _target(self, letter: str, query: Query) -> Json:
        target: Json = {"refId": letter, "expr": query.expr, "legendFormat": query.legend or "__auto"}
        if self.instant:
            target |= {"instant": True, "range": False}
        if self.kind == "table":
            target["format"] = "table"
        return target


def graph(
    title: str,
    description: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
    bars: bool = False,
    minimum: float = 0,
) -> Panel:
    """Values over time."""
    custom: Json = {
        "drawStyle": "bars" if bars else "line",
        "fillOpacity": 60 if bars else 20 if stacked else 5,
        "lineWidth": 1,
        "showPoints": "never",
        "stacking": {"mode": "normal" if stacked else "none", "group": "A"},
    }
    return Panel(
        title=title,
        description=description,
        kind="timeseries",
        queries=queries,
        unit=unit,
        width=width,
        height=8,
        defaults={"custom": custom, "min": minimum},
        options={
            "legend": {
                "displayMode": "table",
                "placement": "bottom",
                "showLegend": True,
                "calcs": ["lastNotNull", "max"],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    )


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    width: int = 3,
    steps: Sequence[tuple[float | None, str]] = ((None, GREEN),),
    names: Mapping[int, str] | None = None,
) -> Panel:
    """The present value. ``steps``: from which value on it has which colour; ``names``: words in place of values."""
    mapped = {str(value): {"text": text} for value, text in (names or {}).items()}
    return Panel(
        title=title,
        description=description,
        kind="stat",
        queries=[query],
        unit=unit,
        width=width,
        height=4,
        defaults={"thresholds": _thresholds(steps), "mappings": [{"type": "value", "options": mapped}]},
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "area",
            "textMode": "auto",
        },
    )


def states(title: str, description: str, query: Query, names: Mapping[int, tuple[str, str]], *, width: int) -> Panel:
    """What something was when. ``names``: value -> word and colour."""
    options = {str(value): {"text": text, "color": colour} for value, (text, colour) in names.items()}
    return Panel(
        title=title,
        description=description,
        kind="state-timeline",
        queries=[query],
        unit="none",
        width=width,
        height=5,
        defaults={
            "custom": {"fillOpacity": 80, "lineWidth": 0},
            "mappings": [{"type": "value", "options": options}],
            "thresholds": _thresholds([(None, GREY)]),
        },
        options={
            "mergeValues": True,
            "showValue": "auto",
            "rowHeight": 0.8,
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        },
    )


def bars(title: str, description: str, unit: str, query: Query, *, width: int = 8) -> Panel:
    """Present values beside one another, the largest first."""
    return Panel(
        title=title,
        description=description,
        kind="bargauge",
        queries=[query],
        unit=unit,
        width=width,
        height=9,
        defaults={"min": 0, "thresholds": _thresholds([(None, BLUE)])},
        options={
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "horizontal",
            "displayMode": "basic",
            "showUnfilled": False,
        },
        instant=True,
    )


@dataclass(frozen=True)
class Column:
    heading: str
    expr: str
    unit: str


def table(title: str, description: str, labels: Sequence[str], *columns: Column, width: int) -> Panel:
    """Present values, one row per set of ``labels``, which every column's expression must have, and no other."""
    headings = {f"Value #{letter}": column.heading for letter, column in zip(ascii_uppercase, columns, strict=False)}
    return Panel(
        title=title,
        description=description,
        kind="table",
        queries=[Query(column.expr) for column in columns],
        unit="none",
        width=width,
        height=9,
        overrides=[
            {
                "matcher": {"id": "byName", "options": column.heading},
                "properties": [{"id": "unit", "value": column.unit}],
            }
            for column in columns
        ],
        options={"showHeader": True, "cellHeight": "sm"},
        transformations=[
            {"id": "merge", "options": {}},
            {
                "id": "organize",
                "options": {
                    "excludeByName": {"Time": True},
                    "renameByName": headings,
                    "indexByName": {name: index for index, name in enumerate((*labels, *headings))},
                },
            },
        ],
        instant=True,
    )


def _thresholds(steps: Sequence[tuple[float | None, str]]) -> Json:
    return {"mode": "absolute", "steps": [{"value": value, "color": colour} for value, colour in steps]}


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Annotation:
    """A mark on every graph. ``expr`` is above 0 when it happens, or, with ``at_value``, says when it did (in ms)."""

    name: str
    expr: str
    title: str
    colour: str
    at_value: bool = False

    def to_json(self) -> Json:
        return {
            "name": self.name,
            "datasource": DATA_SOURCE,
            "enable": True,
            "expr": self.expr,
            "iconColor": self.colour,
            "step": SCRAPE_INTERVAL,
            "titleFormat": self.title,
            "useValueForTime": "on" if self.at_value else False,
        }


@dataclass(frozen=True)
class Dashboard:
    uid: str
    title: str
    description: str
    rows: Sequence[Row]
    annotations: Sequence[Annotation]
    job_metric: str | None = None
    """The metric whose label job_name gives the choice of jobs, as the variable $job; None: there is none."""

    def to_json(self) -> Json:
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["moorage"],
            "schemaVersion": 41,
            "editable": False,
            "graphTooltip": 1,
            "refresh": SCRAPE_INTERVAL,
            "time": {"from": "now-15m", "to": "now"},
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "tags": ["moorage"],
                    "title": "Moorage",
                    "asDropdown": False,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "annotations": {"list": [annotation.to_json() for annotation in self.annotations]},
            "templating": {"list": [] if self.job_metric is None else [_job_variable(self.job_metric)]},
            "panels": list(self._panels()),
        }

    def _panels(self) -> Iterator[Json]:
        """Panels of a row from left to right; one that does not fit begins a new line."""
        numbers = count(1)
        y = 0
        for row in self.rows:
            grid = {"x": 0, "y": y, "w": WIDTH, "h": 1}
            yield {
                "id": next(numbers),
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": grid,
                "panels": [],
            }
            y += 1
            x = height = 0
            for panel in row.panels:
                if x + panel.width > WIDTH:
                    x, y, height = 0, y + height, 0
                yield panel.to_json(next(numbers), x, y)
                x += panel.width
                height = max(height, panel.height)
            y += height


def _job_variable(metric: str) -> Json:
    query = f"label_values({metric}, job_name)"
    return {
        "name": "job",
        "label": "Job",
        "type": "query",
        "datasource": DATA_SOURCE,
        "query": {"query": query, "refId": "jobs"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }
