from __future__ import annotations

from typing import Any

import pytest

from moorage.coordinator_process.calls import EVENTS, call_error, control_topics, run_call
from moorage.coordinator_process.origin import origin_of, with_origin
from moorage.effects import (
    AcquireLease,
    CallFailure,
    DeleteSavepoint,
    DiscardSavepoint,
    FollowEvents,
    FoundSavepoint,
    Operation,
    ReadJob,
    ReadSavepoint,
    VerifyMetadata,
    WriteMetadata,
    WrittenMetadata,
)
from moorage.errors import (
    BaseSubsumedError,
    CorruptDataError,
    FencedError,
    LogError,
    LogUnavailableError,
    MoorageError,
    ObjectExistsError,
    ObjectMissingError,
    RegistryUnavailableError,
    StaleAttemptError,
    StorageError,
)
from moorage.ids import Attempt, CheckpointId, Epoch, JobId, OperatorId
from moorage.messages.registry import CheckpointRecord, Lease
from moorage.naming import CONTROL_TOPICS, metadata_path
from moorage.serde.metadata import decode_metadata, encode_metadata
from moorage.state.handles import FileHandle, KeyGroupsHandle
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import (
    ORIGIN_STATE,
    CheckpointMetadata,
    CheckpointOrigin,
    MasterState,
    OperatorState,
    OperatorSubtaskState,
)
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_log import MemoryCluster, MemoryLog
from moorage.testing.memory_registry import MemoryRegistry
from moorage.testing.memory_storage import MemoryStorage

JOB = JobId("orders")
ORIGIN = CheckpointOrigin(job=JOB, attempt=Attempt(3), triggered_ms=1_000)
METADATA = CheckpointMetadata(checkpoint=CheckpointId(7), operators=())


class Ports:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.registry = MemoryRegistry(self.clock)
        self.storage = MemoryStorage(self.clock)
        self.cluster = MemoryCluster(self.clock)
        self.log = MemoryLog(self.cluster, "coordinator")

    def run(self, operation: Operation[Any]) -> object:
        return run_call(operation, registry=self.registry, storage=self.storage, log=self.log)


@pytest.fixture
def ports() -> Ports:
    return Ports()


def write(ports: Ports) -> CheckpointRecord:
    path = metadata_path(JOB, CheckpointId(7))
    written = ports.run(WriteMetadata(path=path, metadata=METADATA, origin=ORIGIN))
    assert isinstance(written, WrittenMetadata)
    return CheckpointRecord(
        checkpoint=CheckpointId(7),
        attempt=Attempt(3),
        kind="checkpoint",
        metadata_path=path,
        metadata_bytes=written.size_bytes,
        metadata_checksum=written.checksum,
        triggered_ms=1,
        completed_ms=2,
        state_bytes=0,
    )


def test_metadata_that_was_written_although_the_answer_was_lost_is_written(ports: Ports) -> None:
    write = WriteMetadata(path=metadata_path(JOB, CheckpointId(7)), metadata=METADATA, origin=ORIGIN)
    ports.storage.faults.fail_next("write", ObjectExistsError("it exists"), after=True)
    written = ports.run(write)
    assert isinstance(written, WrittenMetadata)
    assert written.size_bytes == len(ports.storage.read(write.path))


def test_metadata_of_another_is_left_alone(ports: Ports) -> None:
    path = metadata_path(JOB, CheckpointId(7))
    ports.storage.write(path, b"another's")
    with pytest.raises(ObjectExistsError):
        ports.run(WriteMetadata(path=path, metadata=METADATA, origin=ORIGIN))
    assert ports.storage.read(path) == b"another's"


def test_what_was_written_is_verified(ports: Ports) -> None:
    record = write(ports)
    ports.run(VerifyMetadata(record=record))
    assert origin_of(decode_metadata(ports.storage.read(record.metadata_path))) == ORIGIN


def test_a_damaged_file_is_found(ports: Ports) -> None:
    record = write(ports)
    ports.storage.corrupt(record.metadata_path)
    with pytest.raises(CorruptDataError, match="orders/chk-7/_metadata is not the file that was registered"):
        ports.run(VerifyMetadata(record=record))


def test_a_missing_file_is_found(ports: Ports) -> None:
    record = write(ports)
    ports.storage.delete([record.metadata_path])
    with pytest.raises(ObjectMissingError):
        ports.run(VerifyMetadata(record=record))


def test_of_a_savepoints_folder_what_is_the_savepoints_goes(ports: Ports) -> None:
    folder, storage = "orders/savepoints/savepoint-1", ports.storage
    named, strays = FileHandle("x", 1, "state-as-flink-names-it"), ("orders/shared/3-t-0-a1-rows.0123456789abcdef",)
    handles = tuple(KeyGroupsHandle(KeyGroupRange(0, 0), (0,), s) for s in (named, FileHandle(strays[0], 1)))
    operator = OperatorState(
        operator=OperatorId("0" * 32),
        uid=None,
        name=None,
        parallelism=1,
        max_parallelism=1,
        subtasks={0: OperatorSubtaskState(managed_keyed=handles)},
    )
    metadata = CheckpointMetadata(checkpoint=CheckpointId(7), operators=(operator,), savepoint=True)
    ours = "totals-0-a1-rows.0123456789abcdef"
    kept = [*strays, *(f"{folder}/{name}" for name in ("notes.txt", f"below/{ours}", "below/_metadata"))]
    gone = [f"{folder}/{name}" for name in ("_metadata", ours)]
    for path in (*kept, gone[1], f"{folder}/{named.relative_path}"):
        storage.write(path, b"x")
    ports.run(DiscardSavepoint(folder=folder))
    storage.write(gone[0], encode_metadata(metadata))
    storage.write(gone[1], b"x")
    ports.run(DeleteSavepoint(path=gone[0]))
    assert storage.paths() == sorted(kept)


def test_the_lease_or_who_has_it(ports: Ports) -> None:
    mine = ports.run(AcquireLease(holder="me", ttl_ms=1_000, above=Epoch(0)))
    assert mine == Lease(holder="me", epoch=Epoch(1), ttl_ms=1_000)
    theirs = ports.run(AcquireLease(holder="other", ttl_ms=1_000, above=Epoch(0)))
    assert isinstance(theirs, Lease)
    assert theirs.holder == "me"
    ports.clock.advance(1_000)
    assert isinstance(ports.run(AcquireLease(holder="other", ttl_ms=1_000, above=Epoch(9))), Lease)
    assert ports.registry.lease() == Lease(holder="other", epoch=Epoch(10), ttl_ms=1_000)


def test_following_the_events_creates_the_control_topics_and_starts_at_the_end(ports: Ports) -> None:
    assert ports.run(FollowEvents()) == 0
    assert {name: len(partitions) for name, partitions in ports.cluster.topics.items()} == dict.fromkeys(
        CONTROL_TOPICS, 1
    )
    ports.cluster.append(EVENTS, b"old")
    assert ports.run(FollowEvents()) == 1


def test_cleanup_requests_are_kept_longest() -> None:
    kept = {spec.name: int(spec.config["retention.ms"]) for spec in control_topics()}
    assert max(kept, key=lambda name: kept[name]) == "moorage.control.cleanup"


def test_a_job_that_is_not_there_has_an_empty_history(ports: Ports) -> None:
    history = ports.run(ReadJob(job=JOB))
    assert getattr(history, "record", "missing") is None


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (RegistryUnavailableError("x"), CallFailure.UNAVAILABLE),
        (LogUnavailableError("x"), CallFailure.UNAVAILABLE),
        (StorageError("x"), CallFailure.UNAVAILABLE),
        (FencedError("x"), CallFailure.FENCED),
        (StaleAttemptError("x"), CallFailure.STALE),
        (BaseSubsumedError("x"), CallFailure.BASE_SUBSUMED),
        (CorruptDataError("x"), CallFailure.CORRUPT),
        (ObjectMissingError("x"), CallFailure.CORRUPT),
        (ObjectExistsError("x"), CallFailure.REFUSED),
        (LogError("x"), CallFailure.REFUSED),
    ],
)
def test_what_an_error_means(error: MoorageError, failure: CallFailure) -> None:
    assert call_error(error).failure is failure
    assert call_error(error).detail == "x"


def test_metadata_that_is_too_large_is_not_read(ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    write(ports)
    monkeypatch.setattr("moorage.coordinator_process.storage_calls.MAX_METADATA_BYTES", 35)
    with pytest.raises(CorruptDataError, match=r"orders/chk-7/_metadata has \d+ bytes: more than 35 can't be metadata"):
        ports.run(ReadSavepoint(path="orders/chk-7"))


def test_what_a_job_starts_from_is_held_against_its_own_checksum(ports: Ports) -> None:
    """Whatever byte is damaged: also one of those by which it is told that the file is ours."""
    path = write(ports).metadata_path
    data = ports.storage.read(path)
    found = ports.run(ReadSavepoint(path="orders/chk-7"))
    assert isinstance(found, FoundSavepoint)
    assert found.path == path
    for index in range(len(data)):
        damaged = f"orders/chk-8/{index}/_metadata"
        ports.storage.write(damaged, data[:index] + bytes([data[index] ^ 0x01]) + data[index + 1 :])
        with pytest.raises(CorruptDataError):
            ports.run(ReadSavepoint(path=damaged))


def test_what_is_not_ours_has_no_checksum_to_be_held_against(ports: Ports) -> None:
    ports.storage.write("flink/_metadata", encode_metadata(METADATA))
    found = ports.run(ReadSavepoint(path="flink"))
    assert isinstance(found, FoundSavepoint)
    assert found.metadata == METADATA


def test_foreign_metadata_has_no_origin_and_a_broken_one_is_corrupt() -> None:
    assert origin_of(METADATA) is None
    broken = CheckpointMetadata(
        checkpoint=CheckpointId(7),
        operators=(),
        master_states=(MasterState(name=ORIGIN_STATE, version=1, data=b"\xc1"),),
    )
    with pytest.raises(CorruptDataError, match="origin of checkpoint 7"):
        origin_of(broken)


def test_the_origin_joins_other_master_states() -> None:
    hook = MasterState(name="hook", version=1, data=b"x")
    both = with_origin(CheckpointMetadata(checkpoint=CheckpointId(7), operators=(), master_states=(hook,)), ORIGIN)
    assert [state.name for state in both.master_states] == ["hook", ORIGIN_STATE]
