"""What goes into the coordinator core, what it answers to clients, and what it reports to people."""

from __future__ import annotations

from enum import Enum

import msgspec

from moorage.checkpoint.stats_tracker import HISTORY_SIZE
from moorage.effects import CallError, Notice
from moorage.graph.job_graph import JobGraph
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, SubtaskId, VertexId, WorkerId
from moorage.messages.events import Event
from moorage.messages.registry import JobStatus, RestoreMode


class ClusterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times in ms."""

    lease_ttl_ms: int = 6_000
    """A leader that could not renew its lease for so long is none any more."""
    heartbeat_interval_ms: int = 1_000
    """Between two CoordinatorHeartbeats."""
    worker_timeout_ms: int = 6_000
    """A worker that was not heard for so long is lost."""
    adoption_timeout_ms: int = 6_000
    """How long a new leader waits for the subtasks of a running job to report."""
    deploy_timeout_ms: int = 60_000
    """How long a deployed subtask may take to report for the first time."""
    stop_timeout_ms: int = 30_000
    """A job ends although some of its subtasks did not report their end."""
    repeat_interval_ms: int = 3_000
    """Between two DeployJob or CancelJob of one attempt while subtasks have not reacted."""
    master_hook_timeout_ms: int | None = None
    """How long the master hooks may take for one checkpoint; None: there are none."""
    purged_interval_ms: int = 60_000
    """Between two looks whether the registry still has the jobs that have ended."""
    checkpoint_history: int = HISTORY_SIZE
    """Decided checkpoints of a job whose statistics are kept."""
    storage_id: str = ""
    """Of the checkpoint storage, for workers to compare with theirs; empty: they don't."""


# --- events ----------------------------------------------------------------------------------------------------------


class Tick(msgspec.Struct, frozen=True):
    """The time. Comes first in every step; nothing else moves the core's clock."""

    now_ms: int
    wall_ms: int


class Received(msgspec.Struct, frozen=True):
    """A message of the events topic."""

    message: Event


class CallFinished(msgspec.Struct, frozen=True):
    call: int
    result: object = None
    error: CallError | None = None


class LogSilence(msgspec.Struct, frozen=True):
    """For how long Kafka owes the confirmation of a message."""

    silence_ms: int


class EventsLost(msgspec.Struct, frozen=True):
    """The events topic can't be read on from where it was read: what came in between is not known."""

    detail: str


class Stop(msgspec.Struct, frozen=True):
    """End this coordinator in an orderly way: release the lease. Jobs go on."""


class RestoreFrom(msgspec.Struct, frozen=True, kw_only=True):
    """The savepoint or retained checkpoint that a job starts from."""

    path: str
    """Its folder or its ``_metadata``, as a URL or relative to the checkpoint storage."""
    allow_non_restored: bool = False
    """State of operators that the job does not have is left behind instead of refused."""
    mode: RestoreMode = RestoreMode.NO_CLAIM


class SubmitJob(msgspec.Struct, frozen=True):
    """Answered by JobAccepted once the job is stored, or by Refused. The configuration in ``graph`` is what counts:
    whoever overrides the pipeline's own at submit changes it there."""

    request: int
    graph: JobGraph
    restore: RestoreFrom | None = None
    first_only: bool = False
    """Refused when a job of this name ran before, however it ended: nobody asked for it to run again."""


class CancelRequested(msgspec.Struct, frozen=True):
    """Answered by JobAccepted once the intent is stored, or by Refused."""

    request: int
    job: JobId


class CheckpointRequested(msgspec.Struct, frozen=True):
    """Answered by CheckpointDone or CheckpointFailed when it is decided, or by Refused."""

    request: int
    job: JobId
    full: bool = False
    """It refers to no file of an earlier checkpoint."""


class SavepointRequested(msgspec.Struct, frozen=True, kw_only=True):
    """Answered by CheckpointDone or CheckpointFailed when it is decided, or by Refused."""

    request: int
    job: JobId
    location: str | None = None
    """Folder in which the savepoint's own folder is made: a URL, or relative to the checkpoint storage; None: the
    job's ``savepoints`` there."""
    native: bool = False


class StopWithSavepointRequested(msgspec.Struct, frozen=True, kw_only=True):
    """Answered by CheckpointDone once the job has ended, by CheckpointFailed when the savepoint fails and the job goes
    on, or by Refused."""

    request: int
    job: JobId
    location: str | None = None
    native: bool = False
    drain: bool = False
    """Sources end their data first, as if the input had ended for good."""
    cancel: bool = False
    """The job ends CANCELED, not FINISHED."""


class DisposeSavepointRequested(msgspec.Struct, frozen=True, kw_only=True):
    """Delete a savepoint with its files. Answered by SavepointDisposed, or by Refused: no savepoint, or one that a job
    still needs."""

    request: int
    path: str


class RescaleRequested(msgspec.Struct, frozen=True, kw_only=True):
    """Take a checkpoint, then go on from it with another parallelism. Answered by JobAccepted once the new attempt is
    stored, by CheckpointFailed when there is no checkpoint to go on from, or by Refused."""

    request: int
    job: JobId
    parallelism: int | None = None
    """Of every vertex that ``vertices`` does not name; None: they keep theirs."""
    vertices: dict[VertexId, int] = {}
    automatic: bool = False
    """As many as the free slots allow, now and whenever workers join."""


class OverviewRequested(msgspec.Struct, frozen=True):
    """Answered by ``views.ClusterView``, or by Refused."""

    request: int


class JobRequested(msgspec.Struct, frozen=True):
    """Answered by ``views.JobView``, or by Refused: pictures of all jobs are not made to show one."""

    request: int
    job: JobId


ClientRequest = (
    SubmitJob
    | CancelRequested
    | CheckpointRequested
    | SavepointRequested
    | StopWithSavepointRequested
    | DisposeSavepointRequested
    | RescaleRequested
    | OverviewRequested
    | JobRequested
)
CoreEvent = Tick | Received | CallFinished | LogSilence | EventsLost | Stop | ClientRequest


# --- answers to clients ----------------------------------------------------------------------------------------------


class JobAccepted(msgspec.Struct, frozen=True):
    job: JobId


class SavepointDisposed(msgspec.Struct, frozen=True):
    path: str


class Refusal(Enum):
    NOT_LEADER = "not_leader"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    INVALID = "invalid"
    UNAVAILABLE = "unavailable"


class Refused(msgspec.Struct, frozen=True):
    refusal: Refusal
    message: str


# --- notices ---------------------------------------------------------------------------------------------------------


class LeaderState(Enum):
    STANDBY = "standby"
    LOADING = "loading"
    """Holds the lease, reads what is stored."""
    LEADING = "leading"
    STOPPED = "stopped"


class LeadershipChanged(Notice, frozen=True, kw_only=True):
    state: LeaderState
    epoch: Epoch
    reason: str


class WorkerJoined(Notice, frozen=True, kw_only=True):
    worker: WorkerId
    slots: int


class WorkerGone(Notice, frozen=True, kw_only=True):
    worker: WorkerId
    reason: str


class LogReachability(Notice, frozen=True, kw_only=True):
    reachable: bool


class JobStatusChanged(Notice, frozen=True, kw_only=True):
    job: JobId
    attempt: Attempt
    status: JobStatus
    reason: str


class JobWaiting(Notice, frozen=True, kw_only=True):
    """A job can't be started yet for want of slots."""

    job: JobId
    waiting_for: str


class JobRebuilt(Notice, frozen=True, kw_only=True):
    """The registry had lost a job that workers run; it was brought back from the checkpoint storage."""

    job: JobId
    checkpoints: int
    attempt: Attempt


class JobUnknown(Notice, frozen=True, kw_only=True):
    """Workers run a job that the registry does not know, and it can't be brought back; it is left alone."""

    job: JobId
    detail: str


class AttemptStarted(Notice, frozen=True, kw_only=True):
    job: JobId
    attempt: Attempt
    restored: CheckpointId | None
    """A checkpoint of its own."""
    restored_from: str | None = None
    """The savepoint or checkpoint that the job was submitted with."""
    vertices: tuple[VertexId, ...] = ()
    """These were started, the others went on; empty: all of them were."""


class AttemptRunning(Notice, frozen=True, kw_only=True):
    """Every subtask runs. ``recovery_ms``: since the failure that this attempt recovers from; None: there was none."""

    job: JobId
    attempt: Attempt
    adopted: bool
    recovery_ms: int | None


class RecoveryPhaseEnded(Notice, frozen=True, kw_only=True):
    """A part of a recovery is over; ``phase``: see ``cluster.recovery``."""

    job: JobId
    attempt: Attempt
    phase: str
    duration_ms: int


class AttemptFailed(Notice, frozen=True, kw_only=True):
    job: JobId
    attempt: Attempt
    cause: str
    trace: str | None
    subtask: SubtaskId | None
    worker: WorkerId | None


class CheckpointUnreadable(Notice, frozen=True, kw_only=True):
    """A retained checkpoint can't be restored; an older one is tried."""

    job: JobId
    checkpoint: CheckpointId
    detail: str


class SinksCommitted(Notice, frozen=True, kw_only=True):
    """An exactly-once sink subtask has committed."""

    job: JobId
    committed_ms: int


class DropReason(Enum):
    NOT_LEADER = "not_leader"
    UNKNOWN_JOB = "unknown_job"
    OLD_ATTEMPT = "old_attempt"
    REPLACED_WORKER = "replaced_worker"
    UNKNOWN_SUBTASK = "unknown_subtask"
    DUPLICATE = "duplicate"
    """An acknowledgement that counted before."""
    LATE = "late"
    """The subtask or the checkpoint it speaks of has gone on."""


class MessageDropped(Notice, frozen=True, kw_only=True):
    """A message of the events topic had no effect."""

    kind: str
    reason: DropReason
