"""Which files a checkpoint that somebody hands in may name."""

from __future__ import annotations

import pytest

from moorage.errors import StateError
from moorage.ids import CheckpointId, OperatorId, OperatorUid
from moorage.serde.metadata import decode_metadata, encode_metadata
from moorage.state.handles import (
    ByteStreamHandle,
    FileHandle,
    HandleAndLocalPath,
    IncrementalKeyedHandle,
    KeyGroupsHandle,
    SegmentHandle,
    StreamHandle,
)
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState
from moorage.state.places import check_places

GROUPS = KeyGroupRange(0, 0)
BYTES = ByteStreamHandle("inline", b"x")
FOLDERS = ["orders/savepoints/savepoint-1", "file:///data/save%20points/savepoint-1", "s3://bucket/a/savepoint-1", ""]


def metadata_of(subtask: OperatorSubtaskState) -> CheckpointMetadata:
    operator = OperatorState(
        operator=OperatorId("0" * 32),
        uid=OperatorUid("totals"),
        name=None,
        parallelism=1,
        max_parallelism=8,
        subtasks={0: subtask},
    )
    return CheckpointMetadata(checkpoint=CheckpointId(1), operators=(operator,), savepoint=True)


def of(stream: StreamHandle) -> CheckpointMetadata:
    return metadata_of(OperatorSubtaskState(managed_keyed=(KeyGroupsHandle(GROUPS, (0,), stream),)))


def read_by(folder: str, stream: StreamHandle) -> None:
    """As whoever restores does."""
    check_places(decode_metadata(encode_metadata(of(stream)), folder), folder)


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_moorage_writes_is_read(folder: str) -> None:
    for stream in (
        BYTES,
        FileHandle("totals-0-a1-rows.0123456789abcdef", 5, "totals-0-a1-rows.0123456789abcdef"),
        FileHandle("orders/chk-3/totals-0-a1-rows.0123456789abcdef", 5),
        SegmentHandle("orders/shared/3-merged-w0+x-2-a1-state.3c2311515e2eec44", 7, 5),
    ):
        read_by(folder, stream)


def test_a_savepoint_may_name_its_files_by_its_own_url() -> None:
    read_by("s3://bucket/a/savepoint-1", FileHandle("s3://bucket/a/savepoint-1/rows", 5))


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "file:/etc/passwd",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "s3://of-others/rows",
        "s3a://bucket/a/savepoint-1/rows",
        "s3://bucket/a/savepoint-10/rows",
        "s3://bucket/a/savepoint-1",
        "s3://bucket/a/savepoint-1/",
        "s3://bucket/a/savepoint-1//rows",
        "s3://bucket/a/savepoint-1/./rows",
        "s3://bucket/a/savepoint-1/%2e%2e/rows",
        "s3://bucket/a/savepoint-1/rows?versionId=1",
        "s3://bucket/a/savepoint-1/rows#x",
        "http://169.254.169.254/latest/meta-data/iam",
        "file:///data/save%20points/savepoint-1/%2e%2e/%2e%2e/secret",
        "file:///data/save points/savepoint-1/rows",
        "a//b",
        "a/./b",
        "a/%2e%2e/%2e%2e/b",
        "a\\..\\b",
        ".ssh/id_rsa",
        "-rf",
        "a\nb",
    ],
)
def test_what_lies_elsewhere_or_is_spelled_otherwise_is_refused(folder: str, path: str) -> None:
    for stream in (FileHandle(path, 5), SegmentHandle(path, 0, 5)):
        with pytest.raises(StateError, match="operator 'totals': its state is said to lie in") as error:
            read_by(folder, stream)
        assert repr(path) in str(error.value)
        assert "copy all of it" in str(error.value)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("path", ["%2e%2e/%2e%2e/etc/passwd", "a/./b", "a b", "http://127.0.0.1/x", ".hidden", "x?y"])
def test_a_relative_path_stays_in_its_folder(folder: str, path: str) -> None:
    with pytest.raises(StateError, match="is said to lie in"):
        read_by(folder, FileHandle("ignored", 5, path))


def test_every_file_of_every_handle_is_looked_at() -> None:
    stray = FileHandle("s3://of-others/x", 1)
    parts = (HandleAndLocalPath("000001.sst", stray), HandleAndLocalPath("000001.sst", BYTES))
    for shared, private, metadata in ((0, 1, BYTES), (1, 0, BYTES), (1, 1, stray)):
        handle = IncrementalKeyedHandle(
            backend_id="b",
            checkpoint=CheckpointId(1),
            key_groups=GROUPS,
            shared=(parts[shared],),
            private=(parts[private],),
            metadata=metadata,
            written_bytes=1,
        )
        with pytest.raises(StateError, match="s3://of-others/x"):
            check_places(metadata_of(OperatorSubtaskState(managed_keyed=(handle,))), "s3://bucket/savepoint-1")
