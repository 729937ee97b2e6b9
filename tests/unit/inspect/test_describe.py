"""What a checkpoint consists of, as data."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from tests.unit.inspect.checkpoints import ORIGIN, TRIGGERED_MS, USERS, orders_checkpoint, orders_savepoint
from tests.unit.serde.metadata.strategies import metadata

from moorage.coordinator_process.origin import with_origin
from moorage.errors import ObjectMissingError
from moorage.inspect.checkpoint import OpenCheckpoint, open_checkpoint
from moorage.inspect.describe import describe
from moorage.inspect.files import StateFiles
from moorage.inspect.report import CheckpointReport, HandlePart, OperatorPart, Origin
from moorage.inspect.rows import rows_of
from moorage.inspect.verify import verify
from moorage.state.operator_state import CheckpointMetadata


class _Nothing:
    """A storage that has nothing."""

    def size_bytes(self, path: str) -> int:
        raise ObjectMissingError(path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        raise ObjectMissingError(path)


GOLDEN = Path(__file__).parents[2] / "compatibility" / "flink"


def operator(report: CheckpointReport, uid: str) -> OperatorPart:
    (found,) = (operator for operator in report.operators if operator.uid == uid)
    return found


def handles(report: CheckpointReport, uid: str) -> list[HandlePart]:
    return [handle for subtask in operator(report, uid).subtasks for handle in subtask.handles]


def test_a_checkpoint_of_ours(tmp_path: Path) -> None:
    folder = orders_checkpoint(tmp_path)
    report = describe(open_checkpoint(str(folder)))
    assert report.written_by == "Moorage"
    assert report.origin == Origin(job="orders", attempt=1, triggered_ms=TRIGGERED_MS)
    assert (report.checkpoint, report.savepoint, report.metadata_version) == (2, False, 6)
    assert report.metadata_bytes == (folder / "_metadata").stat().st_size
    assert report.properties["snapshot_type"] == "checkpoint"
    source, totals = operator(report, "orders"), operator(report, "totals")
    assert (source.uid, source.parallelism, source.max_parallelism) == ("orders", 2, 8)
    offsets = [offset for subtask in source.subtasks for offset in subtask.source_offsets]
    assert {offset.partition for offset in offsets} == {0, 1, 2}
    assert sum(offset.offset for offset in offsets) == 2 * USERS
    assert (totals.uid, totals.state_bytes > 0) == ("totals", True)
    for subtask, groups in zip(totals.subtasks, ((0, 3), (4, 7)), strict=True):
        keyed, channel = (subtask.handles[0], subtask.handles[-1])
        assert (keyed.role, keyed.kind, keyed.key_groups) == ("managed_keyed", "key_groups", groups)
        assert keyed.streams[0].kind == "file"
        assert (channel.role, channel.streams[0].kind) == ("input_channel", "inline")
        assert {position.partition for position in subtask.positions} == {*range(groups[0], groups[1] + 1)}
        assert {(p.exchange, p.attempt, p.open) for p in subtask.positions} == {("orders--totals", 1, False)}
        assert all(position.offset > 0 for position in subtask.positions)


def test_a_savepoint_of_ours_can_be_moved(tmp_path: Path) -> None:
    folder = orders_savepoint(tmp_path / "storage").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "storage")
    checkpoint = open_checkpoint(str(folder))
    report = describe(checkpoint)
    assert (report.savepoint, report.properties["snapshot_type"]) == (True, "canonical savepoint")
    assert verify(checkpoint).whole
    paths = [s.path for o in report.operators for t in o.subtasks for h in t.handles for s in h.streams if s.path]
    assert paths
    assert not any("/" in path for path in paths)
    assert not any(subtask.positions for operator in report.operators for subtask in operator.subtasks)
    assert {row.key: row.values["count"] for row in rows_of(checkpoint, "totals")} == {
        f"user-{number}": 1 for number in range(USERS)
    }


def test_a_checkpoint_of_flink() -> None:
    report = describe(open_checkpoint(str(GOLDEN / "golden" / "job-rocksdb-incremental")))
    assert (report.written_by, report.origin) == ("Flink", None)
    managed, raw, *_ = handles(report, "count")
    assert (managed.kind, managed.key_groups, managed.checkpoint) == ("incremental", (0, 3), 2)
    assert [stream.name for stream in managed.streams if stream.shared] == ["000010.sst", "000011.sst"]
    assert managed.streams[-1].name == "metadata"
    assert (raw.role, raw.key_groups_present) == ("raw_keyed", 4)
    lists = handles(report, "lists")[0].states
    assert lists is not None
    assert {name: (state.mode, state.elements) for name, state in lists.items()} == {
        "broadcast": ("broadcast", 1),
        "split": ("split", 2),
        "union": ("union", 1),
    }


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("golden*/**/_metadata")), ids=lambda path: path.parent.name)
def test_every_golden_file_can_be_described_and_verified(folder: Path) -> None:
    checkpoint = open_checkpoint(str(folder))
    report = describe(checkpoint)
    assert msgspec.json.decode(msgspec.json.encode(report), type=CheckpointReport) == report
    damaged = {check.path: check.state.value for check in verify(checkpoint).damaged}
    # Only their metadata is here.
    assert damaged.keys() == set(checkpoint.metadata.paths())
    assert set(damaged.values()) <= {"missing", "outside"}


@settings(deadline=None)
@given(metadata(6))
def test_whatever_can_be_read_can_be_described(read: CheckpointMetadata) -> None:
    for written in (read, with_origin(read, ORIGIN)):
        checkpoint = OpenCheckpoint(
            location="here", version=6, size_bytes=1, metadata=written, files=StateFiles(_Nothing(), "/nowhere")
        )
        report = describe(checkpoint)
        assert msgspec.json.decode(msgspec.json.encode(report), type=CheckpointReport) == report
        assert not [check for check in verify(checkpoint).damaged if check.state.value == "unreadable"]


def test_positions_that_can_not_be_read_leave_the_rest_readable(tmp_path: Path) -> None:
    folder = orders_checkpoint(tmp_path)
    data = (folder / "_metadata").read_bytes()
    assert data.count(b"orders--totals") == 2
    (folder / "_metadata").write_bytes(data.replace(b"orders--totals", b"orders--\xff\xfftals", 1))
    checkpoint = open_checkpoint(str(folder))
    bad, good = sorted(operator(describe(checkpoint), "totals").subtasks, key=lambda subtask: len(subtask.positions))
    assert [line.partition(":")[0] for line in bad.unreadable] == ["channel positions"]
    assert (len(bad.positions), len(good.positions), good.unreadable) == (0, 8, ())
    assert {(check.path, check.state.value) for check in verify(checkpoint).damaged} == {
        (f"{folder}/_metadata", "corrupt"),
        (f"inline state totals-{bad.subtask}-positions", "corrupt"),
    }
