"""Job graphs for tests, as the compiler would make them."""

from __future__ import annotations

import msgspec

from moorage.graph.job_graph import (
    CheckpointConfig,
    Exchange,
    ExchangeKind,
    JobGraph,
    JobVertex,
    OperatorKind,
    OperatorNode,
    RestartConfig,
)
from moorage.ids import JobId, OperatorId, OperatorUid, SubtaskId, VertexId
from moorage.naming import exchange_id

JOB = JobId("orders")
SOURCE = VertexId("orders")
TOTALS = VertexId("totals")
SINK = VertexId("results")


def operator(uid: str, kind: OperatorKind, number: int) -> OperatorNode:
    return OperatorNode(
        uid=OperatorUid(uid), operator_id=OperatorId(f"{number:032x}"), name=uid, kind=kind, upstream=None
    )


def orders_graph(
    parallelism: int = 2,
    *,
    checkpoint: CheckpointConfig | None = None,
    restart: RestartConfig | None = None,
    with_sink: bool = True,
) -> JobGraph:
    """source -> keyed totals [-> exactly-once sink]."""
    first = exchange_id(SOURCE, TOTALS)
    second = exchange_id(TOTALS, SINK)
    vertices = [
        JobVertex(
            vertex=SOURCE,
            name="orders",
            operators=(operator("orders", OperatorKind.SOURCE, 1),),
            parallelism=parallelism,
            outputs=(first,),
        ),
        JobVertex(
            vertex=TOTALS,
            name="totals",
            operators=(
                operator("totals", OperatorKind.PROCESS, 2),
                operator("results-encode", OperatorKind.SINK_ENCODER, 3),
            ),
            parallelism=parallelism,
            inputs=(first,),
            outputs=(second,) if with_sink else (),
        ),
    ]
    exchanges = [
        Exchange(
            exchange=first,
            kind=ExchangeKind.KEYED,
            producer=SOURCE,
            producer_operator=OperatorUid("orders"),
            consumer=TOTALS,
            partitions=8,
        )
    ]
    if with_sink:
        vertices.append(
            JobVertex(
                vertex=SINK,
                name="results",
                operators=(operator("results", OperatorKind.SINK_COMMITTER, 4),),
                parallelism=parallelism,
                inputs=(second,),
            )
        )
        exchanges.append(
            Exchange(
                exchange=second,
                kind=ExchangeKind.FORWARD,
                producer=TOTALS,
                producer_operator=OperatorUid("results-encode"),
                consumer=SINK,
                partitions=8,
            )
        )
    return JobGraph(
        job=JOB,
        pipeline_ref="examples.orders:pipeline",
        max_parallelism=8,
        vertices=tuple(vertices),
        exchanges=tuple(exchanges),
        checkpoint=checkpoint or CheckpointConfig(),
        restart=restart or RestartConfig(),
        fingerprint="test",
    )


def with_parallelism(graph: JobGraph, vertex: VertexId, parallelism: int) -> JobGraph:
    replaced = tuple(
        msgspec.structs.replace(v, parallelism=parallelism) if v.vertex == vertex else v for v in graph.vertices
    )
    return msgspec.structs.replace(graph, vertices=replaced)


def subtasks(graph: JobGraph, *vertices: VertexId) -> list[SubtaskId]:
    """Every subtask of the named vertices, of all if none is named."""
    return [
        SubtaskId(v.vertex, index)
        for v in graph.vertices
        if not vertices or v.vertex in vertices
        for index in range(v.parallelism)
    ]


OTHER_SOURCE = VertexId("other-orders")
OTHER_TOTALS = VertexId("other-totals")
OTHER_SINK = VertexId("other-results")


def graph_of_two_parts(
    parallelism: int = 2,
    other_parallelism: int = 1,
    *,
    checkpoint: CheckpointConfig | None = None,
    restart: RestartConfig | None = None,
) -> JobGraph:
    """Twice the job above, without a connection: the second time under other names."""
    first = orders_graph(parallelism, checkpoint=checkpoint, restart=restart)
    second = orders_graph(other_parallelism)
    renamed = msgspec.json.encode((second.vertices, second.exchanges)).decode()
    for name in (SOURCE, TOTALS, SINK):
        renamed = renamed.replace(f'"{name}', f'"other-{name}').replace(f"--{name}", f"--other-{name}")
    for number in range(1, 5):
        renamed = renamed.replace(f"{number:032x}", f"{number + 10:032x}")
    vertices, exchanges = msgspec.json.decode(renamed, type=tuple[tuple[JobVertex, ...], tuple[Exchange, ...]])
    return msgspec.structs.replace(
        first, vertices=(*first.vertices, *vertices), exchanges=(*first.exchanges, *exchanges)
    )
