"""A small world for the coordinator: the twins of everything outside, and workers that keep to the protocol.

A ``TestWorker`` speaks as a real worker does, but its subtasks process nothing: it shows that it obeys commands, and
what it is told to do wrong (stay silent, decline, fail) it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from moorage.checkpoint.notices import CheckpointCompleted
from moorage.cluster.coordinator import CoordinatorCore
from moorage.cluster.protocol import (
    CancelRequested,
    CheckpointRequested,
    ClientRequest,
    ClusterConfig,
    JobRequested,
    LeaderState,
    OverviewRequested,
    SubmitJob,
)
from moorage.cluster.views import ClusterView, JobView
from moorage.coordinator_process.process import CoordinatorProcess
from moorage.effects import Notice
from moorage.graph.execution import ExecutionState
from moorage.graph.job_graph import JobGraph
from moorage.graph.lineage import running_attempts
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, OperatorUid, SubtaskId, TopicPartition, WorkerId
from moorage.messages.commands import (
    CancelJob,
    Command,
    CoordinatorHeartbeat,
    DeployJob,
    NotifyCheckpointComplete,
    ReportStatus,
    TriggerCheckpoint,
)
from moorage.messages.events import (
    AcknowledgeCheckpoint,
    CheckpointMetrics,
    DeclineCheckpoint,
    DeclineReason,
    Event,
    OperatorSnapshot,
    RunningSubtask,
    SinkCommitted,
    SubtaskState,
    SubtaskStateChanged,
    WorkerHeartbeat,
)
from moorage.messages.registry import JobStatus
from moorage.naming import CLEANUP_TOPIC, COMMANDS_TOPIC, EVENTS_TOPIC, exclusive_state_path, savepoint_state_path
from moorage.serde import control
from moorage.state.handles import FileHandle, KeyGroupsHandle
from moorage.state.key_groups import key_group_range
from moorage.state.operator_state import OperatorSubtaskState
from moorage.testing.clocks import ManualClock
from moorage.testing.executor import InlineExecutor
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage.testing.memory_registry import MemoryRegistry
from moorage.testing.memory_storage import MemoryStorage

CONFIG = ClusterConfig(
    lease_ttl_ms=3_000,
    heartbeat_interval_ms=500,
    worker_timeout_ms=3_000,
    adoption_timeout_ms=2_000,
    deploy_timeout_ms=10_000,
    stop_timeout_ms=5_000,
    repeat_interval_ms=1_000,
)
STEP_MS = 50
STATE_BYTES = 100
"""Of each subtask, in a file."""
M = TypeVar("M", bound=msgspec.Struct)
N = TypeVar("N", bound=Notice)
COMMANDS = TopicPartition(COMMANDS_TOPIC, 0)
EVENTS = TopicPartition(EVENTS_TOPIC, 0)


class TestWorker:
    __test__ = False

    def __init__(self, world: World, name: str, incarnation: str = "1", slots: int = 2) -> None:
        self.worker = WorkerId(f"{name}/{incarnation}")
        self.is_alive = True
        self.is_silent = False
        """Hears and obeys, but says nothing: cut off, not dead."""
        self.busy_ms = 0
        """Above 0: says no more than that it lives, hears nothing, does nothing."""
        self.acknowledges = True
        self.commits = True
        self.writes_state = False
        """The files that it acknowledges exist."""
        self.running: dict[tuple[JobId, Attempt], dict[SubtaskId, SubtaskState]] = {}
        """By the attempt in which they were started."""
        self.obeyed: list[Command] = []
        self._world = world
        self._slots = slots
        self._epoch = Epoch(0)
        self.deployed: dict[JobId, Attempt] = {}
        """The newest attempt."""
        self._graphs: dict[JobId, JobGraph] = {}
        self._pending_start: list[tuple[JobId, Attempt, SubtaskId]] = []
        self._stops: dict[tuple[JobId, Attempt], CheckpointId] = {}
        """Savepoint that an attempt stops with; 0: at once."""
        self._reader = world.worker_log.reader(self.worker)
        self._reader.assign({COMMANDS: world.end_of(COMMANDS)})
        self._heartbeat_at_ms = 0

    def step(self, now_ms: int) -> None:
        if not self.is_alive:
            return
        if self.busy_ms:
            if now_ms >= self._heartbeat_at_ms:
                self.heartbeat()
            return
        for message in self._reader.poll(1_000):
            self._obey(control.decode(message.value, control.COMMANDS))
        started, self._pending_start = self._pending_start, []
        for job, attempt, subtask in started:
            if self.running.get((job, attempt), {}).get(subtask) is SubtaskState.INITIALIZING:
                self.report(job, attempt, subtask, SubtaskState.RUNNING)
                if self._stops.get((job, attempt)) == 0:
                    self.report(job, attempt, subtask, SubtaskState.FINISHED)
        if now_ms >= self._heartbeat_at_ms:
            self.heartbeat()

    def heartbeat(self, *, leaving: bool = False) -> None:
        self._heartbeat_at_ms = self._world.clock.monotonic_ms() + 500
        self.say(
            WorkerHeartbeat(
                worker=self.worker,
                epoch=self._epoch,
                slots=self._slots,
                subtasks=()
                if self.busy_ms
                else tuple(
                    RunningSubtask(
                        job=job,
                        attempt=attempt,
                        vertex=vertex,
                        subtask=index,
                        state=state,
                        deployed=self.deployed[job],
                        records_in=100 * attempt + index,
                        records_out=10 + index,
                        bytes_in=1_000,
                        bytes_out=500,
                    )
                    for (job, attempt), states in self.running.items()
                    for (vertex, index), state in states.items()
                ),
                busy_ms=self.busy_ms,
                sent_ms=self._world.next_stamp_ms(),
                leaving=leaving,
                host="localhost",
                metrics_port=9_000,
                cpu_cores=4,
                memory_bytes=16 << 30,
            )
        )

    def report(
        self, job: JobId, attempt: Attempt, subtask: SubtaskId, state: SubtaskState, failure: str | None = None
    ) -> None:
        if state in (SubtaskState.INITIALIZING, SubtaskState.RUNNING):
            self.running[job, attempt][subtask] = state
        else:
            self.running.get((job, attempt), {}).pop(subtask, None)
        self.say(
            SubtaskStateChanged(
                worker=self.worker,
                job=job,
                attempt=attempt,
                vertex=subtask.vertex,
                subtask=subtask.subtask,
                state=state,
                failure=failure,
                trace=None if failure is None else f"Traceback: {failure}",
            )
        )

    def acknowledge(
        self, job: JobId, attempt: Attempt, subtask: SubtaskId, checkpoint: CheckpointId, location: str | None = None
    ) -> None:
        message = acknowledgement(self._graphs[job], self.worker, attempt, subtask, checkpoint, location)
        if self.writes_state:
            for path in {path for snapshot in message.operators for path in snapshot.state.paths()}:
                self._world.storage.write(path, bytes(STATE_BYTES))
        self.say(message)

    def decline(
        self, job: JobId, attempt: Attempt, subtask: SubtaskId, checkpoint: CheckpointId, detail: str = "disk full"
    ) -> None:
        self.say(
            DeclineCheckpoint(
                worker=self.worker,
                job=job,
                attempt=attempt,
                vertex=subtask.vertex,
                subtask=subtask.subtask,
                checkpoint=checkpoint,
                reason=DeclineReason.STORAGE,
                detail=detail,
            )
        )

    def say(self, event: Event) -> None:
        if self.is_alive and not self.is_silent:
            self._world.cluster.append(EVENTS, control.encode(event))

    def subtasks(self, job: JobId) -> list[SubtaskId]:
        """What it runs of the job."""
        return sorted(subtask for (name, _), states in self.running.items() if name == job for subtask in states)

    def _obey(self, command: Command) -> None:
        if command.epoch < self._epoch:
            return
        self._epoch = command.epoch
        self.obeyed.append(command)
        match command:
            case ReportStatus():
                self.heartbeat()
            case DeployJob():
                self._deploy(command)
            case CancelJob(job=job, attempt=attempt):
                if self.deployed.get(job, attempt) <= attempt:
                    self._stop(job, lambda subtask, _: subtask.vertex in command.vertices or not command.vertices)
            case CoordinatorHeartbeat(jobs=jobs):
                for fates in jobs:
                    if self.deployed.get(fates.job, fates.attempt) < fates.attempt:
                        self._stop(fates.job, lambda *_: True)
            case TriggerCheckpoint():
                if command.options.kind.stops:
                    self._stops[command.job, command.attempt] = command.checkpoint
                if self.acknowledges and self.deployed.get(command.job) == command.attempt:
                    self._acknowledge_all(command)
            case NotifyCheckpointComplete():
                if self.commits:
                    self._commit_all(command)
                    if self._stops.get((command.job, command.attempt)) == command.checkpoint:
                        for attempt, subtask in self._of(command.job):
                            self.report(command.job, attempt, subtask, SubtaskState.FINISHED)
            case _:
                pass

    def _deploy(self, command: DeployJob) -> None:
        key = (command.job, command.attempt)
        if command.attempt <= self.deployed.get(command.job, 0):
            return
        self.deployed[command.job] = command.attempt
        attempts = running_attempts(command.lineage)
        self._stop(command.job, lambda subtask, attempt: attempts[subtask.vertex] != attempt)
        self._graphs[command.job] = command.graph
        if command.finishing:
            self._stops[key] = CheckpointId(0)
        mine = [
            SubtaskId(vertex.vertex, index)
            for index, owner in enumerate(command.slots)
            if owner == self.worker
            for vertex in command.graph.vertices
            if index < vertex.parallelism and attempts[vertex.vertex] == command.attempt
        ]
        if mine:
            self.running[key] = {}
        for subtask in mine:
            self.report(*key, subtask, SubtaskState.INITIALIZING)
            self._pending_start.append((*key, subtask))

    def _of(self, job: JobId) -> list[tuple[Attempt, SubtaskId]]:
        """What it runs of the job, with the attempt in which each was started."""
        return [(number, s) for (name, number), states in self.running.items() if name == job for s in states]

    def _stop(self, job: JobId, chosen: Callable[[SubtaskId, Attempt], bool]) -> None:
        for attempt, subtask in self._of(job):
            if chosen(subtask, attempt):
                self.report(job, attempt, subtask, SubtaskState.CANCELED)
        self.running = {key: states for key, states in self.running.items() if states or key[0] != job}

    def _acknowledge_all(self, command: TriggerCheckpoint) -> None:
        for attempt, subtask in self._of(command.job):
            if not self._graphs[command.job].vertex(subtask.vertex).is_committer:
                location = command.options.location
                self.acknowledge(command.job, attempt, subtask, command.checkpoint, location)

    def _commit_all(self, command: NotifyCheckpointComplete) -> None:
        for attempt, subtask in self._of(command.job):
            if self._graphs[command.job].vertex(subtask.vertex).is_committer:
                self.say(
                    SinkCommitted(
                        worker=self.worker,
                        job=command.job,
                        attempt=attempt,
                        vertex=subtask.vertex,
                        subtask=subtask.subtask,
                        sink=OperatorUid(subtask.vertex),
                        checkpoint=command.checkpoint,
                        committed_ms=self._world.clock.wall_ms(),
                    )
                )


def acknowledgement(
    graph: JobGraph,
    worker: WorkerId,
    attempt: Attempt,
    subtask: SubtaskId,
    checkpoint: CheckpointId,
    location: str | None = None,
) -> AcknowledgeCheckpoint:
    """With one state file for the head operator of the chain; ``location``: of a savepoint."""
    vertex = graph.vertex(subtask.vertex)
    path = exclusive_state_path(graph.job, checkpoint, attempt, subtask.vertex, subtask.subtask, "state")
    if location is not None:
        path = f"{location}/{savepoint_state_path(attempt, subtask.vertex, subtask.subtask, 'state')}"
    key_groups = key_group_range(graph.max_parallelism, vertex.parallelism, subtask.subtask)
    handle = KeyGroupsHandle(
        key_groups=key_groups,
        offsets=tuple(range(len(key_groups))),
        stream=FileHandle(path=path, size_bytes=STATE_BYTES),
    )
    return AcknowledgeCheckpoint(
        worker=worker,
        job=graph.job,
        attempt=attempt,
        vertex=subtask.vertex,
        subtask=subtask.subtask,
        checkpoint=checkpoint,
        metrics=CheckpointMetrics(written_bytes=100, state_bytes=300, alignment_ms=7),
        operators=(
            OperatorSnapshot(
                operator=vertex.operators[0].operator_id, state=OperatorSubtaskState(managed_keyed=(handle,))
            ),
        ),
    )


class TestCoordinator:
    """A coordinator process with an executor of its own; ``validate`` runs after each step."""

    __test__ = False

    def __init__(self, world: World, name: str) -> None:
        self.log = MemoryLog(world.cluster, name)
        self.executor = InlineExecutor()
        self.notices: list[Notice] = []
        self.replies: dict[int, object] = {}
        self.on_reply: Callable[[int, object], None] = self.replies.__setitem__
        self.core = CoordinatorCore(name, CONFIG, jitter=lambda: 0.0)
        self.process = CoordinatorProcess(
            self.core,
            registry=world.registry,
            storage=world.storage,
            log=self.log,
            executor=self.executor,
            clock=world.clock,
            on_notice=self.notices.append,
            on_reply=lambda number, result: self.on_reply(number, result),
        )
        self.is_paused = False
        self.runs_calls = True
        """False: blocking calls wait."""
        self._last_request = 0
        self._world = world

    def step(self, now_ms: int) -> None:
        if self.is_paused:
            return
        self.process.step(now_ms)
        self.core.validate()
        if self.runs_calls:
            while self.executor.run_all():
                self.core.validate()
        self.core.validate()

    @property
    def leads(self) -> bool:
        return self.core.state is LeaderState.LEADING

    def ask(self, make: Callable[[int], ClientRequest]) -> int:
        self._last_request += 1
        self.process.request(make(self._last_request))
        return self._last_request

    def submit(self, graph: JobGraph) -> int:
        return self.ask(lambda number: SubmitJob(number, graph))

    def cancel(self, job: JobId) -> int:
        return self.ask(lambda number: CancelRequested(number, job))

    def trigger(self, job: JobId) -> int:
        return self.ask(lambda number: CheckpointRequested(number, job))

    def view(self) -> ClusterView:
        number = self.ask(OverviewRequested)
        view = self.replies[number]
        assert isinstance(view, ClusterView), view
        return view

    def job(self, job: JobId) -> JobView:
        number = self.ask(lambda number: JobRequested(number, job))
        view = self.replies[number]
        assert isinstance(view, JobView), view
        return view

    def noticed(self, kind: type[N]) -> Sequence[N]:
        return [notice for notice in self.notices if isinstance(notice, kind)]

    def completed(self, job: JobId) -> int:
        """Checkpoints completed under this leader."""
        return sum(notice.job == job for notice in self.noticed(CheckpointCompleted))

    def kill(self) -> None:
        self.is_paused = True
        self.log.kill()


class World:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.cluster = MemoryCluster(self.clock)
        self.registry = MemoryRegistry(self.clock)
        self.storage = MemoryStorage(self.clock)
        self.worker_log = MemoryLog(self.cluster, "workers")
        self.coordinators: list[TestCoordinator] = []
        self.workers: list[TestWorker] = []
        self._stamp_ms = 0

    def add_coordinator(self, name: str = "coordinator-1") -> TestCoordinator:
        coordinator = TestCoordinator(self, name)
        self.coordinators.append(coordinator)
        return coordinator

    def add_worker(self, name: str, incarnation: str = "1", slots: int = 2) -> TestWorker:
        worker = TestWorker(self, name, incarnation, slots)
        self.workers.append(worker)
        return worker

    def step(self) -> None:
        self.clock.advance(STEP_MS)
        now_ms = self.clock.monotonic_ms()
        for coordinator in self.coordinators:
            coordinator.step(now_ms)
        for worker in self.workers:
            worker.step(now_ms)

    def run(self, ms: int) -> None:
        for _ in range(ms // STEP_MS):
            self.step()

    def run_until(self, condition: Callable[[], bool], within_ms: int = 60_000) -> None:
        for _ in range(within_ms // STEP_MS):
            if condition():
                return
            self.step()
        raise AssertionError(f"not true after {within_ms} ms")

    def next_stamp_ms(self) -> int:
        self._stamp_ms = max(self._stamp_ms + 1, self.clock.wall_ms())
        return self._stamp_ms

    def end_of(self, partition: TopicPartition) -> int:
        return self.cluster.partition(partition).end

    def commands(self, kind: type[M]) -> list[M]:
        """Every command of this kind that was said, oldest first."""
        said = (control.decode(value, control.COMMANDS) for value in self._values(COMMANDS_TOPIC))
        return [command for command in said if isinstance(command, kind)]

    def cleanups(self, kind: type[M]) -> list[M]:
        """Every cleanup request of this kind that was said, oldest first."""
        said = (control.decode(value, control.CLEANUP) for value in self._values(CLEANUP_TOPIC))
        return [message for message in said if isinstance(message, kind)]

    def _values(self, topic: str) -> Iterable[bytes]:
        return [record.value or b"" for record in self.cluster.records(topic)]


def running_world(graph: JobGraph, workers: int = 2, slots: int = 2) -> World:
    """A leader, workers, and the job deployed and running on them."""
    world = World()
    coordinator = world.add_coordinator()
    world.run_until(lambda: coordinator.leads)
    for number in range(1, workers + 1):
        world.add_worker(f"w{number}", slots=slots)
    world.run(2 * STEP_MS)
    coordinator.submit(graph)
    world.run_until(lambda: runs(coordinator, graph))
    return world


def runs(coordinator: TestCoordinator, graph: JobGraph) -> bool:
    """Does every subtask of the job run, as far as the leader knows?"""
    view = next((view for view in coordinator.view().jobs if view.job == graph.job), None)
    return (
        view is not None
        and view.status is JobStatus.RUNNING
        and all(subtask.state is ExecutionState.RUNNING for subtask in view.subtasks)
    )
