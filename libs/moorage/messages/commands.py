"""Coordinator to all workers, one broadcast each, whatever the number of subtasks.

Each carries the coordinator's epoch; a worker drops commands of an older epoch than the newest it has seen.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from moorage.graph.job_graph import JobGraph
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, OperatorUid, VertexId, WorkerId
from moorage.messages.barriers import CHECKPOINT, SnapshotOptions
from moorage.messages.registry import LineageSegment


class DeployJob(msgspec.Struct, frozen=True, kw_only=True):
    """Run an attempt. Every worker takes the slots that name it and computes its own share of the state from
    ``restore_path`` by the pure state assignment.

    Vertices that the lineage says to run in an older attempt are not started: their subtasks go on where they are."""

    epoch: Epoch
    job: JobId
    attempt: Attempt
    graph: JobGraph
    slots: tuple[WorkerId, ...]
    lineage: tuple[LineageSegment, ...]
    """The last segment is this attempt; see ``graph.lineage``."""
    restore_checkpoint: CheckpointId | None
    """The checkpoint of this job that it goes on from; None with a ``restore_path``: state of another life or another
    job (a savepoint), whose positions, lineage and markers mean nothing here."""
    restore_path: str | None
    """``_metadata`` of the checkpoint to restore, as a URL or relative to the checkpoint storage."""
    restore_checksum: int | None
    base_checkpoint_id: CheckpointId
    allow_non_restored: bool = False
    """State of operators that the job does not have is left behind instead of refused."""
    finishing: bool = False
    """The job was stopped with the savepoint that it restores: every subtask starts as finished, sinks commit."""
    former_parallelism: dict[VertexId, tuple[int, ...]] = {}
    """Every parallelism that each vertex had in this life of the job: whose transactional ids to fence."""
    allow_duplicates: bool = False
    """Sinks may have committed beyond ``restore_checkpoint``: go on all the same."""
    storage_id: str = ""
    """Of the coordinator's checkpoint storage: a worker with another one runs nothing. Empty: not known."""


class CancelJob(msgspec.Struct, frozen=True, kw_only=True):
    """Stop every subtask of the job, without a final checkpoint, unless it was deployed in a later attempt."""

    epoch: Epoch
    job: JobId
    attempt: Attempt
    vertices: tuple[VertexId, ...] = ()
    """Of these only; the others go on. Empty: of all."""


class TriggerCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    epoch: Epoch
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId
    triggered_ms: int
    """Wall clock of the coordinator at the trigger."""
    base: CheckpointId = CheckpointId(0)
    """Newest completed checkpoint at the trigger: increments build on it and on nothing else. 0: none."""
    options: SnapshotOptions = CHECKPOINT
    storage_id: str = ""
    """Of the coordinator's checkpoint storage: a worker with another one declines. Empty: not known."""


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


class OperatorCommand(msgspec.Struct, frozen=True, kw_only=True):
    """From an operator coordinator to its subtasks (Flink: OperatorEvent).

    Commands have one order, so an event that was sent before TriggerCheckpoint arrives before it.
    """

    epoch: Epoch
    job: JobId
    attempt: Attempt
    """In which the vertex was started."""
    vertex: VertexId
    operator: OperatorUid
    subtask: int | None
    """None: all of them."""
    payload: bytes


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
    """Jobs that run, or a part of which does; a worker stops all subtasks of a job that it was not told to deploy in
    the attempt that is named here, or a later one."""


class ReportStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Every worker answers with a WorkerHeartbeat at once: a new leader finds what runs."""

    epoch: Epoch


Command = (
    DeployJob
    | CancelJob
    | TriggerCheckpoint
    | NotifyCheckpointComplete
    | NotifyCheckpointAborted
    | OperatorCommand
    | CoordinatorHeartbeat
    | ReportStatus
)


class CheckpointFate(Enum):
    """What a worker knows of a checkpoint's outcome."""

    UNKNOWN = "unknown"
    COMPLETED = "completed"
    ABORTED = "aborted"
