"""Two cleaners against everything that can happen around them.

The model is a coordinator with its workers, reduced to what touches the registry, the storage and the logs: checkpoints
are triggered (several at a time), share files with their base, are uploaded file by file, registered, subsumed,
aborted; attempts start anew while workers of the last one still write; uploads and transactions are left unfinished;
sinks commit; savepoints come and go; the job ends with one retention or another, is submitted again, from nothing or
from a checkpoint of its last life, is purged. Messages to the cleaners are lost, late and doubled. A cleaner crashes
between any two calls, and a call that it had begun may still run long afterwards.

After every step each retained checkpoint restores completely; at the end exactly what is marked is left.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.unit.cleaner.jobs import (
    COMMITS_LOG,
    JOB,
    KEYED_LOG,
    OUTPUT_LOG,
    PARTITIONS,
    RESULTS,
    SINK,
    TOPICS,
    TOTALS,
    commit_marker,
    exclusive,
    job_record,
    merged,
    metadata,
    shared,
    write_metadata,
)

from moorage.cleaner.pace import CleanerOptions
from moorage.cleaner.retention import CheckpointRetention, discarded, is_over
from moorage.cleaner_process.process import CleanerProcess
from moorage.errors import StaleAttemptError
from moorage.ids import Attempt, CheckpointId, Epoch, TopicPartition, VertexId
from moorage.messages.cleanup import CleanupRequest, DiscardCheckpoint, DiscardState, PurgeJob, TrimExchange
from moorage.messages.registry import CheckpointRecord, JobRecord, JobStatus, RestoreMode, RestoreSettings
from moorage.naming import CLEANUP_TOPIC, exchange_id, exchange_topic, transactional_id
from moorage.ports import OffsetSpec, TopicSpec, UnfinishedUpload
from moorage.serde.control import encode
from moorage.serde.metadata import decode_metadata
from moorage.serde.positions import encode_marker, marker_key
from moorage.testing.clocks import ManualClock
from moorage.testing.executor import InlineExecutor
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage.testing.memory_registry import MemoryRegistry
from moorage.testing.memory_storage import MemoryStorage

EXAMPLES = int(os.environ.get("MOORAGE_CLEANER_EXAMPLES", "80"))
STEPS = int(os.environ.get("MOORAGE_CLEANER_STEPS", "60"))
CLEANERS = 2
MAX_PENDING = 3
OPTIONS = CleanerOptions(
    grace_age_ms=5_000,
    prompt_interval_ms=10,
    sweep_interval_ms=2_000,
    delete_batch_files=2,
    deletes_per_second=1_000,
    retry_initial_ms=10,
    retry_max_ms=100,
    purge_hold_ms=500,
    ended_job_ttl_ms=3_000,
)
LEGACY_LOG = TopicPartition(exchange_topic(JOB, exchange_id(VertexId("legacy"), TOTALS)), 0)
"""Of a pipeline that had another operator."""
RESULTS_LOG = TopicPartition("results", 0)
"""The sink's output."""
FOREIGN = ("orders/notes.txt", "orders/savepoint-1/_metadata", "orders2/chk-1/_metadata", "orders2/shared/1-a-0-a1-x")

indexes = st.integers(0, 1_000)


class Pending(msgspec.Struct):
    """A checkpoint that was triggered, or its remains."""

    checkpoint: int
    attempt: int
    base: int
    references: set[str]
    missing: list[str]
    """Own files that are not uploaded yet."""
    positions: list[int]
    barriers: list[int]
    """Per partition of the sink's exchange: the offset behind the barrier."""
    record: CheckpointRecord | None = None
    """Its _metadata is written."""
    uploads: list[UnfinishedUpload] = []


class Cleaner:
    def __init__(self, process: CleanerProcess, executor: InlineExecutor) -> None:
        self.process = process
        self.executor = executor


class CleanerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.registry = MemoryRegistry(self.clock)
        self.storage = MemoryStorage(self.clock)
        self.cluster = MemoryCluster(self.clock)
        self.log = MemoryLog(self.cluster, "job")
        self.epoch = Epoch(0)
        self.options = OPTIONS
        self.claims = False
        self.incarnations = 0
        self.retention = CheckpointRetention.RETAIN_ON_CANCELLATION
        self.cleaners: list[Cleaner] = []
        self.zombie_calls: list[InlineExecutor] = []
        """Of cleaners that crashed while a call was under way."""
        self.undelivered: list[CleanupRequest] = []
        self.pending: dict[int, Pending] = {}
        self.remains: list[Pending] = []
        """Aborted, but somebody is still uploading."""
        self.completed: dict[int, Pending] = {}
        """Every checkpoint that was ever completed, subsumed ones included."""
        self.positions = [0] * PARTITIONS
        self.committed: list[int | None] = [None] * PARTITIONS
        """Per partition of the sink's exchange: the offset of the newest marker of this life."""
        self.first_output = [0] * PARTITIONS
        """Where the sink's exchange began when this life was submitted."""
        self.is_purged = False
        self.purge_is_sent = False
        self.was_over = False
        self.had_savepoints = False
        self.topics_left_over = False
        """Made for a submission that was refused."""
        self.left_over: set[str] = set()
        """Written when the registry had forgotten the job already: it stays until a job of that name returns."""

    # --- set up ------------------------------------------------------------------------------------------------------

    @initialize(
        grace_age_ms=st.sampled_from([0, OPTIONS.grace_age_ms]),
        claims=st.booleans(),
        retention=st.sampled_from(CheckpointRetention),
    )
    def start(self, grace_age_ms: int, claims: bool, retention: CheckpointRetention) -> None:
        self.claims = claims
        self.retention = retention
        self.options = msgspec.structs.replace(OPTIONS, grace_age_ms=grace_age_ms)
        lease = self.registry.acquire_lease("coordinator", 1_000_000_000)
        assert lease is not None
        self.epoch = lease.epoch
        for path in FOREIGN:
            self.storage.write(path, b"not ours")
        self.log.create_topics([TopicSpec(log.topic, 1, {}) for log in (LEGACY_LOG, RESULTS_LOG)])
        self.cluster.append(LEGACY_LOG, b"frame")
        self.cleaners = [self._new_cleaner() for _ in range(CLEANERS)]
        self._submit()

    def _new_cleaner(self) -> Cleaner:
        executor = InlineExecutor()
        process = CleanerProcess(
            registry=self.registry,
            storage=self.storage,
            log=MemoryLog(self.cluster, "cleaner"),
            executor=executor,
            clock=self.clock,
            options=self.options,
            holder=f"cleaner-{self.incarnations}" if self.claims else None,
        )
        self.incarnations += 1
        return Cleaner(process, executor)

    @property
    def record(self) -> JobRecord:
        (record,) = self.registry.jobs()
        return record

    @property
    def attempt(self) -> int:
        return self.record.attempt

    def _is_live(self) -> bool:
        return not self.is_purged and not self.record.status.has_ended

    def _is_live_now(self) -> bool:
        return bool(self.registry.jobs()) and self._is_live()

    def _kept(self) -> list[CheckpointRecord]:
        """Checkpoints that the registry holds and no retention discards."""
        retained = self.registry.checkpoints(JOB)
        gone = discarded(self.record, retained)
        return [record for record in retained if record.kind == "checkpoint" and record not in gone]

    def _of_this_life(self, records: list[CheckpointRecord]) -> list[CheckpointRecord]:
        """Those that the job may read its logs from again."""
        return [record for record in records if record.checkpoint > self.record.base_checkpoint_id]

    def _newest(self) -> CheckpointRecord | None:
        checkpoints = [record for record in self.registry.checkpoints(JOB) if record.kind == "checkpoint"]
        return checkpoints[-1] if checkpoints else None

    # --- the life of a job -------------------------------------------------------------------------------------------

    def _submit(self, restore: RestoreSettings | None = None) -> None:
        record = job_record(
            attempt=self.registry.last_attempt(JOB),
            status=JobStatus.CREATED,
            base=self.registry.last_checkpoint_id(JOB),
            submitted_ms=self.clock.wall_ms(),
        )
        checkpoint = msgspec.structs.replace(record.graph.checkpoint, retention=self.retention.value)
        graph = msgspec.structs.replace(record.graph, checkpoint=checkpoint)
        record = msgspec.structs.replace(record, graph=graph, restore=restore, former_parallelism={RESULTS: (2,)})
        self.log.create_topics(TOPICS)
        self.registry.save_job(self.epoch, record)
        self.is_purged = self.purge_is_sent = self.topics_left_over = False
        self.left_over.clear()
        self.committed = [None] * PARTITIONS
        self.first_output = [self._log_start(partition) for partition in OUTPUT_LOG]
        self._deploy(restored=None)

    def _deploy(self, restored: CheckpointRecord | None) -> None:
        self.remains += self.pending.values()
        self.pending.clear()
        for parallelism in (1, 2):  # sinks fence first
            self.log.transactional_writer(
                transactional_id(JOB, SINK, parallelism, 0), transaction_timeout_ms=1_000
            ).init()
        newest = self._newest_of_any_kind()
        self.registry.start_attempt(
            self.epoch,
            msgspec.structs.replace(
                self.record, attempt=Attempt(self.registry.last_attempt(JOB) + 1), status=JobStatus.RUNNING
            ),
            newest,
        )
        if restored is None:
            # Everything that is there is void, so its first barrier lies behind it.
            self.positions = [self._log_end(partition) for partition in KEYED_LOG]
        else:
            self.positions = list(self.completed[restored.checkpoint].positions)

    def _newest_of_any_kind(self) -> CheckpointId:
        return max((record.checkpoint for record in self.registry.checkpoints(JOB)), default=CheckpointId(0))

    @precondition(lambda self: self._is_live())
    @rule(drop_newest=st.booleans())
    def restart(self, drop_newest: bool) -> None:
        """A new attempt; ``drop_newest``: its newest checkpoint can't be read, the one before is taken."""
        mine = [
            record
            for record in self.registry.checkpoints(JOB)
            if record.kind == "checkpoint" and record.checkpoint > self.record.base_checkpoint_id
        ]
        committed = [offset for offset in self.committed if offset is not None]
        if drop_newest and len(mine) > 1:
            older = self.completed[mine[-2].checkpoint]
            if all(offset <= barrier for offset, barrier in zip(committed, older.barriers, strict=False)):
                self.registry.remove_checkpoint(self.epoch, JOB, mine[-1].checkpoint)
                mine.pop()
        self._deploy(mine[-1] if mine else None)

    @precondition(lambda self: self._is_live())
    @precondition(lambda self: len(self.completed) % 3 == 2)  # not too often
    @rule(status=st.sampled_from([status for status in JobStatus if status.has_ended]))
    def end(self, status: JobStatus) -> None:
        for checkpoint in list(self.pending):
            self._abort(checkpoint)
        self.registry.save_job(self.epoch, msgspec.structs.replace(self.record, status=status))

    @precondition(lambda self: not self._is_live())
    @rule(from_last_life=st.booleans(), mode=st.sampled_from(RestoreMode))
    def submit_again(self, from_last_life: bool, mode: RestoreMode) -> None:
        self.clock.advance(1)
        newest = self._newest()
        restore = None
        if from_last_life and newest is not None and not discarded(self.record, [newest]):
            path = newest.metadata_path if mode is RestoreMode.CLAIM else f"s3://bucket/{newest.metadata_path}"
            restore = RestoreSettings(path=path, checksum=newest.metadata_checksum, mode=mode)
        try:
            self._submit(restore)
        except StaleAttemptError:
            self.topics_left_over = True
            assert not self.is_purged
            assert not self.registry.checkpoints(JOB)

    @precondition(lambda self: not self.is_purged and self.record.status.has_ended)
    @rule()
    def purge(self) -> None:
        self.purge_is_sent = True
        self._send(PurgeJob(epoch=self.epoch, job=JOB, submitted_ms=self.record.submitted_ms))

    @precondition(lambda self: self._is_live())
    @rule(parallelism=st.integers(1, 2))
    def leave_transaction(self, parallelism: int) -> None:
        """Of a sink that dies."""
        writer = self.log.transactional_writer(
            transactional_id(JOB, SINK, parallelism, 0), transaction_timeout_ms=10**9
        )
        writer.init()
        writer.begin()
        writer.append(*RESULTS_LOG, None, b"uncommitted")
        writer.poll()

    @precondition(lambda self: bool(self.pending))
    @rule(index=indexes)
    def leave_upload(self, index: int) -> None:
        """Of a worker that dies."""
        pending = self.pending[sorted(self.pending)[index % len(self.pending)]]
        pending.uploads.append(self.storage.begin_upload(shared(pending.checkpoint, "big", pending.attempt)))

    # --- checkpoints -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self._is_live() and len(self.pending) < MAX_PENDING)
    @rule(kept=st.integers(0, 7), new=st.integers(0, 2), private=st.booleans())
    def trigger(self, kept: int, new: int, private: bool) -> None:
        checkpoint = self.registry.next_checkpoint_id(self.epoch, JOB)
        attempt = self.attempt
        newest = self._newest()
        base = 0
        if newest is not None and newest.checkpoint > self.record.base_checkpoint_id:
            base = newest.checkpoint
        chain = sorted(path for path in self.completed[base].references if "/shared/" in path) if base else []
        restore = self.record.restore
        if base == 0 and restore is not None and restore.mode is RestoreMode.CLAIM:
            claimed = next(n for n in self.completed if metadata(n) == restore.path)
            chain = sorted(self.completed[claimed].references)
        own = [shared(checkpoint, f"chain{n}", attempt) for n in range(new)]
        own += [merged(checkpoint, shared=True, attempt=attempt)] if new == 1 else []
        own += [exclusive(checkpoint, "state", attempt)] if private else []
        self.pending[checkpoint] = Pending(
            checkpoint=checkpoint,
            attempt=attempt,
            base=base,
            references={*own, *(path for n, path in enumerate(chain) if kept >> (n % 3) & 1)},
            missing=own,
            positions=list(self.positions),
            barriers=[self._log_end(partition) for partition in OUTPUT_LOG],
        )

    @precondition(lambda self: self._is_live() and len(self.pending) < MAX_PENDING)
    @rule(kept=st.integers(0, 7), new=st.integers(0, 2), retain=st.integers(1, 3))
    def checkpoint(self, kept: int, new: int, retain: int) -> None:
        """The usual course, from trigger to notification, while nothing else happens."""
        self.trigger(kept=kept, new=new, private=True)
        pending = self.pending[max(self.pending)]
        self._upload_rest(pending)
        self._write_metadata(pending)
        self._register(pending, retain)

    @precondition(lambda self: any(p.missing for p in self._uploading()))
    @rule(index=indexes)
    def upload(self, index: int) -> None:
        """The next file, of a pending checkpoint or of one that was aborted long ago."""
        candidates = [p for p in self._uploading() if p.missing]
        self._upload(candidates[index % len(candidates)])

    def _upload(self, pending: Pending) -> None:
        path = pending.missing.pop()
        self.storage.write(path, b"rows")
        if self.is_purged:
            self.left_over.add(path)

    def _upload_rest(self, pending: Pending) -> None:
        while pending.missing:
            self._upload(pending)

    def _uploading(self) -> list[Pending]:
        return [*self.pending.values(), *self.remains]

    def _acknowledged(self) -> list[Pending]:
        return [p for p in self.pending.values() if not p.missing]

    @precondition(lambda self: any(p.record is None for p in self._acknowledged()))
    @rule(index=indexes)
    def write_metadata(self, index: int) -> None:
        candidates = [p for p in self._acknowledged() if p.record is None]
        self._write_metadata(candidates[index % len(candidates)])

    def _write_metadata(self, pending: Pending) -> None:
        pending.record = write_metadata(
            self.storage,
            pending.checkpoint,
            pending.references,
            pending.positions,
            attempt=pending.attempt,
            base=pending.base,
        )

    @precondition(lambda self: any(p.record is not None for p in self._acknowledged()))
    @rule(index=indexes, retain=st.integers(1, 3))
    def register(self, index: int, retain: int) -> None:
        candidates = [p for p in self._acknowledged() if p.record is not None]
        self._register(candidates[index % len(candidates)], retain)

    def _register(self, pending: Pending, retain: int) -> None:
        assert pending.record is not None
        del self.pending[pending.checkpoint]
        bases = [CheckpointId(p.base) for p in self.pending.values() if p.base]
        subsumed = self.registry.add_checkpoint(
            self.epoch, JOB, Attempt(pending.attempt), pending.record, retain, min(bases, default=None)
        )
        self.completed[pending.checkpoint] = pending
        for record in subsumed:
            self._send(DiscardCheckpoint(epoch=self.epoch, job=JOB, checkpoint=record.checkpoint))
        self._send(TrimExchange(epoch=self.epoch, job=JOB))
        for checkpoint in [n for n in self.pending if n < pending.checkpoint]:
            self._abort(checkpoint)

    @precondition(lambda self: bool(self.pending))
    @rule(index=indexes)
    def abort(self, index: int) -> None:
        self._abort(sorted(self.pending)[index % len(self.pending)])

    def _abort(self, checkpoint: int) -> None:
        pending = self.pending.pop(checkpoint)
        self.remains.append(pending)
        self._send(DiscardCheckpoint(epoch=self.epoch, job=JOB, checkpoint=CheckpointId(checkpoint)))
        paths = tuple(sorted(path for path in pending.references if f"{checkpoint}-" in path))
        self._send(DiscardState(epoch=self.epoch, job=JOB, checkpoint=CheckpointId(checkpoint), paths=paths))

    @precondition(lambda self: self._is_live())
    @rule()
    def savepoint(self) -> None:
        """It stands alone, refers to no log, and nobody deletes it but by dispose."""
        checkpoint = self.registry.next_checkpoint_id(self.epoch, JOB)
        path = exclusive(checkpoint, "all", self.attempt)
        self.storage.write(path, b"rows")
        record = write_metadata(self.storage, checkpoint, [path], None, attempt=self.attempt, kind="savepoint")
        self.registry.add_checkpoint(self.epoch, JOB, Attempt(self.attempt), record, 3)
        self.completed[checkpoint] = Pending(checkpoint, self.attempt, 0, {path}, [], [], [], record)

    @precondition(lambda self: not self.is_purged and self._savepoints())
    @rule(index=indexes)
    def dispose(self, index: int) -> None:
        savepoints = self._savepoints()
        checkpoint = savepoints[index % len(savepoints)].checkpoint
        self.registry.remove_checkpoint(self.epoch, JOB, checkpoint)
        if self.purge_is_sent:
            self.purge()

    def _savepoints(self) -> list[CheckpointRecord]:
        return [record for record in self.registry.checkpoints(JOB) if record.kind == "savepoint"]

    # --- logs --------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self._is_live())
    @rule(partition=st.integers(0, PARTITIONS - 1), frames=st.integers(1, 3), consumed=st.integers(0, 5))
    def process(self, partition: int, frames: int, consumed: int) -> None:
        for _ in range(frames):
            self.cluster.append(KEYED_LOG[partition], b"frame")
            self.cluster.append(OUTPUT_LOG[partition], b"frame")
        self.positions[partition] = min(self.positions[partition] + consumed, self._log_end(KEYED_LOG[partition]))

    @precondition(lambda self: self._is_live() and self._newest() is not None)
    @rule(partition=st.integers(0, PARTITIONS - 1))
    def commit(self, partition: int) -> None:
        """The sink commits what lies before the newest completed checkpoint's barrier."""
        newest = self._newest()
        assert newest is not None
        if newest.checkpoint <= self.record.base_checkpoint_id:
            return
        offset = self.completed[newest.checkpoint].barriers[partition]
        marker = commit_marker(newest.checkpoint, partition, offset, attempt=self.attempt)
        self.cluster.append(COMMITS_LOG[partition], encode_marker(marker), key=marker_key(SINK, partition))
        self.committed[partition] = offset
        self._send(TrimExchange(epoch=self.epoch, job=JOB))

    def _log_start(self, partition: TopicPartition) -> int:
        return self.log.offsets([partition], OffsetSpec.EARLIEST)[partition]

    def _log_end(self, partition: TopicPartition) -> int:
        return self.log.offsets([partition], OffsetSpec.LATEST)[partition]

    # --- messages ----------------------------------------------------------------------------------------------------

    def _send(self, request: CleanupRequest) -> None:
        self.undelivered.append(request)

    @precondition(lambda self: bool(self.undelivered))
    @rule(index=indexes, doubled=st.booleans())
    def deliver(self, index: int, doubled: bool) -> None:
        request = self.undelivered[index % len(self.undelivered)]
        if not doubled:
            self.undelivered.remove(request)
        self.cluster.append(TopicPartition(CLEANUP_TOPIC, 0), encode(request))

    @rule()
    def deliver_nonsense(self) -> None:
        self.cluster.append(TopicPartition(CLEANUP_TOPIC, 0), b"nonsense")

    # --- cleaners ----------------------------------------------------------------------------------------------------

    @rule(
        index=st.integers(0, CLEANERS - 1), waited_ms=st.sampled_from([0, 20, 2_000, 6_000]), calls=st.integers(1, 40)
    )
    def clean(self, index: int, waited_ms: int, calls: int) -> None:
        """Some whole calls in a row, after some time."""
        self.clock.advance(waited_ms)
        cleaner = self.cleaners[index]
        for _ in range(calls):
            cleaner.process.step(self.clock.monotonic_ms())
            cleaner.executor.run_all()
            self.clock.advance(2)
        self._note_purge()

    @rule(index=st.integers(0, CLEANERS - 1))
    def step(self, index: int) -> None:
        """Up to where a call is under way; it has not reached anybody yet."""
        self.cleaners[index].process.step(self.clock.monotonic_ms())

    @precondition(lambda self: any(executor.calls for executor in self._executors()))
    @rule(index=indexes)
    def reach(self, index: int) -> None:
        """A call that is under way takes effect, that of a crashed cleaner included; nobody was told yet."""
        executors = [executor for executor in self._executors() if executor.calls]
        executors[index % len(executors)].call_one()
        self._note_purge()

    @precondition(lambda self: any(executor.results for executor in self._executors()))
    @rule(index=indexes)
    def answer(self, index: int) -> None:
        executors = [executor for executor in self._executors() if executor.results]
        executors[index % len(executors)].serve_one()

    @rule(index=st.integers(0, CLEANERS - 1))
    def crash(self, index: int) -> None:
        self.zombie_calls.append(self.cleaners[index].executor)
        self.cleaners[index] = self._new_cleaner()

    def _executors(self) -> list[InlineExecutor]:
        return [*(cleaner.executor for cleaner in self.cleaners), *self.zombie_calls]

    def _note_purge(self) -> None:
        if not self.is_purged and not self.registry.jobs():
            assert self.was_over or self.purge_is_sent
            assert not self.had_savepoints
            self.is_purged = True

    @invariant()
    def remember_what_is_kept(self) -> None:
        if self.registry.jobs():
            self.had_savepoints = bool(self._savepoints())
            self.was_over = is_over(self.record, self.registry.checkpoints(JOB))

    # --- what must hold ----------------------------------------------------------------------------------------------

    @invariant()
    def every_retained_checkpoint_restores(self) -> None:
        stored = set(self.storage.paths())
        for record in self.registry.checkpoints(JOB):
            assert set(decode_metadata(self.storage.read(record.metadata_path)).paths()) <= stored
            assert self.completed[record.checkpoint].references <= stored

    @invariant()
    def who_finds_metadata_finds_the_whole(self) -> None:
        stored = set(self.storage.paths())
        for checkpoint, completed in self.completed.items():
            if metadata(checkpoint) in stored:
                assert completed.references <= stored

    @invariant()
    def what_is_pending_stays(self) -> None:
        stored = set(self.storage.paths())
        for pending in self.pending.values():
            assert pending.references - set(pending.missing) <= stored
            assert pending.record is None or metadata(pending.checkpoint) in stored
            assert set(pending.uploads) <= set(self.storage.unfinished_uploads(f"{JOB}/"))

    @invariant()
    def logs_hold_what_is_needed(self) -> None:
        if self.is_purged or self.purge_is_sent or (self.record.status.has_ended and not self._kept()):
            return
        for record in self._of_this_life(self._kept()):
            positions = self.completed[record.checkpoint].positions
            assert all(self._log_start(log) <= needed for log, needed in zip(KEYED_LOG, positions, strict=True))
        for log, committed, first in zip(OUTPUT_LOG, self.committed, self.first_output, strict=True):
            assert self._log_start(log) <= (first if committed is None else committed)

    @invariant()
    def what_the_job_starts_from_stays(self) -> None:
        if not self._is_live_now() or self.record.restore is None:
            return
        base, retained = self.record.base_checkpoint_id, self.registry.checkpoints(JOB)
        if any(known.kind == "checkpoint" and known.checkpoint > base for known in retained):
            return
        path = self.record.restore.path.removeprefix("s3://bucket/")
        stored = set(self.storage.paths())
        assert {path, *decode_metadata(self.storage.read(path)).paths()} <= stored

    @invariant()
    def nothing_foreign_is_touched(self) -> None:
        assert not self.cleaners or set(FOREIGN) <= set(self.storage.paths())

    # --- in the end --------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not self.cleaners:
            return
        for pending in self._uploading():
            self._upload_rest(pending)
        if self._is_live():
            self.checkpoint(kept=7, new=1, retain=2)
        elif self.purge_is_sent and not self.is_purged:
            for record in self._savepoints():
                self.registry.remove_checkpoint(self.epoch, JOB, record.checkpoint)
            self.purge()
            self.cluster.append(TopicPartition(CLEANUP_TOPIC, 0), encode(self.undelivered[-1]))
        self.remember_what_is_kept()
        self._quiesce()
        if self.purge_is_sent or self.was_over:
            assert self.is_purged
        if not self._is_live_now():
            assert self.log.offsets([RESULTS_LOG], OffsetSpec.LATEST) == self.log.offsets([RESULTS_LOG], OffsetSpec.END)
        assert not self.storage.unfinished_uploads(f"{JOB}/")
        if self.is_purged:
            assert self.log.topics().keys() == {CLEANUP_TOPIC, RESULTS_LOG.topic} or self.topics_left_over
            assert self._present() == self.left_over
            return
        assert not discarded(self.record, self.registry.checkpoints(JOB))
        marked = {
            path
            for record in self.registry.checkpoints(JOB)
            for path in (record.metadata_path, *self.completed[record.checkpoint].references)
        }
        if self.registry.completed_ids(JOB) or not any(path.endswith("/_metadata") for path in self._present()):
            assert self._present() == marked
        for log, needed in self._needed():
            assert self._log_start(log) == needed

    def _present(self) -> set[str]:
        return set(self.storage.paths()) - set(FOREIGN)

    def _needed(self) -> Iterator[tuple[TopicPartition, int]]:
        """Where each log must start now."""
        retained = [
            self.completed[record.checkpoint]
            for record in self.registry.checkpoints(JOB)
            if record.kind == "checkpoint"
        ]
        if not retained:
            if self.record.status.has_ended:
                for log in (*KEYED_LOG, *OUTPUT_LOG, LEGACY_LOG):
                    if log.topic in self.log.topics():
                        yield log, self._log_end(log)
            return
        own = [completed for completed in retained if completed.checkpoint > self.record.base_checkpoint_id]
        if len(own) == len(retained) and LEGACY_LOG.topic in self.log.topics():
            yield LEGACY_LOG, self._log_end(LEGACY_LOG)
        if not own:
            return
        for partition in range(PARTITIONS):
            yield KEYED_LOG[partition], min(completed.positions[partition] for completed in own)
            committed = self.committed[partition]
            yield OUTPUT_LOG[partition], self.first_output[partition] if committed is None else committed

    def _quiesce(self) -> None:
        """Everything that is late happens, then the cleaners work until nothing is left to do."""
        for executor in self.zombie_calls:
            while executor.calls:
                executor.call_one()
        for _ in range(4):
            self.clock.advance(OPTIONS.grace_age_ms + OPTIONS.sweep_interval_ms)
            for cleaner in self.cleaners:
                self._work_off(cleaner)
        self._note_purge()

    def _work_off(self, cleaner: Cleaner) -> None:
        for _ in range(5_000):
            cleaner.executor.run_all()
            if not cleaner.process.step(self.clock.monotonic_ms()) and cleaner.process.is_idle:
                return
            self.clock.advance(1)
        raise AssertionError("the cleaner does not come to rest")


CleanerMachine.TestCase.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestCleaner = CleanerMachine.TestCase
