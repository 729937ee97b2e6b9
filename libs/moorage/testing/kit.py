"""Run a pipeline in memory, with everything that can go wrong said in the test's input.

::

    from moorage.testing.kit import KillWorker, Rescale, run_pipeline

    def test_totals_survive_a_crash():
        results = run_pipeline(pipeline, {"orders": [
            {"user": "ann", "amount": 2},
            KillWorker(),
            {"user": "ann", "amount": 3},
            Rescale(3),
        ]})
        assert [row["total"] for row in results["totals"]] == [2, 3]

The pipeline runs as it does in production: the same coordinator, workers, frames, barriers, transactions and state, on
twins of Kafka, Redis and the storage and on virtual time, so a test takes milliseconds and gives the same every time.
What is returned is what a read-committed reader of the output topics sees in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from moorage.api.compiler import CompiledPipeline, compile_pipeline
from moorage.api.connectors import KafkaSink, KafkaSource
from moorage.api.operators import SinkOperator, SourceOperator
from moorage.api.pipeline import Pipeline
from moorage.api.traces import user_traceback
from moorage.checkpoint.notices import CheckpointDone, CheckpointFailed
from moorage.checkpoint.reasons import CheckpointFailureReason
from moorage.cluster.coordinator import CoordinatorCore
from moorage.cluster.protocol import (
    CheckpointRequested,
    ClientRequest,
    ClusterConfig,
    JobAccepted,
    RescaleRequested,
    RestoreFrom,
    StopWithSavepointRequested,
    SubmitJob,
)
from moorage.connectors.kafka_source import KafkaSourceReader
from moorage.connectors.kafka_source_coordinator import OPERATOR_COORDINATORS
from moorage.coordinator_process.process import CoordinatorProcess
from moorage.errors import MoorageError, UserCodeError
from moorage.ids import TopicPartition, WorkerId
from moorage.messages.registry import JobRecord, JobStatus
from moorage.naming import CONTROL_TOPICS
from moorage.ports import TopicSpec
from moorage.task.context import TaskSettings
from moorage.task.worker import WorkerConfig, WorkerHooks, WorkerProcess
from moorage.testing.clocks import ManualClock
from moorage.testing.executor import InlineExecutor
from moorage.testing.memory_log import MemoryCluster, MemoryLog, StoredRecord
from moorage.testing.memory_registry import MemoryRegistry
from moorage.testing.memory_storage import MemoryStorage

WORKERS = 2
SLOTS = 8
PARTITIONS = 2
STEP_MS = 5
SETTLE_MS = 200
"""An attempt that runs for so long has processed all that was there."""
TIMEOUT_MS = 120_000
"""Of virtual time, for each thing that is waited for."""


class PipelineTestError(MoorageError):
    """The pipeline did not get where the test wanted it; says why its last attempt failed. An error of the pipeline's
    own code is the ``__cause__``, with its traceback."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Go on when everything so far is processed, covered by a checkpoint and committed."""


@dataclass(frozen=True, slots=True)
class KillWorker:
    """SIGKILL: a worker ends without a word, and its replacement starts. ``worker``: its number."""

    worker: int = 0


@dataclass(frozen=True, slots=True)
class KillCoordinator:
    """The coordinator ends without a word, and another one takes over."""


@dataclass(frozen=True, slots=True)
class Rescale:
    """Go on with this parallelism of every operator."""

    parallelism: int


@dataclass(frozen=True, slots=True)
class StopAndRestore:
    """Stop with a savepoint and start from it, with another version of the pipeline perhaps."""

    pipeline: Pipeline | None = None
    allow_non_restored: bool = False


Action = Checkpoint | KillWorker | KillCoordinator | Rescale | StopAndRestore


@dataclass(frozen=True, slots=True)
class Record:
    """An input record whose key, timestamp or bytes matter; ``value`` bytes are taken as they are."""

    value: Any
    key: bytes | None = None
    timestamp_ms: int | None = None
    partition: int | None = None
    """None: one after the other."""


def run_pipeline(
    pipeline: Pipeline, inputs: Mapping[str, Sequence[Any]], *, workers: int = WORKERS, restarts: bool = False
) -> dict[str, list[Any]]:
    """The committed records of each output topic, decoded from JSON where they are JSON, by partition and offset.

    ``inputs``: for each input topic its records, as values that JSON can write or as ``Record``, with actions between
    them. The topics are gone through in turn, one item of each. The pipeline is drained in the end. PipelineTestError
    when it does not get there.

    ``restarts``: an error of the pipeline's own code is left to its restart strategy, as in production. Without, the
    first one ends the test, with the code's own traceback; faults that the inputs ask for never do.
    """
    __tracebackhide__ = True  # for pytest: what follows is no code of the test's
    try:
        return _run(pipeline, inputs, workers=workers, restarts=restarts)
    except PipelineTestError as error:
        raise error.with_traceback(None)  # noqa: B904 - the same error, without our frames


def _run(
    pipeline: Pipeline, inputs: Mapping[str, Sequence[Any]], *, workers: int, restarts: bool
) -> dict[str, list[Any]]:
    if workers < 1:
        raise PipelineTestError(f"workers={workers}: a pipeline needs at least one")
    for action in (item for items in inputs.values() for item in items if isinstance(item, KillWorker)):
        if not 0 <= action.worker < workers:
            raise PipelineTestError(
                f"{action}: the workers are 0 to {workers - 1}; run_pipeline(..., workers={action.worker + 1}) has more"
            )
    world = _World(pipeline, workers, restarts=restarts)
    world.run_until(world.is_running, "the job does not start")
    queues = {topic: list(items) for topic, items in inputs.items()}
    if unknown := sorted(queues.keys() - set(world.input_topics())):
        raise PipelineTestError(f"the pipeline reads no topic {unknown[0]!r}; it reads {world.input_topics()}")
    while any(queues.values()):
        for topic, items in queues.items():
            if items:
                world.take(topic, items.pop(0))
    world.drain()
    return world.outputs()


class _World:
    def __init__(self, pipeline: Pipeline, workers: int, *, restarts: bool) -> None:
        self._restarts = restarts
        self._user_error: Exception | None = None
        """The first one of the pipeline's own code."""
        self._clock = ManualClock()
        self._cluster = MemoryCluster(self._clock)
        self._registry = MemoryRegistry(self._clock)
        self._storage = MemoryStorage(self._clock)
        self._replies: dict[int, object] = {}
        self._requests = 0
        self._started = 0
        self._turns: dict[str, int] = {}
        self._compiled: CompiledPipeline = compile_pipeline(pipeline, "test:pipeline")
        admin = MemoryLog(self._cluster, "test")
        admin.create_topics([TopicSpec(topic, 1, {}) for topic in CONTROL_TOPICS])
        self._admin = admin
        self._create_topics()
        self._coordinator = self._new_coordinator()
        self._workers = [self._new_worker(number) for number in range(workers)]
        self._submit(None)

    def _create_topics(self) -> None:
        names = {*self.input_topics(), *self._output_topics()}
        self._admin.create_topics([TopicSpec(name, PARTITIONS, {}) for name in sorted(names)])

    def input_topics(self) -> list[str]:
        sources = [o.source for o in self._compiled.operators.values() if isinstance(o, SourceOperator)]
        return sorted({topic for source in sources if isinstance(source, KafkaSource) for topic in source.topics})

    def _output_topics(self) -> list[str]:
        sinks = [o.sink for o in self._compiled.operators.values() if isinstance(o, SinkOperator)]
        dead = [
            o.source.dead_letter_topic
            for o in self._compiled.operators.values()
            if isinstance(o, SourceOperator) and o.source.dead_letter_topic is not None
        ]
        return sorted({*(sink.topic for sink in sinks if isinstance(sink, KafkaSink)), *dead})

    # --- processes ---------------------------------------------------------------------------------------------------

    def _new_coordinator(self) -> tuple[CoordinatorProcess, MemoryLog, InlineExecutor]:
        self._started += 1
        log, executor = MemoryLog(self._cluster, f"coordinator.{self._started}"), InlineExecutor()
        config = ClusterConfig(
            lease_ttl_ms=300,
            heartbeat_interval_ms=50,
            worker_timeout_ms=250,
            adoption_timeout_ms=500,
            deploy_timeout_ms=5_000,
            repeat_interval_ms=100,
        )
        process = CoordinatorProcess(
            CoordinatorCore(f"coordinator.{self._started}", config, lambda: 0.0, OPERATOR_COORDINATORS),
            registry=self._registry,
            storage=self._storage,
            log=log,
            executor=executor,
            clock=self._clock,
            on_reply=self._replies.__setitem__,
        )
        return process, log, executor

    def _new_worker(self, number: int) -> tuple[WorkerProcess, MemoryLog, InlineExecutor]:
        self._started += 1
        log, executor = MemoryLog(self._cluster, f"worker-{number}.{self._started}"), InlineExecutor()
        worker = WorkerProcess(
            WorkerConfig(
                worker=WorkerId(f"worker-{number}/{self._started}"),
                slots=SLOTS,
                heartbeat_interval_ms=50,
                task=TaskSettings(linger_ms=5, idle_linger_ms=0, progress_interval_ms=20),
            ),
            log,
            self._storage,
            executor,
            self._clock,
            WorkerHooks(
                load_pipeline=lambda _: self._compiled,
                new_source_reader=KafkaSourceReader,
                warn=lambda _: None,
                failpoint=lambda _: None,
                failed=self._failed,
            ),
        )
        return worker, log, executor

    def _failed(self, error: Exception) -> None:
        """Everything that Moorage raises by itself is left to the job: it follows from faults, or ends it."""
        if self._user_error is None and (isinstance(error, UserCodeError) or not isinstance(error, MoorageError)):
            self._user_error = error

    def _step(self) -> None:
        self._clock.advance(STEP_MS)
        process, _, executor = self._coordinator
        process.step(self._clock.monotonic_ms())
        executor.run_all()
        for worker, _, calls in self._workers:
            worker.step()
            calls.run_all()

    def run_until(self, condition: Callable[[], bool], complaint: str) -> None:
        end_ms = self._clock.monotonic_ms() + TIMEOUT_MS
        while not condition():
            self._check()
            if self._clock.monotonic_ms() > end_ms:
                self._give_up(f"{complaint} within {TIMEOUT_MS} ms")
            self._step()

    def _check(self) -> None:
        error = self._user_error
        if error is not None and not self._restarts:
            raise PipelineTestError(_text(error)) from _shown(error)
        job = self._job()
        if job is not None and job.status is JobStatus.FAILED:
            self._give_up("the job has failed")

    def _give_up(self, complaint: str) -> NoReturn:
        job = self._job()
        error = self._user_error
        raise PipelineTestError(complaint if job is None else f"{complaint}: {_why(job)}") from (
            None if error is None else _shown(error)
        )

    def _job(self) -> JobRecord | None:
        return next((job for job in self._registry.jobs() if job.job == self._compiled.graph.job), None)

    def is_running(self) -> bool:
        """Every subtask processes."""
        job = self._job()
        if job is None or job.status is not JobStatus.RUNNING:
            return False
        running = sum(worker.running_subtasks for worker, _, _ in self._workers)
        return running == sum(job.graph.parallelism().values())

    # --- what the test's input says ----------------------------------------------------------------------------------

    def take(self, topic: str, item: Any) -> None:
        match item:
            case Checkpoint():
                self._checkpoint()
            case KillWorker(worker=number):
                self._workers[number][1].kill()
                self._workers[number] = self._new_worker(number)
            case KillCoordinator():
                self._coordinator[1].kill()
                self._coordinator = self._new_coordinator()
            case Rescale(parallelism=parallelism):
                job = self._compiled.graph.job
                self._check_parallelism(parallelism)
                self._ask(
                    lambda number: RescaleRequested(request=number, job=job, parallelism=parallelism), JobAccepted
                )
            case StopAndRestore():
                self._stop_and_restore(item)
            case _:
                self._produce(topic, item if isinstance(item, Record) else Record(item))

    def _check_parallelism(self, parallelism: int) -> None:
        """The coordinator would say it, too; but it is asked until it agrees."""
        most, slots = self._compiled.graph.max_parallelism, SLOTS * len(self._workers)
        if not 1 <= parallelism <= most:
            raise PipelineTestError(f"Rescale({parallelism}): use 1 to {most}, the pipeline's max_parallelism")
        if parallelism > slots:
            raise PipelineTestError(
                f"Rescale({parallelism}): the {len(self._workers)} workers have {slots} slots;"
                f" run_pipeline(..., workers={-(-parallelism // SLOTS)}) has enough"
            )

    def _produce(self, topic: str, record: Record) -> None:
        turn = self._turns[topic] = self._turns.get(topic, -1) + 1
        partition = turn % PARTITIONS if record.partition is None else record.partition
        if not 0 <= partition < PARTITIONS:
            raise PipelineTestError(f"{record}: topic {topic!r} has the partitions 0 to {PARTITIONS - 1}")
        value = record.value if isinstance(record.value, bytes | None) else msgspec.json.encode(record.value)
        timestamp_ms = self._clock.wall_ms() if record.timestamp_ms is None else record.timestamp_ms
        self._cluster.append(TopicPartition(topic, partition), value, key=record.key, timestamp_ms=timestamp_ms)
        self._step()

    def _settle(self) -> None:
        """Until everything that was produced is processed: an attempt has run for long enough to read it."""
        attempt = None
        while attempt is None or (job := self._job()) is None or job.attempt != attempt:
            self.run_until(self.is_running, "the job does not run")
            present = self._job()
            attempt = None if present is None else present.attempt
            for _ in range(SETTLE_MS // STEP_MS):
                self._step()

    def _checkpoint(self) -> None:
        job = self._compiled.graph.job
        self._settle()
        self._ask(lambda number: CheckpointRequested(number, job), CheckpointDone)
        self._settle()

    def _stop_and_restore(self, action: StopAndRestore) -> None:
        job = self._compiled.graph.job
        self._settle()
        done = self._ask(lambda number: StopWithSavepointRequested(request=number, job=job), CheckpointDone)
        if action.pipeline is not None:
            self._compiled = compile_pipeline(action.pipeline, "test:pipeline")
            self._create_topics()
        self._submit(RestoreFrom(path=done.path, allow_non_restored=action.allow_non_restored))
        self.run_until(self.is_running, "the restored job does not start")

    def drain(self) -> None:
        """Process everything, commit it, end the job. One without checkpointing has nothing to commit."""
        job = self._compiled.graph.job
        self._settle()
        if self._compiled.graph.checkpoint.enabled:
            self._ask(lambda number: StopWithSavepointRequested(request=number, job=job, drain=True), CheckpointDone)

    def _submit(self, restore: RestoreFrom | None) -> None:
        self._ask(lambda number: SubmitJob(number, self._compiled.graph, restore), JobAccepted)

    def _ask(self, make: Callable[[int], ClientRequest], wanted: type[Any]) -> Any:
        """Ask until the coordinator does it: it may be electing itself, or the job may be on its way back."""
        answer: object = None
        end_ms = self._clock.monotonic_ms() + TIMEOUT_MS
        while not isinstance(answer, wanted):
            if answer is not None and self._clock.monotonic_ms() > end_ms:
                message = answer.message if isinstance(answer, CheckpointFailed) else getattr(answer, "message", answer)
                self._give_up(f"the coordinator refuses: {message}")
            self._requests += 1
            number = self._requests
            self._coordinator[0].request(make(number))
            self.run_until(lambda: number in self._replies, "the coordinator does not answer")  # noqa: B023
            answer = self._replies.pop(number)
            if isinstance(answer, CheckpointFailed) and answer.reason is CheckpointFailureReason.DECLINED_INTERNAL:
                raise PipelineTestError(f"the state can't be stored: {answer.message}")  # now or later
            if not isinstance(answer, wanted):
                self._check()
                self._step()
        return answer

    # --- results -----------------------------------------------------------------------------------------------------

    def outputs(self) -> dict[str, list[Any]]:
        return {topic: [_decoded(r) for r in self._cluster.records(topic)] for topic in self._output_topics()}


def _decoded(record: StoredRecord) -> Any:
    try:
        return msgspec.json.decode(record.value or b"null")
    except msgspec.DecodeError:
        return record.value


def _why(job: JobRecord) -> str:
    newest = next(iter(job.failures), None)
    if newest is None:
        return f"it is {job.status.value}"
    return f"{newest.cause}\n{newest.trace}" if newest.trace else newest.cause


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, UserCodeError) else f"{type(error).__name__}: {error}"


def _shown(error: Exception) -> BaseException:
    """What the pipeline's own code raised, without our frames around it."""
    cause = error if error.__cause__ is None else error.__cause__
    context = cause.__context__
    if context is not None and user_traceback(context) is None:
        cause.__suppress_context__ = True
    return cause.with_traceback(user_traceback(cause))
