from __future__ import annotations

import msgspec
import pytest
from tests.unit.cluster.graphs import SOURCE, TOTALS, orders_graph, subtasks
from tests.unit.cluster.world import acknowledgement

from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.checkpoint.stats import HISTORY_SIZE, CheckpointStatsTracker, CheckpointStatus, Distribution
from moorage.graph.checkpoint_plan import checkpoint_plan
from moorage.graph.execution import Execution
from moorage.ids import Attempt, CheckpointId, SubtaskId, WorkerId
from moorage.messages.events import CheckpointMetrics
from moorage.messages.registry import CheckpointRecord

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


def record(number: int, triggered_ms: int, completed_ms: int) -> CheckpointRecord:
    return CheckpointRecord(
        checkpoint=CheckpointId(number),
        attempt=Attempt(1),
        kind="checkpoint",
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
    assert (entry.written_bytes, entry.state_bytes, entry.held_bytes) == (11, 32, 6)
    totals = next(task for task in entry.tasks if task.vertex == TOTALS)
    assert (totals.acknowledged, totals.alignment_ms, totals.latest_ack_ms) == (2, 9, 1_015)
    source = next(task for task in entry.tasks if task.vertex == SOURCE)
    assert (source.acknowledged, source.latest_ack_ms) == (0, None)


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
    restored = tracker.snapshot().latest_restored
    assert restored is not None
    assert (restored.checkpoint, restored.restored_ms, restored.is_savepoint) == (3, 9_000, False)
    assert tracker.snapshot().counts.restored == 1
