"""What clients see: immutable pictures of the cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from moorage.checkpoint.stats import CheckpointStats, CheckpointStatsSnapshot, CheckpointSummary, RestoredStats
from moorage.graph.execution import ExecutionState
from moorage.graph.job_graph import JobGraph
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, SubtaskId, VertexId, WorkerId
from moorage.messages.events import RunningSubtask
from moorage.messages.registry import CheckpointRecord, JobFailure, JobStatus


class SubtaskView(msgspec.Struct, frozen=True, kw_only=True):
    subtask: SubtaskId
    state: ExecutionState
    worker: WorkerId


class JobView(msgspec.Struct, frozen=True, kw_only=True):
    now_ms: int
    """Wall clock."""
    job: JobId
    graph: JobGraph
    status: JobStatus
    attempt: Attempt
    submitted_ms: int
    status_since_ms: dict[JobStatus, int]
    """Wall clock at which the job last entered each status, as far as this leader has seen it."""
    waiting_for: str | None
    """What a job that is not running waits for."""
    failure: str | None
    attempts: Mapping[VertexId, Attempt]
    """In which each vertex was started: not in the last one, if it went on while others restarted."""
    started_ms: Mapping[VertexId, int]
    """Wall clock, as far as this leader has seen it."""
    subtasks: tuple[SubtaskView, ...]
    """Of the running attempt."""
    ended_as: Mapping[VertexId, Mapping[ExecutionState, int]]
    """How many subtasks of each vertex were in each state when the job ended; empty where this leader has not seen it,
    or nothing ran."""
    reported: Mapping[SubtaskId, RunningSubtask]
    """What the last heartbeats said of those; one that is missing is not known yet."""
    failures: tuple[JobFailure, ...]
    """Newest first."""
    checkpoints: CheckpointStatsSnapshot
    retained: tuple[CheckpointRecord, ...]
    unreadable: tuple[CheckpointId, ...]
    """Retained checkpoints that could not be read at the last restart."""


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    worker: WorkerId
    slots: int
    free_slots: int
    last_heartbeat_ms: int
    """Wall clock."""
    host: str
    metrics_port: int
    cpu_cores: int
    """0: not known, as ``memory_bytes``."""
    memory_bytes: int


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    now_ms: int
    """Wall clock."""
    epoch: Epoch
    jobs: tuple[JobView, ...]
    workers: tuple[WorkerView, ...]


class JobCounts(NamedTuple):
    """A job that has not ended."""

    checkpoint_interval_ms: int
    checkpoint_timeout_ms: int
    in_progress: int
    last_completed: CheckpointRecord | None
    completed_ms: int
    """Wall clock at which the last checkpoint was completed; before the first one, at which the job was submitted."""
    restored: RestoredStats | None
    """The last time that this leader restored the job; None: it did not."""
    failed: CheckpointStats | None
    """The last checkpoint that failed under this leader."""
    savepoint: CheckpointStats | None
    """The last one that was completed."""
    summary: CheckpointSummary


class ClusterCounts(NamedTuple):
    """What this leader has; a standby has nothing."""

    workers: int
    slots: int
    free_slots: int
    silence_ms: int
    """Since the last heartbeat of the worker that was silent for the longest."""
    jobs: Mapping[JobStatus, int]
    live_jobs: Mapping[JobId, JobCounts]
