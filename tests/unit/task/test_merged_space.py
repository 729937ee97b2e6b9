"""When what is left of a merged file is to be written anew."""

from __future__ import annotations

from moorage.ids import Attempt, JobId, SubtaskId, VertexId
from moorage.state.handles import FileHandle, SegmentHandle
from moorage.task import merged_space
from moorage.task.merged_space import MergedSpace, SpaceUser

JOB = JobId("orders")


def user(subtask: int, attempt: int = 1) -> SpaceUser:
    return SpaceUser(JOB, Attempt(attempt), SubtaskId(VertexId("totals"), subtask))


def segment(path: str, offset: int, size_bytes: int = 100) -> SegmentHandle:
    return SegmentHandle(path, offset, size_bytes, True)


def ten_in_one_file(space: MergedSpace) -> list[SegmentHandle]:
    segments = [segment("a", 100 * at) for at in range(10)]
    space.written("a", 1_000)
    for at, one in enumerate(segments):
        space.uses(user(at), [one])
    return segments


def test_a_file_is_sparse_when_most_of_its_subtasks_have_left_it() -> None:
    space = MergedSpace(2)
    segments = ten_in_one_file(space)
    for at in range(5):
        space.uses(user(at), [segment("b", 100 * at)])
        assert not space.is_sparse(segments[9], 100)
    space.uses(user(5), [])
    assert space.is_sparse(segments[9], 100)


def test_a_segment_that_several_handles_refer_to_counts_once() -> None:
    space = MergedSpace(2)
    one, *_ = ten_in_one_file(space)
    for at in range(10):
        space.uses(user(at), [one, one] if at == 0 else [])
    assert space.is_sparse(one, 100)


def test_a_piece_is_sparse_when_its_subtask_uses_little_of_it() -> None:
    space = MergedSpace(2)
    one, *_ = ten_in_one_file(space)
    assert space.is_sparse(one, 49)
    assert not space.is_sparse(one, 50)
    assert space.is_sparse(FileHandle("own", 1_000), 499)
    assert not space.is_sparse(FileHandle("own", 1_000), 500)


def test_of_a_foreign_file_nothing_is_known_so_it_is_left() -> None:
    space = MergedSpace(2)
    space.uses(user(0), [segment("foreign", 0)])
    assert space.is_sparse(segment("foreign", 0), 100)


def test_who_has_left_uses_nothing() -> None:
    space = MergedSpace(2)
    segments = ten_in_one_file(space)
    for at, one in enumerate(segments):
        space.uses(user(at, attempt=2), [one] if at < 2 else [])
    assert not space.is_sparse(segments[0], 100)
    space.left(JOB, Attempt(1))
    assert space.is_sparse(segments[0], 100)


def test_files_of_aborted_checkpoints_are_forgotten() -> None:
    space = MergedSpace(2)
    segments = ten_in_one_file(space)
    for number in range(5 * merged_space._REMEMBERED):
        space.written(f"aborted-{number}", 1_000)
    assert len(space._size_bytes) <= 2 * merged_space._REMEMBERED
    assert not space.is_sparse(segments[0], 100)
