"""What had finished when a checkpoint was taken, against a job that has been changed since."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from tests.unit.cluster.graphs import SOURCE, TOTALS, operator, orders_graph

from moorage.errors import StateError
from moorage.graph.job_graph import ExchangeKind, JobGraph, JobVertex, OperatorKind, OperatorNode
from moorage.graph.restorable import check_restorable
from moorage.ids import CheckpointId, VertexId
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState

PARALLELISM = 2
GRAPH = orders_graph(PARALLELISM)


def checkpoint(graph: JobGraph, finished: Mapping[str, int]) -> CheckpointMetadata:
    """As the graph's job takes it. ``finished``: how many subtasks of an operator had; the sink is in no checkpoint."""
    nodes = [(vertex, node) for vertex in graph.vertices if not vertex.is_committer for node in vertex.operators]
    return CheckpointMetadata(
        checkpoint=CheckpointId(7), operators=tuple(_state(v, node, finished.get(node.uid, 0)) for v, node in nodes)
    )


def _state(vertex: JobVertex, node: OperatorNode, finished: int) -> OperatorState:
    is_over = finished == vertex.parallelism
    subtasks = {} if is_over else {index: OperatorSubtaskState(finished=True) for index in range(finished)}
    return OperatorState(
        operator=node.operator_id,
        uid=node.uid,
        name=node.name,
        parallelism=vertex.parallelism,
        max_parallelism=GRAPH.max_parallelism,
        subtasks=subtasks,
        fully_finished=is_over,
    )


def changed(graph: JobGraph, name: VertexId, *operators: OperatorNode) -> JobGraph:
    """With other operators in a vertex."""
    vertices = (msgspec.structs.replace(v, operators=operators) if v.vertex == name else v for v in graph.vertices)
    return msgspec.structs.replace(graph, vertices=tuple(vertices))


def of_kind(graph: JobGraph, kind: ExchangeKind) -> JobGraph:
    """With another exchange behind the source."""
    first, *others = graph.exchanges
    return msgspec.structs.replace(graph, exchanges=(msgspec.structs.replace(first, kind=kind), *others))


def check(metadata: CheckpointMetadata, graph: JobGraph = GRAPH) -> None:
    check_restorable(metadata, graph, allow_non_restored=True)


SOURCE_ONLY = {"orders": PARALLELISM}
ALL = {"orders": PARALLELISM, "totals": PARALLELISM, "results-encode": PARALLELISM}


@pytest.mark.parametrize("finished", [{}, {"orders": 1}, SOURCE_ONLY, {**ALL, "totals": 1, "results-encode": 1}, ALL])
def test_the_same_job_goes_on_whatever_had_finished(finished: Mapping[str, int]) -> None:
    check(checkpoint(GRAPH, finished))


@pytest.mark.parametrize("uid", ["totals", "results-encode"])
def test_what_had_finished_is_not_chained_to_what_had_not(uid: str) -> None:
    with pytest.raises(StateError, match="vertex totals chains operators of which some had finished and some had not"):
        check(checkpoint(GRAPH, {**SOURCE_ONLY, uid: PARALLELISM}))


@pytest.mark.parametrize("finished", [1, PARALLELISM])
@pytest.mark.parametrize("is_first", [False, True])
def test_a_new_operator_is_not_chained_to_what_had_finished(finished: int, is_first: bool) -> None:
    """It would never get the input that is over already."""
    new = operator("new", OperatorKind.MAP, 9)
    present = GRAPH.vertices[1].operators
    graph = changed(GRAPH, TOTALS, *((new, *present) if is_first else (*present, new)))
    metadata = checkpoint(GRAPH, {**SOURCE_ONLY, **dict.fromkeys(("totals", "results-encode"), finished)})
    words = "in all subtasks" if finished == PARALLELISM else "in some subtasks"
    with pytest.raises(StateError, match=rf"\(new nowhere, results-encode {words}, totals {words}\): undo that change"):
        check(metadata, graph)
    check(checkpoint(GRAPH, SOURCE_ONLY), graph)


@pytest.mark.parametrize("source", [0, 1])
def test_nobody_who_runs_comes_before_who_had_finished(source: int) -> None:
    with pytest.raises(
        StateError, match="vertex totals had finished in all subtasks when the checkpoint was taken, but"
    ):
        check(checkpoint(GRAPH, {**ALL, "orders": source}))


def test_a_new_producer_does_not_come_before_who_had_finished() -> None:
    graph = changed(GRAPH, SOURCE, operator("others", OperatorKind.SOURCE, 9))
    with pytest.raises(StateError, match="but orders, which would now feed it, had finished nowhere"):
        check(checkpoint(GRAPH, ALL), graph)


@pytest.mark.parametrize("kind", [kind for kind in ExchangeKind if kind is not ExchangeKind.FORWARD])
def test_who_hears_of_all_producers_has_partly_finished_only_behind_all_of_them(kind: ExchangeKind) -> None:
    graph = of_kind(GRAPH, kind)
    with pytest.raises(StateError, match=r"totals had finished in some subtasks .* orders, .* in some subtasks"):
        check(checkpoint(graph, {"orders": 1, "totals": 1, "results-encode": 1}), graph)


def test_behind_a_forward_exchange_some_may_finish_as_soon_as_some_did() -> None:
    graph = of_kind(GRAPH, ExchangeKind.FORWARD)
    check(checkpoint(graph, {"orders": 1, "totals": 1, "results-encode": 1}), graph)
    with pytest.raises(StateError, match=r"totals had finished in some subtasks .* orders, .* nowhere"):
        check(checkpoint(graph, {"totals": 1, "results-encode": 1}), graph)


def test_an_operator_that_had_finished_keeps_its_home() -> None:
    graph = changed(GRAPH, SOURCE, operator("others", OperatorKind.SOURCE, 9))
    metadata = checkpoint(GRAPH, SOURCE_ONLY)
    with pytest.raises(StateError, match=r"no operator for the state of orders: .* --allow-non-restored"):
        check_restorable(metadata, graph, allow_non_restored=False)
    check(metadata, graph)
