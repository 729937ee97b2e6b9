"""Is every file there, and whole?"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from tests.unit.inspect.checkpoints import orders_checkpoint, write, write_metadata
from tests.unit.inspect.test_checkpoint import metadata_of

from moorage.errors import CorruptDataError
from moorage.inspect.checkpoint import open_checkpoint
from moorage.inspect.verify import FileState, verify
from moorage.serde.state_files import segment_id
from moorage.state.handles import SegmentHandle


def damaged(folder: Path) -> dict[str, FileState]:
    return {check.path: check.state for check in verify(open_checkpoint(str(folder))).damaged}


def test_a_whole_checkpoint_is_whole(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(orders_checkpoint(tmp_path)))
    heard: list[str] = []
    verification = verify(checkpoint, heard.append)
    assert verification.whole
    assert {check.path for check in verification.files} == {*heard, checkpoint.location}
    assert set(heard) >= set(checkpoint.metadata.paths())
    files = [tmp_path / path for path in {*checkpoint.metadata.paths()}]
    assert verification.checked_bytes >= sum(file.stat().st_size for file in files)


def test_every_flipped_byte_cut_and_excess_of_a_state_file_is_noticed(tmp_path: Path) -> None:
    folder = orders_checkpoint(tmp_path)
    path = sorted(open_checkpoint(str(folder)).metadata.paths())[0]
    file = tmp_path / path
    data = file.read_bytes()
    for index in range(0, len(data), 7):
        file.write_bytes(data[:index] + bytes([data[index] ^ 0x10]) + data[index + 1 :])
        assert damaged(folder) == {path: FileState.CORRUPT}
    for other in (data[:-1], data + b"\0", b""):
        file.write_bytes(other)
        assert damaged(folder) == {path: FileState.CORRUPT}
    file.unlink()
    assert damaged(folder) == {path: FileState.MISSING}
    file.mkdir()
    assert damaged(folder) == {path: FileState.UNREADABLE}


def test_every_flipped_byte_of_the_metadata_is_noticed(tmp_path: Path) -> None:
    folder = orders_checkpoint(tmp_path)
    file = folder / "_metadata"
    data = file.read_bytes()
    for index in range(len(data)):
        file.write_bytes(data[:index] + bytes([data[index] ^ 0x01]) + data[index + 1 :])
        with suppress(CorruptDataError):
            checkpoint = open_checkpoint(str(folder))
            assert checkpoint.intact is False
            assert checkpoint.is_ours or not verify(checkpoint).whole


def test_segments_of_merged_files_are_checked_each(tmp_path: Path) -> None:
    parts = [b"first state", b"second"]
    write(tmp_path / "orders" / "shared" / "merged", b"".join(parts))
    handles = [SegmentHandle("orders/shared/merged", 0, 11, logical_file=segment_id(parts[0]))]
    handles.append(SegmentHandle("orders/shared/merged", 11, 6, logical_file=segment_id(parts[1])))
    folder = write_metadata(tmp_path / "orders" / "chk-3", metadata_of(*handles))
    assert damaged(folder) == {}
    write(tmp_path / "orders" / "shared" / "merged", b"first state".upper() + b"second")
    (check,) = verify(open_checkpoint(str(folder))).damaged
    assert check.detail == "orders/shared/merged, segment at 0: wrong checksum"
    write(tmp_path / "orders" / "shared" / "merged", b"first state")
    (check,) = verify(open_checkpoint(str(folder))).damaged
    assert (check.state, "6 of it lie at 11" in check.detail) == (FileState.CORRUPT, True)
