"""A cleaner with everything around it in memory, stepped by the test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from tests.unit.cleaner.jobs import COMMITS_LOG, JOB, SINK, TOPICS, job_record, write_metadata

from moorage.cleaner.classify import Verdict
from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner.retention import CheckpointRetention
from moorage.cleaner_process.observer import CleanerObserver
from moorage.cleaner_process.process import CleanerProcess
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, TopicPartition
from moorage.messages.cleanup import CleanupRequest
from moorage.messages.registry import JobRecord, JobStatus, RestoreSettings
from moorage.naming import CLEANUP_TOPIC
from moorage.ports import OffsetSpec
from moorage.serde.control import encode
from moorage.serde.positions import encode_marker, marker_key
from moorage.state.positions import CommitMarker
from moorage.testing.clocks import ManualClock
from moorage.testing.executor import InlineExecutor
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage.testing.memory_registry import MemoryRegistry
from moorage.testing.memory_storage import MemoryStorage

OPTIONS = CleanerOptions(
    grace_age_ms=60_000,
    prompt_interval_ms=1_000,
    sweep_interval_ms=10_000,
    delete_batch_files=2,
    deletes_per_second=1_000,
    retry_initial_ms=100,
    retry_max_ms=400,
    purge_hold_ms=5_000,
    ended_job_ttl_ms=120_000,
)


class Recorder(CleanerObserver):
    """What a cleaner has told."""

    def __init__(self) -> None:
        self.deleted: list[tuple[Verdict, int, int]] = []
        self.trimmed = 0
        self.trimmed_bytes = 0
        self.topics = 0
        self.backlogs: list[tuple[int, int, int | None]] = []
        self.cleaned = 0
        self.swept_ms = 0
        self.errors: list[Exception] = []
        self.upload_errors: list[Exception] = []
        self.rejected: list[Exception] = []

    def files_deleted(self, verdict: Verdict, files: int, size_bytes: int) -> None:
        self.deleted.append((verdict, files, size_bytes))

    def log_trimmed(self, offsets: int, size_bytes: int) -> None:
        self.trimmed += offsets
        self.trimmed_bytes += size_bytes

    def topics_deleted(self, topics: int) -> None:
        self.topics += topics

    def backlog_changed(self, files: int, size_bytes: int, oldest_ms: int | None) -> None:
        self.backlogs.append((files, size_bytes, oldest_ms))

    def job_cleaned(self, job: JobId, duration_ms: int) -> None:
        self.cleaned += 1

    def all_swept(self, wall_ms: int) -> None:
        self.swept_ms = wall_ms

    def job_failed(self, job: JobId, error: Exception) -> None:
        self.errors.append(error)

    def uploads_failed(self, job: JobId, error: Exception) -> None:
        self.upload_errors.append(error)

    def failed(self, error: Exception) -> None:
        self.errors.append(error)

    def message_rejected(self, error: Exception) -> None:
        self.rejected.append(error)


class World:
    def __init__(self, options: CleanerOptions = OPTIONS) -> None:
        self.options = options
        self.clock = ManualClock()
        self.registry = MemoryRegistry(self.clock)
        self.storage = MemoryStorage(self.clock)
        self.cluster = MemoryCluster(self.clock)
        self.log = MemoryLog(self.cluster, "cleaner")
        lease = self.registry.acquire_lease("coordinator", 1_000_000_000)
        assert lease is not None
        self.epoch: Epoch = lease.epoch
        self.seen = Recorder()
        self.executor = InlineExecutor()
        self.process = self.new_process()

    def new_process(self, holder: str | None = None) -> CleanerProcess:
        return CleanerProcess(
            registry=self.registry,
            storage=self.storage,
            log=self.log,
            executor=self.executor,
            clock=self.clock,
            options=self.options,
            observer=self.seen,
            holder=holder,
        )

    # --- the job -----------------------------------------------------------------------------------------------------

    def submit(
        self, restore: RestoreSettings | None = None, retention: CheckpointRetention | None = None, job: JobId = JOB
    ) -> None:
        self.log.create_topics(TOPICS)
        last = self.registry.last_checkpoint_id(job)
        attempt = self.registry.last_attempt(job)
        record = job_record(attempt=attempt, base=last, submitted_ms=self.clock.wall_ms())
        record = msgspec.structs.replace(record, job=job, restore=restore)
        if retention is not None:
            checkpoint = msgspec.structs.replace(record.graph.checkpoint, retention=retention.value)
            graph = msgspec.structs.replace(record.graph, checkpoint=checkpoint)
            record = msgspec.structs.replace(record, graph=graph)
        self.registry.save_job(self.epoch, record)
        if job != JOB:
            return
        self.start_attempt()

    def start_attempt(self) -> None:
        newest = max((record.checkpoint for record in self.registry.checkpoints(JOB)), default=CheckpointId(0))
        attempt = Attempt(self.registry.last_attempt(JOB) + 1)
        self.registry.start_attempt(self.epoch, msgspec.structs.replace(self.record, attempt=attempt), newest)

    @property
    def record(self) -> JobRecord:
        return next(record for record in self.registry.jobs() if record.job == JOB)

    def end(self, status: JobStatus = JobStatus.CANCELED) -> None:
        self.registry.save_job(self.epoch, msgspec.structs.replace(self.record, status=status))

    def checkpoint(
        self,
        own: Iterable[str] = (),
        others: Iterable[str] = (),
        positions: Sequence[int] | None = None,
        *,
        retain: int = 1,
        kind: str = "checkpoint",
        base: int = 0,
    ) -> int:
        """Complete a checkpoint that writes ``own`` files and refers to ``others`` too; its id."""
        checkpoint = self.registry.next_checkpoint_id(self.epoch, JOB)
        own = list(own)
        for path in own:
            self.storage.write(path, b"12345")
        attempt = self.record.attempt
        record = write_metadata(
            self.storage, checkpoint, [*own, *others], positions, attempt=attempt, base=base, kind=kind
        )
        self.registry.add_checkpoint(self.epoch, JOB, attempt, record, retain)
        return checkpoint

    def append(self, partition: TopicPartition, frames: int) -> None:
        for _ in range(frames):
            self.cluster.append(partition, b"frame")

    def commit(self, marker: CommitMarker) -> None:
        self.cluster.append(
            COMMITS_LOG[marker.key_group], encode_marker(marker), key=marker_key(SINK, marker.key_group)
        )

    def log_start(self, partition: TopicPartition) -> int:
        return self.log.offsets([partition], OffsetSpec.EARLIEST)[partition]

    # --- the cleaner -------------------------------------------------------------------------------------------------

    def send(self, request: CleanupRequest) -> None:
        self.cluster.append(TopicPartition(CLEANUP_TOPIC, 0), encode(request))

    def work(self, ms: int = 0) -> None:
        """Let the cleaner work for so long, and then until nothing is to be done at that time."""
        end_ms = self.clock.monotonic_ms() + ms
        while True:
            has_worked = self.process.step(self.clock.monotonic_ms())
            has_worked |= bool(self.executor.run_all())
            if has_worked:
                continue
            left_ms = end_ms - self.clock.monotonic_ms()
            if left_ms <= 0 and self.process.is_idle:
                return
            self.clock.advance(max(1, min(50, left_ms)) if self.process.is_idle else 1)

    def make_calls(self, calls: int) -> None:
        """Let the cleaner make so many blocking calls, as far as it has something to do now."""
        for _ in range(100 * calls):
            self.process.step(self.clock.monotonic_ms())
            if self.executor.run_all():
                calls -= 1
            if calls == 0:
                return
            self.clock.advance(1)
