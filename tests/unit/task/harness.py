"""Workers on the twins with a scripted coordinator: each test says what the coordinator would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import xxhash

import moorage as mo
from moorage.api.compiler import CompiledPipeline, compile_pipeline
from moorage.backends.rocksdb_environment import RocksDbEnvironment
from moorage.barrier.lineage import next_lineage
from moorage.connectors.kafka_source import KafkaSourceReader
from moorage.exchange.result_partition import ExchangeLimits
from moorage.ids import Attempt, CheckpointId, Epoch, SubtaskId, TopicPartition, VertexId, WorkerId
from moorage.messages.barriers import Alignment, SnapshotKind, SnapshotOptions
from moorage.messages.commands import (
    Command,
    DeployJob,
    NotifyCheckpointAborted,
    NotifyCheckpointComplete,
    TriggerCheckpoint,
)
from moorage.messages.events import (
    AcknowledgeCheckpoint,
    DeclineCheckpoint,
    Event,
    SinkCommitted,
    SubtaskState,
    SubtaskStateChanged,
    WorkerHeartbeat,
)
from moorage.messages.registry import LineageSegment
from moorage.naming import COMMANDS_TOPIC, CONTROL_TOPICS, EVENTS_TOPIC, commits_topic, exchange_topic, metadata_path
from moorage.ports import TopicSpec
from moorage.serde import control
from moorage.serde.metadata import encode_metadata
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState
from moorage.task.context import TaskContext, TaskSettings
from moorage.task.state_writer import StateFileLimits
from moorage.task.worker import WorkerConfig, WorkerHooks, WorkerProcess
from moorage.testing.clocks import ManualClock
from moorage.testing.executor import InlineExecutor
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage.testing.memory_storage import MemoryStorage

EPOCH = Epoch(1)
SETTINGS = TaskSettings(
    limits=ExchangeLimits(frame_max_records=50),
    state_files=StateFileLimits(inline_max_bytes=100),
    linger_ms=20,
    idle_linger_ms=1,
)


class Order(msgspec.Struct):
    user: str
    amount: float


class RunningTotal(mo.KeyedState):
    count: int = 0
    total: float = 0.0

    def process(self, order: Order, ctx: mo.KeyedContext) -> Any:
        self.count += 1
        self.total += order.amount
        yield {"user": ctx.key, "count": self.count, "total": self.total}


def orders_pipeline(parallelism: int = 2, **source: Any) -> mo.Pipeline:
    pipeline = mo.Pipeline("orders", parallelism=parallelism, max_parallelism=8)
    (
        pipeline.source("orders", mo.KafkaSource("orders", value=mo.Json(Order), **source))
        .key_by("user")
        .process("totals", RunningTotal)
        .sink("results", mo.KafkaSink("totals", key="user"))
    )
    return pipeline


def copy_pipeline(
    topics: str | Sequence[str] = "orders",
    *,
    parallelism: int = 1,
    guarantee: str = "at_least_once",
    value: mo.Format | None = None,
    **source: Any,
) -> mo.Pipeline:
    """Values as they are, from some topics into ``totals``."""
    pipeline = mo.Pipeline("orders", parallelism=parallelism, max_parallelism=8)
    sink = mo.KafkaSink("totals", key=None, value=mo.Raw() if value is None else mo.Json(), guarantee=guarantee)  # type: ignore[arg-type]
    pipeline.source("orders", mo.KafkaSource(topics, value=value or mo.Raw(), **source)).sink("copies", sink)
    return pipeline


class Harness:
    def __init__(
        self,
        pipeline: mo.Pipeline,
        workers: int = 2,
        partitions: int = 3,
        *,
        topics: Mapping[str, int] | None = None,
        settings: TaskSettings = SETTINGS,
        rocksdb: RocksDbEnvironment | None = None,
    ) -> None:
        """``topics``: further ones beside ``orders`` and ``totals``. ``rocksdb``: of all workers."""
        self.rocksdb = rocksdb
        self.settings = settings
        self.clock = ManualClock()
        self.cluster = MemoryCluster(self.clock)
        self.storage = MemoryStorage(self.clock)
        self.compiled = compile_pipeline(pipeline, "tests:pipeline")
        self.storage_id = self.coordinator_storage_id = "a storage"
        """Which one workers that start from now on have, and the coordinator."""
        self.warnings: list[str] = []
        self.events: list[Event] = []
        self._events_read = 0
        self.attempt = 0
        self.checkpoint = 0
        self.latest: tuple[CheckpointId, Attempt] | None = None
        self.lineage: tuple[LineageSegment, ...] = ()
        self.parallelism: dict[VertexId, set[int]] = {}
        """Every parallelism that each vertex had."""
        admin = MemoryLog(self.cluster, "admin")
        graph = self.compiled.graph
        admin.create_topics([TopicSpec(t, 1, {}) for t in CONTROL_TOPICS])
        admin.create_topics([TopicSpec(t, partitions, {}) for t in ("orders", "totals")])
        admin.create_topics([TopicSpec(t, n, {}) for t, n in (topics or {}).items()])
        admin.create_topics([TopicSpec(commits_topic(graph.job), graph.max_parallelism, {})])
        self._create_exchanges()
        self.workers: list[tuple[WorkerProcess, InlineExecutor, MemoryLog]] = []
        self.names: list[WorkerId] = []
        for _ in range(workers):
            self.add_worker()

    def _create_exchanges(self) -> None:
        graph = self.compiled.graph
        MemoryLog(self.cluster, "admin").create_topics(
            [TopicSpec(exchange_topic(graph.job, e.exchange), e.partitions, {}) for e in graph.exchanges]
        )

    def add_worker(self, pipeline: CompiledPipeline | None = None) -> WorkerProcess:
        name = WorkerId(f"w{len(self.names)}/x")
        log, executor = MemoryLog(self.cluster, name), InlineExecutor()
        worker = WorkerProcess(
            WorkerConfig(
                worker=name,
                slots=2,
                heartbeat_interval_ms=500,
                task=self.settings,
                storage_id=self.storage_id,
                cpu_cores=3,
                memory_bytes=1 << 30,
            ),
            log,
            self.storage,
            executor,
            self.clock,
            WorkerHooks(
                load_pipeline=lambda _: pipeline or self.compiled,
                new_source_reader=KafkaSourceReader,
                warn=self.warnings.append,
                failpoint=lambda _: None,
                rocksdb=self.rocksdb,
            ),
        )
        executor.run_all()
        worker.step()
        self.workers.append((worker, executor, log))
        self.names.append(name)
        return worker

    # --- input and output --------------------------------------------------------------------------------------------

    def produce(self, orders: Sequence[tuple[str, float]], partitions: int = 3) -> None:
        for number, (user, amount) in enumerate(orders):
            value = msgspec.json.encode({"user": user, "amount": amount})
            self.cluster.append(TopicPartition("orders", number % partitions), value)

    def output(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(r.value or b"") for r in self.cluster.records("totals")]

    def counts(self) -> dict[str, list[int]]:
        """User -> the counts in the committed output, in order of appearance."""
        counts: dict[str, list[int]] = {}
        for row in self.output():
            counts.setdefault(row["user"], []).append(row["count"])
        return counts

    # --- the coordinator's part --------------------------------------------------------------------------------------

    def send(self, command: Command) -> None:
        self.cluster.append(TopicPartition(COMMANDS_TOPIC, 0), control.encode(command))

    def deploy(
        self,
        slots: Sequence[int] | None = None,
        *,
        pipeline: mo.Pipeline | None = None,
        base: int = 0,
        finishing: bool = False,
        allow_duplicates: bool = False,
        goes_on: Collection[str] = (),
    ) -> None:
        """The next attempt, from the latest checkpoint; of another pipeline, if there is one. ``goes_on``: vertices
        that are not started."""
        if pipeline is not None:
            self.compiled = compile_pipeline(pipeline, "tests:pipeline")
            self._create_exchanges()
        graph = self.compiled.graph
        self.attempt += 1
        parallelism = graph.parallelism()
        vertices = [vertex for vertex in parallelism if vertex in goes_on]
        attempt = Attempt(self.attempt)
        self.lineage = next_lineage(self.lineage, self.latest, attempt, parallelism, goes_on=vertices)
        path = checksum = None
        if self.latest is not None:
            path = metadata_path(graph.job, self.latest[0])
            checksum = xxhash.xxh3_64_intdigest(self.storage.read(path))
        for vertex, count in parallelism.items():
            self.parallelism.setdefault(vertex, set()).add(count)
        places = slots if slots is not None else [i % len(self.names) for i in range(graph.slots)]
        self.send(
            DeployJob(
                epoch=EPOCH,
                job=graph.job,
                attempt=Attempt(self.attempt),
                graph=graph,
                slots=tuple(self.names[i] for i in places),
                lineage=self.lineage,
                restore_checkpoint=None if self.latest is None else self.latest[0],
                restore_path=path,
                restore_checksum=checksum,
                base_checkpoint_id=CheckpointId(base),
                finishing=finishing,
                allow_duplicates=allow_duplicates,
                former_parallelism={vertex: tuple(sorted(former)) for vertex, former in self.parallelism.items()},
                storage_id=self.coordinator_storage_id,
            )
        )

    def trigger(
        self,
        kind: SnapshotKind = SnapshotKind.CHECKPOINT,
        alignment: Alignment = Alignment.ALIGNED,
        timeout_ms: int = 0,
    ) -> CheckpointId:
        self.checkpoint += 1
        checkpoint = CheckpointId(self.checkpoint)
        self.send(
            TriggerCheckpoint(
                epoch=EPOCH,
                job=self.compiled.graph.job,
                attempt=Attempt(self.attempt),
                checkpoint=checkpoint,
                triggered_ms=self.clock.wall_ms(),
                base=CheckpointId(0) if self.latest is None or kind.is_savepoint else self.latest[0],
                options=SnapshotOptions(kind=kind, alignment=alignment, aligned_timeout_ms=timeout_ms),
                storage_id=self.coordinator_storage_id,
            )
        )
        return checkpoint

    def acks(self, checkpoint: CheckpointId) -> list[AcknowledgeCheckpoint]:
        return [e for e in self.events if isinstance(e, AcknowledgeCheckpoint) and e.checkpoint == checkpoint]

    def finalize(self, checkpoint: CheckpointId, *, notify: bool = True) -> None:
        """What the coordinator does once everybody has acknowledged."""
        graph = self.compiled.graph
        acks = self.acks(checkpoint)
        expected = sum(v.parallelism for v in graph.vertices if not v.is_committer)
        finished = {
            SubtaskId(vertex.vertex, index)
            for vertex in graph.vertices
            for index in range(vertex.parallelism)
            if not vertex.is_committer and self.state(vertex.vertex, index) is SubtaskState.FINISHED
        } - {SubtaskId(ack.vertex, ack.subtask) for ack in acks}
        assert len(acks) + len(finished) == expected, f"{len(acks)} of {expected} acknowledgements"
        states: dict[str, dict[int, OperatorSubtaskState]] = {}
        for subtask in finished:
            for node in graph.vertex(subtask.vertex).operators:
                states.setdefault(node.operator_id, {})[subtask.subtask] = OperatorSubtaskState(finished=True)
        for ack in acks:
            for snapshot in ack.operators:
                states.setdefault(snapshot.operator, {})[ack.subtask] = snapshot.state
        operators: list[OperatorState] = []
        for vertex in graph.vertices:
            for node in vertex.operators:
                subtasks = dict(sorted(states.get(node.operator_id, {}).items()))
                is_finished = len(subtasks) == vertex.parallelism and all(s.finished for s in subtasks.values())
                operators.append(
                    OperatorState(
                        operator=node.operator_id,
                        uid=node.uid,
                        name=node.name,
                        parallelism=vertex.parallelism,
                        max_parallelism=graph.max_parallelism,
                        subtasks={} if is_finished else subtasks,
                        fully_finished=is_finished,
                    )
                )
        data = encode_metadata(CheckpointMetadata(checkpoint=checkpoint, operators=tuple(operators)))
        self.storage.write(metadata_path(graph.job, checkpoint), data)
        self.latest = (checkpoint, Attempt(self.attempt))
        if notify:
            self.notify(checkpoint)

    def notify(self, checkpoint: CheckpointId) -> None:
        graph = self.compiled.graph
        self.send(
            NotifyCheckpointComplete(epoch=EPOCH, job=graph.job, attempt=Attempt(self.attempt), checkpoint=checkpoint)
        )

    def abort(self, checkpoint: CheckpointId) -> None:
        graph = self.compiled.graph
        self.send(
            NotifyCheckpointAborted(epoch=EPOCH, job=graph.job, attempt=Attempt(self.attempt), checkpoint=checkpoint)
        )

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self, steps: int = 60, until: Callable[[], bool] = lambda: False) -> None:
        for _ in range(steps):
            for worker, executor, _ in self.workers:
                worker.step()
                executor.run_all()
            self.clock.advance(5)
            self._read_events()
            if until():
                return

    def checkpoint_now(self) -> CheckpointId:
        """A whole checkpoint, with what its completion sets off."""
        checkpoint = self.trigger()
        self.run(30)
        self.finalize(checkpoint)
        self.run(20)
        return checkpoint

    def started(self) -> None:
        """Deploy and see every subtask run."""
        self.deploy()
        self.run(20)
        states = [e for e in self.of(SubtaskStateChanged) if e.attempt == self.attempt]
        assert {e.state for e in states} == {SubtaskState.RUNNING}, self.failures()
        running = {(e.vertex, e.subtask) for e in states}
        assert len(running) == sum(v.parallelism for v in self.compiled.graph.vertices)

    def kill(self, index: int, *, keep_in_flight: bool = False) -> None:
        _, _, log = self.workers.pop(index)
        log.kill(keep_in_flight=keep_in_flight)

    def _read_events(self) -> None:
        records = self.cluster.records(EVENTS_TOPIC)
        for record in records[self._events_read :]:
            event = control.decode(record.value or b"", control.EVENTS)
            if not isinstance(event, WorkerHeartbeat):
                self.events.append(event)
        self._events_read = len(records)

    def of(self, kind: type[Any]) -> list[Any]:
        return [e for e in self.events if isinstance(e, kind)]

    def state(self, vertex: str, subtask: int) -> SubtaskState | None:
        """What was reported last in the present attempt."""
        states = [
            e.state
            for e in self.of(SubtaskStateChanged)
            if (e.attempt, e.vertex, e.subtask) == (self.attempt, vertex, subtask)
        ]
        return states[-1] if states else None

    def finished(self) -> dict[str, int]:
        """Vertex -> its subtasks that have finished in the present attempt."""
        return dict(
            Counter(
                e.vertex
                for e in self.of(SubtaskStateChanged)
                if e.attempt == self.attempt and e.state is SubtaskState.FINISHED
            )
        )

    def failures(self) -> list[SubtaskStateChanged]:
        return [e for e in self.of(SubtaskStateChanged) if e.state is SubtaskState.FAILED]

    def committed(self) -> set[int]:
        return {e.checkpoint for e in self.of(SinkCommitted)}

    def declined(self) -> list[DeclineCheckpoint]:
        return self.of(DeclineCheckpoint)

    def contexts(self) -> list[TaskContext]:
        return [context for worker, _, _ in self.workers for context in worker.contexts()]

    def append(self, topic: str, partition: int, *values: bytes | None, **options: Any) -> None:
        for value in values:
            self.cluster.append(TopicPartition(topic, partition), value, **options)

    def values(self, topic: str = "totals") -> list[bytes | None]:
        """Committed values of a topic, sorted."""
        return sorted((r.value for r in self.cluster.records(topic)), key=lambda value: value or b"")
