"""Is every file there, and whole?"""

from __future__ import annotations

from pathlib import Path

from tests.unit.inspect.checkpoints import orders_checkpoint

from moorage.inspect.checkpoint import open_checkpoint
from moorage.inspect.verify import FileState, verify


def damaged(folder: Path) -> dict[str, FileState]:
    return {check.path: check.state for check in verify(open_checkpoint(str(folder))).damaged}


def test_a_whole_checkpoint_is_whole(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(orders_checkpoint(tmp_path)))
    heard: list[str] = []
    verification = verify(checkpoint, heard.append)
    assert verification.whole
    assert {check.path for check in verification.files} == set(heard) >= set(checkpoint.metadata.paths())
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
