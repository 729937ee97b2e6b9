from __future__ import annotations

import pytest
from tests.unit.cluster.graphs import SINK, SOURCE, TOTALS, orders_graph, subtasks, with_parallelism

from moorage.graph.execution import TRANSITIONS, Execution, ExecutionState, UpdateOutcome
from moorage.ids import Attempt, SubtaskId, VertexId, WorkerId
from moorage.messages.events import SubtaskState

W1, W2 = WorkerId("w1/1"), WorkerId("w2/1")
GRAPH = orders_graph(2)
FIRST = SubtaskId(SOURCE, 0)


@pytest.fixture
def execution() -> Execution:
    return Execution(GRAPH, Attempt(1), (W1, W2))


def test_it_has_every_subtask_of_every_vertex(execution: Execution) -> None:
    assert [subtask for subtask, _ in execution.states()] == subtasks(GRAPH)
    assert {state for _, state in execution.states()} == {ExecutionState.DEPLOYING}
    execution.validate()


def test_slot_i_runs_subtask_i_of_every_vertex_that_has_one() -> None:
    graph = with_parallelism(orders_graph(2), SINK, 1)
    execution = Execution(graph, Attempt(1), (W1, W2))
    assert [subtask for subtask, _ in execution.on_worker(W1)] == [
        SubtaskId(SOURCE, 0),
        SubtaskId(TOTALS, 0),
        SubtaskId(SINK, 0),
    ]
    assert [subtask for subtask, _ in execution.on_worker(W2)] == [SubtaskId(SOURCE, 1), SubtaskId(TOTALS, 1)]
    assert execution.worker(SubtaskId(TOTALS, 1)) == W2


@pytest.mark.parametrize("before", ExecutionState)
@pytest.mark.parametrize("reported", SubtaskState)
def test_reports_move_a_subtask_only_as_the_table_says(before: ExecutionState, reported: SubtaskState) -> None:
    initial = before if before.is_unreported else ExecutionState.DEPLOYING
    execution = Execution(GRAPH, Attempt(1), (W1, W2), initial)
    if not before.is_unreported:
        execution.update(FIRST, SubtaskState(before.value))
    outcome = execution.update(FIRST, reported)
    after = ExecutionState(reported.value)
    if after is before:
        assert outcome is UpdateOutcome.UNCHANGED
    elif after in TRANSITIONS[before]:
        assert outcome is UpdateOutcome.APPLIED
        assert execution.state(FIRST) is after
    else:
        assert outcome is UpdateOutcome.LATE
        assert execution.state(FIRST) is before
    execution.validate()


def test_what_has_ended_never_comes_back() -> None:
    assert all(TRANSITIONS[state] == frozenset() for state in ExecutionState if state.has_ended)


def test_a_report_about_no_subtask_of_the_job_is_unknown(execution: Execution) -> None:
    assert execution.update(SubtaskId(VertexId("other"), 0), SubtaskState.RUNNING) is UpdateOutcome.UNKNOWN
    assert execution.update(SubtaskId(SOURCE, 2), SubtaskState.RUNNING) is UpdateOutcome.UNKNOWN


def test_a_checkpoint_can_be_taken_while_only_sinks_do_not_run(execution: Execution) -> None:
    for subtask in subtasks(GRAPH, SOURCE, TOTALS):
        assert not execution.can_checkpoint
        execution.update(subtask, SubtaskState.RUNNING)
    assert execution.can_checkpoint
    assert not execution.all_running
    execution.update(SubtaskId(TOTALS, 1), SubtaskState.FAILED)
    assert not execution.can_checkpoint
    execution.validate()


def test_unreported_subtasks_are_those_nothing_was_heard_of(execution: Execution) -> None:
    for subtask in subtasks(GRAPH)[:-1]:
        execution.update(subtask, SubtaskState.INITIALIZING)
    assert list(execution.unreported()) == [SubtaskId(SINK, 1)]
    execution.update(SubtaskId(SINK, 1), SubtaskState.INITIALIZING)
    assert not execution.has_unreported
    assert list(execution.unreported()) == []


def test_summaries(execution: Execution) -> None:
    for subtask in subtasks(GRAPH):
        execution.update(subtask, SubtaskState.RUNNING)
    assert execution.all_running
    for subtask in subtasks(GRAPH):
        execution.update(subtask, SubtaskState.FINISHED)
    assert execution.all_finished
    assert execution.all_ended
    assert execution.count(ExecutionState.FINISHED) == 6
