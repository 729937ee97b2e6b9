"""Statistics of checkpoints (Flink: CheckpointingStatistics, CheckpointStatistics, TaskCheckpointStatistics...)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from moorage.checkpoint.stats import (
    CheckpointStats,
    CheckpointStatsSnapshot,
    CheckpointStatus,
    CoordinatorStats,
    Distribution,
    RestoredStats,
    SubtaskStats,
    TaskStats,
    distribution,
)
from moorage.graph.job_graph import CheckpointConfig
from moorage.messages.barriers import SnapshotKind
from moorage_coordinator.flink.checkpoint_shapes import (
    NEVER_MS,
    Acknowledgements,
    Alignment,
    AlignmentSummary,
    AnyCheckpoint,
    CheckpointingConfig,
    CheckpointingStatistics,
    CheckpointType,
    CompletedCheckpoint,
    CompletedSubtask,
    CoordinatorAcknowledgement,
    Counts,
    Durations,
    DurationsSummary,
    Externalization,
    FailedCheckpoint,
    Latest,
    PendingCheckpoint,
    PendingSubtask,
    RestoredCheckpoint,
    StatsSummary,
    Summary,
    TaskCheckpoint,
    TaskCheckpointDetails,
    TaskSummary,
)


def checkpointing_statistics(stats: CheckpointStatsSnapshot, storage_url: str) -> CheckpointingStatistics:
    counts, summary = stats.counts, stats.summary
    completed, savepoint, failed = (
        None if latest is None else checkpoint(latest, storage_url, with_tasks=False)
        for latest in (stats.latest_completed, stats.latest_savepoint, stats.latest_failed)
    )
    assert completed is None or isinstance(completed, CompletedCheckpoint)
    assert savepoint is None or isinstance(savepoint, CompletedCheckpoint)
    assert failed is None or isinstance(failed, FailedCheckpoint)
    return CheckpointingStatistics(
        counts=Counts(
            restored=counts.restored,
            total=counts.total,
            in_progress=counts.in_progress,
            completed=counts.completed,
            failed=counts.failed,
        ),
        summary=Summary(
            checkpointed_size=_summary(summary.written_bytes),
            state_size=_summary(summary.state_bytes),
            end_to_end_duration=_summary(summary.duration_ms),
            alignment_buffered=_summary(summary.held_bytes),
            processed_data=_summary(summary.processed_bytes),
            persisted_data=_summary(summary.persisted_bytes),
        ),
        latest=Latest(
            completed=completed,
            savepoint=savepoint,
            failed=failed,
            restored=None if stats.latest_restored is None else _restored(stats.latest_restored, storage_url),
        ),
        history=tuple(checkpoint(entry, storage_url, with_tasks=False) for entry in stats.history),
    )


def checkpoint(entry: CheckpointStats, storage_url: str, *, with_tasks: bool) -> AnyCheckpoint:
    facts = _facts(entry, with_tasks=with_tasks)
    match entry.status:
        case CheckpointStatus.COMPLETED:
            path = external_path(entry.path, storage_url)
            return CompletedCheckpoint(**facts, external_path=path, discarded=entry.discarded)
        case CheckpointStatus.FAILED:
            return FailedCheckpoint(**facts, failure_timestamp=entry.failed_ms or -1, failure_message=entry.failure)
        case CheckpointStatus.IN_PROGRESS:
            return PendingCheckpoint(**facts)


def _facts(entry: CheckpointStats, *, with_tasks: bool) -> dict[str, Any]:
    metrics, options = entry.metrics, entry.options
    is_known = bool(entry.tasks)  # Of what another leader completed, the format is not.
    return {
        "id": entry.checkpoint,
        "status": entry.status,
        "is_savepoint": options.kind.is_savepoint,
        "savepoint_format": ("NATIVE" if options.native else "CANONICAL")
        if options.kind.is_savepoint and is_known
        else None,
        "trigger_timestamp": entry.triggered_ms,
        "latest_ack_timestamp": -1 if entry.latest_ack_ms is None else entry.latest_ack_ms,
        "checkpointed_size": metrics.written_bytes,
        "state_size": metrics.state_bytes,
        "end_to_end_duration": entry.duration_ms,
        "alignment_buffered": metrics.held_bytes,
        "processed_data": metrics.processed_bytes,
        "persisted_data": metrics.persisted_bytes,
        "num_subtasks": entry.subtasks,
        "num_acknowledged_subtasks": entry.acknowledged,
        "checkpoint_type": _type(options.kind, unaligned=metrics.unaligned),
        "tasks": {task.vertex: TaskCheckpoint(**_task_facts(entry, task)) for task in entry.tasks if with_tasks},
        "operator_coordinators": {
            operator: _coordinator(stats) for operator, stats in entry.coordinators.items() if with_tasks
        },
        "master_hooks": None if entry.hooks is None else _coordinator(entry.hooks),
        "acknowledgements": Acknowledgements(**msgspec.structs.asdict(entry.acknowledgements)),
    }


def _coordinator(stats: CoordinatorStats) -> CoordinatorAcknowledgement:
    if stats.acknowledged_ms is None:
        return CoordinatorAcknowledgement(ack_timestamp=-1, duration=-1, state_size=0)
    return CoordinatorAcknowledgement(
        ack_timestamp=stats.acknowledged_ms, duration=stats.duration_ms, state_size=stats.state_bytes
    )


def _type(kind: SnapshotKind, *, unaligned: bool) -> CheckpointType:
    if kind.is_savepoint:
        return "SYNC_SAVEPOINT" if kind.stops else "SAVEPOINT"
    return "UNALIGNED_CHECKPOINT" if unaligned else "CHECKPOINT"


def _task_facts(entry: CheckpointStats, task: TaskStats) -> dict[str, Any]:
    latest_ms, metrics = task.latest_ack_ms, task.metrics
    return {
        "id": entry.checkpoint,
        "status": entry.status,
        "latest_ack_timestamp": -1 if latest_ms is None else latest_ms,
        "checkpointed_size": metrics.written_bytes,
        "state_size": metrics.state_bytes,
        "end_to_end_duration": -1 if latest_ms is None else latest_ms - entry.triggered_ms,
        "alignment_buffered": metrics.held_bytes,
        "processed_data": metrics.processed_bytes,
        "persisted_data": metrics.persisted_bytes,
        "num_subtasks": task.subtasks,
        "num_acknowledged_subtasks": task.acknowledged,
    }


def task_details(
    entry: CheckpointStats, task: TaskStats, details: Sequence[SubtaskStats | None]
) -> TaskCheckpointDetails:
    """``details``: of ``task``, while they are kept."""
    acknowledged = [subtask for subtask in details if subtask is not None]

    def over(value: Callable[[SubtaskStats], int]) -> StatsSummary:
        return _summary(distribution(value(subtask) for subtask in acknowledged))

    return TaskCheckpointDetails(
        **_task_facts(entry, task),
        summary=TaskSummary(
            checkpointed_size=over(lambda subtask: subtask.metrics.written_bytes),
            state_size=over(lambda subtask: subtask.metrics.state_bytes),
            end_to_end_duration=over(lambda subtask: subtask.acknowledged_ms - entry.triggered_ms),
            checkpoint_duration=DurationsSummary(
                sync=over(lambda subtask: subtask.metrics.sync_ms),
                async_=over(lambda subtask: subtask.metrics.async_ms),
            ),
            alignment=AlignmentSummary(
                buffered=over(lambda subtask: subtask.metrics.held_bytes),
                processed=over(lambda subtask: subtask.metrics.processed_bytes),
                persisted=over(lambda subtask: subtask.metrics.persisted_bytes),
                duration=over(lambda subtask: subtask.metrics.alignment_ms),
            ),
            start_delay=over(lambda subtask: subtask.metrics.start_delay_ms),
        ),
        subtasks=tuple(
            PendingSubtask(index=index) if subtask is None else _subtask(entry, index, subtask)
            for index, subtask in enumerate(details)
        ),
    )


def _subtask(entry: CheckpointStats, index: int, subtask: SubtaskStats) -> CompletedSubtask:
    metrics = subtask.metrics
    return CompletedSubtask(
        index=index,
        ack_timestamp=subtask.acknowledged_ms,
        end_to_end_duration=subtask.acknowledged_ms - entry.triggered_ms,
        checkpointed_size=metrics.written_bytes,
        state_size=metrics.state_bytes,
        checkpoint=Durations(sync=metrics.sync_ms, async_=metrics.async_ms),
        alignment=Alignment(
            buffered=metrics.held_bytes,
            processed=metrics.processed_bytes,
            persisted=metrics.persisted_bytes,
            duration=metrics.alignment_ms,
        ),
        start_delay=metrics.start_delay_ms,
        unaligned_checkpoint=metrics.unaligned,
    )


def checkpointing_config(config: CheckpointConfig, state_backend: str, storage_url: str) -> CheckpointingConfig:
    return CheckpointingConfig(
        mode=config.mode,
        interval=config.interval_ms or NEVER_MS,
        timeout=config.timeout_ms,
        min_pause=config.min_pause_ms,
        max_concurrent=config.max_concurrent,
        externalization=Externalization(
            enabled=config.retention != "never_retain_after_termination",
            delete_on_cancellation=config.retention != "retain_on_cancellation",
        ),
        state_backend=state_backend,
        checkpoint_storage=storage_url,
        unaligned_checkpoints=config.unaligned,
        tolerable_failed_checkpoints=config.tolerable_failures,
        aligned_checkpoint_timeout=config.aligned_timeout_ms,
        checkpoints_after_tasks_finish=config.after_finish,
    )


def external_path(path: str | None, storage_url: str) -> str | None:
    """The folder of a checkpoint as a URL. ``path``: of the folder or of its ``_metadata``."""
    if path is None:
        return None
    folder = path.removesuffix("/_metadata")
    return folder if "://" in folder else f"{storage_url.rstrip('/')}/{folder}"


def internal_path(location: str, storage_url: str) -> str:
    """What people call ``location``, as the registry knows it: relative to the checkpoint storage where it lies below
    that; a plain absolute path is a file:// URL."""
    url = f"file://{location}" if location.startswith("/") else location
    below = url.removeprefix(f"{storage_url.rstrip('/')}/")
    return below.lstrip("/") if below != url and below.strip("/") else url


def _restored(restored: RestoredStats, storage_url: str) -> RestoredCheckpoint:
    return RestoredCheckpoint(
        id=restored.checkpoint,
        restore_timestamp=restored.restored_ms,
        is_savepoint=restored.is_savepoint,
        external_path=external_path(restored.path, storage_url),
    )


def _summary(values: Distribution | None) -> StatsSummary:
    if values is None:
        return StatsSummary()
    return StatsSummary(
        min=values.minimum,
        max=values.maximum,
        avg=values.average,
        p50=float(values.p50),
        p90=float(values.p90),
        p95=float(values.p95),
        p99=float(values.p99),
        p999=float(values.p999),
    )
