"""Where a checkpoint and its files lie, by what people call it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.unit.inspect.checkpoints import ORIGIN, orders_checkpoint, write, write_metadata

from moorage.errors import CorruptDataError, ObjectMissingError, SettingError, StorageError
from moorage.ids import CheckpointId, OperatorId
from moorage.inspect import checkpoint as opening
from moorage.inspect.checkpoint import open_checkpoint
from moorage.inspect.files import OutsideError
from moorage.state.handles import ByteStreamHandle, FileHandle, KeyGroupsHandle, SegmentHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState


def metadata_of(*streams: StreamHandle) -> CheckpointMetadata:
    subtasks = {
        index: OperatorSubtaskState(managed_keyed=(KeyGroupsHandle(KeyGroupRange(0, 0), (0,), stream),))
        for index, stream in enumerate(streams)
    }
    operator = OperatorState(
        operator=OperatorId("0" * 32), uid=None, name=None, parallelism=9, max_parallelism=9, subtasks=subtasks
    )
    return CheckpointMetadata(checkpoint=CheckpointId(7), operators=(operator,))


def test_folder_file_and_url_name_the_same_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = orders_checkpoint(tmp_path)
    monkeypatch.chdir(tmp_path)
    for location in (
        str(folder),
        f"{folder}/",
        f"{folder}/_metadata",
        f"file://{folder}",
        f"file:{folder}/_metadata",
        "orders/chk-2",
    ):
        checkpoint = open_checkpoint(location)
        assert (checkpoint.location, checkpoint.version) == (f"{folder}/_metadata", 6)
        assert checkpoint.metadata.checkpoint == 2
        assert checkpoint.metadata.master_states[0].name == "moorage.origin"
        (path, *_) = checkpoint.metadata.paths()
        assert path.startswith(f"{ORIGIN.job}/shared/")
        assert checkpoint.files.size_bytes(path) > 0


def test_a_savepoint_can_lie_anywhere(tmp_path: Path) -> None:
    folder = write_metadata(tmp_path / "My Savepoint #1", metadata_of(FileHandle("state", 5, "state")))
    write(folder / "state", b"12345")
    for name in ("My Savepoint #1", "moved"):
        folder = folder.rename(tmp_path / name)
        checkpoint = open_checkpoint(str(folder))
        (stream,) = (h.stream for h in checkpoint.metadata.operators[0].subtasks[0].managed_keyed)  # type: ignore[union-attr]
        assert checkpoint.files.read(stream) == b"12345"


def test_flinks_absolute_paths_are_followed_below_the_root_only(tmp_path: Path) -> None:
    job = tmp_path / "flink" / "0123abcd"
    write(job / "shared" / "sst", b"123")
    write(tmp_path / "secret", b"password")
    inside = (FileHandle(f"file:{job}/shared/sst", 3), FileHandle(f"file://{job}/shared/sst", 3))
    outside = (
        FileHandle(f"file:{tmp_path}/secret", 8),
        FileHandle(f"{tmp_path}/secret", 8),
        FileHandle(f"file:{tmp_path}/flinker/sst", 8),
        FileHandle("s3://bucket/sst", 8),
    )
    folder = write_metadata(job / "chk-3", metadata_of(*inside, *outside))
    files = open_checkpoint(str(folder)).files
    assert [files.read(stream) for stream in inside] == [b"123", b"123"]
    for stream in outside:
        with pytest.raises(OutsideError, match=r"lies outside of .*flink: name the root of the storage with --root"):
            files.read(stream)
    wider = open_checkpoint(str(folder), root=str(tmp_path)).files
    assert wider.read(outside[0]) == b"password"


def test_schemes_of_the_same_store_are_one() -> None:
    files = opening.StateFiles(opening.open_reader("/nowhere"), "s3://bucket/checkpoints")
    assert files.locate("s3a://bucket/checkpoints/job/x") == "job/x"
    assert files.locate("S3P://bucket/checkpoints/job/x") == "job/x"
    with pytest.raises(OutsideError):
        files.locate("s3://bucket/checkpoints-of-others/x")


def test_links_and_special_files_lead_nowhere(tmp_path: Path) -> None:
    folder = write_metadata(
        tmp_path / "savepoint-1",
        metadata_of(*(FileHandle(n, 8, n) for n in ("link", "fifo", "folder", "loop")), FileHandle("a/b", 1, "a/b")),
    )
    write(tmp_path / "secret", b"password")
    write(folder / "a", b"")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    files = open_checkpoint(str(folder)).files
    for name, error, message in (
        ("link", StorageError, "link leads out of"),
        ("fifo", StorageError, r"fifo in .* is no file"),
        ("folder", StorageError, r"folder in .* is no file"),
        ("loop", StorageError, "can't read loop in"),
        ("a/b", ObjectMissingError, r"a/b in .* does not exist"),
    ):
        with pytest.raises(error, match=message):
            files.read(FileHandle(name, 8))


def test_sizes_that_lie_are_noticed_before_anything_is_read(tmp_path: Path) -> None:
    huge = 1 << 60
    folder = write_metadata(tmp_path / "savepoint-1", metadata_of())
    write(folder / "state", b"12345")
    files = open_checkpoint(str(folder)).files
    assert files.read(FileHandle("state", -1)) == b"12345"
    assert files.read(SegmentHandle("state", 1, 3)) == b"234"
    assert files.read_at(SegmentHandle("state", 1, 3), 1, 2) == b"34"
    assert files.read_at(ByteStreamHandle("x", b"abc"), 1, 2) == b"bc"
    for stream, message in (
        (FileHandle("state", huge), f"state has 5 bytes, the checkpoint says {huge}"),
        (SegmentHandle("state", huge, 1), f"says that 1 of it lie at {huge}"),
        (SegmentHandle("state", 4, 2), "says that 2 of it lie at 4"),
    ):
        with pytest.raises(CorruptDataError, match=message):
            files.read(stream)
    for offset, length in ((0, 4), (3, 1), (-1, 1), (0, huge)):
        with pytest.raises(CorruptDataError, match=r"state, segment at 1 has 3 bytes"):
            files.read_at(SegmentHandle("state", 1, 3), offset, length)


def test_what_is_no_checkpoint_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "_metadata", b"PAR1" * 9)
    with pytest.raises(CorruptDataError, match=rf"{tmp_path}/_metadata: .*magic number of Flink's metadata"):
        open_checkpoint(str(tmp_path))
    monkeypatch.setattr(opening, "MAX_METADATA_BYTES", 35)
    with pytest.raises(CorruptDataError, match="has 36 bytes: more than 35 can't be metadata"):
        open_checkpoint(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ObjectMissingError, match=rf"^there is no checkpoint at {tmp_path}/empty: it has no _metadata"):
        open_checkpoint(str(tmp_path / "empty"))
    with pytest.raises(ObjectMissingError, match=r"chk-1 does not exist$"):
        open_checkpoint(str(tmp_path / "missing/chk-1"))
    assert not (tmp_path / "missing").exists()
    with pytest.raises(SettingError, match="does not lie below"):
        open_checkpoint(str(tmp_path), root=str(tmp_path / "empty"))
    with pytest.raises(SettingError, match="ftp://host can't be read"):
        open_checkpoint("ftp://host/orders/chk-1")
