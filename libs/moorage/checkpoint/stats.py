"""What people want to know of a job's checkpoints: immutable pictures (Flink: CheckpointStatsSnapshot).

``stats_tracker`` makes them. Times are wall clock in ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import NamedTuple

import msgspec

from moorage.checkpoint.acknowledgement import AcknowledgeOutcome
from moorage.checkpoint.reasons import CheckpointFailureReason, describe
from moorage.ids import CheckpointId, OperatorUid, VertexId
from moorage.messages.barriers import CHECKPOINT, SnapshotOptions
from moorage.messages.events import CheckpointMetrics


class CheckpointStatus(Enum):
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"


class SubtaskStats(msgspec.Struct, frozen=True, gc=False):
    """One subtask that has acknowledged a checkpoint. There are many of these: it holds what came with the message."""

    acknowledged_ms: int
    metrics: CheckpointMetrics


class CoordinatorStats(msgspec.Struct, frozen=True):
    """Who takes part in a checkpoint in the coordinator: the coordinator of one operator, or all master hooks of the
    job, which are asked in one go."""

    acknowledged_ms: int | None = None
    """None: not yet."""
    duration_ms: int = 0
    """Since it was asked."""
    state_bytes: int = 0


class AcknowledgementCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Acknowledgements of one checkpoint by what became of them (see ``AcknowledgeOutcome``), whoever sent them; those
    that came when it was decided, too."""

    success: int = 0
    duplicate: int = 0
    unknown: int = 0
    discarded: int = 0

    def plus(self, outcome: AcknowledgeOutcome) -> AcknowledgementCounts:
        return msgspec.structs.replace(self, **{outcome.value: getattr(self, outcome.value) + 1})


class TaskStats(msgspec.Struct, frozen=True, kw_only=True):
    """One vertex in one checkpoint."""

    vertex: VertexId
    subtasks: int
    """Those that must acknowledge: all but the finished ones."""
    acknowledged: int = 0
    latest_ack_ms: int | None = None
    metrics: CheckpointMetrics = CheckpointMetrics()
    """Sums over its subtasks, but for the durations: the longest."""
    details: tuple[SubtaskStats | None, ...] | None = None
    """By subtask; None of one that has not acknowledged, and of all of an old checkpoint: see ``DETAILS_KEPT``."""


class CheckpointStats(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint. ``latest_ack_ms`` and ``path`` None: not yet.

    Of a checkpoint that another leader completed only id, times, full size and path are known.
    """

    checkpoint: CheckpointId
    options: SnapshotOptions = CHECKPOINT
    status: CheckpointStatus
    triggered_ms: int
    subtasks: int = 0
    acknowledged: int = 0
    latest_ack_ms: int | None = None
    duration_ms: int
    """Trigger to completion or failure; while in progress, to the latest acknowledgement."""
    metrics: CheckpointMetrics
    """Sums over all subtasks, but for the durations: the longest."""
    tasks: tuple[TaskStats, ...] = ()
    coordinators: Mapping[OperatorUid, CoordinatorStats] = {}
    hooks: CoordinatorStats | None = None
    """None: the job has none."""
    acknowledgements: AcknowledgementCounts = AcknowledgementCounts()
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
    """Of some values; percentiles by nearest rank. Of completed checkpoints: ``minimum``, ``maximum`` and ``average``
    are over all, percentiles over the newest ones."""

    minimum: int
    maximum: int
    average: int
    p50: int
    p90: int
    p95: int
    p99: int
    p999: int


class CheckpointSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Of the checkpoints that were completed under this leader. None: there was none."""

    duration_ms: Distribution | None = None
    written_bytes: Distribution | None = None
    state_bytes: Distribution | None = None
    held_bytes: Distribution | None = None
    processed_bytes: Distribution | None = None
    persisted_bytes: Distribution | None = None


class CheckpointStatsSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    counts: CheckpointCounts
    summary: CheckpointSummary
    history: tuple[CheckpointStats, ...]
    """Newest first: those in progress and the last completed and failed ones."""
    latest_completed: CheckpointStats | None
    """Savepoints apart, as in Flink."""
    latest_failed: CheckpointStats | None
    latest_savepoint: CheckpointStats | None
    latest_restored: RestoredStats | None

    def find(self, checkpoint: int) -> CheckpointStats | None:
        """In the history, or among the latest, which may be older than the history goes back."""
        latest = (self.latest_completed, self.latest_failed, self.latest_savepoint)
        known = (*self.history, *(stats for stats in latest if stats is not None))
        return next((stats for stats in known if stats.checkpoint == checkpoint), None)


def distribution(values: Iterable[int]) -> Distribution | None:
    """None: there are no values."""
    ranked = sorted(values)
    if not ranked:
        return None
    return Distribution(ranked[0], ranked[-1], sum(ranked) // len(ranked), *percentiles(ranked))


def percentiles(ranked: list[int]) -> list[int]:
    """p50, p90, p95, p99 and p99.9 by nearest rank of sorted values, of which there is one at least."""
    # In thousandths and whole numbers: 0.999 * 1000 is not 999 in floats.
    return [ranked[-(-share * len(ranked) // 1_000) - 1] for share in (500, 900, 950, 990, 999)]
