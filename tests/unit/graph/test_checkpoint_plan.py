from __future__ import annotations

import msgspec
import pytest
from tests.unit.cluster.graphs import SINK, SOURCE, TOTALS, operator, orders_graph, subtasks

from moorage.graph.checkpoint_plan import checkpoint_plan, find_not_running
from moorage.graph.execution import Execution
from moorage.graph.job_graph import CheckpointConfig, Exchange, ExchangeKind, JobGraph, JobVertex, OperatorKind
from moorage.ids import Attempt, ExchangeId, SubtaskId, VertexId, WorkerId
from moorage.messages.events import SubtaskState

GRAPH = orders_graph(2)
SLOTS = (WorkerId("w1/1"), WorkerId("w2/1"))


def execution(graph: JobGraph = GRAPH) -> Execution:
    return Execution(graph, Attempt(1), SLOTS)


def running(graph: JobGraph = GRAPH) -> Execution:
    runs = execution(graph)
    for subtask, _ in list(runs.states()):
        runs.update(subtask, SubtaskState.RUNNING)
    return runs


def finish(runs: Execution, *finished: SubtaskId) -> None:
    for subtask in finished:
        runs.update(subtask, SubtaskState.FINISHED)
    runs.validate()


def test_sources_are_triggered_all_but_sinks_are_waited_for_and_sinks_are_committed_to() -> None:
    plan = checkpoint_plan(execution())
    assert list(plan.trigger) == subtasks(GRAPH, SOURCE)
    assert plan.wait_for == set(subtasks(GRAPH, SOURCE, TOTALS))
    assert list(plan.commit_to) == subtasks(GRAPH, SINK)
    assert [vertex.vertex for vertex in plan.vertices] == [SOURCE, TOTALS]
    assert plan.finished == frozenset()


@pytest.mark.parametrize("state", [SubtaskState.INITIALIZING, SubtaskState.FAILED, SubtaskState.CANCELED])
def test_who_is_not_running_is_named(state: SubtaskState) -> None:
    runs = execution()
    for subtask in subtasks(GRAPH):
        if subtask != SubtaskId(TOTALS, 1):
            runs.update(subtask, SubtaskState.RUNNING)
    runs.update(SubtaskId(TOTALS, 1), state)
    assert str(find_not_running(runs)) == f"subtask totals/1 is {state.value}"
    runs = running()
    assert find_not_running(runs) is None


def test_a_sink_that_is_not_running_is_in_nobodys_way() -> None:
    runs = execution()
    for subtask in subtasks(GRAPH, SOURCE, TOTALS):
        runs.update(subtask, SubtaskState.RUNNING)
    assert find_not_running(runs) is None


def test_a_finished_subtask_is_recorded_and_neither_triggered_nor_waited_for() -> None:
    runs = running()
    finish(runs, SubtaskId(SOURCE, 0))
    plan = checkpoint_plan(runs)
    assert find_not_running(runs) is None
    assert plan.trigger == (SubtaskId(SOURCE, 1),)
    assert plan.wait_for == {SubtaskId(SOURCE, 1), *subtasks(GRAPH, TOTALS)}
    assert plan.finished == {SubtaskId(SOURCE, 0)}
    assert not any(plan.is_fully_finished(vertex) for vertex in plan.vertices)


def test_who_has_only_finished_producers_is_triggered_as_sources_are() -> None:
    runs = running()
    finish(runs, *subtasks(GRAPH, SOURCE))
    plan = checkpoint_plan(runs)
    assert list(plan.trigger) == subtasks(GRAPH, TOTALS)
    assert [vertex.vertex for vertex in plan.vertices if plan.is_fully_finished(vertex)] == [SOURCE]
    finish(runs, SubtaskId(TOTALS, 1))
    assert checkpoint_plan(runs).trigger == (SubtaskId(TOTALS, 0),)


def test_a_finished_sink_is_not_committed_to() -> None:
    runs = running()
    finish(runs, SubtaskId(SINK, 1))
    assert checkpoint_plan(runs).commit_to == (SubtaskId(SINK, 0),)


def test_behind_a_forward_exchange_the_own_producers_count() -> None:
    """source -> (keyed) totals -> (forward) notes: each subtask of notes reads from one of totals."""
    notes = VertexId("notes")
    exchange = ExchangeId("totals--notes")
    graph = orders_graph(2, with_sink=False)
    first, second = graph.vertices
    third = JobVertex(
        vertex=notes,
        name="notes",
        operators=(operator("notes", OperatorKind.MAP, 9),),
        parallelism=2,
        inputs=(exchange,),
    )
    forward = Exchange(
        exchange=exchange,
        kind=ExchangeKind.FORWARD,
        producer=TOTALS,
        producer_operator=second.operators[1].uid,
        consumer=notes,
        partitions=8,
    )
    graph = msgspec.structs.replace(
        graph,
        vertices=(first, msgspec.structs.replace(second, outputs=(exchange,)), third),
        exchanges=(*graph.exchanges, forward),
    )
    runs = running(graph)
    finish(runs, *subtasks(graph, SOURCE), SubtaskId(TOTALS, 0))
    assert checkpoint_plan(runs).trigger == (SubtaskId(TOTALS, 1), SubtaskId(notes, 0))


def test_finished_subtasks_are_in_the_way_where_the_job_forbids_it() -> None:
    runs = running(orders_graph(2, checkpoint=CheckpointConfig(after_finish=False)))
    finish(runs, SubtaskId(SOURCE, 1))
    assert str(find_not_running(runs)) == "subtask orders/1 is FINISHED, and checkpoint.after_finish is off"


def test_nothing_is_left_to_take_when_all_have_finished() -> None:
    runs = running()
    finish(runs, *subtasks(GRAPH, SOURCE, TOTALS))
    assert not runs.can_checkpoint
    assert find_not_running(runs) is not None


def test_input_has_ended_when_every_subtask_has_said_so_or_has_finished() -> None:
    runs = running()
    needed = subtasks(GRAPH, SOURCE, TOTALS)
    for subtask in needed[1:]:
        runs.update(subtask, SubtaskState.RUNNING, data_ended=True)
        assert not runs.input_has_ended
    finish(runs, needed[0])
    assert runs.input_has_ended
    finish(runs, *needed[1:])
    assert not runs.input_has_ended
