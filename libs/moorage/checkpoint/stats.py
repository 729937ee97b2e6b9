"""What people want to know of a job's checkpoints (Flink: CheckpointStatsTracker, CheckpointStatsSnapshot).

Snapshots are immutable. One is made only when somebody asks, and again only after something has changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from enum import Enum
from math import ceil
from typing import NamedTuple

import msgspec

from moorage.checkpoint.reasons import CheckpointFailureReason, describe
from moorage.graph.checkpoint_plan import CheckpointPlan
from moorage.ids import CheckpointId, VertexId
from moorage.messages.events import AcknowledgeCheckpoint
from moorage.messages.registry import CheckpointRecord

HISTORY_SIZE = 20
SUMMARY_WINDOW = 1_000
"""Completed checkpoints that the percentiles look back on."""


class CheckpointStatus(Enum):
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class TaskStats(msgspec.Struct, frozen=True, kw_only=True):
    """One vertex in one checkpoint. Sums over its subtasks, but for the durations: the longest."""

    vertex: VertexId
    subtasks: int
    acknowledged: int = 0
    latest_ack_ms: int | None = None
    written_bytes: int = 0
    state_bytes: int = 0
    held_bytes: int = 0
    start_delay_ms: int = 0
    alignment_ms: int = 0
    sync_ms: int = 0
    async_ms: int = 0


class CheckpointStats(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint. Times are wall clock in ms; ``latest_ack_ms`` and ``path`` None: not yet."""

    checkpoint: CheckpointId
    status: CheckpointStatus
    triggered_ms: int
    subtasks: int
    acknowledged: int
    latest_ack_ms: int | None
    duration_ms: int
    """Trigger to completion or failure; while in progress, to the latest acknowledgement."""
    written_bytes: int
    state_bytes: int
    held_bytes: int
    tasks: tuple[TaskStats, ...]
    path: str | None = None
    discarded: bool = False
    reason: CheckpointFailureReason | None = None
    detail: str | None = None
    failed_ms: int | None = None

    @property
    def failure(self) -> str | None:
        """One readable line."""
        if self.reason is None:
            return None
        return describe(self.reason) + (f": {self.detail}" if self.detail else "")


class RestoredStats(msgspec.Struct, frozen=True, kw_only=True):
    checkpoint: CheckpointId
    restored_ms: int
    is_savepoint: bool
    path: str


class CheckpointCounts(msgspec.Struct, frozen=True, kw_only=True):
    """``total`` counts what was triggered and failed attempts to trigger."""

    restored: int = 0
    total: int = 0
    in_progress: int = 0
    completed: int = 0
    failed: int = 0


class Distribution(NamedTuple):
    """Over the completed checkpoints: ``minimum``, ``maximum`` and ``average`` of all, percentiles of the newest
    SUMMARY_WINDOW (nearest rank)."""

    minimum: int
    maximum: int
    average: int
    p50: int
    p90: int
    p95: int
    p99: int
    p999: int


class CheckpointSummary(msgspec.Struct, frozen=True, kw_only=True):
    """None: no checkpoint was completed."""

    duration_ms: Distribution | None
    written_bytes: Distribution | None
    state_bytes: Distribution | None
    held_bytes: Distribution | None


class CheckpointStatsSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    counts: CheckpointCounts
    summary: CheckpointSummary
    history: tuple[CheckpointStats, ...]
    """Newest first: those in progress and the last HISTORY_SIZE."""
    latest_completed: CheckpointStats | None
    latest_failed: CheckpointStats | None
    latest_restored: RestoredStats | None


class _Task:
    """A vertex while its checkpoint is in progress."""

    __slots__ = (
        "acknowledged",
        "alignment",
        "async_",
        "held",
        "latest_ms",
        "start",
        "state",
        "subtasks",
        "sync",
        "written",
    )

    def __init__(self, subtasks: int) -> None:
        self.subtasks = subtasks
        self.acknowledged = self.written = self.state = self.held = 0
        self.start = self.alignment = self.sync = self.async_ = 0
        self.latest_ms: int | None = None


class PendingStats:
    """Follows one checkpoint until it is decided."""

    def __init__(self, checkpoint: CheckpointId, triggered_ms: int, plan: CheckpointPlan) -> None:
        self._checkpoint = checkpoint
        self._triggered_ms = triggered_ms
        self._tasks = {vertex.vertex: _Task(vertex.parallelism) for vertex in plan.vertices}

    def acknowledged(self, message: AcknowledgeCheckpoint, now_ms: int) -> None:
        task = self._tasks[message.vertex]
        metrics = message.metrics
        task.acknowledged += 1
        task.latest_ms = now_ms
        task.written += metrics.written_bytes
        task.state += metrics.state_bytes
        task.held += metrics.held_bytes
        task.start = max(task.start, metrics.start_delay_ms)
        task.alignment = max(task.alignment, metrics.alignment_ms)
        task.sync = max(task.sync, metrics.sync_ms)
        task.async_ = max(task.async_, metrics.async_ms)

    def snapshot(self) -> CheckpointStats:
        tasks = tuple(
            TaskStats(
                vertex=vertex,
                subtasks=task.subtasks,
                acknowledged=task.acknowledged,
                latest_ack_ms=task.latest_ms,
                written_bytes=task.written,
                state_bytes=task.state,
                held_bytes=task.held,
                start_delay_ms=task.start,
                alignment_ms=task.alignment,
                sync_ms=task.sync,
                async_ms=task.async_,
            )
            for vertex, task in self._tasks.items()
        )
        latest_ms = max((t.latest_ack_ms for t in tasks if t.latest_ack_ms is not None), default=None)
        return CheckpointStats(
            checkpoint=self._checkpoint,
            status=CheckpointStatus.IN_PROGRESS,
            triggered_ms=self._triggered_ms,
            subtasks=sum(t.subtasks for t in tasks),
            acknowledged=sum(t.acknowledged for t in tasks),
            latest_ack_ms=latest_ms,
            duration_ms=0 if latest_ms is None else latest_ms - self._triggered_ms,
            written_bytes=sum(t.written_bytes for t in tasks),
            state_bytes=sum(t.state_bytes for t in tasks),
            held_bytes=sum(t.held_bytes for t in tasks),
            tasks=tasks,
        )


class _Values:
    """One measure of the completed checkpoints."""

    def __init__(self) -> None:
        self._window: deque[int] = deque(maxlen=SUMMARY_WINDOW)
        self._count = self._sum = 0
        self._minimum = self._maximum = 0

    def add(self, value: int) -> None:
        self._minimum = value if self._count == 0 else min(self._minimum, value)
        self._maximum = max(self._maximum, value)
        self._count += 1
        self._sum += value
        self._window.append(value)

    def distribution(self) -> Distribution | None:
        if self._count == 0:
            return None
        ranked = sorted(self._window)
        percentiles = [ranked[ceil(share * len(ranked)) - 1] for share in (0.5, 0.9, 0.95, 0.99, 0.999)]
        return Distribution(self._minimum, self._maximum, self._sum // self._count, *percentiles)


class CheckpointStatsTracker:
    def __init__(self) -> None:
        self._counts = CheckpointCounts()
        self._pending: dict[CheckpointId, PendingStats] = {}
        self._history: deque[CheckpointStats] = deque(maxlen=HISTORY_SIZE)
        self._duration, self._written, self._state, self._held = _Values(), _Values(), _Values(), _Values()
        self._latest_completed: CheckpointStats | None = None
        self._latest_failed: CheckpointStats | None = None
        self._latest_restored: RestoredStats | None = None
        self._snapshot: CheckpointStatsSnapshot | None = None

    def triggered(self, checkpoint: CheckpointId, triggered_ms: int, plan: CheckpointPlan) -> None:
        self._pending[checkpoint] = PendingStats(checkpoint, triggered_ms, plan)
        self._count(total=1, in_progress=1)

    def acknowledged(self, message: AcknowledgeCheckpoint, now_ms: int) -> None:
        self._pending[message.checkpoint].acknowledged(message, now_ms)
        self._snapshot = None

    def completed(self, record: CheckpointRecord) -> CheckpointStats:
        stats = msgspec.structs.replace(
            self._pending.pop(record.checkpoint).snapshot(),
            status=CheckpointStatus.COMPLETED,
            duration_ms=record.completed_ms - record.triggered_ms,
            path=record.metadata_path,
        )
        self._history.appendleft(stats)
        self._latest_completed = stats
        self._duration.add(stats.duration_ms)
        self._written.add(stats.written_bytes)
        self._state.add(stats.state_bytes)
        self._held.add(stats.held_bytes)
        self._count(in_progress=-1, completed=1)
        return stats

    def failed(self, checkpoint: CheckpointId, now_ms: int, reason: CheckpointFailureReason, detail: str) -> None:
        pending = self._pending.pop(checkpoint).snapshot()
        stats = msgspec.structs.replace(
            pending,
            status=CheckpointStatus.FAILED,
            duration_ms=now_ms - pending.triggered_ms,
            reason=reason,
            detail=detail,
            failed_ms=now_ms,
        )
        self._history.appendleft(stats)
        self._latest_failed = stats
        self._count(in_progress=-1, failed=1)

    def failed_to_trigger(self) -> None:
        self._count(total=1, failed=1)

    def discarded(self, checkpoints: Sequence[CheckpointId]) -> None:
        """These are not retained any more."""
        gone = frozenset(checkpoints)
        for index, stats in enumerate(self._history):
            if stats.checkpoint in gone:
                self._history[index] = msgspec.structs.replace(stats, discarded=True)
        self._snapshot = None

    def restored(self, record: CheckpointRecord, now_ms: int) -> None:
        self._latest_restored = RestoredStats(
            checkpoint=record.checkpoint,
            restored_ms=now_ms,
            is_savepoint=record.kind == "savepoint",
            path=record.metadata_path,
        )
        self._count(restored=1)

    def snapshot(self) -> CheckpointStatsSnapshot:
        if self._snapshot is None:
            in_progress = [pending.snapshot() for pending in self._pending.values()]
            history = sorted((*in_progress, *self._history), key=lambda stats: -stats.checkpoint)
            self._snapshot = CheckpointStatsSnapshot(
                counts=self._counts,
                summary=CheckpointSummary(
                    duration_ms=self._duration.distribution(),
                    written_bytes=self._written.distribution(),
                    state_bytes=self._state.distribution(),
                    held_bytes=self._held.distribution(),
                ),
                history=tuple(history),
                latest_completed=self._latest_completed,
                latest_failed=self._latest_failed,
                latest_restored=self._latest_restored,
            )
        return self._snapshot

    def _count(
        self, *, restored: int = 0, total: int = 0, in_progress: int = 0, completed: int = 0, failed: int = 0
    ) -> None:
        now = self._counts
        self._counts = CheckpointCounts(
            restored=now.restored + restored,
            total=now.total + total,
            in_progress=now.in_progress + in_progress,
            completed=now.completed + completed,
            failed=now.failed + failed,
        )
        self._snapshot = None

    def validate(self) -> None:
        assert self._counts.in_progress == len(self._pending)
        assert self._counts.total == self._counts.in_progress + self._counts.completed + self._counts.failed
        assert all(stats.status is not CheckpointStatus.IN_PROGRESS for stats in self._history)
