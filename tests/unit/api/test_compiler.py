"""What is chained into which vertex, and which exchanges lie between them."""

from __future__ import annotations

from typing import Any

import moorage as mo
from moorage.api.compiler import CompiledPipeline, compile_pipeline
from moorage.graph.check import check_graph
from moorage.graph.job_graph import ExchangeKind, JobGraph, OperatorKind
from moorage.state.operator_ids import operator_id


class Count(mo.KeyedState):
    count: int = 0

    def process(self, value: Any, ctx: mo.KeyedContext) -> dict[str, Any]:
        self.count += 1
        return {"user": ctx.key, "count": self.count}


def large(value: Any) -> bool:
    return bool(value["amount"] > 10)


def compiled(pipeline: mo.Pipeline) -> CompiledPipeline:
    result = compile_pipeline(pipeline, "tests:pipeline")
    check_graph(result.graph)
    kinds = {node.uid for vertex in result.graph.vertices for node in vertex.operators}
    assert result.operators.keys() == kinds
    return result


def shape(graph: JobGraph) -> dict[str, list[str]]:
    """Vertex -> its operators as ``uid<upstream``."""
    return {
        vertex.vertex: [f"{node.uid}<{node.upstream or ''}" for node in vertex.operators] for vertex in graph.vertices
    }


def exchanges(graph: JobGraph) -> list[tuple[str, ExchangeKind, str]]:
    for exchange in graph.exchanges:
        assert exchange.exchange in graph.vertex(exchange.producer).outputs
        assert graph.vertex(exchange.consumer).inputs == (exchange.exchange,)
        assert exchange.partitions == graph.max_parallelism
    return [(e.exchange, e.kind, e.producer_operator) for e in graph.exchanges]


def source(pipeline: mo.Pipeline, uid: str = "orders") -> mo.Stream:
    return pipeline.source(uid, mo.KafkaSource(uid))


def sink(topic: str = "totals", **options: Any) -> mo.KafkaSink:
    return mo.KafkaSink(topic, key=None, **options)


def test_the_orders_pipeline() -> None:
    pipeline = mo.Pipeline("orders", parallelism=2, max_parallelism=8)
    source(pipeline).key_by("user").process("totals", Count).sink("results", sink())
    graph = compiled(pipeline).graph
    assert shape(graph) == {
        "orders": ["orders<", "totals:key_by<orders"],
        "totals": ["totals<", "results:encode<totals"],
        "results": ["results<"],
    }
    assert exchanges(graph) == [
        ("orders--totals", ExchangeKind.KEYED, "totals:key_by"),
        ("totals--results", ExchangeKind.FORWARD, "results:encode"),
    ]
    assert [v.parallelism for v in graph.vertices] == [2, 2, 2]
    assert graph.slots == 2
    assert [v.is_source for v in graph.vertices] == [True, False, False]
    assert [v.is_committer for v in graph.vertices] == [False, False, True]
    assert graph.vertices[0].name == "orders -> totals:key_by"
    assert graph.vertices[1].operators[0].operator_id == operator_id("totals")  # type: ignore[arg-type]


def test_operators_without_a_shuffle_are_chained_and_may_branch() -> None:
    pipeline = mo.Pipeline("branches")
    kept = source(pipeline).filter(large)
    kept.map(str, uid="text").sink("texts", sink("texts"))
    kept.flat_map(list, uid="parts").key_by(len).process("sizes", Count).sink("results", sink())
    graph = compiled(pipeline).graph
    assert shape(graph) == {
        "orders": [
            "orders<",
            "large<orders",
            "text<large",
            "parts<large",
            "texts:encode<text",
            "sizes:key_by<parts",
        ],
        "texts": ["texts<"],
        "sizes": ["sizes<", "results:encode<sizes"],
        "results": ["results<"],
    }
    assert exchanges(graph) == [
        ("orders--texts", ExchangeKind.KEYED, "texts:encode"),
        ("orders--sizes", ExchangeKind.KEYED, "sizes:key_by"),
        ("sizes--results", ExchangeKind.FORWARD, "results:encode"),
    ]


def test_two_processes_off_one_stream_have_an_exchange_each() -> None:
    pipeline = mo.Pipeline("two")
    keyed = source(pipeline).key_by("user")
    keyed.process("first", Count).sink("firsts", sink("firsts"))
    keyed.process("second", Count).sink("seconds", sink("seconds"))
    graph = compiled(pipeline).graph
    assert shape(graph)["orders"] == ["orders<", "first:key_by<orders", "second:key_by<orders"]
    assert [e for e, _, _ in exchanges(graph)] == [
        "orders--first",
        "orders--second",
        "first--firsts",
        "second--seconds",
    ]


def test_two_key_bys_in_a_row() -> None:
    pipeline = mo.Pipeline("rows", parallelism=3)
    totals = source(pipeline).key_by("user").process("totals", Count, parallelism=2)
    totals.key_by("count").process("histogram", Count).sink("results", sink(), parallelism=1)
    graph = compiled(pipeline).graph
    assert [(v.vertex, v.parallelism) for v in graph.vertices] == [
        ("orders", 3),
        ("totals", 2),
        ("histogram", 2),
        ("results", 1),
    ]
    assert [(e, k) for e, k, _ in exchanges(graph)] == [
        ("orders--totals", ExchangeKind.KEYED),
        ("totals--histogram", ExchangeKind.KEYED),
        ("histogram--results", ExchangeKind.FORWARD),
    ]
    assert graph.slots == 3


def test_a_source_straight_to_a_sink() -> None:
    pipeline = mo.Pipeline("copy")
    source(pipeline).sink("copies", sink())
    graph = compiled(pipeline).graph
    assert shape(graph) == {"orders": ["orders<", "copies:encode<orders"], "copies": ["copies<"]}
    assert exchanges(graph) == [("orders--copies", ExchangeKind.KEYED, "copies:encode")]


def test_an_at_least_once_sink_is_chained() -> None:
    pipeline = mo.Pipeline("copy")
    source(pipeline).sink("copies", sink(guarantee="at_least_once"))
    graph = compiled(pipeline).graph
    assert shape(graph) == {"orders": ["orders<", "copies<orders"]}
    assert graph.vertices[0].operators[1].kind is OperatorKind.SINK_WRITER
    assert graph.exchanges == ()


def test_several_sources_make_one_job() -> None:
    pipeline = mo.Pipeline("several")
    source(pipeline, "a").sink("copies-a", sink())
    source(pipeline, "b").sink("copies-b", sink())
    graph = compiled(pipeline).graph
    assert [v.vertex for v in graph.vertices] == ["a", "copies-a", "b", "copies-b"]


def test_the_fingerprint_follows_the_shape_and_not_the_configuration() -> None:
    def fingerprint(sink_uid: str = "copies", **options: Any) -> str:
        pipeline = mo.Pipeline("copy", **options)
        source(pipeline).sink(sink_uid, sink())
        return compile_pipeline(pipeline, "a:b").graph.fingerprint

    same = fingerprint()
    assert fingerprint() == same
    assert fingerprint(checkpoint=mo.CheckpointConfig(interval_ms=5), restart=mo.RestartConfig()) == same
    assert fingerprint(parallelism=2) == same  # a rescaled job is the same job
    assert len({same, fingerprint("others"), fingerprint(max_parallelism=4)}) == 3
