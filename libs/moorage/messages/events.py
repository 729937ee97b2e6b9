"""Workers to coordinator. A subtask's events carry the attempt in which it was started; the coordinator drops and
counts what comes from an earlier one of its vertex."""

from __future__ import annotations

from enum import Enum

import msgspec

from moorage.ids import Attempt, CheckpointId, Epoch, ExchangeId, JobId, OperatorId, OperatorUid, VertexId, WorkerId
from moorage.state.operator_state import OperatorSubtaskState


class SubtaskState(Enum):
    """Flink's ExecutionState, as far as a worker reports it."""

    INITIALIZING = "INITIALIZING"
    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


class RunningSubtask(msgspec.Struct, frozen=True, kw_only=True):
    job: JobId
    attempt: Attempt
    """In which it was started."""
    vertex: VertexId
    subtask: int
    state: SubtaskState
    data_ended: bool = False
    """It has processed its last record and waits for its final checkpoint."""
    deployed: Attempt = Attempt(0)
    """The newest attempt of the job that the worker has been told to run."""
    records_in: int = 0
    """This and the next: since it was started."""
    records_out: int = 0
    bytes_in: int = 0
    """Of frames of exchanges, as ``bytes_out``."""
    bytes_out: int = 0
    parallelism: int = 0
    """Of its vertex in ``attempt``; 0: not known."""


class WorkerHeartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """Registration and sign of life in one: a worker is known by its heartbeats."""

    worker: WorkerId
    epoch: Epoch
    """The newest coordinator epoch that the worker has seen."""
    slots: int
    subtasks: tuple[RunningSubtask, ...]
    """Everything that the worker runs now."""
    sent_ms: int
    leaving: bool = False
    """The worker stops after this message; its slots are free at once."""
    host: str = ""
    metrics_port: int = 0
    busy_ms: int = 0
    """Above 0: so long the worker's loop has been in one step. The process lives; of subtasks nothing is said."""
    cpu_cores: int = 0
    """That the worker may use; 0: not known."""
    memory_bytes: int = 0
    """Of the machine; 0: not known."""


class SubtaskStateChanged(msgspec.Struct, frozen=True, kw_only=True):
    worker: WorkerId
    job: JobId
    attempt: Attempt
    vertex: VertexId
    subtask: int
    state: SubtaskState
    failure: str | None = None
    """FAILED: one readable line, the root cause first."""
    trace: str | None = None
    """FAILED: the traceback."""
    permanent: bool = False
    """FAILED: another attempt would fail alike, so the job must not be restarted."""
    data_ended: bool = False
    """RUNNING: it has processed its last record and waits for its final checkpoint."""


class CheckpointMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """Flink's CheckpointMetrics of one subtask. Durations in ms."""

    start_delay_ms: int = 0
    alignment_ms: int = 0
    sync_ms: int = 0
    async_ms: int = 0
    held_bytes: int = 0
    """Bytes of frames that were held back while aligning."""
    written_bytes: int = 0
    """New bytes that this checkpoint wrote (Flink: checkpointed size)."""
    state_bytes: int = 0
    """Bytes of everything that the checkpoint refers to (Flink: full size)."""
    processed_bytes: int = 0
    """Bytes of frames that were processed between the first barrier and the snapshot (Flink: processed in flight)."""
    persisted_bytes: int = 0
    """Bytes of frames in flight that the checkpoint holds as positions in the log (Flink: persisted in flight), as far
    as they had been fetched: nobody looks at the others for this."""
    unaligned: bool = False
    """The snapshot did not wait for all barriers."""


class OperatorSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    operator: OperatorId
    state: OperatorSubtaskState


class AcknowledgeCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """The subtask's state is durable and every frame up to its barrier is confirmed by the broker."""

    worker: WorkerId
    job: JobId
    attempt: Attempt
    vertex: VertexId
    subtask: int
    checkpoint: CheckpointId
    metrics: CheckpointMetrics
    operators: tuple[OperatorSnapshot, ...]


class DeclineReason(Enum):
    """Why a subtask can't take part in a checkpoint."""

    NOT_RUNNING = "not_running"
    STORAGE = "storage"
    LOG = "log"
    ALIGNMENT_ABANDONED = "alignment_abandoned"
    """A newer barrier arrived before this one's alignment ended."""
    ALIGNMENT_LIMIT = "alignment_limit"
    """More bytes had to be held back than the job allows."""
    INTERNAL = "internal"


class DeclineCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    worker: WorkerId
    job: JobId
    attempt: Attempt
    vertex: VertexId
    subtask: int
    checkpoint: CheckpointId
    reason: DeclineReason
    detail: str


class SinkCommitted(msgspec.Struct, frozen=True, kw_only=True):
    """An exactly-once sink subtask has committed its output up to the barrier of ``checkpoint``. Also sent after a
    restart, for what it found committed."""

    worker: WorkerId
    job: JobId
    attempt: Attempt
    vertex: VertexId
    subtask: int
    sink: OperatorUid
    checkpoint: CheckpointId
    committed_ms: int


class OperatorEvent(msgspec.Struct, frozen=True, kw_only=True):
    """From a subtask to the coordinator of one of its operators (Flink: OperatorEvent)."""

    worker: WorkerId
    job: JobId
    attempt: Attempt
    vertex: VertexId
    subtask: int
    operator: OperatorUid
    payload: bytes


class WorkerLost(msgspec.Struct, frozen=True, kw_only=True):
    """A supervisor saw a worker process end: nobody needs to wait for its heartbeats."""

    worker: WorkerId
    reason: str
    ended_ms: int = 0
    """Wall clock; 0: not known."""


Event = (
    WorkerHeartbeat
    | SubtaskStateChanged
    | AcknowledgeCheckpoint
    | DeclineCheckpoint
    | SinkCommitted
    | OperatorEvent
    | WorkerLost
)


class ExchangeProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Consumer subtask to the producers of its exchange: how far each channel has been processed. Flow control only."""

    job: JobId
    attempt: Attempt
    exchange: ExchangeId
    consumer: int
    partitions: tuple[int, ...]
    producers: tuple[int, ...]
    positions: tuple[int, ...]
    """Parallel to ``partitions`` and ``producers``: offset of the next frame of that channel to be processed."""
