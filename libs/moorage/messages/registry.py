"""What the registry stores. The coordinator is the only writer (fenced), everybody may read."""

from __future__ import annotations

from enum import Enum
from typing import Literal

import msgspec

from moorage.graph.job_graph import JobGraph
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, SubtaskId, VertexId, WorkerId


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Leadership of the coordinators."""

    holder: str
    epoch: Epoch
    ttl_ms: int


class JobStatus(Enum):
    """Flink's JobStatus; a RESTARTING job waits for its back-off or for slots."""

    CREATED = "CREATED"
    RUNNING = "RUNNING"
    RESTARTING = "RESTARTING"
    FAILING = "FAILING"
    CANCELLING = "CANCELLING"
    FINISHED = "FINISHED"
    CANCELED = "CANCELED"
    FAILED = "FAILED"
    SUSPENDED = "SUSPENDED"

    @property
    def is_terminal(self) -> bool:
        return self in (JobStatus.FINISHED, JobStatus.CANCELED, JobStatus.FAILED)

    @property
    def has_ended(self) -> bool:
        """Terminal, or suspended: it completes no more checkpoints."""
        return self.is_terminal or self is JobStatus.SUSPENDED


class LineageSegment(msgspec.Struct, frozen=True, array_like=True):
    """What an attempt contributed to the history that counts (design, section 6).

    ``end`` is the checkpoint at which the next segment takes over: of every channel, frames up to the attempt's barrier
    ``end`` count. None: it runs. A segment is of the vertices that it names: when only a part of a job starts again,
    the segments of the others stay open (``graph.lineage``).
    """

    attempt: Attempt
    end: CheckpointId | None
    parallelism: dict[VertexId, int]
    """Subtasks of each vertex in that attempt: which channels exist follows from it."""


class RestoreMode(Enum):
    """Whose the files of a restored savepoint are (Flink: RecoveryClaimMode)."""

    NO_CLAIM = "no_claim"
    """Not the job's: its first checkpoint refers to none of them."""
    CLAIM = "claim"
    """The job's from then on: they go when no checkpoint needs them."""


class RestoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a submitted job starts from (Flink: SavepointRestoreSettings)."""

    path: str
    """``_metadata`` file, as a URL or relative to the checkpoint storage."""
    checksum: int
    """xxh3-64 of it."""
    checkpoint: CheckpointId = CheckpointId(0)
    """Its id where it was taken."""
    is_savepoint: bool = True
    """False: a retained checkpoint of another job or life."""
    allow_non_restored: bool = False
    mode: RestoreMode = RestoreMode.NO_CLAIM


class JobFailure(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a job's history: a failure, and how often it came. ``subtask`` and ``worker`` None: not the fault of
    one."""

    failed_ms: int
    """Of the newest one; so is everything else."""
    attempt: Attempt
    cause: str
    trace: str | None
    subtask: SubtaskId | None
    worker: WorkerId | None
    times: int = 1
    first_ms: int | None = None
    """When the first of them was. None: it is the only one."""


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job with everything that a new leader needs to adopt or to restart it."""

    job: JobId
    graph: JobGraph
    status: JobStatus
    attempt: Attempt
    """0 before the first deployment."""
    submitted_ms: int
    base_checkpoint_id: CheckpointId
    """Last checkpoint id that an earlier life of this job name used; commit markers up to it belong to that life."""
    slots: tuple[WorkerId, ...] = ()
    """Slot i of the running attempt runs subtask i of every vertex; by whom."""
    lineage: tuple[LineageSegment, ...] = ()
    restored_checkpoint: CheckpointId | None = None
    """The checkpoint that the running attempt started from."""
    failure: str | None = None
    """Root cause of the last failure, for people."""
    restore: RestoreSettings | None = None
    """What the job starts from while it has no completed checkpoint of its own."""
    former_parallelism: dict[VertexId, tuple[int, ...]] = {}
    """Every parallelism that each vertex had in this life of the job."""
    failures: tuple[JobFailure, ...] = ()
    """Newest first."""
    failure_times_ms: tuple[int, ...] = ()
    """Wall clock of the failures that the restart strategy was asked about, oldest first."""
    automatic_parallelism: bool = False
    """The job takes as many slots as there are."""
    ended_ms: int | None = None
    """Wall clock; None: it has not ended."""


class CheckpointRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A completed checkpoint as the registry knows it; everything else is in its ``_metadata``."""

    checkpoint: CheckpointId
    attempt: Attempt
    kind: Literal["checkpoint", "savepoint"]
    metadata_path: str
    metadata_bytes: int
    metadata_checksum: int
    """xxh3-64 of the ``_metadata`` file, checked when it is read."""
    base: CheckpointId = CheckpointId(0)
    """The checkpoint whose files this one may share; it must be retained at the commit. 0: none."""
    triggered_ms: int
    completed_ms: int
    state_bytes: int
    ends_as: JobStatus | None = None
    """Savepoints: the job is stopped with it, so it only has to commit and to end, in this status."""

    @property
    def is_part_of_history(self) -> bool:
        """The job restarts from it and sinks commit with it; a savepoint counts only if the job is stopped with it, as
        its owner may delete it at any time."""
        return self.kind == "checkpoint" or self.ends_as is not None
