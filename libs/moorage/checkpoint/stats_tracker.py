"""Follows a job's checkpoints and makes pictures of them on demand (Flink: CheckpointStatsTracker).

A picture is made only when somebody asks, and again only after something has changed. An acknowledgement costs the same
however many subtasks there are.

A new leader takes over what the registry knows: the counts, the retained checkpoints and the latest ones. What is lost
with a leader are the summary, the history of what is not retained, and how often the job was restored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import pairwise

import msgspec

from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.checkpoint.rebuild import IDS_SKIPPED
from moorage.checkpoint.stats import (
    CheckpointCounts,
    CheckpointStats,
    CheckpointStatsSnapshot,
    CheckpointStatus,
    CheckpointSummary,
    Distribution,
    RestoredStats,
    percentiles,
)
from moorage.checkpoint.stats_pending import PendingStats
from moorage.effects import JobHistory
from moorage.graph.checkpoint_plan import CheckpointPlan
from moorage.ids import CheckpointId, OperatorUid, SubtaskId
from moorage.messages.barriers import CHECKPOINT, SnapshotKind, SnapshotOptions
from moorage.messages.events import AcknowledgeCheckpoint, CheckpointMetrics
from moorage.messages.registry import CheckpointRecord, RestoreSettings
from moorage.ports import COMPLETED_IDS_KEPT

HISTORY_SIZE = 20
SUMMARY_WINDOW = 1_000
"""Completed checkpoints that the percentiles look back on."""
DETAILS_KEPT = 50_000
"""Statistics of single subtasks that the history of a job holds: with many subtasks its older entries go without."""

_NO_HISTORY = JobHistory(record=None)
_SAVEPOINT = SnapshotOptions(kind=SnapshotKind.SAVEPOINT)


class CheckpointStatsTracker:
    """``past``: what the registry knows of the job; ids up to ``base`` belong to an earlier life of its name."""

    def __init__(
        self,
        past: JobHistory = _NO_HISTORY,
        base: CheckpointId = CheckpointId(0),  # noqa: B008 - a whole number
        history_size: int = HISTORY_SIZE,
    ) -> None:
        self._counts = _past_counts(past, base)
        self._pending: dict[CheckpointId, PendingStats] = {}
        self._history: deque[CheckpointStats] = deque(maxlen=history_size)
        self._summary = _Summary()
        self._latest_completed: CheckpointStats | None = None
        self._latest_failed: CheckpointStats | None = None
        self._latest_savepoint: CheckpointStats | None = None
        self._latest_restored: RestoredStats | None = None
        self._snapshot: CheckpointStatsSnapshot | None = None
        for record in past.checkpoints:
            if record.checkpoint > base:
                self._remember_completed(_past_stats(record))

    @property
    def counts(self) -> CheckpointCounts:
        return self._counts

    @property
    def summary(self) -> CheckpointSummary:
        return self._summary.snapshot()

    @property
    def latest_failed(self) -> CheckpointStats | None:
        return self._latest_failed

    @property
    def latest_savepoint(self) -> CheckpointStats | None:
        return self._latest_savepoint

    @property
    def latest_restored(self) -> RestoredStats | None:
        return self._latest_restored

    def triggered(
        self,
        checkpoint: CheckpointId,
        triggered_ms: int,
        plan: CheckpointPlan,
        options: SnapshotOptions = CHECKPOINT,
        operators: Iterable[OperatorUid] = (),
    ) -> None:
        """``operators``: those whose coordinators take part."""
        self._pending[checkpoint] = PendingStats(checkpoint, triggered_ms, plan, options, operators)
        self._count(total=1, in_progress=1)

    def acknowledged(self, message: AcknowledgeCheckpoint, now_ms: int) -> None:
        self._pending[message.checkpoint].acknowledged(message, now_ms)
        self._snapshot = None

    def hooks_asked(self, checkpoint: CheckpointId) -> None:
        self._pending[checkpoint].hooks_asked()
        self._snapshot = None

    def hooks_acknowledged(self, checkpoint: CheckpointId, state_bytes: int, now_ms: int) -> None:
        self._pending[checkpoint].hooks_acknowledged(state_bytes, now_ms)
        self._snapshot = None

    def coordinator_acknowledged(
        self, checkpoint: CheckpointId, operator: OperatorUid, state_bytes: int, now_ms: int
    ) -> None:
        self._pending[checkpoint].coordinator_acknowledged(operator, state_bytes, now_ms)
        self._snapshot = None

    def acknowledged_in_vain(self, checkpoint: CheckpointId, outcome: AcknowledgeOutcome) -> None:
        """An acknowledgement of a checkpoint, which may be decided already or never was, did not count."""
        if pending := self._pending.get(checkpoint):
            pending.acknowledged_in_vain(outcome)
            self._snapshot = None
        else:
            self._change(
                lambda stats: msgspec.structs.replace(stats, acknowledgements=stats.acknowledgements.plus(outcome)),
                frozenset({checkpoint}),
            )

    def finished(self, checkpoint: CheckpointId, subtask: SubtaskId) -> None:
        """A subtask that has not acknowledged need not any more."""
        self._pending[checkpoint].finished(subtask)
        self._snapshot = None

    def completed(self, record: CheckpointRecord) -> CheckpointStats:
        stats = msgspec.structs.replace(
            self._pending.pop(record.checkpoint).snapshot(),
            status=CheckpointStatus.COMPLETED,
            duration_ms=record.completed_ms - record.triggered_ms,
            path=record.metadata_path,
        )
        self._remember_completed(stats)
        self._summary.add(stats)
        self._count(in_progress=-1, completed=1)
        return stats

    def failed(
        self, checkpoint: CheckpointId, now_ms: int, reason: CheckpointFailureReason, detail: str
    ) -> CheckpointStats:
        pending = self._pending.pop(checkpoint).snapshot()
        stats = msgspec.structs.replace(
            pending,
            status=CheckpointStatus.FAILED,
            duration_ms=now_ms - pending.triggered_ms,
            reason=reason,
            detail=detail,
            failed_ms=now_ms,
        )
        self._remember(stats)
        self._latest_failed = stats
        self._count(in_progress=-1, failed=1)
        return stats

    def failed_to_trigger(self) -> None:
        self._count(total=1, failed=1)

    def discarded(self, checkpoints: Sequence[CheckpointId]) -> None:
        """These are not retained any more."""
        self._change(lambda stats: msgspec.structs.replace(stats, discarded=True), frozenset(checkpoints))

    def restored(self, record: CheckpointRecord, now_ms: int) -> None:
        """From a checkpoint of its own."""
        self._restored(
            RestoredStats(
                checkpoint=record.checkpoint,
                restored_ms=now_ms,
                is_savepoint=record.kind == "savepoint",
                path=record.metadata_path,
            )
        )

    def restored_from(self, settings: RestoreSettings, now_ms: int) -> None:
        """From what it was submitted with."""
        self._restored(
            RestoredStats(
                checkpoint=settings.checkpoint,
                restored_ms=now_ms,
                is_savepoint=settings.is_savepoint,
                path=settings.path,
            )
        )

    def snapshot(self) -> CheckpointStatsSnapshot:
        if self._snapshot is None:
            in_progress = [pending.snapshot() for pending in self._pending.values()]
            self._snapshot = CheckpointStatsSnapshot(
                counts=self._counts,
                summary=self._summary.snapshot(),
                history=tuple(sorted((*in_progress, *self._history), key=lambda stats: -stats.checkpoint)),
                latest_completed=self._latest_completed,
                latest_failed=self._latest_failed,
                latest_savepoint=self._latest_savepoint,
                latest_restored=self._latest_restored,
            )
        return self._snapshot

    def _restored(self, stats: RestoredStats) -> None:
        self._latest_restored = stats
        self._count(restored=1)

    def _remember_completed(self, stats: CheckpointStats) -> None:
        self._remember(stats)
        if stats.options.kind.is_savepoint:
            self._latest_savepoint = stats
        else:
            self._latest_completed = stats

    def _change(self, change: Callable[[CheckpointStats], CheckpointStats], of: Collection[CheckpointId]) -> None:
        """Something was heard of checkpoints that are decided."""

        def changed(stats: CheckpointStats | None) -> CheckpointStats | None:
            return stats if stats is None or stats.checkpoint not in of else change(stats)

        for index, stats in enumerate(self._history):
            if stats.checkpoint in of:
                self._history[index] = change(stats)
        self._latest_completed = changed(self._latest_completed)
        self._latest_failed = changed(self._latest_failed)
        self._latest_savepoint = changed(self._latest_savepoint)
        self._snapshot = None

    def _remember(self, stats: CheckpointStats) -> None:
        self._history.appendleft(stats)
        kept = 0
        for index, entry in enumerate(self._history):
            kept += entry.subtasks
            if index > 0 and kept > DETAILS_KEPT and any(task.details is not None for task in entry.tasks):
                tasks = tuple(msgspec.structs.replace(task, details=None) for task in entry.tasks)
                self._history[index] = msgspec.structs.replace(entry, tasks=tasks)

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
        for pending in self._pending.values():
            pending.validate()
        assert self._counts.in_progress == len(self._pending)
        assert self._counts.total == self._counts.in_progress + self._counts.completed + self._counts.failed
        assert all(stats.status is not CheckpointStatus.IN_PROGRESS for stats in self._history)
        detailed = [stats.subtasks for stats in self._history if any(task.details is not None for task in stats.tasks)]
        assert len(detailed) <= 1 or sum(detailed) <= DETAILS_KEPT


class _Summary:
    """The measures of all completed checkpoints."""

    def __init__(self) -> None:
        self._measures = {name: _Values() for name in CheckpointSummary.__struct_fields__}
        self._snapshot: CheckpointSummary | None = CheckpointSummary()

    def add(self, stats: CheckpointStats) -> None:
        self._snapshot = None
        for name, values in self._measures.items():
            values.add(stats.duration_ms if name == "duration_ms" else getattr(stats.metrics, name))

    def snapshot(self) -> CheckpointSummary:
        if self._snapshot is None:
            self._snapshot = CheckpointSummary(**{name: v.distribution() for name, v in self._measures.items()})
        return self._snapshot


class _Values:
    """One measure."""

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

    def distribution(self) -> Distribution:
        return Distribution(self._minimum, self._maximum, self._sum // self._count, *percentiles(sorted(self._window)))


def _past_counts(past: JobHistory, base: CheckpointId) -> CheckpointCounts:
    """An id that was given out and not completed has failed; before a full list of completed ids nothing is known. What
    a rebuild of the registry has skipped was given to nobody."""
    known = past.completed_ids
    since = max(base, known[0] - 1) if len(known) >= COMPLETED_IDS_KEPT else base
    completed = [checkpoint for checkpoint in known if checkpoint > since]
    ends = [since, *completed, max(past.last_checkpoint_id, *completed[-1:], since)]
    given_out = sum((end - start) % IDS_SKIPPED for start, end in pairwise(ends))
    return CheckpointCounts(total=given_out, completed=len(completed), failed=given_out - len(completed))


def _past_stats(record: CheckpointRecord) -> CheckpointStats:
    return CheckpointStats(
        checkpoint=record.checkpoint,
        options=_SAVEPOINT if record.kind == "savepoint" else CHECKPOINT,
        status=CheckpointStatus.COMPLETED,
        triggered_ms=record.triggered_ms,
        duration_ms=record.completed_ms - record.triggered_ms,
        metrics=CheckpointMetrics(state_bytes=record.state_bytes),
        path=record.metadata_path,
    )
