"""The worker: deployments of jobs on this process, and what is said between them and the coordinator.

One loop calls ``step``; everything else happens in it. A worker decides nothing about a job: it runs what the newest
coordinator tells it to, tells what became of it, and goes on when it hears nothing. Commands of an older epoch, and
everything about an older attempt, are dropped and counted.

A subtask is started by the DeployJob of the attempt that it calls its own, and by no other. A later one lets it go on
and starts others beside it, if its lineage says that the subtask's vertex runs in that attempt still. What should go on
and is not here can't be brought back: it is reported as failed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import xxhash

from moorage.api.compiler import CompiledPipeline
from moorage.api.connectors import KafkaSource
from moorage.api.keyed_state import KeyedState
from moorage.api.operators import KeyByOperator, ProcessOperator, SinkOperator
from moorage.backends.keyed import KeyedBackend
from moorage.backends.memory import MemoryKeyedBackend
from moorage.backends.rocksdb import RocksDbKeyedBackend
from moorage.backends.rocksdb_environment import Owner, RocksDbEnvironment
from moorage.errors import CorruptDataError, LogError, MoorageError, PipelineError, StorageError
from moorage.graph.job_graph import ExchangeKind
from moorage.graph.lineage import running_attempts
from moorage.ids import Attempt, Epoch, JobId, OperatorUid, SubtaskId, TopicPartition, VertexId, WorkerId
from moorage.messages.commands import (
    CancelJob,
    Command,
    CoordinatorHeartbeat,
    DeployJob,
    NotifyCheckpointAborted,
    NotifyCheckpointComplete,
    OperatorCommand,
    ReportStatus,
    TriggerCheckpoint,
)
from moorage.messages.events import (
    DeclineReason,
    Event,
    ExchangeProgress,
    RunningSubtask,
    SubtaskState,
    SubtaskStateChanged,
    WorkerHeartbeat,
)
from moorage.naming import COMMANDS_TOPIC, EVENTS_TOPIC, PROGRESS_TOPIC, folder_of
from moorage.ports import CheckpointStorage, Clock, Executor, Log, LogReader, LogWriter, OffsetSpec, Partitioner
from moorage.serde import control
from moorage.serde.metadata import decode_metadata
from moorage.state.key_groups import key_group_range
from moorage.state.operator_state import CheckpointMetadata
from moorage.state.places import check_places
from moorage.task.chain import Chain
from moorage.task.committer import CommitterSubtask
from moorage.task.context import TaskContext, TaskCounters, TaskSettings
from moorage.task.fates import Fates
from moorage.task.local_recovery import LocalCopies, LocalRecovery
from moorage.task.outputs import Outputs
from moorage.task.reading import ReadingSubtask
from moorage.task.snapshots import decline
from moorage.task.source import SourceReader, SourceSubtask
from moorage.task.state_writer import StateWriter
from moorage.task.subtask import TERMINAL, Subtask, describe, is_permanent
from moorage.topics import control_topics

_CONTROL_MESSAGES_PER_STEP = 500
_NOTHING_DONE = TaskCounters()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    worker: WorkerId
    slots: int
    heartbeat_interval_ms: int
    task: TaskSettings
    host: str = ""
    metrics_port: int = 0
    storage_id: str = ""
    """Of the checkpoint storage; empty: not compared with the coordinator's."""
    cpu_cores: int = 0
    """That the worker may use; 0: not known."""
    memory_bytes: int = 0
    """Of the machine; 0: not known."""

    def heartbeat(self, epoch: Epoch, sent_ms: int) -> WorkerHeartbeat:
        """What every heartbeat says, whoever sends it; of subtasks nothing yet."""
        return WorkerHeartbeat(
            worker=self.worker,
            epoch=epoch,
            slots=self.slots,
            subtasks=(),
            sent_ms=sent_ms,
            host=self.host,
            metrics_port=self.metrics_port,
            cpu_cores=self.cpu_cores,
            memory_bytes=self.memory_bytes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerHooks:
    """What the process around the worker provides."""

    load_pipeline: Callable[[str], CompiledPipeline]
    """*Blocking.* Import and compile by reference."""
    new_source_reader: Callable[[TaskContext, OperatorUid, KafkaSource], SourceReader]
    warn: Callable[[str], None]
    failpoint: Callable[[str], None]
    local_copies: LocalCopies | None = None
    """None: state is always restored from the storage."""
    rocksdb: RocksDbEnvironment | None = None
    """None: this process keeps no state in RocksDB."""
    failed: Callable[[Exception], None] | None = None
    """Told what a subtask failed with, besides the coordinator."""


@dataclass(slots=True, kw_only=True)
class WorkerCounters:
    commands: int = 0
    stale_commands: int = 0
    malformed_messages: int = 0
    deployments: int = 0
    failures: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Run:
    """What this worker runs that was started together, in one attempt."""

    command: DeployJob
    attempt: Attempt
    planned: list[SubtaskId]
    """The subtasks that are ours."""
    fates: Fates
    writer: LogWriter | None = None
    """None: nothing was ever started."""
    subtasks: list[Subtask] = field(default_factory=list)
    """Empty until pipeline and metadata are loaded."""
    failed: bool = False
    """Loading failed: nothing runs."""

    def of(self, vertex: VertexId) -> list[SubtaskId]:
        return [subtask for subtask in self.planned if subtask.vertex == vertex]

    def drop(self, dropped: Collection[SubtaskId]) -> None:
        """Let go of some subtasks."""
        self.planned = [subtask for subtask in self.planned if subtask not in dropped]
        for subtask in [s for s in self.subtasks if s.context.id in dropped]:
            subtask.close()
            self.subtasks.remove(subtask)
        if not self.planned and self.writer is not None:
            self.writer.close()

    def running(self, deployed: Attempt) -> Iterator[RunningSubtask]:
        """Each subtask. ``deployed``: the newest attempt of the job."""
        subtasks = {subtask.context.id: subtask for subtask in self.subtasks}
        missing = SubtaskState.FAILED if self.failed else SubtaskState.INITIALIZING
        for planned in self.planned:
            subtask = subtasks.get(planned)
            counters = _NOTHING_DONE if subtask is None else subtask.context.counters
            yield RunningSubtask(
                job=self.command.job,
                attempt=self.attempt,
                vertex=planned.vertex,
                subtask=planned.subtask,
                state=missing if subtask is None else subtask.state,
                data_ended=subtask is not None and subtask.data_ended,
                deployed=deployed,
                records_in=counters.records_in,
                records_out=counters.records_out,
                bytes_in=counters.bytes_in,
                bytes_out=counters.bytes_out,
                parallelism=self.command.graph.vertex(planned.vertex).parallelism,
            )


@dataclass(slots=True, kw_only=True)
class Deployment:
    """What this worker runs of one job."""

    command: DeployJob
    """The newest."""
    runs: list[Run] = field(default_factory=list)
    """One for each attempt of which something runs."""

    @property
    def subtasks(self) -> Sequence[Subtask]:
        return [subtask for run in self.runs for subtask in run.subtasks]

    def drop(self, subtasks: Collection[SubtaskId]) -> None:
        for run in self.runs:
            run.drop(subtasks)
        self.runs = [run for run in self.runs if run.planned]


class WorkerProcess:
    """One incarnation of a worker on the given ports."""

    def __init__(
        self,
        config: WorkerConfig,
        log: Log,
        storage: CheckpointStorage,
        executor: Executor,
        clock: Clock,
        hooks: WorkerHooks,
    ) -> None:
        self._config = config
        self._log = log
        self._storage = storage
        self._executor = executor
        self._clock = clock
        self._hooks = hooks
        self._epoch = Epoch(0)
        self._deployments: dict[JobId, Deployment] = {}
        self._attempts: dict[JobId, Attempt] = {}
        """The newest attempt heard of, running here or not."""
        self._control = log.writer(f"{config.worker}.control")
        self._commands: LogReader | None = None
        self._progress: LogReader | None = None
        self._next_heartbeat_ms = 0
        self._failure: Exception | None = None
        self._local = None if hooks.local_copies is None else LocalRecovery(hooks.local_copies, executor)
        self._state_writer = StateWriter(
            worker=config.worker,
            storage=storage,
            executor=executor,
            clock=clock,
            limits=config.task.state_files,
            copies=hooks.local_copies,
        )
        self.counters = WorkerCounters()
        self._start()

    def _start(self) -> None:
        """Begin at the end of the commands: what was said before this incarnation existed is not meant for it."""
        topics = [TopicPartition(COMMANDS_TOPIC, 0), TopicPartition(PROGRESS_TOPIC, 0)]

        def found(ends: Mapping[TopicPartition, int] | None, error: Exception | None) -> None:
            if ends is None:
                self._failure = error or MoorageError("the control topics were not found")
                return
            commands, progress = topics
            self._commands = self._log.reader(f"{self._config.worker}.commands")
            self._commands.assign({commands: ends[commands]})
            self._progress = self._log.reader(f"{self._config.worker}.progress")
            self._progress.assign({progress: ends[progress]})

        def find() -> Mapping[TopicPartition, int]:
            self._log.create_topics(control_topics())
            return self._log.offsets(topics, OffsetSpec.LATEST)

        self._executor.submit(find, found)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """Do a bounded amount of work; True when there was some. Raises what the process can't go on after."""
        if self._failure is not None:
            raise self._failure
        if self._commands is None or self._progress is None:
            return False
        worked = self._read_commands(self._commands)
        worked = self._read_progress(self._progress) or worked
        for run in [run for deployment in self._deployments.values() for run in deployment.runs]:
            if run.writer is not None:
                run.writer.poll()
            for subtask in list(run.subtasks):
                worked = self._step_subtask(subtask) or worked
        self._state_writer.poll()
        self._control.poll()
        now_ms = self._clock.monotonic_ms()
        if now_ms >= self._next_heartbeat_ms:
            self._heartbeat()
        return worked

    def _step_subtask(self, subtask: Subtask) -> bool:
        if subtask.state in TERMINAL:
            return False
        try:
            return subtask.step(self._clock.monotonic_ms())
        except Exception as error:  # noqa: BLE001 - as _failing
            self._fail(subtask, error)
            return True

    @contextmanager
    def _failing(self, subtask: Subtask) -> Iterator[None]:
        """Whatever is raised ends the subtask, not the worker; the coordinator is told, with the trace."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - as the docstring says
            self._fail(subtask, error)

    def _fail(self, subtask: Subtask, error: Exception) -> None:
        self._count_failure(error)
        subtask.fail(error)

    def _count_failure(self, error: Exception) -> None:
        self.counters.failures += 1
        if self._hooks.failed is not None:
            self._hooks.failed(error)

    def leave(self) -> None:
        """Say goodbye; the loop should go on for a moment so that it is sent."""
        self._heartbeat(leaving=True)

    @property
    def unsent_bytes(self) -> int:
        """Control messages that the broker has not confirmed."""
        return self._control.pending_bytes

    def close(self) -> None:
        for deployment in list(self._deployments.values()):
            self._stop(deployment)
        for reader in (self._commands, self._progress):
            if reader is not None:
                reader.close()
        self._control.close()

    def subtasks(self) -> Iterator[Subtask]:
        """Everything that runs."""
        for deployment in self._deployments.values():
            yield from deployment.subtasks

    def contexts(self) -> Iterator[TaskContext]:
        """Contexts of everything that runs, for metrics."""
        for subtask in self.subtasks():
            yield subtask.context

    @property
    def epoch(self) -> Epoch:
        return self._epoch

    @property
    def running_subtasks(self) -> int:
        return sum(len(d.subtasks) for d in self._deployments.values())

    # --- what is heard -----------------------------------------------------------------------------------------------

    def _read_commands(self, reader: LogReader) -> bool:
        messages = reader.poll(_CONTROL_MESSAGES_PER_STEP)
        for message in messages:
            try:
                command = control.decode(message.value, control.COMMANDS)
            except MoorageError as error:
                self._malformed(COMMANDS_TOPIC, message.offset, error)
                continue
            self.counters.commands += 1
            self.handle(command)
        return bool(messages)

    def _read_progress(self, reader: LogReader) -> bool:
        messages = reader.poll(_CONTROL_MESSAGES_PER_STEP)
        for message in messages:
            try:
                progress = control.decode(message.value, control.PROGRESS)
            except MoorageError as error:
                self._malformed(PROGRESS_TOPIC, message.offset, error)
                continue
            deployment = self._deployments.get(progress.job)
            for run in () if deployment is None else deployment.runs:
                if run.attempt == progress.attempt:
                    for subtask in run.subtasks:
                        subtask.progress(progress)
        return bool(messages)

    def _malformed(self, topic: str, offset: int, error: Exception) -> None:
        self.counters.malformed_messages += 1
        self._hooks.warn(f"{topic} offset {offset} is skipped: {error}")

    def handle(self, command: Command) -> None:
        """One command of the coordinator."""
        if command.epoch < self._epoch:
            self.counters.stale_commands += 1
            return
        self._epoch = command.epoch
        match command:
            case DeployJob():
                self._deploy(command)
            case CancelJob():
                self._cancel(command)
            case TriggerCheckpoint():
                self._trigger(command)
            case NotifyCheckpointComplete():
                self._tell_fate(command, completed=True)
            case NotifyCheckpointAborted():
                self._tell_fate(command, completed=False)
            case OperatorCommand():
                self._operator_command(command)
            case CoordinatorHeartbeat():
                self._hear(command)
            case ReportStatus():
                self._heartbeat()

    def _current(self, job: JobId, attempt: Attempt) -> Deployment | None:
        """The deployment that a command is about; None when it is about another attempt, and then it is counted."""
        deployment = self._deployments.get(job)
        if deployment is None:
            return None
        if deployment.command.attempt != attempt:
            self.counters.stale_commands += 1
            return None
        return deployment

    def _trigger(self, command: TriggerCheckpoint) -> None:
        deployment = self._current(command.job, command.attempt)
        if deployment is None:
            return
        if (elsewhere := self._elsewhere(command.storage_id)) is not None:
            # A leader took over whose storage is not ours: no checkpoint may lie half here and half there.
            for subtask in deployment.subtasks[:1]:
                decline(subtask.context, command.checkpoint, DeclineReason.STORAGE, elsewhere)
            return
        for subtask in deployment.subtasks:
            with self._failing(subtask):
                try:
                    subtask.trigger(command)
                except Exception as error:
                    decline(subtask.context, command.checkpoint, DeclineReason.INTERNAL, str(error))
                    raise

    def _elsewhere(self, storage_id: str) -> str | None:
        """What is wrong when the coordinator's checkpoint storage is another one than ours."""
        ours = self._config.storage_id
        if not storage_id or not ours or storage_id == ours:
            return None
        return (
            f"the checkpoint storage of {self._config.worker} is not the coordinator's (a folder of each machine's own,"
            " perhaps): MOORAGE_CHECKPOINT_DIR must name one that all services share"
        )

    def _operator_command(self, command: OperatorCommand) -> None:
        deployment = self._deployments.get(command.job)
        runs = [] if deployment is None else [run for run in deployment.runs if run.of(command.vertex)]
        self.counters.stale_commands += any(run.attempt != command.attempt for run in runs)
        for subtask in [s for run in runs if run.attempt == command.attempt for s in run.subtasks]:
            context = subtask.context
            if context.vertex.vertex == command.vertex and command.subtask in (None, context.subtask):
                with self._failing(subtask):
                    subtask.operator_event(command.operator, command.payload)

    def _tell_fate(self, command: NotifyCheckpointComplete | NotifyCheckpointAborted, *, completed: bool) -> None:
        deployment = self._current(command.job, command.attempt)
        if deployment is None:
            return
        for run in deployment.runs:
            if completed:
                run.fates.completed(command.checkpoint)
            else:
                run.fates.aborted(command.checkpoint)
        if self._local is not None:
            tell = self._local.completed if completed else self._local.aborted
            tell(command.job, command.checkpoint)
        for subtask in deployment.subtasks:
            with self._failing(subtask):
                if completed:
                    subtask.completed(command.checkpoint)
                else:
                    subtask.aborted(command.checkpoint)

    def _hear(self, heartbeat: CoordinatorHeartbeat) -> None:
        for fates in heartbeat.jobs:
            deployment = self._deployments.get(fates.job)
            if deployment is None:
                continue
            if fates.attempt > deployment.command.attempt:
                self._stop(deployment)
            elif fates.attempt == deployment.command.attempt:
                for run in deployment.runs:
                    run.fates.heard(fates)

    # --- deployments -------------------------------------------------------------------------------------------------

    def _deploy(self, command: DeployJob) -> None:
        if command.attempt <= self._attempts.get(command.job, Attempt(0)):
            self.counters.stale_commands += 1
            return
        self._attempts[command.job] = command.attempt
        deployment = self._deployments.setdefault(command.job, Deployment(command=command))
        deployment.command = command
        attempts = running_attempts(command.lineage)
        planned = list(self._planned(command))
        goes_on = {s for s in planned if attempts.get(s.vertex, command.attempt) < command.attempt}
        present = {s for run in deployment.runs for s in run.planned if run.attempt == attempts.get(s.vertex)}
        deployment.drop({s for run in deployment.runs for s in run.planned} - (goes_on & present))
        self._miss(deployment, goes_on - present, attempts)
        if started := [subtask for subtask in planned if subtask not in goes_on]:
            self._start_run(deployment, started)
        if not planned:
            del self._deployments[command.job]
            return
        self._heartbeat()

    def _planned(self, command: DeployJob) -> Iterator[SubtaskId]:
        """What is ours."""
        slots = [slot for slot, worker in enumerate(command.slots) if worker == self._config.worker]
        for vertex in command.graph.vertices:
            for slot in slots:
                if slot < vertex.parallelism:
                    yield SubtaskId(vertex.vertex, slot)

    def _miss(
        self, deployment: Deployment, missing: Collection[SubtaskId], attempts: Mapping[VertexId, Attempt]
    ) -> None:
        """These should go on, and are not here: an earlier command was lost, or they were stopped meanwhile. What they
        held is gone, so nothing may be started in their place but by another attempt."""
        for attempt in sorted({attempts[subtask.vertex] for subtask in missing}):
            lost = sorted(subtask for subtask in missing if attempts[subtask.vertex] == attempt)
            run = Run(command=deployment.command, attempt=attempt, planned=lost, fates=Fates(), failed=True)
            deployment.runs.append(run)
            self._report_failed(run, MoorageError(f"attempt {attempt} of it does not run on this worker (any more)"))

    def _start_run(self, deployment: Deployment, planned: list[SubtaskId]) -> None:
        command = deployment.command
        self.counters.deployments += 1
        writer = self._log.writer(f"{self._config.worker}.{command.job}.a{command.attempt}")
        run = Run(command=command, attempt=command.attempt, planned=planned, fates=Fates(), writer=writer)
        deployment.runs.append(run)

        def loaded(result: tuple[CompiledPipeline, CheckpointMetadata | None] | None, error: Exception | None) -> None:
            present = self._deployments.get(command.job)
            if present is None or run not in present.runs:
                return
            if result is None:
                self._loading_failed(run, error or MoorageError("the deployment was not loaded"))
                return
            try:
                self._build(run, *result)
            except Exception as failure:  # noqa: BLE001 - as in step
                self._loading_failed(run, failure)

        self._executor.submit(lambda: self._load(command), loaded)

    def _load(self, command: DeployJob) -> tuple[CompiledPipeline, CheckpointMetadata | None]:
        """*Blocking.* The user's code and the checkpoint."""
        if (elsewhere := self._elsewhere(command.storage_id)) is not None:
            raise StorageError(elsewhere)
        pipeline = self._hooks.load_pipeline(command.graph.pipeline_ref)
        if pipeline.graph.fingerprint != command.graph.fingerprint:
            raise PipelineError(
                f"{command.graph.pipeline_ref} on this worker is another pipeline than the one that was submitted:"
                " bring the same code to all workers and restart them, or cancel the job and submit it to begin anew"
            )
        if command.restore_path is None:
            return pipeline, None
        data = self._storage.read(command.restore_path)
        if command.restore_checksum is not None and xxhash.xxh3_64_intdigest(data) != command.restore_checksum:
            raise CorruptDataError(f"{command.restore_path}: wrong checksum")
        folder = folder_of(command.restore_path)
        metadata = decode_metadata(data, folder)
        check_places(metadata, folder)
        return pipeline, metadata

    def _build(self, run: Run, pipeline: CompiledPipeline, metadata: CheckpointMetadata | None) -> None:
        assert run.writer is not None
        for planned in run.planned:
            context = TaskContext(
                deploy=run.command,
                vertex=run.command.graph.vertex(planned.vertex),
                subtask=planned.subtask,
                worker=self._config.worker,
                pipeline=pipeline,
                log=self._log,
                writer=run.writer,
                storage=self._storage,
                state_writer=self._state_writer,
                local=self._local,
                executor=self._executor,
                clock=self._clock,
                fates=run.fates,
                metadata=metadata,
                settings=self._config.task,
                report=self._report,
                publish=self._publish,
                warn=self._hooks.warn,
                failpoint=self._hooks.failpoint,
                rocksdb=self._hooks.rocksdb,
            )
            run.subtasks.append(self._subtask(context))
        for subtask in run.subtasks:
            subtask.start()

    def _subtask(self, context: TaskContext) -> Subtask:
        vertex = context.vertex
        if vertex.is_committer:
            return CommitterSubtask(context)
        if vertex.is_source:
            return SourceSubtask(context, self._source_reader, new_chain)
        return ReadingSubtask(context, new_chain)

    def _source_reader(self, context: TaskContext) -> SourceReader:
        uid = context.vertex.operators[0].uid
        operator = context.pipeline.operators[uid]
        return self._hooks.new_source_reader(context, uid, operator.source)  # type: ignore[union-attr]

    def _loading_failed(self, run: Run, error: Exception) -> None:
        self._count_failure(error)
        run.failed = True
        for subtask in run.subtasks:
            subtask.close()
        run.subtasks = []
        self._report_failed(run, error)

    def _report_failed(self, run: Run, error: Exception) -> None:
        failure, trace = describe(error)
        for subtask in run.planned:
            self._report(
                SubtaskStateChanged(
                    worker=self._config.worker,
                    job=run.command.job,
                    attempt=run.attempt,
                    vertex=subtask.vertex,
                    subtask=subtask.subtask,
                    state=SubtaskState.FAILED,
                    failure=failure,
                    trace=trace,
                    permanent=is_permanent(error),
                )
            )

    def _cancel(self, command: CancelJob) -> None:
        self._attempts[command.job] = max(command.attempt, self._attempts.get(command.job, Attempt(0)))
        deployment = self._deployments.get(command.job)
        if deployment is None or deployment.command.attempt > command.attempt:
            return
        for run in list(deployment.runs):
            cancelled = [s for s in run.planned if not command.vertices or s.vertex in command.vertices]
            for subtask in cancelled:
                self._report(
                    SubtaskStateChanged(
                        worker=self._config.worker,
                        job=command.job,
                        attempt=run.attempt,
                        vertex=subtask.vertex,
                        subtask=subtask.subtask,
                        state=SubtaskState.CANCELED,
                    )
                )
            deployment.drop(cancelled)
        if not deployment.runs:
            self._stop(deployment)

    def _stop(self, deployment: Deployment) -> None:
        deployment.drop({subtask for run in deployment.runs for subtask in run.planned})
        if self._deployments.get(deployment.command.job) is deployment:
            del self._deployments[deployment.command.job]

    # --- what is said ------------------------------------------------------------------------------------------------

    def _report(self, event: Event) -> None:
        self._control.append(EVENTS_TOPIC, 0, control.encode(event), self._delivered)

    def _publish(self, progress: ExchangeProgress) -> None:
        self._control.append(PROGRESS_TOPIC, 0, control.encode(progress), self._delivered)

    def _delivered(self, _: int, error: LogError | None) -> None:
        # A lost event heals: heartbeats repeat states, a lost acknowledgement lets its checkpoint time out.
        if error is not None:
            self._hooks.warn(f"a control message was not sent: {error}")

    def _heartbeat(self, *, leaving: bool = False) -> None:
        config, clock = self._config, self._clock
        self._next_heartbeat_ms = clock.monotonic_ms() + config.heartbeat_interval_ms
        message = config.heartbeat(self._epoch, clock.wall_ms())
        self._report(msgspec.structs.replace(message, subtasks=tuple(self._running()), leaving=leaving))

    def _running(self) -> Iterator[RunningSubtask]:
        for deployment in self._deployments.values():
            for run in deployment.runs:
                yield from run.running(deployment.command.attempt)


def new_chain(context: TaskContext, outputs: Outputs) -> Chain:
    """The operators of a vertex, wired to its outputs."""
    graph, vertex, is_sparse = context.deploy.graph, context.vertex, context.state_writer.space.is_sparse

    def new_writer(operator: SinkOperator) -> Any:
        return context.log.record_writer(
            f"{context.name}.{operator.uid}", partitioner=Partitioner(operator.sink.partitioner)
        )

    def new_backend(operator: ProcessOperator) -> KeyedBackend[Any, KeyedState]:
        producers = [context.pipeline.operators[graph.exchange(e).producer_operator] for e in vertex.inputs]
        key_type = next(p.key_type for p in producers if isinstance(p, KeyByOperator))  # all are keyed alike
        groups = key_group_range(graph.max_parallelism, context.parallelism, context.subtask)
        if graph.state.backend == "memory":
            return MemoryKeyedBackend(
                operator.uid,
                groups,
                key_type,
                operator.state_type,
                restore_threads=context.settings.restore_threads,
                is_sparse=is_sparse,
            )
        if context.rocksdb is None:
            raise PipelineError(f"job {context.job} keeps its state in RocksDB, which this worker has no folder for")
        owner = Owner(context.job, vertex.vertex, context.subtask)
        return RocksDbKeyedBackend(
            operator.uid, groups, key_type, operator.state_type, context.rocksdb, owner, is_sparse=is_sparse
        )

    operators, clock = context.pipeline.operators, context.clock
    broadcasts = [e for e in vertex.inputs if graph.exchange(e).kind is ExchangeKind.BROADCAST]
    return Chain(vertex, operators, outputs.by_operator, new_writer, new_backend, clock.wall_ms, broadcasts)
