"""What the checkpoint coordinator reports to people, and what it answers to a request by hand."""

from __future__ import annotations

import msgspec

from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.checkpoint.reasons import describe
from moorage.checkpoint.stats import CheckpointStats
from moorage.effects import Notice
from moorage.ids import Attempt, CheckpointId, JobId
from moorage.messages.registry import CheckpointRecord


class CheckpointTriggered(Notice, frozen=True, kw_only=True):
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId


class CheckpointCompleted(Notice, frozen=True, kw_only=True):
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId
    duration_ms: int
    state_bytes: int
    written_bytes: int
    start_delay_ms: int
    """This and the three below: the longest of a subtask."""
    alignment_ms: int
    sync_ms: int
    async_ms: int
    completed_ms: int


def completed_notice(job: JobId, record: CheckpointRecord, stats: CheckpointStats) -> CheckpointCompleted:
    return CheckpointCompleted(
        job=job,
        attempt=record.attempt,
        checkpoint=record.checkpoint,
        duration_ms=stats.duration_ms,
        state_bytes=stats.state_bytes,
        written_bytes=stats.written_bytes,
        start_delay_ms=max(task.start_delay_ms for task in stats.tasks),
        alignment_ms=max(task.alignment_ms for task in stats.tasks),
        sync_ms=max(task.sync_ms for task in stats.tasks),
        async_ms=max(task.async_ms for task in stats.tasks),
        completed_ms=record.completed_ms,
    )


class CheckpointAborted(Notice, frozen=True, kw_only=True):
    """``checkpoint`` None: it was refused before it had an id."""

    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId | None
    reason: Reason
    detail: str


class CheckpointDone(msgspec.Struct, frozen=True):
    """Reply to a request by hand."""

    checkpoint: CheckpointId
    path: str


class CheckpointFailed(msgspec.Struct, frozen=True):
    """Reply to a request by hand."""

    checkpoint: CheckpointId | None
    reason: Reason
    detail: str

    @property
    def message(self) -> str:
        return describe(self.reason) + (f": {self.detail}" if self.detail else "")
