"""Whole jobs on virtual time: the production cores, the twins of every port, and a seeded scheduler that means harm.

One run is one seed: several coordinators, workers and a cleaner run a job while the scheduler interleaves their steps,
delays every message and every blocking call on its own, holds up partitions for their writers or for one reader,
repeats control messages, kills processes at any step (what they had sent may still arrive), stops them and lets them
wake up as zombies, fails single subtasks of jobs that have parts which may go on meanwhile, expires transactions, takes
Kafka, the registry and the storage away for a while, and empties the registry. Then the faults end and the job must
finish its input.

Invariants, looked at all the time: what a read-committed reader sees of each key is the start of what a run without
faults writes, in order, nothing twice; every retained checkpoint has all its files, and the logs reach back to its
positions. At the end: everything is there.

The same seed gives the same run: ``Simulation(seed).run()``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec
import xxhash

from moorage.backends.rocksdb_environment import RocksDbEnvironment
from moorage.checkpoint.rebuild import decode_record
from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner_process.process import CleanerProcess
from moorage.cluster.coordinator import CoordinatorCore
from moorage.cluster.protocol import ClusterConfig, CoreEvent, LogSilence, Tick
from moorage.connectors.kafka_source import KafkaSourceReader
from moorage.connectors.kafka_source_coordinator import OPERATOR_COORDINATORS
from moorage.coordinator_process.origin import origin_of
from moorage.coordinator_process.process import CoordinatorProcess
from moorage.coordinator_process.rebuild import rebuild_job
from moorage.effects import Action, RebuildJob
from moorage.errors import LogError, LogUnavailableError, MoorageError, RegistryUnavailableError, StorageError
from moorage.exchange.result_partition import ExchangeLimits
from moorage.graph.job_graph import StateConfig
from moorage.graph.lineage import running_attempts
from moorage.graph.regions import regions
from moorage.ids import Attempt, TopicPartition, VertexId, WorkerId
from moorage.messages.events import SubtaskState, SubtaskStateChanged, WorkerHeartbeat
from moorage.messages.registry import JobStatus
from moorage.naming import COMMANDS_TOPIC, CONTROL_TOPICS, EVENTS_TOPIC, exchange_topic, folder_of
from moorage.ports import TopicSpec
from moorage.serde import control
from moorage.serde.metadata import decode_metadata
from moorage.serde.positions import decode_positions
from moorage.state.handles import ByteStreamHandle, InputChannelHandle
from moorage.task.context import TaskSettings
from moorage.task.local_recovery import LocalCopies
from moorage.task.pulse import Pulse
from moorage.task.state_writer import StateFileLimits
from moorage.task.subtask import TERMINAL
from moorage.task.worker import WorkerConfig, WorkerHooks, WorkerProcess
from moorage.testing.clocks import ManualClock
from moorage.testing.executor import InlineExecutor
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage.testing.memory_registry import MemoryRegistry
from moorage.testing.memory_storage import MemoryStorage
from moorage.testing.simulated_client import SimulatedClient
from moorage.testing.simulated_job import InvariantError, SimulatedJob

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    coordinators: int = 2
    workers: int = 3
    orders: int = 250
    users: int = 10
    input_partitions: int = 3
    faults_ms: int = 4_000
    """How long there are faults; then the job must finish."""
    finish_ms: int = 10_000
    fault_rates: tuple[float, ...] = (0.01, 0.02, 0.05)
    """Faults per turn of the scheduler; a seed has one of them."""
    empty_rate: float = 0.15
    """Share of seeds in which the registry loses its data."""
    rocksdb: RocksDbEnvironment | None = None
    """Where all workers keep their state; None: in memory. What RocksDB does in its threads is not virtual: a seed does
    not replay exactly."""


@dataclass(kw_only=True)
class SimulationReport:
    seed: int
    turns: int = 0
    virtual_ms: int = 0
    attempts: int = 0
    checkpoints: int = 0
    """Completed ones."""
    replayed: int = 0
    """Lost transactions."""
    void_frames: int = 0
    partial: int = 0
    """Attempts in which a part of the job went on."""
    rescales: int = 0
    """Attempts with another parallelism than the one before."""
    savepoints: int = 0
    lives: int = 0
    """Of the job: it may be stopped with a savepoint and started from it."""
    faults: dict[str, int] = field(default_factory=dict)
    digest: str = ""
    """Of what reached the logs, when, and of the output: equal runs have equal digests."""

    def counts(self) -> dict[str, int]:
        """What happened, by the name of it, for people."""
        return {
            "turns": self.turns,
            "attempts": self.attempts,
            "completed checkpoints": self.checkpoints,
            "replayed transactions": self.replayed,
            "void frames": self.void_frames,
            "partial restarts": self.partial,
            "rescales": self.rescales,
            "savepoints": self.savepoints,
            "lives": self.lives,
            **{f"x {name}": count for name, count in sorted(self.faults.items())},
        }


_FAULTS = (
    *("kill", "kill", "kill", "stop", "stop", "repeat", "repeat", "slow", "slow", "slow", "deaf", "deaf"),
    *("expire", "kafka", "registry", "storage", "write", "all"),
)

_HEARTBEAT_INTERVAL_MS = 50

_LOST_MS = 1_500
"""How long a job may be unknown to the registry before somebody brings it back by hand."""

_CONTROL_PARTITIONS = [TopicPartition(topic, 0) for topic in CONTROL_TOPICS]


class _Process:
    """One process of the simulated world: it exists, is stopped, or is dead."""

    def __init__(self, name: str, log: MemoryLog, executor: InlineExecutor, step: Callable[[], object]) -> None:
        self.name = name
        self.log = log
        self.executor = executor
        self.step = step
        self.stopped_until_ms = 0
        self.pulse: Pulse | None = None
        """While it is stopped: says that it is only busy. None: it is silent."""
        self.next_pulse_ms = 0
        self.deaf_until: dict[TopicPartition, int] = {}
        """Partitions of which it sees nothing new before that time."""


class _CheckedCore(CoordinatorCore):
    """Holds its invariants against its state after every event, but for those that only told the time."""

    def handle(self, event: CoreEvent) -> list[Action]:
        actions = super().handle(event)
        if actions or not isinstance(event, Tick | LogSilence):
            self.validate()
        return actions


class Simulation:
    def __init__(self, seed: int, config: SimulationConfig | None = None) -> None:
        self.seed = seed
        self.config = config or SimulationConfig()
        self.rng = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self.clock = ManualClock()
        self.cluster = MemoryCluster(self.clock)
        self.cluster.markers_at_once = self.rng.random() < 0.5
        self.registry = MemoryRegistry(self.clock)
        self.storage = MemoryStorage(self.clock)
        self._disks: dict[str, MemoryStorage] = {}
        """Of workers, by name."""
        self.report = SimulationReport(seed=seed)
        self.simulated = SimulatedJob(
            self.rng, orders=self.config.orders, users=self.config.users, partitions=self.config.input_partitions
        )
        self.pipeline = self.simulated.compiled
        self.client = SimulatedClient(self.rng, self.pipeline.graph, self.registry)
        if self.config.rocksdb is not None:
            graph = msgspec.structs.replace(self.pipeline.graph, state=StateConfig(backend="rocksdb"))
            self.pipeline = replace(self.pipeline, graph=graph)
        self.job = self.pipeline.graph.job
        self._settings = TaskSettings(
            limits=ExchangeLimits(
                frame_max_records=self.rng.choice([3, 10, 50]),
                max_lag_frames=self.rng.choice([4, 20, 500]),
                max_lag_bytes=1_000 if seed % 3 == 0 else 1 << 20,
            ),
            max_poll_records=self.rng.choice([5, 40]),
            max_poll_frames=self.rng.choice([2, 16]),
            linger_ms=20,
            idle_linger_ms=self.rng.choice([0, 10]),
            held_bytes_max=self.rng.choice([0, 300, 1 << 20]),
            state_files=StateFileLimits(
                inline_max_bytes=self.rng.choice([0, 100, 10_000]),
                merged_piece_max_bytes=self.rng.choice([0, 200, 1 << 20]),
                merged_file_max_bytes=self.rng.choice([300, 1 << 20]),
                linger_ms=self.rng.choice([0, 20]),
                uploads=self.rng.choice([1, 3]),
            ),
            progress_interval_ms=30,
            transaction_timeout_ms=60_000,
        )
        self._fault_rate = self.rng.choice(self.config.fault_rates)
        self._failures = random.Random(f"failures of {seed}")  # noqa: S311
        """When a subtask fails by itself, and which."""
        self._failure_rate = self._failures.choice((0.0, 0.005, 0.02)) if len(regions(self.pipeline.graph)) > 1 else 0.0
        self._incarnations = 0
        self._processes: dict[str, _Process] = {}
        self._graves: list[MemoryLog] = []
        """Logs of dead processes: what they had sent may still arrive."""
        self._restart_at: dict[str, int] = {}
        self._ends: list[tuple[int, Callable[[], None]]] = []
        """When outages end."""
        self._slow_until: dict[TopicPartition, int] = {}
        """Partitions that nothing reaches before that time."""
        self._seen_events = 0
        self._rescales = 0
        self._partial: set[Attempt] = set()
        self._parallelism: dict[VertexId, int] = {}
        self._lives: set[int] = set()
        """Since when; see the report."""
        self._manifests: dict[str, tuple[list[str], dict[TopicPartition, int]]] = {}
        # Drawn apart, so that seeds in which it does not happen go on meaning what they meant.
        emptied = random.Random(f"{seed} emptied")  # noqa: S311 - a schedule, not a secret
        self._empties_at_ms = emptied.randrange(800, 3_500) if emptied.random() < self.config.empty_rate else None
        """From when on the registry loses its data, once; None: never, or it has."""
        self._unknown_since_ms: int | None = None
        """Since when the registry does not know the job that it has lost."""
        self._workers: list[WorkerProcess] = []
        self._pulses: dict[str, Pulse] = {}
        """Of the present incarnations of workers."""
        self._worker_of: dict[str, WorkerProcess] = {}
        """The newest of each name."""
        self._coordinators: dict[str, CoordinatorProcess] = {}
        self._set_up()

    def _set_up(self) -> None:
        admin = MemoryLog(self.cluster, "set-up")
        admin.create_topics([TopicSpec(topic, 1, {}) for topic in CONTROL_TOPICS])
        admin.create_topics([TopicSpec("orders", self.config.input_partitions, {})])
        admin.create_topics([TopicSpec(output.topic, 2, {}) for output in self.simulated.outputs])
        for number in range(self.config.coordinators):
            self._start(f"coordinator-{number}")
        for number in range(self.config.workers):
            self._start(f"worker-{number}")
        for number in range(2 if self.seed % 3 == 2 else 1):
            self._start(f"cleaner-{number}")

    # --- processes ---------------------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        self._incarnations += 1
        self._say("%s starts", name)
        log = MemoryLog(self.cluster, f"{name}.{self._incarnations}", immediate=False)
        executor = InlineExecutor()
        kind = name.partition("-")[0]
        make = {"coordinator": self._coordinator, "worker": self._worker, "cleaner": self._cleaner}[kind]
        process = self._processes[name] = _Process(name, log, executor, make(name, log, executor))

        def readable(partition: TopicPartition, position: int, end: int) -> int:
            is_deaf = process.deaf_until.get(partition, 0) > self.clock.monotonic_ms()
            return position if is_deaf else end

        log.fetch_limit = readable

    def _coordinator(self, name: str, log: MemoryLog, executor: InlineExecutor) -> Callable[[], object]:
        config = ClusterConfig(
            lease_ttl_ms=300,
            heartbeat_interval_ms=_HEARTBEAT_INTERVAL_MS,
            worker_timeout_ms=250,
            adoption_timeout_ms=250,
            deploy_timeout_ms=1_500,
            stop_timeout_ms=500,
            repeat_interval_ms=100,
        )
        jitter = random.Random(self.rng.random())  # noqa: S311
        process = CoordinatorProcess(
            _CheckedCore(f"{name}.{self._incarnations}", config, lambda: jitter.uniform(-1, 1), OPERATOR_COORDINATORS),
            registry=self.registry,
            storage=self.storage,
            log=log,
            executor=executor,
            clock=self.clock,
            on_reply=lambda request, result: self._say("request %d: %s", request, result),
            on_notice=partial(self._say, "%s: %s", name),
        )

        self._coordinators[name] = process

        return lambda: process.step(self.clock.monotonic_ms())

    def _worker(self, name: str, log: MemoryLog, executor: InlineExecutor) -> Callable[[], object]:
        config = WorkerConfig(
            worker=WorkerId(f"{name}/{self._incarnations}"),
            slots=2,
            heartbeat_interval_ms=_HEARTBEAT_INTERVAL_MS,
            task=self._settings,
        )
        worker = WorkerProcess(
            config,
            log,
            self.storage,
            executor,
            self.clock,
            WorkerHooks(
                load_pipeline=lambda _: self.pipeline,
                new_source_reader=KafkaSourceReader,
                warn=partial(self._say, "%s: %s", name),
                failpoint=lambda _: None,
                rocksdb=self.config.rocksdb,
                local_copies=self._copies(name),
            ),
        )
        self._workers.append(worker)
        self._pulses[name] = Pulse(config, log.writer("pulse"), self.clock, lambda: worker.epoch)
        self._worker_of[name] = worker
        return worker.step

    def _copies(self, name: str) -> LocalCopies | None:
        """In every other seed a worker's disk has copies of state, which outlive its process; some rot meanwhile."""
        if self.seed % 2:
            return None
        disk = self._disks.setdefault(name, MemoryStorage(self.clock))
        if disk.paths() and self.rng.random() < 0.3:
            disk.corrupt(self.rng.choice(disk.paths()))
        return LocalCopies(disk, max_bytes=self.rng.choice((500, 1 << 20)))

    def _cleaner(self, name: str, log: MemoryLog, executor: InlineExecutor) -> Callable[[], object]:
        cleaner = CleanerProcess(
            # Two share the jobs by claims; one works without, as by hand.
            holder=f"{name}.{self._incarnations}" if self.seed % 3 == 2 else None,
            registry=self.registry,
            storage=self.storage,
            log=log,
            executor=executor,
            clock=self.clock,
            options=CleanerOptions(
                grace_age_ms=self.rng.choice([0, 300]),
                prompt_interval_ms=20,
                sweep_interval_ms=200,
                delete_batch_files=3,
                deletes_per_second=1_000,
                retry_initial_ms=10,
                retry_max_ms=100,
            ),
        )
        return lambda: cleaner.step(self.clock.monotonic_ms())

    def _kill(self, name: str, *, restart_in_ms: int) -> None:
        process = self._processes.pop(name)
        keep = self.rng.random() < 0.5
        self._say("%s is killed", name)
        process.log.kill(keep_in_flight=keep)
        if keep:
            self._graves.append(process.log)
        self._restart_at[name] = self.clock.monotonic_ms() + restart_in_ms

    def _say(self, what: str, *arguments: object) -> None:
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%6d ms %s", self.clock.monotonic_ms(), what % arguments)

    # --- one turn ----------------------------------------------------------------------------------------------------

    def run(self) -> SimulationReport:
        """Raises InvariantError with the seed and the time; anything else that escapes is a bug of its own."""
        try:
            while self.clock.monotonic_ms() < self.config.faults_ms:
                self._turn(faults=True)
            self._end_faults()
            limit = self.clock.monotonic_ms() + self.config.finish_ms
            while not self._is_finished():
                if self.clock.monotonic_ms() >= limit:
                    self._check(False, f"the job did not finish: {self._state()}")
                self._turn(faults=False)
            self._check_checkpoints()
        except Exception as error:
            error.add_note(f"simulation seed {self.seed}, {self.clock.monotonic_ms()} ms, turn {self.report.turns}")
            raise
        self.report.virtual_ms = self.clock.monotonic_ms()
        self.report.attempts = next((job.attempt for job in self.registry.jobs()), 0)
        self.report.checkpoints = len(self.registry.completed_ids(self.job))
        contexts = [context for worker in self._workers for context in worker.contexts()]
        self.report.replayed = sum(c.counters.transactions_replayed for c in contexts)
        self.report.void_frames = sum(c.counters.frames_void for c in contexts)
        self.report.partial = len(self._partial)
        self.report.rescales = self._rescales
        self.report.savepoints = sum(r.kind == "savepoint" for r in self.registry.checkpoints(self.job))
        self.report.lives = len(self._lives)
        self.report.digest = self._digest()
        return self.report

    def _digest(self) -> str:
        # Not of the bytes of state: changed rows are stored in the order of a set, which is another in each process.
        digest = xxhash.xxh3_64()
        outputs = {output.topic for output in self.simulated.outputs}
        for topic in sorted(self.cluster.topics):
            for record in self.cluster.records(topic, read_committed=False):
                content = record.value if topic in outputs else len(record.value or b"")
                digest.update(repr((*record[:3], record.timestamp_ms, content)).encode())
        return digest.hexdigest()

    def _turn(self, *, faults: bool) -> None:
        rng = self.rng
        self.report.turns += 1
        # Without faults whoever has work to do is asked often enough to keep up with barriers every 50 ms.
        self.clock.advance(rng.choice((1, 2, 5, 10) if faults else (1, 2)))
        now = self.clock.monotonic_ms()
        if faults and rng.random() < self._fault_rate:
            self._fault()
        if faults and self._failures.random() < self._failure_rate:
            self._fail_subtask()
        for ends_ms, end in list(self._ends):
            if ends_ms <= now:
                end()
                self._ends.remove((ends_ms, end))
        for name, at_ms in list(self._restart_at.items()):
            if at_ms <= now:
                del self._restart_at[name]
                self._start(name)
        self._lose_registry(now)
        if self.simulated.orders_left and rng.random() < 0.3:
            for _ in range(min(self.simulated.orders_left, rng.randint(1, 5))):
                self.cluster.append(*self.simulated.produce())
        for request in self.client.requests(now, faults=faults):
            self._say("%s", request)
            for name, coordinator in self._coordinators.items():
                if name in self._processes:  # whoever leads
                    coordinator.request(request)
        names = list(self._processes)
        rng.shuffle(names)
        for name in names:
            process = self._processes[name]
            if process.stopped_until_ms <= now:
                if not faults or rng.random() < 0.8:
                    self._step(process, faults=faults)
            elif process.pulse is not None and process.next_pulse_ms <= now:
                process.next_pulse_ms = now + _HEARTBEAT_INTERVAL_MS
                process.pulse.beat(_HEARTBEAT_INTERVAL_MS)
        for log in (*(p.log for p in self._processes.values()), *self._graves):
            self._deliver(log, faults=faults)
        if self.report.turns % 10 == 0:
            self._look_at_job()
            self._check_events()
            self._check_output()
        if self.report.turns % 25 == 0:
            self._check_checkpoints()

    def _step(self, process: _Process, *, faults: bool) -> None:
        rng, executor = self.rng, process.executor
        try:
            for _ in range(executor.calls):
                if not faults or rng.random() < 0.5:
                    executor.call_one(rng.randrange(executor.calls))
            for _ in range(executor.results):
                if not faults or rng.random() < 0.7:
                    executor.serve_one(rng.randrange(executor.results))
            process.step()
        except MoorageError as error:
            self._say("%s ends: %s", process.name, error)
            # The process ends, as the service would; its supervisor starts it again.
            self._kill(process.name, restart_in_ms=rng.randint(5, 100))

    def _deliver(self, log: MemoryLog, *, faults: bool) -> None:
        now = self.clock.monotonic_ms()
        draw = self.rng.random
        for queue in log.pending():
            if self._slow_until.get(queue.partition, 0) > now:
                continue
            while len(queue) and (not faults or draw() < 0.6):
                queue.deliver_one(offset_known=not faults or draw() < 0.98)
        if not faults or draw() < 0.5:
            self.cluster.write_markers()

    # --- faults ------------------------------------------------------------------------------------------------------

    def _fault(self) -> None:
        rng, now = self.rng, self.clock.monotonic_ms()
        name = rng.choice(_FAULTS)
        self._count_fault(name)
        match name:
            case "kill" if self._processes:
                self._kill(rng.choice(sorted(self._processes)), restart_in_ms=rng.choice((5, 50, 400)))
            case "stop" if self._processes:
                process = self._processes[rng.choice(sorted(self._processes))]
                process.stopped_until_ms = now + rng.choice((50, 300, 1_000))
                is_busy = self.report.faults[name] % 2 == 1
                process.pulse = self._pulses.get(process.name) if is_busy else None
            case "repeat":
                self._repeat_control_message()
            case "slow":
                until = now + rng.choice((50, 200, 800))
                self._slow_until.update(dict.fromkeys(self._some_channels(), until))
                if rng.random() < 0.3:  # what waits is lost with its writer
                    self._ends.append(
                        (until, partial(self._kill_if_there, f"worker-{rng.randrange(self.config.workers)}"))
                    )
            case "deaf" if self._processes:
                partitions = self._some_channels() if rng.random() < 0.5 else _CONTROL_PARTITIONS
                process = self._processes[rng.choice(sorted(self._processes))]
                process.deaf_until.update(dict.fromkeys(partitions, now + rng.choice((50, 200, 800))))
            case "expire":
                self.cluster.expire_transactions(rng.choice([*self.cluster.open_transactions(), None]))
            case "kafka":
                self._outage(self.cluster, rng.choice((20, 200, 800)))
            case "registry":
                self._outage(self.registry, rng.choice((20, 200, 800)))
            case "storage":
                self._outage(self.storage, rng.choice((20, 200)))
            case "write":
                self._fail_one()
            case "all":
                for victim in sorted(self._processes):
                    self._kill(victim, restart_in_ms=rng.choice((5, 100)))
            case _:
                pass

    def _fail_subtask(self) -> None:
        """As if the user's code, or a client, had raised."""
        workers = [worker for name, worker in sorted(self._worker_of.items()) if name in self._processes]
        running = [s for worker in workers for s in worker.subtasks() if s.state not in TERMINAL]
        if running:
            subtask = self._failures.choice(running)
            self._count_fault("fail")
            self._say("%s fails", subtask.context.name)
            subtask.fail(LogError("simulated: it fails"))

    def _count_fault(self, name: str) -> None:
        self.report.faults[name] = self.report.faults.get(name, 0) + 1
        self._say("fault: %s", name)

    def _lose_registry(self, now: int) -> None:
        """All its data, once there is something to bring the job back from. Coordinators do that when workers run it,
        somebody does it by hand when none do."""
        if not self.registry.available or not self.storage.available:
            return
        if self._empties_at_ms is not None and now >= self._empties_at_ms and self._can_come_back():
            self._count_fault("emptied")
            self.registry.lose_data()
            self._empties_at_ms, self._unknown_since_ms = None, now
        elif self._unknown_since_ms is not None:
            if self.registry.jobs():
                self._unknown_since_ms = None
            elif now - self._unknown_since_ms > _LOST_MS:
                self._rebuild_by_hand()

    def _can_come_back(self) -> bool:
        """Not while it is being stopped, for savepoints are not brought back, and not as long as no checkpoint tells
        every parallelism that it had: nobody would end the transactions of its sinks."""
        record = next((record for record in self.registry.jobs() if record.job == self.job), None)
        if record is None or record.status.is_terminal or not self.client.is_content:
            return False
        own = [c for c in self.registry.checkpoints(self.job) if c.checkpoint > record.base_checkpoint_id]
        newest = max((c for c in own if c.kind == "checkpoint"), key=lambda c: c.checkpoint, default=None)
        if newest is None:
            return False
        origin = origin_of(decode_metadata(self.storage.read(newest.metadata_path)))
        return origin is not None and decode_record(origin).former_parallelism == record.former_parallelism

    def _rebuild_by_hand(self) -> None:
        """As `moorage registry rebuild` does once the coordinators are stopped and their lease is over."""
        for name in sorted(self._coordinators.keys() & self._processes.keys()):
            self._kill(name, restart_in_ms=500)
        lease = self.registry.acquire_lease("by hand", 1_000)
        if lease is not None:
            self._count_fault("rebuilt by hand")
            rebuild_job(self.registry, self.storage, RebuildJob(epoch=lease.epoch, job=self.job, running=Attempt(0)))
            self.registry.release_lease("by hand", lease.epoch)

    def _kill_if_there(self, name: str) -> None:
        if name in self._processes:
            self._kill(name, restart_in_ms=50)

    def _some_channels(self) -> list[TopicPartition]:
        """Some partitions of an exchange."""
        exchange = self.rng.choice(self.pipeline.graph.exchanges)
        topic = exchange_topic(self.job, exchange.exchange)
        return [TopicPartition(topic, p) for p in range(exchange.partitions) if self.rng.random() < 0.5]

    def _outage(self, thing: Any, duration_ms: int) -> None:
        thing.available = False

        def end() -> None:
            thing.available = True

        self._ends.append((self.clock.monotonic_ms() + duration_ms, end))

    def _fail_one(self) -> None:
        """One call fails, before or after it took effect."""
        rng = self.rng
        after = rng.random() < 0.5
        target = rng.choice(("write", "add_checkpoint", "start_attempt", "commit", "init"))
        if target == "write":
            self.storage.faults.fail_next("write", StorageError("simulated: write failed"), after=after)
        elif target in ("commit", "init"):
            workers = [p for name, p in sorted(self._processes.items()) if name.startswith("worker")]
            if workers:
                error = LogUnavailableError(f"simulated: {target} failed")
                rng.choice(workers).log.faults.fail_next(target, error, after=after)
        else:
            error_ = RegistryUnavailableError(f"simulated: {target} failed")
            self.registry.faults.fail_next(target, error_, after=after)

    def _repeat_control_message(self) -> None:
        """Something that was said some time ago is said again."""
        topic = self.rng.choice((COMMANDS_TOPIC, EVENTS_TOPIC))
        records = self.cluster.records(topic)
        if records:
            record = self.rng.choice(records[-10:] if self.rng.random() < 0.5 else records[-100:])
            self.cluster.append(TopicPartition(topic, 0), record.value)

    def _end_faults(self) -> None:
        for _, end in self._ends:
            end()
        self._ends.clear()
        self._slow_until.clear()
        for process in self._processes.values():
            process.stopped_until_ms = 0
            process.deaf_until.clear()

    def _look_at_job(self) -> None:
        if not self.registry.available:
            return
        for record in self.registry.jobs():
            self._lives.add(record.submitted_ms)
            if len(set(running_attempts(record.lineage).values())) > 1:
                self._partial.add(record.attempt)
            parallelism = record.graph.parallelism()
            self._rescales += self._parallelism not in ({}, parallelism)
            self._parallelism = parallelism

    # --- invariants --------------------------------------------------------------------------------------------------

    def _check(self, holds: bool, what: str) -> None:
        if not holds:
            raise InvariantError(f"{what} (seed {self.seed}, {self.clock.monotonic_ms()} ms)")

    def _check_output(self) -> None:
        try:
            self.simulated.check_output(self.cluster)
        except InvariantError as error:
            self._check(False, str(error))

    def _check_events(self) -> None:
        """A subtask may fail for what the scheduler did to it, never for a bug."""
        for record in self.cluster.records(EVENTS_TOPIC, starts={0: self._seen_events}):
            self._seen_events = record.offset + 1
            event = control.decode(record.value or b"", control.EVENTS)
            if not isinstance(event, WorkerHeartbeat):
                self._say("%s", event)
            if isinstance(event, SubtaskStateChanged) and event.state is SubtaskState.FAILED:
                last = (event.trace or "").rstrip().rpartition("\n")[2]
                self._check(last.startswith("moorage.errors."), f"{event.vertex}/{event.subtask}: {event.trace}")

    def _check_checkpoints(self) -> None:
        """Every retained checkpoint can be restored: all its files are there, and the logs reach back to it."""
        if not self.registry.available or not self.storage.available or not self.cluster.available:
            return
        paths = set(self.storage.paths())
        # Nothing reads what checkpoints of an earlier life say of the logs.
        base = next((job.base_checkpoint_id for job in self.registry.jobs()), 0)
        for record in self.registry.checkpoints(self.job):
            self._check(record.metadata_path in paths, f"checkpoint {record.checkpoint} has lost its metadata")
            if record.metadata_path not in self._manifests:
                self._manifests[record.metadata_path] = self._read_manifest(record.metadata_path)
            files, positions = self._manifests[record.metadata_path]
            missing = [path for path in files if path not in paths]
            self._check(not missing, f"checkpoint {record.checkpoint} has lost {missing}")
            for tp, offset in positions.items() if record.checkpoint > base else ():
                start = self.cluster.partition(tp).start
                self._check(start <= offset, f"checkpoint {record.checkpoint}: {tp} begins at {start}, not {offset}")

    def _read_manifest(self, path: str) -> tuple[list[str], dict[TopicPartition, int]]:
        metadata = decode_metadata(self.storage.read(path), folder_of(path))
        positions: dict[TopicPartition, int] = {}
        for operator in metadata.operators:
            for subtask in operator.subtasks.values():
                for handle in subtask.input_channel:
                    if isinstance(handle, InputChannelHandle) and isinstance(handle.stream, ByteStreamHandle):
                        for part in decode_positions(handle.stream.data).exchanges:
                            topic = exchange_topic(self.job, part.exchange)
                            for number, offset in part.start_offsets().items():
                                positions[TopicPartition(topic, number)] = offset
        return list(metadata.paths()), positions

    def _is_finished(self) -> bool:
        self._check_output()
        has_all = self.client.is_content and not self.simulated.orders_left and not self.simulated.missing()
        return has_all and (not self.simulated.is_bounded or self._has_ended())

    def _has_ended(self) -> bool:
        """FINISHED, or forgotten by then."""
        return all(job.status is JobStatus.FINISHED for job in self.registry.jobs())

    def _state(self) -> str:
        jobs = [(job.status, job.attempt, job.failure) for job in self.registry.jobs()]
        return f"missing {dict(self.simulated.missing())}, jobs {jobs}"
