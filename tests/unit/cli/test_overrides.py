from __future__ import annotations

import pytest
from tests.unit.cluster.graphs import orders_graph

from moorage.errors import PipelineError
from moorage_cli.overrides import overridden

GRAPH = orders_graph(2)


def test_settings_and_parallelism_replace_the_pipeline_s() -> None:
    graph = overridden(
        GRAPH,
        [
            "checkpoint.interval_ms=500",
            "checkpoint.unaligned=true",
            "checkpoint.interval_during_backlog_ms=0",
            "restart.strategy=none",
        ],
        parallelism=3,
    )
    assert graph.checkpoint.interval_ms == 500
    assert graph.checkpoint.unaligned
    assert graph.checkpoint.interval_during_backlog_ms == 0
    assert graph.restart.strategy == "none"
    assert set(graph.parallelism().values()) == {3}
    assert graph.checkpoint.timeout_ms == GRAPH.checkpoint.timeout_ms
    assert overridden(GRAPH, []) == GRAPH


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("checkpoint.interval_ms", "sets nothing"),
        ("interval_ms=5", "the parts are checkpoint, restart, state"),
        ("checkpoint.interval=5", "checkpoint.interval is no setting; there are"),
        ("checkpoint.interval_ms=often", r"checkpoint.interval_ms=often: it must be a whole number"),
        ("checkpoint.mode=twice", r"checkpoint.mode=twice: it must be one of 'exactly_once', 'at_least_once'"),
        ("checkpoint.interval_ms=-1", "must be at least 0"),
        ("checkpoint.aligned_timeout_ms=10", "needs checkpoint.unaligned"),
    ],
)
def test_what_is_wrong_is_named(setting: str, complaint: str) -> None:
    with pytest.raises(PipelineError, match=complaint):
        overridden(GRAPH, [setting])


def test_a_parallelism_that_can_t_be_is_refused() -> None:
    with pytest.raises(PipelineError, match="must be between 1 and max_parallelism 8"):
        overridden(GRAPH, [], parallelism=9)
