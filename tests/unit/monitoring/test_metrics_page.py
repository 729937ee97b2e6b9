from __future__ import annotations

from tests.unit.monitoring.queries import ROOT

from moorage_cli.metrics_page import METRICS, page


def test_the_page_is_what_the_lists_say() -> None:
    written = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    assert written == page(), "write it anew: python -m moorage_cli.metrics_page > docs/metrics.md"


def test_no_two_services_have_a_metric_of_one_name() -> None:
    names = [entry.name for entries in METRICS.values() for entry in entries]
    assert len(names) == len(set(names))


def test_every_metric_has_its_row_of_four_columns() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `moorage_")]
    assert len(rows) == sum(len(entries) for entries in METRICS.values())
    assert all(row.count("|") == 5 for row in rows)
