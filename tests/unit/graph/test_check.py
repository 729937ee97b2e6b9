from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from tests.unit.cluster.graphs import SINK, SOURCE, TOTALS, operator, orders_graph, with_parallelism

from moorage.errors import PipelineError
from moorage.graph.check import check_graph
from moorage.graph.job_graph import CheckpointConfig, JobGraph, OperatorKind, RestartConfig
from moorage.ids import ExchangeId, VertexId

GRAPH = orders_graph(2)


def changed(graph: JobGraph, of: VertexId, /, **fields: Any) -> JobGraph:
    vertices = tuple(msgspec.structs.replace(v, **fields) if v.vertex == of else v for v in graph.vertices)
    return msgspec.structs.replace(graph, vertices=vertices)


def replaced(**fields: Any) -> JobGraph:
    return msgspec.structs.replace(GRAPH, **fields)


def test_a_good_graph_passes() -> None:
    check_graph(GRAPH)
    check_graph(orders_graph(1, with_sink=False))


@pytest.mark.parametrize(
    ("graph", "problem"),
    [
        (replaced(job="No Good"), "job name 'No Good'"),
        (replaced(vertices=()), "it has no vertices"),
        (replaced(max_parallelism=0), "max_parallelism 0"),
        (replaced(max_parallelism=1 << 16), "max_parallelism 65536"),
        (with_parallelism(GRAPH, TOTALS, 9), "parallelism 9 of vertex totals"),
        (with_parallelism(GRAPH, TOTALS, 0), "parallelism 0 of vertex totals"),
        (changed(GRAPH, TOTALS, operators=()), "vertex totals has no operators"),
        (changed(GRAPH, TOTALS, vertex=VertexId("orders")), "two vertices have the same id"),
        (changed(GRAPH, TOTALS, operators=(operator("orders", OperatorKind.MAP, 9),)), "the same uid"),
        (changed(GRAPH, TOTALS, inputs=(ExchangeId("x--y"),)), "names an exchange that does not exist"),
        (changed(GRAPH, TOTALS, outputs=()), "contradict each other"),
        (changed(GRAPH, SOURCE, inputs=GRAPH.vertices[2].inputs), "it has no source"),
        (replaced(exchanges=GRAPH.exchanges[:1]), "names an exchange that does not exist"),
        (replaced(exchanges=GRAPH.exchanges[:1] * 2 + GRAPH.exchanges[1:]), "two exchanges have the same id"),
        (replaced(vertices=GRAPH.vertices[::-1]), "leads backwards"),
        (
            replaced(exchanges=tuple(msgspec.structs.replace(e, partitions=9) for e in GRAPH.exchanges)),
            "has 9 partitions, not 1 to 8",
        ),
        (
            replaced(exchanges=tuple(msgspec.structs.replace(e, consumer=VertexId("gone")) for e in GRAPH.exchanges)),
            "connects vertices that do not exist",
        ),
        (
            replaced(exchanges=tuple(msgspec.structs.replace(e, exchange=ExchangeId("a--b")) for e in GRAPH.exchanges)),
            "two exchanges have the same id",
        ),
        (replaced(checkpoint=CheckpointConfig(interval_ms=-1)), "checkpoint.interval_ms must be at least 0"),
        (replaced(checkpoint=CheckpointConfig(max_concurrent=0)), "checkpoint.max_concurrent must be at least 1"),
        (replaced(checkpoint=CheckpointConfig(retained=0)), "checkpoint.retained must be at least 1"),
        (replaced(checkpoint=CheckpointConfig(max_concurrent=2, min_pause_ms=1)), "needs checkpoint.max_concurrent 1"),
        (
            replaced(checkpoint=CheckpointConfig(interval_during_backlog_ms=999)),
            "interval_during_backlog_ms must be 0 or at least checkpoint.interval_ms 1000",
        ),
        (
            replaced(checkpoint=CheckpointConfig(unaligned=True, aligned_timeout_ms=500, timeout_ms=500)),
            "aligned_timeout_ms must be less than checkpoint.timeout_ms 500",
        ),
        (replaced(checkpoint=CheckpointConfig(unaligned=True, mode="at_least_once")), "needs checkpoint.mode"),
        (replaced(checkpoint=CheckpointConfig(aligned_timeout_ms=5)), "needs checkpoint.unaligned"),
        (
            replaced(checkpoint=CheckpointConfig(alignment_limit_bytes=5, mode="at_least_once")),
            "alignment_limit_bytes needs checkpoint.mode",
        ),
        (
            replaced(checkpoint=CheckpointConfig(interval_ms=0, interval_during_backlog_ms=500)),
            "interval_during_backlog_ms needs checkpoint.interval_ms",
        ),
        (
            replaced(checkpoint=CheckpointConfig(interval_ms=0, min_pause_ms=500)),
            "min_pause_ms needs checkpoint.interval_ms",
        ),
        (
            replaced(checkpoint=CheckpointConfig(interval_ms=0, initial_delay_max_ms=500)),
            "initial_delay_max_ms needs checkpoint.interval_ms",
        ),
        (replaced(checkpoint=CheckpointConfig(timeout_ms=2**63)), "checkpoint.timeout_ms must be at most"),
        (replaced(checkpoint=CheckpointConfig(max_concurrent=2**31)), "checkpoint.max_concurrent must be at most"),
        (replaced(checkpoint=CheckpointConfig(retained=1_001)), "checkpoint.retained must be at most 1000"),
        (replaced(checkpoint=CheckpointConfig(alignment_limit_bytes=2**63)), "alignment_limit_bytes must be at most"),
        (replaced(restart=RestartConfig(max_attempts=2**63)), "restart.max_attempts must be at most"),
        (replaced(restart=RestartConfig(max_delay_ms=2**63)), "restart.max_delay_ms must be at most"),
        (replaced(restart=RestartConfig(multiplier=math.inf)), "restart.multiplier must be at most"),
        (replaced(restart=RestartConfig(multiplier=math.nan)), "restart.multiplier must be at least"),
        (replaced(restart=RestartConfig(multiplier=0.5)), "restart.multiplier must be at least 1"),
        (replaced(restart=RestartConfig(initial_delay_ms=40_000)), "restart.max_delay_ms must be at least 40000"),
    ],
)
def test_a_bad_graph_is_refused_with_the_reason(graph: JobGraph, problem: str) -> None:
    with pytest.raises(PipelineError, match=problem):
        check_graph(graph)


def test_a_sink_without_input_is_refused() -> None:
    with pytest.raises(PipelineError, match="sink results has no input"):
        check_graph(changed(replaced(exchanges=GRAPH.exchanges[:1]), SINK, inputs=()))


def test_a_fixed_delay_may_be_longer_than_the_limit_of_growing_ones() -> None:
    check_graph(replaced(restart=RestartConfig(strategy="fixed_delay", initial_delay_ms=60_000)))


def test_contradictions_that_are_none_are_accepted() -> None:
    for config in (
        CheckpointConfig(interval_during_backlog_ms=0),
        CheckpointConfig(interval_during_backlog_ms=1_000),
        CheckpointConfig(interval_ms=0, interval_during_backlog_ms=0),
        CheckpointConfig(unaligned=True, aligned_timeout_ms=499, timeout_ms=500, max_concurrent=3),
        CheckpointConfig(min_pause_ms=500, max_concurrent=1),
    ):
        check_graph(replaced(checkpoint=config))


def test_attempts_have_the_default_of_their_strategy() -> None:
    assert RestartConfig().attempts is None
    assert RestartConfig(strategy="fixed_delay").attempts == 1
    assert RestartConfig(strategy="failure_rate").attempts == 1
    assert RestartConfig(strategy="failure_rate", max_attempts=7).attempts == 7
    assert RestartConfig(max_attempts=0).attempts == 0


def test_a_job_without_checkpoints_says_nothing_of_how_they_are_taken() -> None:
    without_sink = orders_graph(2, with_sink=False)
    check_graph(msgspec.structs.replace(without_sink, checkpoint=CheckpointConfig(enabled=False)))
    for option, value in (("interval_ms", 0), ("unaligned", True), ("retained", 1), ("after_finish", False)):
        config = msgspec.structs.replace(CheckpointConfig(enabled=False), **{option: value})
        with pytest.raises(PipelineError, match=rf"checkpoint.{option} needs checkpoint.enabled"):
            check_graph(msgspec.structs.replace(without_sink, checkpoint=config))


def test_an_exactly_once_sink_needs_checkpoints() -> None:
    with pytest.raises(PipelineError, match=r"sink results commits with checkpoints, .* guarantee='at_least_once'"):
        check_graph(replaced(checkpoint=CheckpointConfig(enabled=False)))
