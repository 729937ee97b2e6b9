"""Coordinator to all workers, one broadcast each, whatever the number of subtasks.

Each carries the coordinator's epoch; a worker drops commands of an older epoch than the newest it has seen.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from moorage.graph.job_graph import JobGraph
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, WorkerId
from moorage.messages.registry import LineageSegment


class DeployJob(msgspec.Struct, frozen=True, kw_only=True):
    """Run an attempt. Every worker takes the slots that name it and computes its own share of the state from
    ``restore_path`` by the pure state assignment."""

    epoch: Epoch
    job: JobId
    attempt: Attempt
    graph: JobGraph
    slots: tuple[WorkerId, ...]
    lineage: tuple[LineageSegment, ...]
    """The last segment is this attempt."""
    restore_checkpoint: CheckpointId | None
    restore_path: str | None
    """``_metadata`` of the checkpoint to restore."""
    restore_checksum: int | None
    base_checkpoint_id: CheckpointId


class CancelJob(msgspec.Struct, frozen=True, kw_only=True):
    """Stop every subtask of the job whose attempt is ``attempt`` or older, without a final checkpoint."""

    epoch: Epoch
    job: JobId
    attempt: Attempt


class TriggerCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    epoch: Epoch
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId
    triggered_ms: int
    """Wall clock of the coordinator at the trigger."""
    base: CheckpointId = CheckpointId(0)
    """Newest completed checkpoint at the trigger: increments build on it and on nothing else. 0: none."""


class NotifyCheckpointComplete(msgspec.Struct, frozen=True, kw_only=True):
    epoch: Epoch
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId


class NotifyCheckpointAborted(msgspec.Struct, frozen=True, kw_only=True):
    epoch: Epoch
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId


class JobFates(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job's checkpoints: repeated with every CoordinatorHeartbeat, so that every loss heals.

    The fate of id ``n`` with ``n <= last_id``: pending if in ``pending``; completed if in ``completed``; aborted if
    ``n`` is above the oldest of ``completed`` or if ``complete_from <= n``.
    """

    job: JobId
    attempt: Attempt
    last_id: CheckpointId
    """The highest id given so far."""
    pending: tuple[CheckpointId, ...]
    completed: tuple[CheckpointId, ...]
    """Ascending."""
    complete_from: CheckpointId
    """Of the ids from here on the list ``completed`` misses none."""


class CoordinatorHeartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Sent every second or so by the leader."""

    epoch: Epoch
    sent_ms: int
    jobs: tuple[JobFates, ...]
    """Running jobs only; a worker stops the subtasks of an attempt older than the one named here."""


class ReportStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Every worker answers with a WorkerHeartbeat at once: a new leader finds what runs."""

    epoch: Epoch


Command = (
    DeployJob
    | CancelJob
    | TriggerCheckpoint
    | NotifyCheckpointComplete
    | NotifyCheckpointAborted
    | CoordinatorHeartbeat
    | ReportStatus
)


class CheckpointFate(Enum):
    """What a worker knows of a checkpoint's outcome."""

    UNKNOWN = "unknown"
    COMPLETED = "completed"
    ABORTED = "aborted"
