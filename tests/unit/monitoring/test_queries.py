from __future__ import annotations

import promql_parser
import pytest
from tests.unit.monitoring.queries import MOORAGE_SERIES, OTHER_SERIES, Expression, of_alerts, of_dashboards

from moorage_cli.metrics_page import METRICS

EXPRESSIONS = [*of_dashboards(), *of_alerts()]


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda e: e.where)
def test_every_expression_parses_and_asks_only_for_what_is_exported(expression: Expression) -> None:
    promql_parser.parse(expression.text)
    assert expression.metrics, "it asks for no metric"
    assert expression.metrics <= MOORAGE_SERIES | OTHER_SERIES
    assert "$" not in expression.text


@pytest.mark.parametrize("entry", [e for entries in METRICS.values() for e in entries], ids=lambda e: e.name)
def test_every_metric_is_shown_on_a_dashboard(entry: object) -> None:
    shown = {metric for expression in of_dashboards() for metric in expression.metrics}
    assert shown.intersection(entry.series)  # type: ignore[attr-defined]


def test_the_parser_refuses_what_prometheus_would() -> None:
    with pytest.raises(ValueError, match=r"."):
        promql_parser.parse("sum(rate(moorage_checkpoints_total[1m])")
