"""The shapes of checkpoints' statistics (Flink: CheckpointingStatistics, CheckpointConfigInfo, ...)."""

from __future__ import annotations

from typing import Literal

import msgspec

from moorage.checkpoint.stats import CheckpointStatus

NEVER_MS = 2**63 - 1
"""Flink's interval of jobs without periodic checkpoints."""

CheckpointType = Literal["CHECKPOINT", "UNALIGNED_CHECKPOINT", "SAVEPOINT", "SYNC_SAVEPOINT"]


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    restored: int
    total: int
    in_progress: int
    completed: int
    failed: int


class StatsSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All 0: there is no value."""

    min: int = 0
    max: int = 0
    avg: int = 0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    p999: float = 0.0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    checkpointed_size: StatsSummary
    state_size: StatsSummary
    end_to_end_duration: StatsSummary
    alignment_buffered: StatsSummary
    processed_data: StatsSummary
    persisted_data: StatsSummary


class TaskCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One vertex in one checkpoint; -1: it has not acknowledged."""

    id: int
    status: CheckpointStatus
    latest_ack_timestamp: int
    checkpointed_size: int
    state_size: int
    end_to_end_duration: int
    alignment_buffered: int
    processed_data: int
    persisted_data: int
    num_subtasks: int
    num_acknowledged_subtasks: int


class CoordinatorAcknowledgement(msgspec.Struct, frozen=True, kw_only=True):
    """Not Flink's: the coordinator of an operator, or all master hooks. -1: it has not acknowledged."""

    ack_timestamp: int
    duration: int
    state_size: int


class Acknowledgements(msgspec.Struct, frozen=True, kw_only=True):
    """Not Flink's: how many came, by what became of them."""

    success: int
    duplicate: int
    unknown: int
    discarded: int


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, tag_field="className"):
    id: int
    status: CheckpointStatus
    is_savepoint: bool
    savepoint_format: Literal["CANONICAL", "NATIVE"] | None = msgspec.field(name="savepointFormat")
    trigger_timestamp: int
    latest_ack_timestamp: int
    checkpointed_size: int
    state_size: int
    end_to_end_duration: int
    alignment_buffered: int
    processed_data: int
    persisted_data: int
    num_subtasks: int
    num_acknowledged_subtasks: int
    checkpoint_type: CheckpointType
    tasks: dict[str, TaskCheckpoint]
    """By vertex; empty but in the details of a checkpoint."""
    operator_coordinators: dict[str, CoordinatorAcknowledgement]
    """By operator; empty like ``tasks``."""
    master_hooks: CoordinatorAcknowledgement | None
    """Null: there are none."""
    acknowledgements: Acknowledgements


class CompletedCheckpoint(Checkpoint, frozen=True, kw_only=True, tag="completed"):
    external_path: str | None
    discarded: bool


class FailedCheckpoint(Checkpoint, frozen=True, kw_only=True, tag="failed"):
    failure_timestamp: int
    failure_message: str | None


class PendingCheckpoint(Checkpoint, frozen=True, kw_only=True, tag="in_progress"):
    pass


AnyCheckpoint = CompletedCheckpoint | FailedCheckpoint | PendingCheckpoint


class RestoredCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    restore_timestamp: int
    is_savepoint: bool
    external_path: str | None


class Latest(msgspec.Struct, frozen=True, kw_only=True):
    completed: CompletedCheckpoint | None
    savepoint: CompletedCheckpoint | None
    failed: FailedCheckpoint | None
    restored: RestoredCheckpoint | None


class CheckpointingStatistics(msgspec.Struct, frozen=True, kw_only=True):
    counts: Counts
    summary: Summary
    latest: Latest
    history: tuple[AnyCheckpoint, ...]
    """Newest first."""


class Durations(msgspec.Struct, frozen=True, kw_only=True):
    sync: int
    async_: int = msgspec.field(name="async")


class Alignment(msgspec.Struct, frozen=True, kw_only=True):
    buffered: int
    processed: int
    persisted: int
    duration: int


class CompletedSubtask(msgspec.Struct, frozen=True, kw_only=True, tag_field="className", tag="completed"):
    index: int
    status: Literal["completed"] = "completed"
    ack_timestamp: int
    end_to_end_duration: int
    checkpointed_size: int
    state_size: int
    checkpoint: Durations
    alignment: Alignment
    start_delay: int
    unaligned_checkpoint: bool
    aborted: bool = False


class PendingSubtask(msgspec.Struct, frozen=True, kw_only=True, tag_field="className", tag="pending"):
    index: int
    status: Literal["pending_or_failed"] = "pending_or_failed"


class DurationsSummary(msgspec.Struct, frozen=True, kw_only=True):
    sync: StatsSummary
    async_: StatsSummary = msgspec.field(name="async")


class AlignmentSummary(msgspec.Struct, frozen=True, kw_only=True):
    buffered: StatsSummary
    processed: StatsSummary
    persisted: StatsSummary
    duration: StatsSummary


class TaskSummary(msgspec.Struct, frozen=True, kw_only=True):
    """Over the subtasks that have acknowledged."""

    checkpointed_size: StatsSummary
    state_size: StatsSummary
    end_to_end_duration: StatsSummary
    checkpoint_duration: DurationsSummary
    alignment: AlignmentSummary
    start_delay: StatsSummary


class TaskCheckpointDetails(TaskCheckpoint, frozen=True, kw_only=True):
    summary: TaskSummary
    subtasks: tuple[CompletedSubtask | PendingSubtask, ...]


class Externalization(msgspec.Struct, frozen=True, kw_only=True):
    enabled: bool
    delete_on_cancellation: bool


class CheckpointingConfig(msgspec.Struct, frozen=True, kw_only=True):
    mode: Literal["exactly_once", "at_least_once"]
    interval: int
    """``NEVER_MS``: only on demand."""
    timeout: int
    min_pause: int
    max_concurrent: int
    externalization: Externalization
    state_backend: str
    checkpoint_storage: str
    """URL of its root."""
    unaligned_checkpoints: bool
    tolerable_failed_checkpoints: int
    aligned_checkpoint_timeout: int
    checkpoints_after_tasks_finish: bool
    state_changelog_enabled: bool = False
    changelog_periodic_materialization_interval: int = -1
    changelog_storage: str | None = None
