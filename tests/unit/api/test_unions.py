"""Several streams in one, and records that are spread anew."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import moorage as mo
from moorage.api.compiler import CompiledPipeline, compile_pipeline
from moorage.errors import PipelineError
from moorage.graph.check import check_graph
from moorage.graph.job_graph import ExchangeKind, OperatorKind


class Count(mo.KeyedState):
    count: int = 0

    def process(self, value: dict[str, Any], ctx: mo.KeyedContext) -> Iterator[dict[str, Any]]:
        self.count += 1
        yield {"user": ctx.key, "count": self.count}


def _sink(topic: str = "out") -> mo.KafkaSink:
    return mo.KafkaSink(topic, key="user")


def _compiled(pipeline: mo.Pipeline) -> CompiledPipeline:
    compiled = compile_pipeline(pipeline, "tests:pipeline")
    check_graph(compiled.graph)
    return compiled


def _exchanges(compiled: CompiledPipeline) -> dict[str, ExchangeKind]:
    return {exchange.exchange: exchange.kind for exchange in compiled.graph.exchanges}


def test_keying_a_union_costs_no_further_exchange() -> None:
    pipeline = mo.Pipeline("orders", parallelism=2)
    web = pipeline.source("web", mo.KafkaSource("web"))
    shops = pipeline.source("shops", mo.KafkaSource("shops"))
    web.union(shops).key_by("user").process("counts", Count).sink("results", _sink())
    graph = _compiled(pipeline).graph
    assert graph.vertex("counts").inputs == ("web--counts", "shops--counts")  # type: ignore[arg-type]
    assert [vertex.vertex for vertex in graph.vertices] == ["web", "shops", "counts", "results"]
    assert {e.kind for e in graph.exchanges if e.consumer == "counts"} == {ExchangeKind.KEYED}


def test_anything_else_behind_a_union_is_a_rebalance() -> None:
    pipeline = mo.Pipeline("orders")
    web = pipeline.source("web", mo.KafkaSource("web"))
    shops = pipeline.source("shops", mo.KafkaSource("shops"))
    union = web.union(shops)
    union.filter(bool, uid="whole").sink("results", _sink())
    union.sink("copies", _sink("copies"))
    compiled = _compiled(pipeline)
    assert _exchanges(compiled) == {
        "web--union-web": ExchangeKind.REBALANCE,
        "shops--union-web": ExchangeKind.REBALANCE,
        "union-web--results": ExchangeKind.FORWARD,
        "union-web--copies": ExchangeKind.FORWARD,
    }
    kinds = [operator.kind for operator in compiled.graph.vertex("union-web").operators]  # type: ignore[arg-type]
    assert kinds == [OperatorKind.MERGE, OperatorKind.FILTER, OperatorKind.SINK_ENCODER, OperatorKind.SINK_ENCODER]


def test_a_rebalance_may_have_a_parallelism_of_its_own() -> None:
    pipeline = mo.Pipeline("orders", parallelism=2)
    spread = pipeline.source("web", mo.KafkaSource("web")).rebalance(uid="spread", parallelism=5)
    spread.map(dict, uid="copy").key_by("user").process("counts", Count).sink("results", _sink())
    graph = _compiled(pipeline).graph
    assert graph.parallelism() == {"web": 2, "spread": 5, "counts": 5, "results": 5}


def test_a_stream_may_be_brought_together_with_what_became_of_it() -> None:
    pipeline = mo.Pipeline("orders")
    web = pipeline.source("web", mo.KafkaSource("web"))
    counts = web.key_by("user").process("counts", Count)
    web.union(counts).key_by("user").process("again", Count).sink("results", _sink())
    assert [vertex.vertex for vertex in _compiled(pipeline).graph.vertices] == ["web", "counts", "again", "results"]


def test_two_streams_of_one_task_need_a_step_between_them() -> None:
    def pipeline(*, rebalance: bool) -> mo.Pipeline:
        made = mo.Pipeline("orders")
        web = made.source("web", mo.KafkaSource("web"))
        cheap = web.filter(bool, uid="cheap")
        dear = web.filter(bool, uid="dear")
        cheap.union(dear.rebalance() if rebalance else dear).key_by("user").process("c", Count).sink("s", _sink())
        return made

    with pytest.raises(PipelineError, match=r"two streams from one task.*rebalance"):
        _compiled(pipeline(rebalance=False))
    _compiled(pipeline(rebalance=True))


def test_mistakes_are_found_at_once() -> None:
    pipeline, other = mo.Pipeline("orders"), mo.Pipeline("other")
    web = pipeline.source("web", mo.KafkaSource("web"))
    with pytest.raises(PipelineError, match="named twice"):
        web.union(web)
    with pytest.raises(PipelineError, match="expected streams of pipeline 'orders'"):
        web.union(other.source("web", mo.KafkaSource("web")))
