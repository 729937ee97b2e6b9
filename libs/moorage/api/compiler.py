"""From a Pipeline to the JobGraph: operators are chained into vertices, exchanges lie between them.

A new vertex begins behind every ``key_by`` (records change place) and at every exactly-once sink (its transactions
follow the fate of checkpoints, not their pace). Everything else is chained into the vertex of its upstream operator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from moorage.api.operators import (
    BroadcastOperator,
    BroadcastStateOperator,
    FilterOperator,
    FlatMapOperator,
    KeyByOperator,
    MapOperator,
    MergeOperator,
    Operator,
    ProcessOperator,
    RebalanceOperator,
    SinkOperator,
    SourceOperator,
)
from moorage.api.pipeline import Node, Pipeline
from moorage.errors import PipelineError
from moorage.graph.job_graph import Exchange, ExchangeKind, JobGraph, JobVertex, OperatorKind, OperatorNode
from moorage.ids import ExchangeId, OperatorUid, VertexId
from moorage.naming import exchange_id
from moorage.state.operator_ids import operator_id

_KINDS: Mapping[type, OperatorKind] = {
    SourceOperator: OperatorKind.SOURCE,
    MapOperator: OperatorKind.MAP,
    FilterOperator: OperatorKind.FILTER,
    FlatMapOperator: OperatorKind.FLAT_MAP,
    KeyByOperator: OperatorKind.KEY_BY,
    RebalanceOperator: OperatorKind.REBALANCE,
    BroadcastOperator: OperatorKind.BROADCAST,
    BroadcastStateOperator: OperatorKind.BROADCAST_STATE,
    MergeOperator: OperatorKind.MERGE,
    ProcessOperator: OperatorKind.PROCESS,
}


_EXCHANGES: Mapping[type, ExchangeKind] = {
    KeyByOperator: ExchangeKind.KEYED,
    RebalanceOperator: ExchangeKind.REBALANCE,
    BroadcastOperator: ExchangeKind.BROADCAST,
}
"""What lies behind an operator that ends its vertex."""
_LAST_OF_VERTEX = (KeyByOperator, RebalanceOperator, BroadcastOperator)


@dataclass(frozen=True, slots=True)
class CompiledPipeline:
    """The description that travels, and the operators themselves, which never do: every worker compiles its own."""

    graph: JobGraph
    operators: Mapping[OperatorUid, Operator]
    """By uid of the graph's operators; an exactly-once sink appears twice, as encoder and as committer."""


def compile_pipeline(pipeline: Pipeline, ref: str) -> CompiledPipeline:
    """Raises PipelineError for a pipeline that can't run."""
    compiler = _Compiler(pipeline)
    for source in pipeline.sources:
        compiler.vertex(source, None)
    if not pipeline.sources:
        raise PipelineError(f"pipeline {pipeline.name!r} has no source")
    vertices, exchanges = _in_order(compiler.vertices, compiler.exchanges), tuple(compiler.exchanges)
    unscaled = [_shape(vertex) for vertex in vertices]
    shape = msgspec.json.encode((pipeline.name, pipeline.max_parallelism, unscaled, exchanges))
    graph = JobGraph(
        job=pipeline.name,
        pipeline_ref=ref,
        max_parallelism=pipeline.max_parallelism,
        vertices=vertices,
        exchanges=exchanges,
        checkpoint=pipeline.checkpoint,
        restart=pipeline.restart,
        state=pipeline.state,
        fingerprint=hashlib.sha256(shape).hexdigest()[:16],
    )
    return CompiledPipeline(graph, compiler.operators)


def _shape(vertex: JobVertex) -> JobVertex:
    """Without what may differ from one start to the next."""
    operators = tuple(msgspec.structs.replace(operator, coordinator=None) for operator in vertex.operators)
    return msgspec.structs.replace(vertex, parallelism=1, operators=operators)


class _Compiler:
    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self.vertices: list[JobVertex] = []
        self.exchanges: list[Exchange] = []
        self.operators: dict[OperatorUid, Operator] = {}

    def vertex(self, head: Node, source: ExchangeId | None) -> None:
        """Add the vertex that begins with ``head``, then those behind it. It may be there for another input already."""
        vertex = VertexId(head.operator.uid)
        for index, known in enumerate(self.vertices):
            if known.vertex == vertex and source is not None:
                self.vertices[index] = msgspec.structs.replace(known, inputs=(*known.inputs, source))
                return
        nodes: list[OperatorNode] = []
        outputs: list[ExchangeId] = []
        behind: list[tuple[Node, ExchangeId]] = []
        for node, upstream in _walk(head):
            operator = node.operator
            uid, kind = operator.uid, self._kind(node)
            if isinstance(operator, SinkOperator) and kind is OperatorKind.SINK_ENCODER:
                uid = OperatorUid(f"{operator.uid}:encode")
                # Which subtask reads an input partition changes with the parallelism, so all may write everywhere.
                exchange_kind = ExchangeKind.KEYED if source is None else ExchangeKind.FORWARD
                exchange = self._exchange(exchange_kind, vertex, uid, VertexId(operator.uid))
                outputs.append(exchange)
                behind.append((node, exchange))
            elif isinstance(operator, _LAST_OF_VERTEX):
                (consumer,) = node.children
                exchange_kind = _EXCHANGES[type(operator)]
                exchange = self._exchange(exchange_kind, vertex, uid, VertexId(consumer.operator.uid))
                outputs.append(exchange)
                behind.append((consumer, exchange))
            elif not node.children and not isinstance(operator, SinkOperator):
                raise PipelineError(f"nothing is done with the results of {uid!r}: add a sink")
            nodes.append(self._node(uid, operator, kind, upstream))
            if isinstance(operator, ProcessOperator) and operator.broadcast is not None:
                kept = operator.broadcast
                nodes.append(self._node(kept.uid, kept, OperatorKind.BROADCAST_STATE, None))
        self._add_vertex(vertex, nodes, head.parallelism, source, outputs)
        for node, exchange in behind:
            if isinstance(node.operator, SinkOperator):
                committer = self._node(node.operator.uid, node.operator, OperatorKind.SINK_COMMITTER, None)
                self._add_vertex(VertexId(node.operator.uid), [committer], node.parallelism, exchange, [])
            else:
                self.vertex(node, exchange)

    def _add_vertex(
        self,
        vertex: VertexId,
        nodes: list[OperatorNode],
        parallelism: int,
        source: ExchangeId | None,
        outputs: list[ExchangeId],
    ) -> None:
        self.vertices.append(
            JobVertex(
                vertex=vertex,
                name=" -> ".join(node.name for node in nodes),
                operators=tuple(nodes),
                parallelism=parallelism,
                inputs=() if source is None else (source,),
                outputs=tuple(outputs),
            )
        )

    def _kind(self, node: Node) -> OperatorKind:
        operator = node.operator
        if isinstance(operator, SinkOperator):
            exactly_once = operator.sink.guarantee == "exactly_once"
            return OperatorKind.SINK_ENCODER if exactly_once else OperatorKind.SINK_WRITER
        return _KINDS[type(operator)]

    def _node(
        self, uid: OperatorUid, operator: Operator, kind: OperatorKind, upstream: OperatorUid | None
    ) -> OperatorNode:
        self.operators[uid] = operator
        return OperatorNode(
            uid=uid,
            operator_id=operator_id(uid),
            name=str(uid),
            kind=kind,
            upstream=upstream,
            coordinator=operator.source.coordinator() if isinstance(operator, SourceOperator) else None,
        )

    def _exchange(
        self, kind: ExchangeKind, producer: VertexId, operator: OperatorUid, consumer: VertexId
    ) -> ExchangeId:
        exchange = exchange_id(producer, consumer)
        other = next((e for e in self.exchanges if e.exchange == exchange), None)
        if other is not None:
            raise PipelineError(
                f"{consumer!r} would get two streams from one task: operators {other.producer_operator!r} and"
                f" {operator!r} are both part of {producer!r}. Put .rebalance() behind one of them"
            )
        self.exchanges.append(
            Exchange(
                exchange=exchange,
                kind=kind,
                producer=producer,
                producer_operator=operator,
                consumer=consumer,
                partitions=1 if kind is ExchangeKind.BROADCAST else self._pipeline.max_parallelism,
            )
        )
        return exchange


def _walk(head: Node) -> Iterator[tuple[Node, OperatorUid | None]]:
    """The operators chained to ``head``, each with its upstream operator, topologically."""
    stack: list[tuple[Node, OperatorUid | None]] = [(head, None)]
    while stack:
        node, upstream = stack.pop(0)
        yield node, upstream
        if not isinstance(node.operator, _LAST_OF_VERTEX):
            stack += [(child, node.operator.uid) for child in node.children]


def _in_order(vertices: Sequence[JobVertex], exchanges: Sequence[Exchange]) -> tuple[JobVertex, ...]:
    """Producers before consumers, else as they were found."""
    left = list(vertices)
    ordered: list[JobVertex] = []
    while left:
        waiting = {e.consumer for e in exchanges if any(v.vertex == e.producer for v in left)}
        ready = next(vertex for vertex in left if vertex.vertex not in waiting)
        ordered.append(ready)
        left.remove(ready)
    return tuple(ordered)
