from __future__ import annotations

from tests.unit.cluster.graphs import SINK, SOURCE, TOTALS, orders_graph, subtasks

from moorage.graph.checkpoint_plan import checkpoint_plan, find_not_running
from moorage.graph.execution import Execution
from moorage.ids import Attempt, SubtaskId, WorkerId
from moorage.messages.events import SubtaskState

GRAPH = orders_graph(2)


def execution() -> Execution:
    return Execution(GRAPH, Attempt(1), (WorkerId("w1/1"), WorkerId("w2/1")))


def test_sources_are_triggered_all_but_sinks_are_waited_for_and_sinks_are_committed_to() -> None:
    plan = checkpoint_plan(execution())
    assert list(plan.trigger) == subtasks(GRAPH, SOURCE)
    assert plan.wait_for == set(subtasks(GRAPH, SOURCE, TOTALS))
    assert list(plan.commit_to) == subtasks(GRAPH, SINK)
    assert [vertex.vertex for vertex in plan.vertices] == [SOURCE, TOTALS]


def test_who_is_not_running_is_named() -> None:
    running = execution()
    plan = checkpoint_plan(running)
    for subtask in subtasks(GRAPH):
        running.update(subtask, SubtaskState.RUNNING)
    assert find_not_running(running, plan) is None
    running.update(SubtaskId(TOTALS, 1), SubtaskState.FINISHED)
    blocker = find_not_running(running, plan)
    assert blocker is not None
    assert str(blocker) == "subtask totals/1 is FINISHED"


def test_a_sink_that_is_not_running_is_in_nobodys_way() -> None:
    running = execution()
    for subtask in subtasks(GRAPH, SOURCE, TOTALS):
        running.update(subtask, SubtaskState.RUNNING)
    assert find_not_running(running, checkpoint_plan(running)) is None
