"""Parts of a job that no exchange connects, and which of them a failure hits."""

from __future__ import annotations

import pytest
from tests.unit.cluster.graphs import (
    OTHER_SINK,
    OTHER_SOURCE,
    OTHER_TOTALS,
    SINK,
    SOURCE,
    TOTALS,
    graph_of_two_parts,
    orders_graph,
    subtasks,
)

from moorage.failover.regions import vertices_to_restart
from moorage.graph.execution import Execution, ExecutionState
from moorage.graph.job_graph import RestartConfig
from moorage.graph.regions import regions
from moorage.ids import Attempt, SubtaskId, VertexId, WorkerId
from moorage.messages.events import SubtaskState

FIRST = frozenset({SOURCE, TOTALS, SINK})
OTHER = frozenset({OTHER_SOURCE, OTHER_TOTALS, OTHER_SINK})
SLOTS = (WorkerId("w1/1"), WorkerId("w2/1"))


def test_exchanges_connect() -> None:
    assert regions(orders_graph()) == [FIRST]
    assert regions(graph_of_two_parts()) == [FIRST, OTHER]


def running(failover: str = "region") -> Execution:
    graph = graph_of_two_parts(restart=RestartConfig(failover=failover))  # type: ignore[arg-type]
    execution = Execution(graph, Attempt(1), SLOTS)
    for subtask in subtasks(graph):
        execution.update(subtask, SubtaskState.RUNNING)
    return execution


@pytest.mark.parametrize(
    ("subtask", "worker", "expected"),
    [
        (SubtaskId(TOTALS, 1), SLOTS[1], FIRST),
        (SubtaskId(OTHER_SINK, 0), SLOTS[0], OTHER),
        (None, SLOTS[0], FIRST | OTHER),
        (None, SLOTS[1], FIRST),
        (None, None, FIRST | OTHER),
    ],
)
def test_a_failure_hits_the_regions_where_it_was(
    subtask: SubtaskId | None, worker: WorkerId | None, expected: frozenset[VertexId]
) -> None:
    assert vertices_to_restart(running(), subtask, worker) == expected
    assert vertices_to_restart(running("full"), subtask, worker) == FIRST | OTHER


def test_what_does_not_run_for_sure_restarts_too() -> None:
    execution = running()
    execution.update(SubtaskId(OTHER_SINK, 0), SubtaskState.FAILED)
    assert vertices_to_restart(execution, SubtaskId(TOTALS, 0), None) == FIRST | OTHER
    unreported = Execution(execution.graph, Attempt(1), SLOTS, ExecutionState.RECONCILING)
    for subtask in subtasks(execution.graph, *FIRST):
        unreported.update(subtask, SubtaskState.RUNNING)
    assert vertices_to_restart(unreported, SubtaskId(TOTALS, 0), None) == FIRST | OTHER


def test_what_goes_on_is_in_the_next_attempt_what_it_was() -> None:
    former = running()
    graph = former.graph
    former.update(SubtaskId(OTHER_SINK, 0), SubtaskState.FINISHED)
    former.update(SubtaskId(OTHER_SOURCE, 0), SubtaskState.RUNNING, data_ended=True)
    former.cancel(FIRST)
    attempts = {**dict.fromkeys(FIRST, Attempt(2)), **dict.fromkeys(OTHER, Attempt(1))}
    execution = Execution(graph, Attempt(2), SLOTS, attempts=attempts, former=former)
    execution.validate()
    assert execution.goes_on == OTHER
    assert execution.state(SubtaskId(OTHER_SINK, 0)) is ExecutionState.FINISHED
    assert execution.state(SubtaskId(SINK, 0)) is ExecutionState.DEPLOYING
    assert execution.input_of_has_ended(OTHER_SOURCE)
    assert not execution.all_running
    for subtask in subtasks(graph, *FIRST):
        execution.update(subtask, SubtaskState.RUNNING)
    assert execution.all_running, "what had finished before need not run"
