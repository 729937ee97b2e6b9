"""Savepoints anywhere: written by running subtasks, moved as a folder, and restored from the new place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import xxhash
from tests.s3_server import S3Server
from tests.unit.task.harness import EPOCH, SETTINGS, Harness, orders_pipeline

import moorage as mo
from moorage.adapters.object_storage import StorageOptions, open_storage
from moorage.backends import canonical, memory_snapshot
from moorage.backends.pieces import StatePiece
from moorage.coordinator_process.origin import seal, with_origin
from moorage.ids import Attempt, CheckpointId
from moorage.locations import LocatedStorage
from moorage.messages.barriers import SnapshotKind, SnapshotOptions
from moorage.messages.commands import DeployJob, TriggerCheckpoint
from moorage.messages.registry import LineageSegment
from moorage.naming import folder_of, metadata_of
from moorage.ports import CheckpointStorage
from moorage.serde.metadata import decode_metadata, encode_metadata
from moorage.serde.state_files import read_stream
from moorage.state.handles import FileHandle, KeyGroupsHandle, streams_of
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import CheckpointMetadata, CheckpointOrigin, OperatorState, OperatorSubtaskState
from moorage.task import snapshots, worker
from moorage.task.state_writer import StateFileLimits, StateWriter
from moorage.testing.clocks import ManualClock
from moorage.testing.memory_storage import MemoryStorage

USERS = [f"user-{number}" for number in range(40)]


class SavepointHarness(Harness):
    """``inline_bytes``: what lies in the metadata at most."""

    def __init__(self, storage: CheckpointStorage, *, inline_bytes: int = 0, merged_bytes: int = 1 << 20) -> None:
        limits = StateFileLimits(inline_max_bytes=inline_bytes, merged_piece_max_bytes=merged_bytes)
        settings = replace(SETTINGS, state_files=limits)
        super().__init__(orders_pipeline(parallelism=2), workers=0, settings=settings)
        self.storage = storage  # type: ignore[assignment]
        self.add_worker()

    def savepoint(self, location: str, *, native: bool = False) -> None:
        checkpoint = CheckpointId(self.checkpoint + 1)
        self.checkpoint += 1
        graph = self.compiled.graph
        options = SnapshotOptions(kind=SnapshotKind.SAVEPOINT, native=native, location=location)
        self.send(
            TriggerCheckpoint(
                epoch=EPOCH,
                job=graph.job,
                attempt=Attempt(self.attempt),
                checkpoint=checkpoint,
                triggered_ms=self.clock.wall_ms(),
                options=options,
            )
        )
        self.run(40)
        operators = []
        for vertex in graph.vertices:
            for node in vertex.operators:
                subtasks = {
                    ack.subtask: snapshot.state
                    for ack in self.acks(checkpoint)
                    for snapshot in ack.operators
                    if snapshot.operator == node.operator_id
                }
                operators.append(
                    OperatorState(
                        operator=node.operator_id,
                        uid=node.uid,
                        name=node.name,
                        parallelism=vertex.parallelism,
                        max_parallelism=graph.max_parallelism,
                        subtasks=subtasks,
                    )
                )
        assert len(self.acks(checkpoint)) == sum(v.parallelism for v in graph.vertices if not v.is_committer)
        metadata = CheckpointMetadata(checkpoint=checkpoint, operators=tuple(operators), savepoint=True)
        origin = CheckpointOrigin(job=graph.job, attempt=Attempt(self.attempt), triggered_ms=self.clock.wall_ms())
        self.storage.write(metadata_of(location), seal(encode_metadata(with_origin(metadata, origin))))

    def restore(self, location: str) -> None:
        """In a job of its own life."""
        graph = self.compiled.graph
        self.attempt += 1
        path = metadata_of(location)
        self.send(
            DeployJob(
                epoch=EPOCH,
                job=graph.job,
                attempt=Attempt(self.attempt),
                graph=graph,
                slots=(self.names[-1],) * graph.slots,
                lineage=(LineageSegment(Attempt(self.attempt), None, graph.parallelism()),),
                restore_checkpoint=None,
                restore_path=path,
                restore_checksum=xxhash.xxh3_64_intdigest(self.storage.read(path)),
                base_checkpoint_id=CheckpointId(0),
            )
        )
        self.run(40)


def twice_each(make: Callable[[], SavepointHarness], location: str, moved: str, move: Callable[[], None]) -> None:
    """Every user once before the savepoint and once after it was restored from elsewhere: each is counted to 2."""
    before = make()
    before.started()
    before.produce([(user, 1.0) for user in USERS])
    before.run(40)
    before.savepoint(location)
    move()

    after = make()
    after.produce([(user, 1.0) for user in USERS])  # what the sources have read already ...
    after.produce([(user, 1.0) for user in USERS])  # ... and what they have not
    after.restore(moved)
    assert not after.failures()
    after.checkpoint_now()
    assert after.counts() == {user: [2] for user in USERS}


@pytest.mark.parametrize("inline_bytes", [0, 1 << 20], ids=["in files", "in the metadata"])
def test_a_savepoint_is_moved_as_a_folder(tmp_path: Path, inline_bytes: int) -> None:
    there, elsewhere = tmp_path / "there" / "savepoint-1", tmp_path / "else where" / "renamed"

    def move() -> None:
        elsewhere.parent.mkdir()
        there.rename(elsewhere)

    def make() -> SavepointHarness:
        return SavepointHarness(LocatedStorage(MemoryStorage(ManualClock()), open_storage), inline_bytes=inline_bytes)

    twice_each(make, there.as_uri(), elsewhere.as_uri(), move)
    assert (len(list(elsewhere.iterdir())) > 1) == (inline_bytes == 0)


def test_a_savepoint_is_copied_from_a_folder_into_a_bucket(tmp_path: Path, s3: S3Server) -> None:
    there = tmp_path / "savepoint-1"
    bucket = s3.new_bucket()

    def open_any(url: str, *, create: bool) -> CheckpointStorage:
        return open_storage(url, s3.options if url.startswith("s3:") else StorageOptions(), create=create)

    def move() -> None:
        for file in there.iterdir():
            s3.client.upload_file(str(file), bucket, f"copies/of/savepoint-1/{file.name}")
        shutil.rmtree(there)

    def make() -> SavepointHarness:
        return SavepointHarness(LocatedStorage(MemoryStorage(ManualClock()), open_any))

    twice_each(make, there.as_uri(), f"s3://{bucket}/copies/of/savepoint-1", move)


def test_a_savepoint_in_the_checkpoint_storage_is_moved_too(tmp_path: Path) -> None:
    storage = LocatedStorage(open_storage(tmp_path.as_uri()), open_storage)

    def move() -> None:
        (tmp_path / "orders/savepoints/savepoint-1").rename(tmp_path / "kept")

    twice_each(lambda: SavepointHarness(storage), "orders/savepoints/savepoint-1", "kept", move)


def test_a_savepoint_names_its_files_relative_to_itself(tmp_path: Path) -> None:
    location = (tmp_path / "savepoint-1").as_uri()
    harness = SavepointHarness(LocatedStorage(MemoryStorage(ManualClock()), open_storage))
    harness.started()
    harness.produce([(user, 1.0) for user in USERS])
    harness.run(40)
    harness.savepoint(location)
    data = harness.storage.read(metadata_of(location))
    assert str(tmp_path).encode() not in data
    metadata = decode_metadata(data, folder_of(metadata_of(location)))
    streams = [
        stream
        for operator in metadata.operators
        for state in operator.subtasks.values()
        for handle in state.handles()
        for stream in streams_of(handle)
    ]
    files = [stream for stream in streams if isinstance(stream, FileHandle)]
    assert len(files) == 4, "sources and totals, two subtasks each"
    for file in files:
        assert file.path == f"{location}/{file.relative_path}"
        assert len(read_stream(harness.storage, file)) == file.size_bytes
    assert sorted(f.name for f in (tmp_path / "savepoint-1").iterdir()) == sorted(
        ["_metadata", *(str(file.relative_path) for file in files)]
    )


def test_a_worker_reads_nothing_elsewhere(tmp_path: Path) -> None:
    """The coordinator has refused such a savepoint before; this is the second door."""
    opened: list[str] = []

    def open_any(url: str, *, create: bool) -> CheckpointStorage:
        opened.append(url)
        return open_storage(url, create=create)

    harness = SavepointHarness(LocatedStorage(MemoryStorage(ManualClock()), open_any))
    secret = tmp_path / "secrets" / "of"
    secret.mkdir(parents=True)
    (secret / "others").write_bytes(b"password")
    folder = (tmp_path / "savepoint-1").as_uri()
    graph = harness.compiled.graph
    totals = next(node for vertex in graph.vertices for node in vertex.operators if node.uid == "totals")
    stray = FileHandle("others", 8, "%2e%2e/secrets/of/others")
    handle = KeyGroupsHandle(KeyGroupRange(0, 7), (0,) * 8, stray)
    operator = OperatorState(
        operator=totals.operator_id,
        uid=totals.uid,
        name=None,
        parallelism=1,
        max_parallelism=graph.max_parallelism,
        subtasks={0: OperatorSubtaskState(managed_keyed=(handle,))},
    )
    metadata = CheckpointMetadata(checkpoint=CheckpointId(1), operators=(operator,), savepoint=True)
    harness.storage.write(metadata_of(folder), encode_metadata(metadata))
    harness.restore(folder)
    failures = harness.failures()
    assert failures
    assert all(failure.permanent for failure in failures)
    assert "savepoint-1/%2e%2e/secrets/of/others" in str(failures[0].failure)
    assert opened == [tmp_path.as_uri()], "the folder of the savepoint"


def test_state_that_is_too_much_to_hold_is_stored_while_it_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(canonical, "FILE_BYTES", 100)
    monkeypatch.setattr(memory_snapshot, "CHUNK_BYTES", 1)
    monkeypatch.setattr(snapshots, "_HELD_BYTES", 100)
    there = (tmp_path / "savepoint-1").as_uri()
    stored_early: list[str] = []

    class Recording(StateWriter):
        def stored(self, *args: Any) -> StatePiece:
            piece = super().stored(*args)
            stored_early.append(piece.name)
            return piece

    monkeypatch.setattr(worker, "StateWriter", Recording)

    def make() -> SavepointHarness:
        return SavepointHarness(LocatedStorage(MemoryStorage(ManualClock()), open_storage), merged_bytes=0)

    twice_each(make, there, there, lambda: None)
    assert len([name for name in stored_early if name.startswith("totals.")]) >= 2
    folder = tmp_path / "savepoint-1"
    metadata = decode_metadata((folder / "_metadata").read_bytes(), there)
    keyed = [h for o in metadata.operators for s in o.subtasks.values() for h in s.managed_keyed]
    assert all(isinstance(handle, KeyGroupsHandle) and handle.canonical for handle in keyed)
    assert {file.name for file in folder.iterdir()} == {"_metadata"} | {Path(path).name for path in metadata.paths()}
    rows = {row["key"]: row["count"] for row in mo.read_state(str(folder), "totals")}
    assert rows == dict.fromkeys(USERS, 1), "a key group in several files is read by whoever looks into it, too"
