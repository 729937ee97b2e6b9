from __future__ import annotations

from typing import Literal

import msgspec
import pytest
from tests.unit.cluster.graphs import SOURCE, TOTALS, orders_graph, subtasks
from tests.unit.cluster.world import acknowledgement

from moorage.checkpoint import stats_tracker
from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.checkpoint.rebuild import IDS_SKIPPED
from moorage.checkpoint.stats import AcknowledgementCounts, CheckpointStatus, CoordinatorStats, Distribution
from moorage.checkpoint.stats_tracker import HISTORY_SIZE, CheckpointStatsTracker
from moorage.effects import JobHistory
from moorage.graph.checkpoint_plan import checkpoint_plan
from moorage.graph.execution import Execution
from moorage.ids import Attempt, CheckpointId, OperatorUid, SubtaskId, WorkerId
from moorage.messages.barriers import SnapshotKind, SnapshotOptions
from moorage.messages.events import CheckpointMetrics
from moorage.messages.registry import CheckpointRecord, RestoreSettings

GRAPH = orders_graph(2)
WORKER = WorkerId("w1/1")
PLAN = checkpoint_plan(Execution(GRAPH, Attempt(1), (WORKER, WORKER)))
ONE = CheckpointId(1)


@pytest.fixture
def tracker() -> CheckpointStatsTracker:
    return CheckpointStatsTracker()


def acknowledge(
    tracker: CheckpointStatsTracker, subtask: SubtaskId, at_ms: int, checkpoint: int = 1, **metrics: int
) -> None:
    message = acknowledgement(GRAPH, WORKER, Attempt(1), subtask, CheckpointId(checkpoint))
    tracker.acknowledged(msgspec.structs.replace(message, metrics=CheckpointMetrics(**metrics)), at_ms)
    tracker.validate()


def record(
    number: int, triggered_ms: int, completed_ms: int, kind: Literal["checkpoint", "savepoint"] = "checkpoint"
) -> CheckpointRecord:
    return CheckpointRecord(
        checkpoint=CheckpointId(number),
        attempt=Attempt(1),
        kind=kind,
        metadata_path=f"orders/chk-{number}/_metadata",
        metadata_bytes=1,
        metadata_checksum=2,
        triggered_ms=triggered_ms,
        completed_ms=completed_ms,
        state_bytes=0,
    )


def complete(tracker: CheckpointStatsTracker, number: int, duration_ms: int = 10) -> None:
    tracker.triggered(CheckpointId(number), 1_000, PLAN)
    tracker.completed(record(number, 1_000, 1_000 + duration_ms))
    tracker.validate()


def test_a_checkpoint_in_progress(tracker: CheckpointStatsTracker) -> None:
    tracker.triggered(ONE, 1_000, PLAN)
    acknowledge(tracker, SubtaskId(TOTALS, 0), 1_020, written_bytes=10, state_bytes=30, held_bytes=5, alignment_ms=3)
    acknowledge(tracker, SubtaskId(TOTALS, 1), 1_015, written_bytes=1, state_bytes=2, held_bytes=1, alignment_ms=9)
    (entry,) = tracker.snapshot().history
    assert (entry.status, entry.subtasks, entry.acknowledged) == (CheckpointStatus.IN_PROGRESS, 4, 2)
    assert (entry.metrics.written_bytes, entry.metrics.state_bytes, entry.metrics.held_bytes) == (11, 32, 6)
    totals = next(task for task in entry.tasks if task.vertex == TOTALS)
    assert (totals.acknowledged, totals.metrics.alignment_ms, totals.latest_ack_ms) == (2, 9, 1_020)
    assert totals.details is not None
    assert [(s.acknowledged_ms, s.metrics.alignment_ms) for s in totals.details if s] == [(1_020, 3), (1_015, 9)]
    source = next(task for task in entry.tasks if task.vertex == SOURCE)
    assert (source.acknowledged, source.latest_ack_ms, source.details) == (0, None, (None, None))


def test_every_measure_of_a_subtask_counts(tracker: CheckpointStatsTracker) -> None:
    tracker.triggered(ONE, 1_000, PLAN)
    names = CheckpointMetrics.__struct_fields__
    one = CheckpointMetrics(**{name: True if name == "unaligned" else 2 for name in names})
    for index in (0, 1):
        message = acknowledgement(GRAPH, WORKER, Attempt(1), SubtaskId(TOTALS, index), ONE)
        tracker.acknowledged(msgspec.structs.replace(message, metrics=one), 1_010)
    metrics = tracker.snapshot().history[0].metrics
    assert {name: getattr(metrics, name) for name in names} == {
        name: True if name == "unaligned" else 2 if name.endswith("_ms") else 4 for name in names
    }


def test_a_completed_checkpoint(tracker: CheckpointStatsTracker) -> None:
    tracker.triggered(ONE, 1_000, PLAN)
    for subtask in subtasks(GRAPH, SOURCE, TOTALS):
        acknowledge(tracker, subtask, 1_030, written_bytes=10, state_bytes=20)
    tracker.completed(record(1, 1_000, 1_048))
    tracker.validate()
    snapshot = tracker.snapshot()
    latest = snapshot.latest_completed
    assert latest is not None
    assert (latest.status, latest.duration_ms, latest.acknowledged) == (CheckpointStatus.COMPLETED, 48, 4)
    assert latest.path == "orders/chk-1/_metadata"
    assert snapshot.counts.completed == snapshot.counts.total == 1
    assert snapshot.summary.written_bytes == Distribution(40, 40, 40, 40, 40, 40, 40, 40)


def test_a_failed_checkpoint(tracker: CheckpointStatsTracker) -> None:
    tracker.triggered(ONE, 1_000, PLAN)
    tracker.failed(ONE, 1_500, CheckpointFailureReason.EXPIRED, "2 subtasks did not acknowledge")
    tracker.validate()
    failed = tracker.snapshot().latest_failed
    assert failed is not None
    assert (failed.status, failed.duration_ms, failed.failed_ms) == (CheckpointStatus.FAILED, 500, 1_500)
    assert failed.failure == ("the checkpoint was not complete within its timeout: 2 subtasks did not acknowledge")
    assert tracker.snapshot().summary.duration_ms is None


def test_failures_to_trigger_are_counted(tracker: CheckpointStatsTracker) -> None:
    tracker.failed_to_trigger()
    tracker.validate()
    counts = tracker.snapshot().counts
    assert (counts.total, counts.failed, counts.in_progress) == (1, 1, 0)


def test_the_history_is_bounded_newest_first(tracker: CheckpointStatsTracker) -> None:
    for number in range(1, HISTORY_SIZE + 6):
        complete(tracker, number)
    history = tracker.snapshot().history
    assert [entry.checkpoint for entry in history] == list(range(HISTORY_SIZE + 5, 5, -1))
    assert tracker.snapshot().counts.completed == HISTORY_SIZE + 5


def test_what_is_not_retained_is_marked(tracker: CheckpointStatsTracker) -> None:
    for number in (1, 2):
        complete(tracker, number)
    tracker.discarded([ONE])
    assert [(entry.checkpoint, entry.discarded) for entry in tracker.snapshot().history] == [(2, False), (1, True)]


def test_percentiles_are_of_nearest_rank(tracker: CheckpointStatsTracker) -> None:
    for number in range(1, 101):
        complete(tracker, number, duration_ms=number)
    assert tracker.snapshot().summary.duration_ms == Distribution(1, 100, 50, 50, 90, 95, 99, 100)


def test_snapshots_are_made_once_and_never_change(tracker: CheckpointStatsTracker) -> None:
    complete(tracker, 1)
    before = tracker.snapshot()
    assert tracker.snapshot() is before
    complete(tracker, 2)
    assert before.counts.completed == 1
    assert tracker.snapshot().counts.completed == 2


def test_a_restore_is_remembered(tracker: CheckpointStatsTracker) -> None:
    tracker.restored(record(3, 0, 1), 9_000)
    assert tracker.latest_restored == tracker.snapshot().latest_restored
    restored = tracker.snapshot().latest_restored
    assert restored is not None
    assert (restored.checkpoint, restored.restored_ms, restored.is_savepoint) == (3, 9_000, False)
    assert tracker.snapshot().counts.restored == 1
    tracker.restored_from(RestoreSettings(path="s3://x/savepoint-1/_metadata", checksum=1, checkpoint=ONE), 9_500)
    restored = tracker.snapshot().latest_restored
    assert restored is not None
    assert (restored.checkpoint, restored.is_savepoint, restored.restored_ms) == (1, True, 9_500)
    assert tracker.snapshot().counts.restored == 2


def test_the_last_acknowledgement_is_the_latest_even_when_the_clock_goes_back(tracker: CheckpointStatsTracker) -> None:
    tracker.triggered(ONE, 1_000, PLAN)
    acknowledge(tracker, SubtaskId(TOTALS, 0), 1_020)
    acknowledge(tracker, SubtaskId(TOTALS, 1), 1_015)
    (entry,) = tracker.snapshot().history
    assert (entry.latest_ack_ms, entry.duration_ms) == (1_020, 20)


def test_nobody_waits_for_finished_subtasks(tracker: CheckpointStatsTracker) -> None:
    gone = SubtaskId(SOURCE, 1)
    tracker.triggered(ONE, 1_000, PLAN._replace(wait_for=PLAN.wait_for - {gone}, finished=frozenset({gone})))
    acknowledge(tracker, SubtaskId(SOURCE, 0), 1_020)
    (entry,) = tracker.snapshot().history
    assert {task.vertex: (task.acknowledged, task.subtasks) for task in entry.tasks} == {SOURCE: (1, 1), TOTALS: (0, 2)}
    assert (entry.acknowledged, entry.subtasks) == (1, 3)


def test_savepoints_have_a_latest_of_their_own(tracker: CheckpointStatsTracker) -> None:
    complete(tracker, 1)
    tracker.triggered(CheckpointId(2), 2_000, PLAN, SnapshotOptions(kind=SnapshotKind.SAVEPOINT))
    tracker.completed(record(2, 2_000, 2_050, "savepoint"))
    tracker.validate()
    snapshot = tracker.snapshot()
    assert snapshot.latest_completed is not None
    assert snapshot.latest_savepoint is not None
    assert (snapshot.latest_completed.checkpoint, snapshot.latest_savepoint.checkpoint) == (1, 2)
    assert [entry.options.kind.is_savepoint for entry in snapshot.history] == [True, False]


def test_what_fell_out_of_the_history_is_found_while_it_is_the_latest() -> None:
    tracker = CheckpointStatsTracker(history_size=2)
    tracker.triggered(ONE, 1_000, PLAN)
    tracker.failed(ONE, 1_500, CheckpointFailureReason.EXPIRED, "")
    for number in (2, 3, 4):
        complete(tracker, number)
    snapshot = tracker.snapshot()
    assert [entry.checkpoint for entry in snapshot.history] == [4, 3]
    assert (snapshot.find(1), snapshot.find(2)) == (snapshot.latest_failed, None)
    assert snapshot.find(3) is snapshot.history[1]


def test_details_of_subtasks_are_kept_for_the_newest_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_tracker, "DETAILS_KEPT", 10)  # 4 subtasks each
    tracker = CheckpointStatsTracker()
    for number in range(1, 6):
        complete(tracker, number)
    history = tracker.snapshot().history
    assert [entry.tasks[0].details is not None for entry in history] == [True, True, False, False, False]
    assert all(entry.subtasks == 4 for entry in history)


def test_a_new_leader_goes_on_from_what_the_registry_knows() -> None:
    past = JobHistory(
        record=None,
        checkpoints=(record(4, 400, 410), record(6, 600, 610, "savepoint"), record(7, 700, 720)),
        completed_ids=(CheckpointId(4), CheckpointId(5), CheckpointId(6), CheckpointId(7)),
        last_checkpoint_id=CheckpointId(9),
    )
    tracker = CheckpointStatsTracker(past, base=CheckpointId(4))
    tracker.validate()
    snapshot = tracker.snapshot()
    assert (snapshot.counts.total, snapshot.counts.completed, snapshot.counts.failed) == (5, 3, 2)
    assert [(entry.checkpoint, entry.duration_ms) for entry in snapshot.history] == [(7, 20), (6, 10)]
    assert snapshot.latest_completed is snapshot.history[0]
    assert snapshot.latest_savepoint is snapshot.history[1]
    assert snapshot.summary.duration_ms is None


def test_only_ids_are_counted_of_which_the_registry_still_knows_the_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats_tracker, "COMPLETED_IDS_KEPT", 3)
    past = JobHistory(
        record=None,
        completed_ids=(CheckpointId(101), CheckpointId(103), CheckpointId(104)),
        last_checkpoint_id=CheckpointId(104),
    )
    counts = CheckpointStatsTracker(past).snapshot().counts
    assert (counts.total, counts.completed, counts.failed) == (4, 3, 1)


@pytest.mark.parametrize(("last", "total"), [(3 + IDS_SKIPPED, 3), (7 + 2 * IDS_SKIPPED, 7)])
def test_ids_that_a_rebuild_of_the_registry_skipped_have_not_failed(last: int, total: int) -> None:
    past = JobHistory(
        record=None, completed_ids=(CheckpointId(1), CheckpointId(3)), last_checkpoint_id=CheckpointId(last)
    )
    counts = CheckpointStatsTracker(past).snapshot().counts
    assert (counts.total, counts.completed, counts.failed) == (total, 2, total - 2)
    later = CheckpointId(last + 2)
    past = msgspec.structs.replace(past, completed_ids=(*past.completed_ids, later), last_checkpoint_id=later)
    counts = CheckpointStatsTracker(past).snapshot().counts
    assert (counts.total, counts.completed, counts.failed) == (total + 2, 3, total - 1)


def test_the_cost_of_a_picture_does_not_grow_with_acknowledgements_between(tracker: CheckpointStatsTracker) -> None:
    """Completing one does not change the pictures of those in progress, and the summary is made once per completion."""
    complete(tracker, 1)
    tracker.triggered(CheckpointId(2), 1_000, PLAN)
    before = tracker.snapshot()
    acknowledge(tracker, SubtaskId(TOTALS, 0), 1_020, checkpoint=2)
    after = tracker.snapshot()
    assert after is not before
    assert after.summary is before.summary
    assert after.history[1] is before.history[1]


def test_hooks_and_operator_coordinators_have_their_times_and_sizes(tracker: CheckpointStatsTracker) -> None:
    orders, totals = OperatorUid("orders"), OperatorUid("totals")
    tracker.triggered(ONE, 1_000, PLAN, operators=[totals, orders])
    tracker.hooks_asked(ONE)
    (pending,) = tracker.snapshot().history
    assert pending.hooks == CoordinatorStats(None)
    assert list(pending.coordinators) == [orders, totals]
    tracker.hooks_acknowledged(ONE, 12, 1_300)
    tracker.coordinator_acknowledged(ONE, totals, 5, 1_304)
    (pending,) = tracker.snapshot().history
    assert pending.hooks == CoordinatorStats(acknowledged_ms=1_300, duration_ms=300, state_bytes=12)
    assert pending.coordinators == {
        orders: CoordinatorStats(None),
        totals: CoordinatorStats(acknowledged_ms=1_304, duration_ms=4, state_bytes=5),
    }
    tracker.completed(record(1, 1_000, 2_000))
    assert tracker.snapshot().history[0].coordinators == pending.coordinators


def test_acknowledgements_are_counted_by_what_became_of_them(tracker: CheckpointStatsTracker) -> None:
    tracker.triggered(ONE, 1_000, PLAN)
    acknowledge(tracker, SubtaskId(SOURCE, 0), 1_010)
    tracker.acknowledged_in_vain(ONE, AcknowledgeOutcome.DUPLICATE)
    tracker.acknowledged_in_vain(ONE, AcknowledgeOutcome.UNKNOWN)
    (pending,) = tracker.snapshot().history
    assert pending.acknowledgements == AcknowledgementCounts(success=1, duplicate=1, unknown=1)
    tracker.failed(ONE, 2_000, CheckpointFailureReason.EXPIRED, "")
    tracker.acknowledged_in_vain(ONE, AcknowledgeOutcome.DISCARDED)
    snapshot = tracker.snapshot()
    assert snapshot.history[0].acknowledgements == AcknowledgementCounts(success=1, duplicate=1, unknown=1, discarded=1)
    assert snapshot.latest_failed == snapshot.history[0], "what comes late is counted, too"
    assert pending.acknowledgements.discarded == 0, "a picture does not change"
    tracker.acknowledged_in_vain(CheckpointId(99), AcknowledgeOutcome.UNKNOWN)
    assert [entry.checkpoint for entry in tracker.snapshot().history] == [1]
