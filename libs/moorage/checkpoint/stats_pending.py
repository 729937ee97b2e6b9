"""The statistics of one checkpoint while it is in progress (Flink: PendingCheckpointStats, TaskStateStats)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.stats import (
    AcknowledgementCounts,
    CheckpointStats,
    CheckpointStatus,
    CoordinatorStats,
    SubtaskStats,
    TaskStats,
)
from moorage.graph.checkpoint_plan import CheckpointPlan
from moorage.graph.job_graph import JobVertex
from moorage.ids import CheckpointId, OperatorUid, SubtaskId
from moorage.messages.barriers import SnapshotOptions
from moorage.messages.events import AcknowledgeCheckpoint, CheckpointMetrics


class _Total:
    """Sums, but for the durations: the longest. Unaligned when one of the parts is."""

    __slots__ = ("_bytes", "_longest", "_unaligned")

    def __init__(self, parts: Iterable[CheckpointMetrics] = ()) -> None:
        self._longest = [0, 0, 0, 0]
        self._bytes = [0, 0, 0, 0, 0]
        self._unaligned = False
        for part in parts:
            self.add(part)

    def add(self, part: CheckpointMetrics) -> None:
        durations = (part.start_delay_ms, part.alignment_ms, part.sync_ms, part.async_ms)
        sizes = (part.held_bytes, part.written_bytes, part.state_bytes, part.processed_bytes, part.persisted_bytes)
        self._longest = list(map(max, self._longest, durations))
        self._bytes = list(map(int.__add__, self._bytes, sizes))
        self._unaligned |= part.unaligned

    def metrics(self) -> CheckpointMetrics:
        start_delay_ms, alignment_ms, sync_ms, async_ms = self._longest
        held_bytes, written_bytes, state_bytes, processed_bytes, persisted_bytes = self._bytes
        return CheckpointMetrics(
            start_delay_ms=start_delay_ms,
            alignment_ms=alignment_ms,
            sync_ms=sync_ms,
            async_ms=async_ms,
            held_bytes=held_bytes,
            written_bytes=written_bytes,
            state_bytes=state_bytes,
            processed_bytes=processed_bytes,
            persisted_bytes=persisted_bytes,
            unaligned=self._unaligned,
        )


class _PendingTask:
    """A vertex while its checkpoint is in progress. Nobody waits for its ``finished`` subtasks."""

    __slots__ = ("_details", "_finished", "_finished_since", "_latest_ms", "_total", "_vertex")

    def __init__(self, vertex: JobVertex, finished: int) -> None:
        self._vertex = vertex
        self._finished = finished
        self._details: list[SubtaskStats | None] = [None] * vertex.parallelism
        self._finished_since = 0
        """Of the others, those that finished instead of acknowledging."""
        self._total = _Total()
        self._latest_ms: int | None = None

    def acknowledged(self, message: AcknowledgeCheckpoint, now_ms: int) -> None:
        self._details[message.subtask] = SubtaskStats(now_ms, message.metrics)
        self._total.add(message.metrics)
        self._latest_ms = now_ms if self._latest_ms is None else max(self._latest_ms, now_ms)

    def finished(self) -> None:
        """One that has not acknowledged need not any more."""
        self._finished_since += 1

    def count_acknowledged(self) -> int:
        return len(self._details) - self._details.count(None)

    def snapshot(self) -> TaskStats:
        return TaskStats(
            vertex=self._vertex.vertex,
            subtasks=len(self._details) - self._finished,
            acknowledged=self.count_acknowledged() + self._finished_since,
            latest_ack_ms=self._latest_ms,
            metrics=self._total.metrics(),
            details=tuple(self._details),
        )


class PendingStats:
    """A checkpoint until it is decided."""

    def __init__(
        self,
        checkpoint: CheckpointId,
        triggered_ms: int,
        plan: CheckpointPlan,
        options: SnapshotOptions,
        operators: Iterable[OperatorUid],
    ) -> None:
        self._checkpoint = checkpoint
        self._triggered_ms = triggered_ms
        self._options = options
        finished = Counter(subtask.vertex for subtask in plan.finished)
        self._tasks = {vertex.vertex: _PendingTask(vertex, finished[vertex.vertex]) for vertex in plan.vertices}
        self._coordinators = dict.fromkeys(sorted(operators), CoordinatorStats())
        self._hooks: CoordinatorStats | None = None
        self._asked_ms = triggered_ms
        """When those who are asked now are: hooks first, then the coordinators of operators."""
        self._succeeded = 0
        self._in_vain = AcknowledgementCounts()

    def hooks_asked(self) -> None:
        self._hooks = CoordinatorStats()

    def hooks_acknowledged(self, state_bytes: int, now_ms: int) -> None:
        self._succeeded += 1
        self._hooks = CoordinatorStats(now_ms, now_ms - self._asked_ms, state_bytes)
        self._asked_ms = now_ms

    def coordinator_acknowledged(self, operator: OperatorUid, state_bytes: int, now_ms: int) -> None:
        self._succeeded += 1
        self._coordinators[operator] = CoordinatorStats(now_ms, now_ms - self._asked_ms, state_bytes)

    def acknowledged(self, message: AcknowledgeCheckpoint, now_ms: int) -> None:
        self._succeeded += 1
        self._tasks[message.vertex].acknowledged(message, now_ms)

    def acknowledged_in_vain(self, outcome: AcknowledgeOutcome) -> None:
        self._in_vain = self._in_vain.plus(outcome)

    def finished(self, subtask: SubtaskId) -> None:
        self._tasks[subtask.vertex].finished()

    def snapshot(self) -> CheckpointStats:
        tasks = tuple(task.snapshot() for task in self._tasks.values())
        latest_ms = max((task.latest_ack_ms for task in tasks if task.latest_ack_ms is not None), default=None)
        return CheckpointStats(
            checkpoint=self._checkpoint,
            options=self._options,
            status=CheckpointStatus.IN_PROGRESS,
            triggered_ms=self._triggered_ms,
            subtasks=sum(task.subtasks for task in tasks),
            acknowledged=sum(task.acknowledged for task in tasks),
            latest_ack_ms=latest_ms,
            duration_ms=0 if latest_ms is None else latest_ms - self._triggered_ms,
            metrics=_Total(task.metrics for task in tasks).metrics(),
            tasks=tasks,
            coordinators=dict(self._coordinators),
            hooks=self._hooks,
            acknowledgements=msgspec.structs.replace(self._in_vain, success=self._succeeded),
        )

    def validate(self) -> None:
        in_coordinator = [*self._coordinators.values(), *([] if self._hooks is None else [self._hooks])]
        by_coordinator = sum(stats.acknowledged_ms is not None for stats in in_coordinator)
        by_subtasks = sum(task.count_acknowledged() for task in self._tasks.values())
        assert self._succeeded == by_coordinator + by_subtasks
