"""The hub by itself: savepoints, finished subtasks, the final checkpoint. What it does in a cluster is in
``tests/unit/cluster/test_checkpoints.py``."""

from __future__ import annotations

import msgspec
import pytest
from tests.unit.checkpoint.lone import BY_HAND, Lone
from tests.unit.cluster.graphs import SINK, SOURCE, TOTALS, orders_graph, subtasks

from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.decider import CheckpointRequest
from moorage.checkpoint.discards import GATHER_MS, LATE_WRITERS_MS
from moorage.checkpoint.notices import CheckpointDone, CheckpointFailed
from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.effects import AddCheckpoint, CallError, CallFailure, DiscardSavepoint, WriteMetadata
from moorage.graph.job_graph import CheckpointConfig
from moorage.ids import CheckpointId, SubtaskId
from moorage.messages.barriers import Alignment, SnapshotKind
from moorage.messages.cleanup import DiscardCheckpoint, DiscardState
from moorage.messages.commands import CheckpointFate, NotifyCheckpointComplete, TriggerCheckpoint
from moorage.messages.events import SubtaskState
from moorage.messages.registry import JobStatus, RestoreMode, RestoreSettings
from moorage.state.operator_state import SnapshotType

SAVEPOINT = CheckpointRequest(kind=SnapshotKind.SAVEPOINT, location="s3://bucket/mine/")
SUSPEND = CheckpointRequest(kind=SnapshotKind.SUSPEND, ends_as=JobStatus.FINISHED)
REQUIRED = subtasks(orders_graph(2), SOURCE, TOTALS)


def started(**config: object) -> Lone:
    lone = Lone(orders_graph(2, checkpoint=msgspec.structs.replace(BY_HAND, **config)))
    lone.start()
    return lone


def done(lone: Lone) -> CheckpointDone:
    outcome = lone.outcomes[-1]
    assert isinstance(outcome, CheckpointDone), outcome
    return outcome


def failed(lone: Lone) -> CheckpointFailed:
    outcome = lone.outcomes[-1]
    assert isinstance(outcome, CheckpointFailed), outcome
    return outcome


# --- what the subtasks are asked for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "alignment", "timeout_ms"),
    [
        ({}, Alignment.ALIGNED, 0),
        ({"unaligned": True}, Alignment.UNALIGNED, 0),
        ({"unaligned": True, "aligned_timeout_ms": 50}, Alignment.TIMEOUT, 50),
        ({"mode": "at_least_once"}, Alignment.AT_LEAST_ONCE, 0),
    ],
)
def test_checkpoints_are_aligned_as_configured_and_savepoints_always(
    config: dict[str, object], alignment: Alignment, timeout_ms: int
) -> None:
    lone = started(**config)
    lone.request()
    lone.request(SAVEPOINT)
    checkpoint, savepoint = lone.commands(TriggerCheckpoint)
    assert (checkpoint.options.alignment, checkpoint.options.aligned_timeout_ms) == (alignment, timeout_ms)
    assert (savepoint.options.alignment, savepoint.options.aligned_timeout_ms) == (Alignment.ALIGNED, 0)


def test_a_full_checkpoint_builds_on_nothing_and_the_next_builds_on_it() -> None:
    lone = started()
    for kind in (SnapshotKind.CHECKPOINT, SnapshotKind.FULL_CHECKPOINT, SnapshotKind.CHECKPOINT):
        lone.request(CheckpointRequest(kind=kind))
        lone.acknowledge_all()
    assert [(t.base, t.options.kind) for t in lone.commands(TriggerCheckpoint)] == [
        (0, SnapshotKind.CHECKPOINT),
        (0, SnapshotKind.FULL_CHECKPOINT),
        (2, SnapshotKind.CHECKPOINT),
    ]


@pytest.mark.parametrize("mode", RestoreMode)
def test_after_a_restore_without_claim_checkpoints_are_full_until_one_is_complete(mode: RestoreMode) -> None:
    restore = RestoreSettings(path="elsewhere/_metadata", checksum=1, mode=mode)
    plain = Lone()
    lone = Lone(record=msgspec.structs.replace(plain.record, restore=restore))
    lone.start()
    for number in range(3):
        lone.request()
        if number == 0:
            lone.decline(REQUIRED[0])
        else:
            lone.acknowledge_all()
    first = SnapshotKind.FULL_CHECKPOINT if mode is RestoreMode.NO_CLAIM else SnapshotKind.CHECKPOINT
    kinds = [trigger.options.kind for trigger in lone.commands(TriggerCheckpoint)]
    assert kinds == [first, first, SnapshotKind.CHECKPOINT]


# --- savepoints ------------------------------------------------------------------------------------------------------


def test_a_savepoint_is_nobodys_base_and_in_nobodys_fate_and_no_sink_hears_of_it() -> None:
    lone = started()
    lone.request()
    lone.acknowledge_all()
    lone.request(SAVEPOINT)
    lone.acknowledge_all()
    lone.request()
    assert [t.base for t in lone.commands(TriggerCheckpoint)] == [0, 0, 1]
    assert [n.checkpoint for n in lone.commands(NotifyCheckpointComplete)] == [1]
    fates = lone.coordinator.fates(lone.execution.attempt)
    assert (fates.completed, fates.pending, fates.last_id) == ((1,), (3,), 3)
    assert lone.coordinator.completed.latest == lone.retained[CheckpointId(1)]
    assert lone.retained[CheckpointId(2)].kind == "savepoint"


def test_a_savepoint_lies_in_a_folder_of_its_own_with_the_kind_in_its_metadata() -> None:
    lone = started()
    lone.request(msgspec.structs.replace(SAVEPOINT, native=True))
    lone.acknowledge_all()
    (write,) = lone.operations(WriteMetadata)
    folder = done(lone).path
    assert folder.startswith("s3://bucket/mine/savepoint-orders-")
    assert write.path == f"{folder}/_metadata"
    assert lone.commands(TriggerCheckpoint)[0].options.location == folder
    assert write.metadata.savepoint
    assert write.metadata.properties is not None
    assert write.metadata.properties.snapshot_type is SnapshotType.NATIVE_SAVEPOINT


def test_two_savepoints_never_share_a_folder() -> None:
    lone = started()
    for _ in range(2):
        lone.request(CheckpointRequest(kind=SnapshotKind.SAVEPOINT))
        lone.acknowledge_all()
    first, second = (o.path for o in lone.outcomes if isinstance(o, CheckpointDone))
    assert first != second
    assert first.startswith("orders/savepoints/savepoint-orders-")


def test_a_failed_savepoint_leaves_no_files_and_never_fails_the_job() -> None:
    lone = started(tolerable_failures=0)
    for _ in range(3):
        lone.request(SAVEPOINT)
        lone.decline(REQUIRED[1])
        assert failed(lone).reason is Reason.DECLINED_STORAGE
    assert len(lone.operations(DiscardSavepoint)) == 3
    assert lone.cleanups(DiscardCheckpoint) == []
    assert lone.failures == []


def test_files_that_come_late_into_a_failed_savepoint_are_deleted_together_and_once_more_later() -> None:
    lone = started()
    lone.request(SAVEPOINT)
    lone.decline(REQUIRED[1])
    (first,) = lone.operations(DiscardSavepoint)
    lone.tick(10)
    for _ in range(3):
        assert lone.acknowledge(REQUIRED[0]) is AcknowledgeOutcome.DISCARDED
    assert lone.operations(DiscardSavepoint) == [first]
    lone.tick(GATHER_MS)
    lone.tick(LATE_WRITERS_MS)
    assert lone.operations(DiscardSavepoint) == [first, first]
    assert lone.cleanups(DiscardState) == []


def test_what_dies_while_it_writes_into_a_failed_savepoint_leaves_no_files_either() -> None:
    lone = started()
    lone.request(SAVEPOINT)
    lone.coordinator.suspend(Reason.JOB_STOPPED)
    lone.tick(LATE_WRITERS_MS - 1)
    assert len(lone.operations(DiscardSavepoint)) == 1
    lone.tick(1)
    lone.tick(LATE_WRITERS_MS)
    assert len(lone.operations(DiscardSavepoint)) == 2


def test_a_late_acknowledgement_of_a_completed_savepoint_discards_nothing() -> None:
    lone = started()
    lone.request(SAVEPOINT)
    lone.acknowledge_all()
    assert lone.acknowledge(REQUIRED[0]) is AcknowledgeOutcome.DUPLICATE
    assert lone.operations(DiscardSavepoint) == []
    assert lone.cleanups(DiscardState) == []


def test_a_savepoint_outlives_newer_checkpoints() -> None:
    lone = started()
    lone.request(SAVEPOINT)
    lone.tick()
    lone.answers = True
    lone.coordinator.request(CheckpointRequest())
    lone.carry_out()
    assert lone.triggered() == [1]  # max_concurrent is 1, and the savepoint is one of them
    lone.acknowledge_all(1)
    lone.tick()
    assert lone.triggered() == [1, 2]
    lone.request(SAVEPOINT)
    assert lone.triggered() == [1, 2, 3]  # savepoints don't wait
    lone.acknowledge_all(2)
    assert lone.aborted() == []
    lone.acknowledge_all(3)
    assert sorted(lone.retained) == [1, 2, 3]


def test_while_the_job_is_stopped_with_a_savepoint_nothing_else_is_triggered() -> None:
    lone = started(interval_ms=100)
    lone.request(SUSPEND)
    assert lone.coordinator.is_stopping
    lone.request()
    assert failed(lone).reason is Reason.STOPPING
    lone.tick(1_000)
    assert lone.triggered() == [1]
    lone.acknowledge_all()
    assert done(lone).checkpoint == 1
    assert [n.checkpoint for n in lone.commands(NotifyCheckpointComplete)] == [1]
    assert lone.coordinator.fates(lone.execution.attempt).completed == (1,)
    stop = lone.coordinator.completed.stop
    assert stop is not None
    assert stop.ends_as is JobStatus.FINISHED
    lone.tick(1_000)
    assert lone.triggered() == [1]


def test_a_stop_that_fails_lets_checkpoints_go_on() -> None:
    lone = started(interval_ms=100)
    lone.request(SUSPEND)
    lone.decline(REQUIRED[0])
    assert failed(lone).reason is Reason.DECLINED_STORAGE
    assert not lone.coordinator.is_stopping
    lone.tick(1_000)
    assert lone.triggered() == [1, 2]


def test_a_completed_stop_ends_older_checkpoints_and_a_savepoint_does_not() -> None:
    for request, expected in ((SUSPEND, [Reason.SUBSUMED]), (SAVEPOINT, [])):
        lone = started(max_concurrent=2)
        lone.request()
        lone.request(request)
        lone.acknowledge_all(2)
        assert [notice.reason for notice in lone.aborted()] == expected


def test_an_attempt_that_only_ends_the_job_takes_no_checkpoints() -> None:
    lone = started(interval_ms=100)
    lone.request(SUSPEND)
    lone.acknowledge_all()
    lone.coordinator.suspend(Reason.JOB_FAILOVER)
    lone.coordinator.start(lone.execution, lone.record)
    lone.tick(1_000)
    lone.request()
    assert failed(lone).reason is Reason.STOPPING
    assert lone.triggered() == [1]


# --- subtasks that finish --------------------------------------------------------------------------------------------


def test_a_subtask_that_finishes_meanwhile_is_recorded_as_finished() -> None:
    lone = started()
    lone.request()
    for subtask in REQUIRED[1:]:
        lone.acknowledge(subtask)
    assert lone.retained == {}
    lone.becomes(REQUIRED[0], SubtaskState.FINISHED)
    assert sorted(lone.retained) == [1]
    (write,) = lone.operations(WriteMetadata)
    source = write.metadata.operators[0]
    assert source.subtasks[0].finished
    assert not source.subtasks[1].finished
    assert not source.fully_finished


def test_an_operator_all_of_whose_subtasks_have_finished_is_fully_finished() -> None:
    lone = started()
    for subtask in subtasks(lone.graph, SOURCE):
        lone.becomes(subtask, SubtaskState.FINISHED)
    lone.request()
    for subtask in subtasks(lone.graph, TOTALS):
        lone.acknowledge(subtask)
    (write,) = lone.operations(WriteMetadata)
    assert [(o.uid, o.fully_finished, len(o.subtasks)) for o in write.metadata.operators] == [
        ("orders", True, 0),
        ("totals", False, 2),
        ("results-encode", False, 0),
    ]


def test_finished_subtasks_may_be_forbidden() -> None:
    lone = started(after_finish=False)
    lone.becomes(REQUIRED[0], SubtaskState.FINISHED)
    lone.request()
    assert failed(lone).reason is Reason.NOT_ALL_REQUIRED_TASKS_RUNNING
    assert "checkpoint.after_finish is off" in failed(lone).message


def test_where_finished_subtasks_are_forbidden_what_waits_is_refused_when_one_finishes() -> None:
    lone = started(after_finish=False, max_concurrent=1)
    lone.request()
    lone.request()
    lone.answers = False
    lone.request(CheckpointRequest(kind=SnapshotKind.SAVEPOINT))
    lone.request(CheckpointRequest(kind=SnapshotKind.SAVEPOINT))
    assert (lone.triggered(), lone.outcomes) == ([1], [])
    lone.becomes(REQUIRED[0], SubtaskState.FINISHED)
    refused = [outcome for outcome in lone.outcomes if isinstance(outcome, CheckpointFailed)]
    assert [outcome.reason for outcome in refused] == [Reason.NOT_ALL_REQUIRED_TASKS_RUNNING] * 2
    assert all("checkpoint.after_finish is off" in outcome.message for outcome in refused)


def test_where_finished_subtasks_are_forbidden_the_final_checkpoint_is_taken_all_the_same() -> None:
    lone = started(after_finish=False, interval_ms=100)
    lone.becomes(REQUIRED[0], SubtaskState.FINISHED)
    lone.tick(1_000)
    assert lone.triggered() == []
    for subtask in REQUIRED[1:]:
        lone.becomes(subtask, SubtaskState.RUNNING, data_ended=True)
    lone.tick(10)
    assert lone.triggered() == [1]
    for subtask in REQUIRED[1:]:
        lone.acknowledge(subtask)
    assert sorted(lone.retained) == [1]


@pytest.mark.parametrize("interval_ms", [0, 60_000])
def test_the_final_checkpoint_is_taken_at_once_when_all_input_has_ended_and_again_until_it_is_complete(
    interval_ms: int,
) -> None:
    lone = started(interval_ms=interval_ms, tolerable_failures=10)
    for subtask in REQUIRED[:-1]:
        lone.becomes(subtask, SubtaskState.RUNNING, data_ended=True)
    lone.tick(10)
    assert lone.triggered() == []
    lone.becomes(REQUIRED[-1], SubtaskState.RUNNING, data_ended=True)
    lone.tick(10)
    assert lone.triggered() == [1]
    lone.decline(REQUIRED[0])
    lone.tick(max(interval_ms, 1_000))
    assert lone.triggered() == [1, 2]


def test_who_has_finished_everything_is_asked_for_nothing_more() -> None:
    lone = started(interval_ms=100)
    for subtask in REQUIRED:
        lone.becomes(subtask, SubtaskState.FINISHED)
    lone.tick(1_000)
    assert lone.triggered() == []
    assert lone.aborted() == []


# --- the registry ----------------------------------------------------------------------------------------------------


def test_a_registry_that_does_not_answer_leaves_the_outcome_open_and_the_job_alone() -> None:
    lone = started(interval_ms=100, max_concurrent=3, tolerable_failures=0)
    lone.tick(100)
    lone.answers = False
    lone.acknowledge_all()
    lone.answer(lone.open(WriteMetadata), lone.result_of(lone.open(WriteMetadata).operation))
    for _ in range(3):
        lone.answer(lone.open(AddCheckpoint), error=CallError(CallFailure.UNAVAILABLE, "connection lost"))
        assert lone.coordinator.has_unknown_outcome
        lone.tick(30_000)
        lone.effects.repeat_calls()
        lone.carry_out()
    assert lone.failures == []
    assert lone.coordinator.fates(lone.execution.attempt).pending == (1,)
    call = lone.open(AddCheckpoint)
    lone.answer(call, lone.result_of(call.operation))
    assert not lone.coordinator.has_unknown_outcome
    assert lone.coordinator.fates(lone.execution.attempt).completed == (1,)


def test_the_registry_is_asked_for_one_at_a_time_and_the_oldest_first() -> None:
    lone = started(max_concurrent=3)
    for _ in range(3):
        lone.request()
    lone.answers = False
    for checkpoint in (1, 3, 2):
        lone.acknowledge_all(checkpoint)
    first, third, second = [call for call in lone.calls if isinstance(call.operation, WriteMetadata)]
    for write in (third, second, first):
        lone.answer(write, lone.result_of(write.operation))
    added = []
    while adds := [call for call in lone.calls if isinstance(call.operation, AddCheckpoint)]:
        (add,) = adds
        assert isinstance(add.operation, AddCheckpoint)
        added.append(add.operation.record.checkpoint)
        lone.answer(add, lone.result_of(add.operation))
    assert added == [3]  # it was written first; then the older ones were not needed any more
    assert [notice.reason for notice in lone.aborted()] == [Reason.SUBSUMED, Reason.SUBSUMED]


def test_sinks_take_no_part() -> None:
    lone = started()
    lone.request()
    assert lone.acknowledge(SubtaskId(SINK, 0)) is AcknowledgeOutcome.UNKNOWN
    assert CheckpointFate.UNKNOWN is lone.coordinator._fates.fate(CheckpointId(1))


def test_periodic_ones_start_after_a_random_delay() -> None:
    config = CheckpointConfig(interval_ms=1_000, initial_delay_max_ms=500)
    lone = Lone(orders_graph(2, checkpoint=config), random=lambda: -0.5)
    lone.start()
    lone.tick(1_249)
    assert lone.triggered() == []
    lone.tick(1)
    assert lone.triggered() == [1]
