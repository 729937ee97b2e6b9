"""Merging: which piece goes where, when a file is closed, and what becomes of failures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from moorage.backends.pieces import StatePiece
from moorage.errors import ObjectExistsError, StorageError
from moorage.ids import Attempt, CheckpointId, JobId, SubtaskId, VertexId, WorkerId
from moorage.locations import LocatedStorage
from moorage.naming import parse_storage_path
from moorage.serde.state_files import read_stream
from moorage.state.handles import ByteStreamHandle, FileHandle, SegmentHandle, StreamHandle
from moorage.task.local_recovery import LocalCopies
from moorage.task.merged_space import SpaceUser
from moorage.task.state_writer import SnapshotId, StateFileLimits, StateWriter
from moorage.testing.clocks import ManualClock
from moorage.testing.executor import InlineExecutor
from moorage.testing.memory_storage import MemoryStorage

JOB, ATTEMPT = JobId("orders"), Attempt(2)
LIMITS = StateFileLimits(
    inline_max_bytes=10, merged_piece_max_bytes=1_000, merged_file_max_bytes=5_000, linger_ms=50, uploads=2
)


class World:
    def __init__(self, subtasks: int = 3, limits: StateFileLimits = LIMITS, *, copies: bool = False) -> None:
        self.clock = ManualClock()
        self.executor = InlineExecutor()
        self.storage = MemoryStorage(self.clock)
        self.elsewhere = MemoryStorage(self.clock)
        self.local = MemoryStorage(self.clock)
        self.results: dict[int, Sequence[StreamHandle] | Exception] = {}
        self.writer = StateWriter(
            worker=WorkerId("host-1/ab12"),
            storage=LocatedStorage(self.storage, lambda url, *, create: {"s3://other/savepoints": self.elsewhere}[url]),
            executor=self.executor,
            clock=self.clock,
            limits=limits,
            copies=LocalCopies(self.local, 1 << 20) if copies else None,
        )
        for _ in range(subtasks):
            self.writer.join(JOB, ATTEMPT)

    def store(self, subtask: int, *pieces: StatePiece, checkpoint: int = 7, location: str | None = None) -> None:
        def done(handles: Sequence[StreamHandle] | None, error: Exception | None) -> None:
            assert subtask not in self.results, "told twice"
            result = handles if handles is not None else error
            assert result is not None
            self.results[subtask] = result

        self.writer.store(snapshot(checkpoint), SubtaskId(VertexId("totals"), subtask), pieces, done, location)

    def handles(self, subtask: int) -> Sequence[StreamHandle]:
        result = self.results[subtask]
        assert not isinstance(result, Exception), result
        return result

    def read(self, handle: StreamHandle) -> bytes:
        return read_stream(self.storage, handle)


def snapshot(checkpoint: int) -> SnapshotId:
    return SnapshotId(JOB, ATTEMPT, CheckpointId(checkpoint))


def piece(content: str, size_bytes: int = 100, *, shared: bool = True) -> StatePiece:
    return StatePiece("totals", shared, (content * size_bytes).encode()[:size_bytes])


def test_pieces_of_all_subtasks_lie_in_one_file() -> None:
    world = World()
    for subtask, content in enumerate("abc"):
        world.store(subtask, piece(content, 100 + subtask))
    world.executor.run_all()
    (path,) = world.storage.paths()
    assert path.startswith("orders/shared/7-merged-host-1+ab12-1-a2-state.")
    parsed = parse_storage_path(path)
    assert parsed is not None
    assert (parsed.job, parsed.checkpoint, parsed.attempt, parsed.shared) == (JOB, 7, ATTEMPT, True)
    handles = [handle for subtask in range(3) for handle in world.handles(subtask)]
    assert all(isinstance(handle, SegmentHandle) and handle.path == path and handle.shared for handle in handles)
    assert [world.read(handle) for handle in handles] == [b"a" * 100, b"b" * 101, b"c" * 102]


def test_what_later_checkpoints_may_refer_to_lies_apart() -> None:
    world = World(subtasks=2)
    for subtask, content in enumerate("ab"):
        world.store(subtask, piece(content), piece(content.upper(), shared=False))
    world.executor.run_all()
    assert [path.rpartition("-")[0] for path in world.storage.paths()] == [
        "orders/chk-7/merged-host-1+ab12-1-a2",
        "orders/shared/7-merged-host-1+ab12-2-a2",
    ]
    shared, own = world.handles(1)
    assert isinstance(shared, SegmentHandle)
    assert isinstance(own, SegmentHandle)
    assert (shared.shared, own.shared) == (True, False)
    assert (world.read(shared), world.read(own)) == (b"b" * 100, b"B" * 100)


def test_only_so_much_of_a_subtask_lies_in_the_metadata() -> None:
    world = World(subtasks=1)
    world.store(0, piece("a", 4), piece("b", 6), piece("c", 1))
    world.executor.run_all()
    assert [type(handle) for handle in world.handles(0)] == [ByteStreamHandle, ByteStreamHandle, FileHandle]
    assert [world.read(handle) for handle in world.handles(0)] == [b"aaaa", b"bbbbbb", b"c"]


def test_what_the_metadata_carries_anyway_leaves_no_room() -> None:
    world = World(subtasks=1)
    world.store(0, StatePiece("totals", True, b"aaaa", carried_bytes=6))
    world.store(1, StatePiece("totals", True, b"aaaa", carried_bytes=7))
    world.executor.run_all()
    assert [type(world.handles(subtask)[0]) for subtask in range(2)] == [ByteStreamHandle, FileHandle]


def test_it_is_known_how_much_of_a_merged_file_is_used() -> None:
    world = World()
    for subtask, content in enumerate("abc"):
        world.store(subtask, piece(content))
    world.executor.run_all()
    (handle,) = world.handles(0)
    world.writer.space.uses(SpaceUser(JOB, ATTEMPT, SubtaskId(VertexId("totals"), 0)), [handle])
    assert world.writer.space.is_sparse(handle, 100), "100 of 300"
    (other,) = world.handles(1)
    world.writer.space.uses(SpaceUser(JOB, ATTEMPT, SubtaskId(VertexId("totals"), 1)), [other])
    assert not world.writer.space.is_sparse(handle, 100)


def test_nothing_to_write_is_told_at_once() -> None:
    world = World(subtasks=2)
    world.store(0)
    world.store(1, piece("a", 3))
    assert world.handles(0) == []
    assert world.handles(1) == [ByteStreamHandle("totals-1-totals-7", b"aaa")]
    assert world.executor.calls == 0


def test_a_piece_that_is_alone_gets_a_file_of_its_own() -> None:
    world = World(subtasks=2)
    world.store(0, piece("a"))
    world.store(1)
    world.executor.run_all()
    (handle,) = world.handles(0)
    assert isinstance(handle, FileHandle)
    assert handle.path.startswith("orders/shared/7-totals-0-a2-totals.")


def test_big_pieces_and_local_files_have_files_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "000012.sst"
    file.write_bytes(b"sst" * 1_000_000)
    world = World(subtasks=1)
    world.store(0, StatePiece("totals.000012.sst", True, file), piece("b", 1_001, shared=False))
    world.executor.run_all()
    table, big = world.handles(0)
    assert isinstance(table, FileHandle)
    assert table.path.startswith("orders/shared/7-totals-0-a2-totals.000012.sst.")
    assert isinstance(big, FileHandle)
    assert big.path.startswith("orders/chk-7/totals-0-a2-totals.")
    assert (world.read(table), world.read(big)) == (b"sst" * 1_000_000, b"b" * 1_001)


def test_nobody_waits_longer_than_the_last_one() -> None:
    world = World(subtasks=3)
    world.store(0, piece("a"))
    world.store(1)
    world.writer.poll()
    assert world.executor.calls == 0
    world.store(2, piece("c"))
    assert world.executor.calls == 1


def test_a_file_that_nobody_adds_to_is_closed() -> None:
    world = World(subtasks=3)
    world.store(0, piece("a"))
    world.clock.advance(49)
    world.store(1, piece("b"))
    world.clock.advance(49)
    world.writer.poll()
    assert world.executor.calls == 0
    world.clock.advance(1)
    world.writer.poll()
    world.executor.run_all()
    assert sorted(world.results) == [0, 1]
    world.store(2, piece("c"))
    world.executor.run_all()
    assert [len(world.handles(subtask)) for subtask in range(3)] == [1, 1, 1]
    assert len(world.storage.paths()) == 2


def test_a_file_that_is_full_is_closed() -> None:
    world = World(subtasks=9)
    for subtask in range(5):
        world.store(subtask, piece("a", 1_000))
    assert world.executor.calls == 1
    world.store(5, piece("b", 1_000))
    assert world.executor.calls == 1


def test_who_leaves_is_not_waited_for() -> None:
    world = World(subtasks=3)
    world.store(0, piece("a"))
    world.store(1, piece("b"))
    world.writer.leave(JOB, ATTEMPT)
    world.executor.run_all()
    assert sorted(world.results) == [0, 1]


def test_checkpoints_are_not_mixed() -> None:
    world = World(subtasks=2)
    world.store(0, piece("a"), checkpoint=7)
    world.results.clear()
    world.store(0, piece("a"), checkpoint=8)
    world.store(1, piece("b"), checkpoint=8)
    world.executor.run_all()
    (path,) = world.storage.paths()
    assert path.startswith("orders/shared/8-")


def test_only_so_many_uploads_run_at_once() -> None:
    world = World(subtasks=1)
    world.store(0, *(piece(content, 2_000) for content in "abcde"))
    assert world.executor.calls == 2
    world.executor.run_one()
    assert world.executor.calls == 2
    world.executor.run_all()
    assert [world.read(handle)[:1] for handle in world.handles(0)] == [b"a", b"b", b"c", b"d", b"e"]


def test_a_failed_write_fails_whoever_has_a_piece_in_it() -> None:
    world = World(subtasks=3)
    world.storage.faults.fail_next("write", StorageError("no space left on device"))
    for subtask, content in enumerate("abc"):
        world.store(subtask, piece(content), piece(content, 2_000))
    world.executor.run_all()
    failed = [subtask for subtask in range(3) if isinstance(world.results[subtask], StorageError)]
    assert failed, "the first write has failed"
    for subtask in {0, 1, 2} - set(failed):
        assert [world.read(handle)[:1] for handle in world.handles(subtask)] == [b"abc"[subtask : subtask + 1]] * 2


def test_a_write_whose_answer_was_lost_is_no_failure() -> None:
    world = World(subtasks=2)
    world.storage.faults.fail_next("write", ObjectExistsError("it exists"), after=True)
    world.store(0, piece("a"))
    world.store(1, piece("b"))
    world.executor.run_all()
    assert world.read(world.handles(1)[0]) == b"b" * 100


def test_of_an_aborted_checkpoint_nothing_more_is_written() -> None:
    world = World(subtasks=3, limits=LIMITS)
    world.store(0, piece("a"))
    world.store(1, *(piece(content, 2_000) for content in "abc"))
    world.writer.abort(snapshot(7))
    world.executor.run_all()
    assert len(world.storage.paths()) == 2, "what had begun before"
    assert world.results == {}
    world.store(2, piece("c"), checkpoint=8)
    world.clock.advance(50)
    world.writer.poll()
    world.executor.run_all()
    assert len(world.handles(2)) == 1


@pytest.mark.parametrize("location", ["savepoints/savepoint-1", "s3://other/savepoints/savepoint-1"])
def test_a_savepoint_has_files_of_its_own_that_it_names_relative_to_its_folder(location: str) -> None:
    world = World(subtasks=2)
    world.store(0, piece("a"), piece("i", 3, shared=False), location=location)
    world.store(1, piece("b"), location=location)
    world.executor.run_all()
    file, inline = world.handles(0)
    assert isinstance(inline, ByteStreamHandle)
    assert isinstance(file, FileHandle)
    assert file.path == f"{location}/{file.relative_path}"
    assert (file.relative_path or "").startswith("totals-0-a2-totals.")
    (storage,) = [storage for storage in (world.storage, world.elsewhere) if storage.paths()]
    assert [path.partition(".")[0].removeprefix("savepoints/") for path in storage.paths()] == [
        "savepoint-1/totals-0-a2-totals",
        "savepoint-1/totals-1-a2-totals",
    ]


def test_copies_are_kept_of_what_was_written() -> None:
    world = World(subtasks=2, copies=True)
    world.store(0, piece("a"), piece("c", 2_000))
    world.store(1, piece("b"))
    world.executor.run_all()
    assert world.local.paths() == [f"copies/{path}" for path in world.storage.paths()]


def test_members_and_undecided_checkpoints_are_forgotten() -> None:
    world = World(subtasks=2)
    for checkpoint in range(1, 1_200):
        world.results.clear()
        world.store(0, checkpoint=checkpoint)
    assert len(world.writer._handed_in) == 1_000
    world.writer.leave(JOB, ATTEMPT)
    world.writer.leave(JOB, ATTEMPT)
    assert not world.writer._handed_in
    assert not world.writer._members
