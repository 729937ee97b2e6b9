"""What a subtask is given: who it is, what it may touch, and whom it tells."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from moorage.api.compiler import CompiledPipeline
from moorage.backends.rocksdb_environment import RocksDbEnvironment
from moorage.exchange.result_partition import ExchangeLimits
from moorage.graph.job_graph import JobVertex
from moorage.graph.lineage import lineage_of
from moorage.ids import Attempt, CheckpointId, JobId, SubtaskId, WorkerId
from moorage.messages.commands import DeployJob
from moorage.messages.events import CheckpointMetrics, Event, ExchangeProgress
from moorage.messages.registry import LineageSegment
from moorage.ports import CheckpointStorage, Clock, Executor, Log, LogWriter
from moorage.serde.state_files import read_stream
from moorage.state.handles import ByteStreamHandle, StreamHandle
from moorage.state.operator_state import CheckpointMetadata
from moorage.task.fates import Fates
from moorage.task.local_recovery import LocalRecovery
from moorage.task.state_writer import StateFileLimits, StateWriter

_COUNTING = threading.Lock()
"""State is read by many threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSettings:
    """Limits of a subtask; see docs/settings.md."""

    limits: ExchangeLimits = field(default_factory=ExchangeLimits)
    max_poll_records: int = 10_000
    max_poll_frames: int = 64
    max_step_ms: int = 50
    """Of user code without a break in which the worker hears and says something."""
    linger_ms: int = 100
    """Buffered records wait at most so long for more while input keeps coming."""
    idle_linger_ms: int = 5
    """The same when no input is waiting."""
    held_bytes_max: int = 64 << 20
    state_files: StateFileLimits = field(default_factory=StateFileLimits)
    pending_bytes_max: int = 64 << 20
    """Unconfirmed bytes at which a subtask stops reading."""
    progress_interval_ms: int = 100
    transaction_timeout_ms: int = 900_000
    restore_threads: int = 1
    """Files of state that one subtask reads at the same time when it restores."""
    max_unsent_records: int = 100_000


@dataclass(slots=True, kw_only=True)
class TaskCounters:
    """Counted by batches, read by whoever exports metrics. Times in ms."""

    records_in: int = 0
    records_out: int = 0
    frames_in: int = 0
    frames_void: int = 0
    frames_seen: int = 0
    frames_corrupt: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    records_skipped: int = 0
    records_dead_lettered: int = 0
    source_lag_records: int = 0
    blocked_steps: int = 0
    lag_frames: int = 0
    lag_bytes: int = 0
    held_bytes: int = 0
    commits: int = 0
    committed_checkpoint: int = 0
    committed_ms: int = 0
    transactions_replayed: int = 0
    broken_transactions: int = 0
    acknowledged_checkpoint: int = 0
    acknowledged_ms: int = 0
    """Wall clock."""
    restored_local_bytes: int = 0
    restored_storage_bytes: int = 0
    snapshot: CheckpointMetrics = field(default_factory=CheckpointMetrics)
    """Of the acknowledged checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskContext:
    deploy: DeployJob
    vertex: JobVertex
    subtask: int
    worker: WorkerId
    pipeline: CompiledPipeline
    log: Log
    writer: LogWriter
    """The idempotent producer of this attempt on this worker."""
    storage: CheckpointStorage
    state_writer: StateWriter
    local: LocalRecovery | None
    executor: Executor
    clock: Clock
    fates: Fates
    metadata: CheckpointMetadata | None
    """The checkpoint to restore."""
    settings: TaskSettings
    report: Callable[[Event], None]
    publish: Callable[[ExchangeProgress], None]
    warn: Callable[[str], None]
    """A line for the log: something went wrong that the subtask gets over by itself."""
    failpoint: Callable[[str], None]
    """Named points where tests kill the process; does nothing otherwise."""
    rocksdb: RocksDbEnvironment | None = None
    counters: TaskCounters = field(default_factory=TaskCounters)

    @property
    def job(self) -> JobId:
        return self.deploy.job

    @property
    def attempt(self) -> Attempt:
        """In which the subtask was started. The job may be at a later one, if this part of it went on."""
        return self.deploy.attempt

    @property
    def id(self) -> SubtaskId:
        return SubtaskId(self.vertex.vertex, self.subtask)

    @property
    def lineage(self) -> tuple[LineageSegment, ...]:
        return lineage_of(self.deploy.lineage, self.vertex.vertex)

    @property
    def parallelism(self) -> int:
        return self.vertex.parallelism

    @property
    def restored(self) -> CheckpointId:
        """0 when the attempt starts from nothing."""
        return self.deploy.restore_checkpoint or CheckpointId(0)

    @property
    def name(self) -> str:
        """For client ids and log lines."""
        return f"{self.job}.{self.vertex.vertex}-{self.subtask}.a{self.attempt}"

    def read_stream(self, stream: StreamHandle) -> bytes:
        """*Blocking.* The bytes of a state handle that is restored, checked: of a local copy, else of the storage.
        ObjectMissingError, CorruptDataError."""
        if isinstance(stream, ByteStreamHandle):
            return stream.data
        if self.local is not None:
            data = self.local.copies.read(stream)
            if data is not None:
                with _COUNTING:
                    self.counters.restored_local_bytes += len(data)
                return data
        data = read_stream(self.storage, stream)
        with _COUNTING:
            self.counters.restored_storage_bytes += len(data)
        return data
