"""What is wrong with a file, or has no room in it, is named."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from msgspec.structs import replace

from moorage.errors import CorruptDataError, MetadataError
from moorage.ids import CheckpointId, OperatorId, OperatorUid
from moorage.serde.metadata import decode_metadata, encode_metadata, metadata_version
from moorage.state.handles import (
    UNKNOWN_SIZE_BYTES,
    ByteStreamHandle,
    ChangelogHandle,
    DistributionMode,
    FileHandle,
    IncrementalKeyedHandle,
    InputChannelHandle,
    KeyGroupsHandle,
    MergedInputChannelHandle,
    OperatorStreamHandle,
    StateMetaInfo,
    StreamHandle,
)
from moorage.state.key_groups import EMPTY_KEY_GROUP_RANGE, KeyGroupRange
from moorage.state.operator_state import (
    CheckpointMetadata,
    CheckpointProperties,
    OperatorState,
    OperatorSubtaskState,
    SnapshotType,
)

MAGIC = bytes.fromhex("4960672d")
BYTES = ByteStreamHandle("bytes", b"state")
LISTS = OperatorStreamHandle({"list": StateMetaInfo((0, 9), DistributionMode.SPLIT)}, BYTES)
FINISHED = OperatorSubtaskState(finished=True)
COORDINATED = ByteStreamHandle("coordinator", b"splits")


def key_groups(stream: StreamHandle = BYTES, **changes: Any) -> KeyGroupsHandle:
    return replace(KeyGroupsHandle(KeyGroupRange(0, 1), (0, 5), stream), **changes)


def keyed(*handles: Any) -> CheckpointMetadata:
    return metadata(OperatorSubtaskState(managed_keyed=handles))


def metadata(*subtasks: OperatorSubtaskState, **changes: Any) -> CheckpointMetadata:
    state = OperatorState(
        operator=OperatorId("0123456789abcdef" * 2),
        uid=OperatorUid("totals"),
        name="Totals",
        parallelism=2,
        max_parallelism=8,
        subtasks=dict(enumerate(subtasks)),
    )
    return CheckpointMetadata(checkpoint=CheckpointId(7), operators=(replace(state, **changes),))


CHANGELOG = ChangelogHandle(KeyGroupRange(0, 1), (), (), 0, 0, None, "")
INCREMENTAL = IncrementalKeyedHandle(
    backend_id="e3b2f9f0-1f55-4b40-9d3c-9f3e6c0a51f5",
    checkpoint=CheckpointId(7),
    key_groups=KeyGroupRange(0, 1),
    shared=(),
    private=(),
    metadata=BYTES,
    written_bytes=10,
)
CHANNEL = InputChannelHandle(0, 0, 0, (), 0, BYTES)


@pytest.mark.parametrize(
    ("written", "version", "message"),
    [
        (metadata(), 1, "version 1 can't be written, only 2 to 6"),
        (metadata(), 7, "version 7 can't be written"),
        (metadata(FINISHED), 2, "operator totals: subtask 0: metadata version 2 has no room for a finished subtask"),
        (metadata(fully_finished=True), 2, "operator totals: metadata version 2 has no room for a finished operator"),
        (metadata(coordinator=COORDINATED), 2, "version 2 has no room for a coordinator state"),
        (metadata(OperatorSubtaskState(input_channel=(CHANNEL,))), 2, "version 2 has no room for channel state"),
        (
            metadata(OperatorSubtaskState(input_channel=(MergedInputChannelHandle(0, (), 0, BYTES),))),
            5,
            "a MergedInputChannelHandle needs metadata version 6",
        ),
        (metadata(OperatorSubtaskState(managed_operator=(LISTS, LISTS))), 6, "managed_operator has 2 handles"),
        (metadata(replace(FINISHED, raw_operator=(LISTS,))), 6, "subtask 0: it is finished and yet has state"),
        (metadata(FINISHED, fully_finished=True), 6, "it is fully finished and yet has state"),
        (metadata(uid=""), 6, "an empty name or uid can't be told from none"),
        (metadata(operator=OperatorId("totals")), 6, "operator id 'totals' is not 32 hex digits"),
        (metadata(max_parallelism=1), 6, "parallelism 2 is above max parallelism 1"),
        (metadata(FINISHED, parallelism=0), 6, "subtask 0 is beyond the parallelism of 0"),
        (keyed(key_groups(offsets=(0,))), 6, "a KeyGroupsHandle has 1 offsets for KeyGroupRange"),
        (
            keyed(key_groups(handle_id="id", canonical=True)),
            6,
            "canonical KeyGroupsHandle has no room for a handle_id",
        ),
        (keyed(key_groups(key_groups=KeyGroupRange(32767, 32768))), 6, "is no range of key groups"),
        (keyed(replace(INCREMENTAL, written_bytes=UNKNOWN_SIZE_BYTES, handle_id="id")), 6, "no room for a handle_id"),
        (keyed(replace(INCREMENTAL, written_bytes=-2)), 6, "-2 is below 0"),
        (keyed(key_groups(), CHANGELOG), 6, "a ChangelogHandle can't be part of a chain"),
        (keyed(replace(CHANGELOG, key_groups=EMPTY_KEY_GROUP_RANGE)), 6, "has no key groups"),
        (keyed(key_groups(FileHandle("../../etc/passwd", 1))), 6, "'../../etc/passwd' is no path of a state file"),
        (keyed(key_groups(FileHandle("/state", 1, "/state"))), 6, "'/state' is not relative"),
        (keyed(key_groups(FileHandle("", 1))), 6, "'' is no path of a state file"),
        (keyed(key_groups(FileHandle("path", 1 << 63))), 6, "9223372036854775808 does not fit into 8 bytes"),
        (keyed(key_groups(ByteStreamHandle("\ud83d", b""))), 6, "is not text"),
        (keyed(key_groups(ByteStreamHandle("€" * 21846, b""))), 6, "takes 65538 bytes; 65535 are allowed"),
        (
            replace(metadata(), properties=CheckpointProperties(snapshot_type=SnapshotType.NATIVE_SAVEPOINT)),
            6,
            "savepoint=False contradicts",
        ),
    ],
)
def test_state_without_room_in_the_format_is_refused(written: CheckpointMetadata, version: int, message: str) -> None:
    with pytest.raises(MetadataError) as caught:
        encode_metadata(written, version)
    assert message in str(caught.value)


def changed(written: CheckpointMetadata, old: bytes, new: bytes) -> bytes:
    """The file of ``written`` with its only ``old`` replaced."""
    data = encode_metadata(written)
    assert data.count(old) == 1
    return data.replace(old, new)


def long(value: int) -> bytes:
    return struct.pack(">q", value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "magic number needs 4 bytes, but 0 are left"),
        (b"PAR1" * 4, "it does not start with the magic number of Flink's metadata"),
        (MAGIC + b"\0\0\0\x07", "version 7 is not supported"),
        (MAGIC + b"\0\0\0\x06" + long(-1), "checkpoint id can't be -1"),
        (MAGIC + b"\0\0\0\x06" + long(1) + b"\x7f\xff\xff\xff", "2147483647 master states are announced, but 0 bytes"),
        (MAGIC + b"\0\0\0\x06" + long(1) + b"\0\0\0\0\xff\xff\xff\xfe", "number of operators can't be -2"),
        (encode_metadata(metadata()) + b"!", "the type of the checkpoint is none that Flink writes"),
        (encode_metadata(metadata(), 3) + b"!", "1 bytes too many"),
        (changed(metadata(), b"FORWARD_BACKWARD", b"FORWARD_SIDEWAYS"), "type of the checkpoint"),
        (changed(metadata(), b"CheckpointProperties", b"ProcessBuilder......"), "are not the object that Flink writes"),
        (
            changed(keyed(key_groups()), b"\x01\x00\x05bytes\0\0\0\x05", b"\x01\x00\x05bytes\x7f\xff\xff\xff"),
            "operator totals: subtask 0: 2147483647 bytes of a byte stream are announced",
        ),
        (changed(keyed(key_groups()), b"\x01\x00\x05bytes", b"\x01\xff\xffbytes"), "name of a byte stream needs 65535"),
        (
            changed(keyed(key_groups()), b"\x01\x00\x05bytes", b"\x01\x00\x05b\0tes"),
            "byte stream is not text",
        ),
        (changed(keyed(key_groups()), b"\x01\x00\x05bytes", b"\x2a\x00\x05bytes"), "stream handle of type 42"),
        (changed(keyed(key_groups()), b"\x01\x00\x05bytes", b"\x00\x00\x05bytes"), "a stream handle is missing"),
        (
            changed(keyed(key_groups()), b"\x01\x00\x05bytes", b"\x03\x00\x05bytes"),
            "a KeyGroupsStateHandle stands for a stream, which is not supported",
        ),
        (
            changed(keyed(key_groups(FileHandle("state-file", 1))), b"state-file", b"../../file"),
            "path of a file: '../../file' is no path of a state file",
        ),
        (
            changed(keyed(key_groups(FileHandle("", 1, "state-file"))), b"state-file", b"/etc/shado"),
            "'/etc/shado' is not relative",
        ),
        (
            changed(
                keyed(key_groups(handle_id="id")), b"\x0c" + struct.pack(">ii", 0, 2), b"\x0c\0\0\x7f\xff\0\0\0\x02"
            ),
            "2 key groups from 32767 on are more than there can be",
        ),
        (
            changed(metadata(FINISHED), struct.pack(">iii", 2, 8, 0)[:8], struct.pack(">ii", 9, 8)),
            "parallelism 9 is above max parallelism 8",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_named(data: bytes, message: str) -> None:
    with pytest.raises(CorruptDataError) as caught:
        decode_metadata(data)
    assert message in str(caught.value)
    assert str(caught.value).startswith("checkpoint metadata: ")


def test_a_file_that_is_cut_short_anywhere_is_corrupt() -> None:
    subtask = OperatorSubtaskState(
        managed_operator=(LISTS,), managed_keyed=(key_groups(), key_groups()), input_channel=(CHANNEL,)
    )
    data = encode_metadata(metadata(subtask, FINISHED, coordinator=COORDINATED))
    for size in range(len(data)):
        with pytest.raises(CorruptDataError):
            decode_metadata(data[:size])


def test_the_version_of_a_file_can_be_asked_for() -> None:
    assert metadata_version(encode_metadata(metadata(), 5)) == 5
    with pytest.raises(CorruptDataError):
        metadata_version(b"{}")
