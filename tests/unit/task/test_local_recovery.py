"""Copies of state files on the worker: what is kept, what goes, and that a bad copy does no harm."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import xxhash
from tests.unit.task.contexts import TaskWorld
from tests.unit.task.harness import SETTINGS, Harness, orders_pipeline

from moorage.adapters.object_storage import DirectoryStorage
from moorage.api.compiler import CompiledPipeline
from moorage.connectors.kafka_source import KafkaSourceReader
from moorage.errors import CorruptDataError, ObjectMissingError, StorageError
from moorage.ids import Attempt, CheckpointId, JobId, VertexId, WorkerId
from moorage.locations import LocatedStorage
from moorage.naming import metadata_path, shared_state_path, with_checksum
from moorage.ports import CheckpointStorage
from moorage.serde.metadata import decode_metadata
from moorage.serde.state_files import segment_id
from moorage.state.handles import ByteStreamHandle, FileHandle, SegmentHandle
from moorage.task.context import TaskContext
from moorage.task.local_recovery import LocalCopies, LocalRecovery
from moorage.task.state_writer import StateFileLimits
from moorage.task.worker import WorkerConfig, WorkerHooks, WorkerProcess
from moorage.testing.clocks import ManualClock
from moorage.testing.executor import InlineExecutor
from moorage.testing.memory_log import MemoryLog
from moorage.testing.memory_storage import MemoryStorage

JOB = JobId("orders")


def path(checkpoint: int, data: bytes = b"", job: str = "orders") -> str:
    name = with_checksum("totals", xxhash.xxh3_64_intdigest(data))
    return shared_state_path(JobId(job), CheckpointId(checkpoint), Attempt(1), VertexId("totals"), 0, name)


@pytest.fixture(params=["memory", "directory"])
def local(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStorage:
    return MemoryStorage(ManualClock()) if request.param == "memory" else DirectoryStorage(tmp_path, durable=False)


def copies_in(storage: CheckpointStorage) -> set[str]:
    return {info.path.removeprefix("copies/") for info in storage.list("copies/")}


# --- what stays ------------------------------------------------------------------------------------------------------


def test_copies_that_the_newest_checkpoint_does_not_need_go(local: CheckpointStorage) -> None:
    executor = InlineExecutor()
    recovery = LocalRecovery(LocalCopies(local, 1_000), executor)
    for checkpoint in (1, 2, 3):
        recovery.copies.keep(path(checkpoint), b"x")
    recovery.copies.keep(path(1, job="other"), b"x")
    recovery.acknowledged(JOB, CheckpointId(1), [path(1)])
    recovery.acknowledged(JOB, CheckpointId(2), [path(1), path(2)])
    recovery.completed(JOB, CheckpointId(2))
    executor.run_all()
    assert copies_in(local) == {path(1), path(2), path(3), path(1, job="other")}
    recovery.acknowledged(JOB, CheckpointId(3), [path(3)])
    recovery.completed(JOB, CheckpointId(3))
    executor.run_all()
    assert copies_in(local) == {path(3), path(1, job="other")}


def test_an_undecided_checkpoint_keeps_what_it_needs(local: CheckpointStorage) -> None:
    executor = InlineExecutor()
    recovery = LocalRecovery(LocalCopies(local, 1_000), executor)
    for checkpoint in (1, 2):
        recovery.copies.keep(path(checkpoint), b"x")
        recovery.acknowledged(JOB, CheckpointId(checkpoint), [path(checkpoint)])
    recovery.acknowledged(JOB, CheckpointId(3), [path(1)])
    recovery.completed(JOB, CheckpointId(2))
    executor.run_all()
    assert copies_in(local) == {path(1), path(2)}
    recovery.aborted(JOB, CheckpointId(3))
    recovery.acknowledged(JOB, CheckpointId(4), [path(2)])
    recovery.completed(JOB, CheckpointId(4))
    executor.run_all()
    assert copies_in(local) == {path(2)}


def test_a_checkpoint_that_nothing_is_known_of_deletes_nothing(local: CheckpointStorage) -> None:
    """After a restart of the worker: what it finds may be what the next attempt starts from."""
    executor = InlineExecutor()
    recovery = LocalRecovery(LocalCopies(local, 1_000), executor)
    recovery.copies.keep(path(1), b"x")
    recovery.completed(JOB, CheckpointId(1))
    executor.run_all()
    assert copies_in(local) == {path(1)}


def test_the_oldest_copies_make_room() -> None:
    clock = ManualClock()
    local = MemoryStorage(clock)
    copies = LocalCopies(local, 250)
    for checkpoint in (1, 2, 3):
        copies.keep(path(checkpoint), bytes(100))
        clock.advance(1)
    assert copies_in(local) == {path(2), path(3)}
    copies.keep(path(4), bytes(251))
    assert copies_in(local) == {path(2), path(3)}, "it would never fit"
    again = LocalCopies(local, 250)
    again.keep(path(5), bytes(100))
    assert copies_in(local) == {path(3), path(5)}, "what lay there before counts"


def test_a_disk_that_fails_is_no_error() -> None:
    local = MemoryStorage(ManualClock())
    copies = LocalCopies(local, 1_000)
    local.faults.fail_next("write", StorageError("no space left on device"))
    copies.keep(path(1), b"x")
    assert copies_in(local) == set()
    local.available = False
    copies.keep(path(1), b"x")
    copies.sweep(JOB, CheckpointId(9), frozenset())
    assert copies.read(FileHandle(path(1), 1)) is None


# --- restoring -------------------------------------------------------------------------------------------------------

DATA = b"rows" * 100
FILE = FileHandle(path(1, DATA), len(DATA))
SEGMENT = SegmentHandle(path(1, DATA), 4, 8, True, segment_id(DATA[4:12]))


def context_with(local: MemoryStorage | None) -> tuple[TaskContext, MemoryStorage]:
    world = TaskWorld()
    context = world.context("totals")
    recovery = None if local is None else LocalRecovery(LocalCopies(local, 10_000), world.executor)
    return dataclasses.replace(context, local=recovery), world.storage


@pytest.mark.parametrize("handle", [FILE, SEGMENT], ids=["file", "segment"])
def test_state_is_restored_from_the_copy(handle: FileHandle | SegmentHandle) -> None:
    local = MemoryStorage(ManualClock())
    context, storage = context_with(local)
    storage.write(handle.path, DATA)
    expected = DATA if handle is FILE else DATA[4:12]
    assert context.read_stream(handle) == expected
    assert context.counters.restored_storage_bytes == len(expected)
    assert context.local is not None
    context.local.copies.keep(handle.path, DATA)
    storage.delete([handle.path])
    assert context.read_stream(handle) == expected
    assert context.counters.restored_local_bytes == len(expected)


@pytest.mark.parametrize("handle", [FILE, SEGMENT], ids=["file", "segment"])
@pytest.mark.parametrize("damage", ["changed", "cut off"])
def test_a_bad_copy_is_not_believed(handle: FileHandle | SegmentHandle, damage: str) -> None:
    local = MemoryStorage(ManualClock())
    context, storage = context_with(local)
    storage.write(handle.path, DATA)
    local.write(f"copies/{handle.path}", DATA[:6] + b"!" + DATA[7:] if damage == "changed" else DATA[:10])
    assert context.read_stream(handle) == (DATA if handle is FILE else DATA[4:12])
    assert context.counters.restored_local_bytes == 0
    assert copies_in(local) == set()


def test_what_is_wrong_with_the_storage_is_told() -> None:
    context, storage = context_with(None)
    with pytest.raises(ObjectMissingError, match=FILE.path):
        context.read_stream(FILE)
    storage.write(FILE.path, DATA)
    storage.corrupt(FILE.path)
    with pytest.raises(CorruptDataError, match=f"{FILE.path}: wrong checksum"):
        context.read_stream(FILE)
    storage.delete([FILE.path])
    storage.write(FILE.path, DATA[:-1])
    with pytest.raises(CorruptDataError, match=f"{FILE.path} has 399 bytes, its checkpoint says 400"):
        context.read_stream(FILE)


def test_a_segment_is_checked_alone() -> None:
    context, storage = context_with(None)
    storage.write(SEGMENT.path, b"????" + DATA[4:])
    assert context.read_stream(SEGMENT) == DATA[4:12]
    storage.delete([SEGMENT.path])
    storage.write(SEGMENT.path, DATA[:5] + b"!" + DATA[6:])
    with pytest.raises(CorruptDataError, match="segment at 4: wrong checksum"):
        context.read_stream(SEGMENT)


def test_what_another_has_written_is_read_by_its_size() -> None:
    context, storage = context_with(None)
    storage.write("job/chk-1/0f6c3a52-uuid", DATA)
    assert context.read_stream(FileHandle("job/chk-1/0f6c3a52-uuid", len(DATA))) == DATA
    assert context.read_stream(SegmentHandle("job/chk-1/0f6c3a52-uuid", 0, 4, False, "uuid")) == b"rows"
    assert context.read_stream(SegmentHandle("job/chk-1/0f6c3a52-uuid", 0, 0)) == b""
    assert context.read_stream(ByteStreamHandle("inline", b"x")) == b"x"


def test_a_savepoint_from_elsewhere_is_not_looked_for_among_the_copies() -> None:
    local = MemoryStorage(ManualClock())
    context, storage = context_with(local)
    elsewhere = MemoryStorage(ManualClock())
    elsewhere.write("savepoint-1/totals", DATA)
    located = LocatedStorage(storage, lambda url, *, create: {"s3://other": elsewhere}[url])
    context = dataclasses.replace(context, storage=located)
    assert context.read_stream(FileHandle("s3://other/savepoint-1/totals", len(DATA))) == DATA
    assert context.counters.restored_storage_bytes == len(DATA)


# --- a whole worker --------------------------------------------------------------------------------------------------

USERS = [f"user-{number}" for number in range(40)]


class LocalHarness(Harness):
    """One worker that keeps copies, and whose state lies in files."""

    def __init__(self) -> None:
        settings = dataclasses.replace(SETTINGS, state_files=StateFileLimits(inline_max_bytes=0))
        self.local = MemoryStorage(ManualClock())
        super().__init__(orders_pipeline(parallelism=2), workers=0, settings=settings)
        self.add_worker()

    def add_worker(self, pipeline: CompiledPipeline | None = None) -> WorkerProcess:
        name = WorkerId(f"w{len(self.names)}/x")
        log, executor = MemoryLog(self.cluster, name), InlineExecutor()
        hooks = WorkerHooks(
            load_pipeline=lambda _: pipeline or self.compiled,
            new_source_reader=KafkaSourceReader,
            warn=self.warnings.append,
            failpoint=lambda _: None,
            local_copies=LocalCopies(self.local, 1 << 20),
        )
        config = WorkerConfig(worker=name, slots=2, heartbeat_interval_ms=500, task=self.settings)
        worker = WorkerProcess(config, log, self.storage, executor, self.clock, hooks)
        executor.run_all()
        worker.step()
        self.workers.append((worker, executor, log))
        self.names.append(name)
        return worker

    def state_files(self) -> list[str]:
        return [path for path in self.storage.paths() if not path.endswith("/_metadata")]

    def restored(self) -> tuple[int, int]:
        """Bytes from copies and from the storage."""
        counters = [context.counters for context in self.contexts()]
        return sum(c.restored_local_bytes for c in counters), sum(c.restored_storage_bytes for c in counters)


def running_harness() -> LocalHarness:
    harness = LocalHarness()
    harness.started()
    for _ in range(4):
        harness.produce([(user, 1.0) for user in USERS])
        harness.run(20)
        harness.checkpoint_now()
    return harness


def test_an_attempt_restores_from_the_copies_of_the_one_before() -> None:
    harness = running_harness()
    harness.storage.delete(harness.state_files())
    harness.deploy([0, 0])
    harness.produce([(user, 1.0) for user in USERS])
    harness.run(40)
    harness.checkpoint_now()
    assert not harness.failures()
    assert harness.counts() == {user: [1, 2, 3, 4, 5] for user in USERS}
    local_bytes, storage_bytes = harness.restored()
    assert local_bytes > 0
    assert storage_bytes == 0


def test_a_worker_that_was_restarted_finds_its_copies() -> None:
    harness = running_harness()
    harness.kill(0)
    harness.add_worker()
    harness.storage.delete(harness.state_files())
    harness.deploy([1, 1])
    harness.run(40)
    assert not harness.failures()
    assert harness.restored()[1] == 0


def test_without_copies_it_restores_from_the_storage() -> None:
    harness = running_harness()
    harness.local.delete(harness.local.paths())
    harness.deploy([0, 0])
    harness.run(40)
    assert not harness.failures()
    local_bytes, storage_bytes = harness.restored()
    assert local_bytes == 0
    assert storage_bytes > 0


def test_only_copies_that_the_newest_checkpoint_needs_are_kept() -> None:
    harness = running_harness()
    harness.run(10)
    metadata = decode_metadata(harness.storage.read(metadata_path(JOB, CheckpointId(harness.checkpoint))))
    assert copies_in(harness.local) == set(metadata.paths())
