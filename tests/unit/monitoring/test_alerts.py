"""The form of the alert rules. What they do is in compose/prometheus/alerts_test.yaml, for promtool."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from tests.unit.monitoring.queries import ALERTS

RULES: list[Any] = [rule for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"] for rule in group["rules"]]
TESTS = yaml.safe_load(ALERTS.with_name("alerts_test.yaml").read_text("utf-8"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_says_how_bad_it_is_and_what_to_do(rule: Any) -> None:
    assert rule["alert"].startswith("Moorage")
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith((".", "?"))


def test_every_rule_is_tested_firing_and_quiet() -> None:
    firing, quiet = set(), set()
    for test in TESTS["tests"]:
        for case in test["alert_rule_test"]:
            (firing if case.get("exp_alerts") else quiet).add(case["alertname"])
    names = {rule["alert"] for rule in RULES}
    assert (firing, quiet) == (names, names)
