"""The compiled pipeline: what the coordinator schedules and the workers build their subtasks from.

The coordinator never imports user code; it sees this description, which ``moorage.api`` compiles from a Pipeline. A
worker imports the pipeline by ``pipeline_ref``, compiles it again and refuses to run it when the two descriptions
differ. Flink: JobGraph, JobVertex, IntermediateDataSet.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Literal

import msgspec

from moorage.ids import ExchangeId, JobId, OperatorId, OperatorUid, VertexId


class OperatorKind(Enum):
    SOURCE = "source"
    MAP = "map"
    FILTER = "filter"
    FLAT_MAP = "flat_map"
    KEY_BY = "key_by"
    REBALANCE = "rebalance"
    """Last operator before an exchange that spreads records over its partitions."""
    BROADCAST = "broadcast"
    """Last operator before an exchange that every subtask reads whole."""
    BROADCAST_STATE = "broadcast_state"
    """What keeps of such an exchange; part of the vertex that reads it."""
    MERGE = "merge"
    """Head of a vertex that reads such exchanges."""
    PROCESS = "process"
    SINK_ENCODER = "sink_encoder"
    """Last operator before an exactly-once sink's exchange: encodes the output record."""
    SINK_COMMITTER = "sink_committer"
    """The exactly-once sink: a task of its own that writes transactions."""
    SINK_WRITER = "sink_writer"
    """An at-least-once sink, chained."""


class OperatorCoordinatorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The part of an operator that runs in the coordinator; it never runs user code."""

    kind: str
    """Which one: ``kafka_source``, or a name from the settings."""
    config: bytes
    """What it needs to know, msgpack."""


class OperatorNode(msgspec.Struct, frozen=True, kw_only=True):
    uid: OperatorUid
    operator_id: OperatorId
    name: str
    kind: OperatorKind
    upstream: OperatorUid | None
    """The operator of the same vertex whose output it gets; None: the vertex's input."""
    coordinator: OperatorCoordinatorSpec | None = None


class JobVertex(msgspec.Struct, frozen=True, kw_only=True):
    """A chain (or tree) of operators that runs as one task."""

    vertex: VertexId
    name: str
    operators: tuple[OperatorNode, ...]
    """In topological order, the head first."""
    parallelism: int
    inputs: tuple[ExchangeId, ...] = ()
    outputs: tuple[ExchangeId, ...] = ()

    @property
    def is_source(self) -> bool:
        return not self.inputs

    @property
    def is_committer(self) -> bool:
        """An exactly-once sink: takes no part in checkpoints, follows their fate."""
        return self.operators[0].kind is OperatorKind.SINK_COMMITTER


class ExchangeKind(Enum):
    KEYED = "keyed"
    """Partition = key group of the record's key; every producer writes to every partition."""
    FORWARD = "forward"
    """Partition = key group of the batch that the record came from; only the owner of a key group writes to it."""
    REBALANCE = "rebalance"
    """As KEYED, but the key groups are taken in turn."""
    BROADCAST = "broadcast"
    """One partition, which every consumer subtask reads."""


class Exchange(msgspec.Struct, frozen=True, kw_only=True):
    exchange: ExchangeId
    kind: ExchangeKind
    producer: VertexId
    producer_operator: OperatorUid
    """The operator whose output goes into it."""
    consumer: VertexId
    partitions: int


class CheckpointConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Flink's CheckpointConfig. Times in ms."""

    enabled: bool = True
    """False: no checkpoint is ever taken, not by hand either, and a failure starts the job from the beginning."""
    interval_ms: int = 1_000
    """Time from one trigger to the next; 0: only on demand."""
    interval_during_backlog_ms: int | None = None
    """The same while a source says that it works off a backlog; 0: none meanwhile, None: as otherwise."""
    timeout_ms: int = 600_000
    min_pause_ms: int = 0
    """Between the end of a completed checkpoint and the next periodic trigger; needs ``max_concurrent`` 1."""
    max_concurrent: int = 1
    tolerable_failures: int = 10
    """Failed checkpoints in a row that don't fail the job."""
    mode: Literal["exactly_once", "at_least_once"] = "exactly_once"
    unaligned: bool = False
    """Snapshots don't wait for barriers: what is in flight is stored as positions in the exchange logs."""
    aligned_timeout_ms: int = 0
    """``unaligned``: first try for so long to align."""
    alignment_limit_bytes: int | None = None
    """Frames held back by one subtask's alignment beyond which the checkpoint is declined; None: no limit (what exceeds
    the worker's memory bound is read again from the log)."""
    retained: int = 3
    retention: Literal["never_retain_after_termination", "retain_on_failure", "retain_on_cancellation"] = (
        "retain_on_cancellation"
    )
    """What becomes of the retained checkpoints when the job ends."""
    after_finish: bool = True
    """Checkpoints are taken although some subtasks have finished."""
    initial_delay_max_ms: int = 0
    """The first periodic trigger waits for a random time up to this, so that many jobs don't checkpoint in step."""
    allow_duplicates_on_fallback: bool = False
    """When only a checkpoint older than what exactly-once sinks have committed can be read: start from it all the same,
    and write the output in between again."""


class RestartConfig(msgspec.Struct, frozen=True, kw_only=True):
    """When a failed job is started again. Times in ms."""

    strategy: Literal["exponential_delay", "fixed_delay", "failure_rate", "none"] = "exponential_delay"
    initial_delay_ms: int = 100
    """Between the failure and the restart; exponential_delay: of the first one."""
    max_delay_ms: int = 30_000
    """exponential_delay: it grows no further."""
    multiplier: float = 1.5
    """exponential_delay: what each delay is longer than the last one."""
    reset_after_ms: int = 300_000
    """exponential_delay: a run without failure for so long sets the delay and the count of restarts back."""
    max_attempts: int | None = None
    """Restarts before the job fails. fixed_delay: over its whole life; exponential_delay: in a row; failure_rate:
    within ``failure_interval_ms``. None: as in Flink, 1, and for exponential_delay no limit."""
    failure_interval_ms: int = 60_000
    """failure_rate: window in which at most ``max_attempts`` failures are tolerated."""
    failover: Literal["region", "full"] = "region"
    """``region``: of a job with parts that no exchange connects, only those start again which the failure has hit;
    ``full``: always the whole job."""

    @property
    def attempts(self) -> int | None:
        """``max_attempts`` with the strategy's own default. None: no limit."""
        return 1 if self.max_attempts is None and self.strategy != "exponential_delay" else self.max_attempts


class StateConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Where keyed state is kept while the job runs (Flink: StateBackend)."""

    backend: Literal["memory", "rocksdb"] = "memory"
    """``memory``: fastest, for state that fits into the workers' memory; ``rocksdb``: on the workers' disks."""


class JobGraph(msgspec.Struct, frozen=True, kw_only=True):
    job: JobId
    pipeline_ref: str
    """``package.module:attribute`` or ``/path/file.py:attribute``."""
    max_parallelism: int
    """Number of key groups."""
    vertices: tuple[JobVertex, ...]
    """In topological order."""
    exchanges: tuple[Exchange, ...]
    checkpoint: CheckpointConfig
    restart: RestartConfig
    state: StateConfig = StateConfig()
    fingerprint: str
    """Hash of the operators and exchanges, whatever their parallelism and configuration: a worker that compiles another
    one must not run the job."""

    @property
    def slots(self) -> int:
        """Slots that the job needs: slot i runs subtask i of every vertex (Flink's slot sharing)."""
        return max(vertex.parallelism for vertex in self.vertices)

    def vertex(self, vertex: VertexId) -> JobVertex:
        return next(v for v in self.vertices if v.vertex == vertex)

    def exchange(self, exchange: ExchangeId) -> Exchange:
        return next(e for e in self.exchanges if e.exchange == exchange)

    def parallelism(self) -> dict[VertexId, int]:
        return {v.vertex: v.parallelism for v in self.vertices}

    def with_parallelism(self, parallelism: Mapping[VertexId, int]) -> JobGraph:
        """The same job with other numbers of subtasks; what is not named keeps its own."""
        vertices = tuple(
            msgspec.structs.replace(v, parallelism=parallelism.get(v.vertex, v.parallelism)) for v in self.vertices
        )
        return msgspec.structs.replace(self, vertices=vertices)
