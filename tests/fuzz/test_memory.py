"""Files that lie about their size cost an error, and no more memory than they have bytes."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import xxhash
import zstandard
from tests.fuzz.targets import SEGMENT_CODECS, opened
from tests.unit.inspect.checkpoints import ORIGIN

from moorage.coordinator_process.origin import with_origin
from moorage.errors import CorruptDataError
from moorage.ids import CheckpointId, OperatorId, OperatorUid
from moorage.inspect.rows import rows_of
from moorage.messages.commands import CancelJob
from moorage.serde.control import COMMANDS, HEADER_BYTES, decode, encode
from moorage.serde.frames import ColumnCodec
from moorage.serde.metadata import decode_metadata
from moorage.serde.positions import decode_positions
from moorage.serde.segment_blocks import BASE, decode_payload
from moorage.state.handles import ByteStreamHandle, KeyGroupsHandle
from moorage.state.key_groups import KeyGroupRange
from moorage.state.operator_state import CheckpointMetadata, OperatorState, OperatorSubtaskState

LIMIT_BYTES = 4 << 20
MAGIC = bytes.fromhex("4960672d")
MANY = b"\x7f\xff\xff\xff"
CODEC = SEGMENT_CODECS[0]


def metadata(rest: bytes) -> bytes:
    return MAGIC + struct.pack(">iqi", 3, 1, 0) + rest


def operator(rest: bytes) -> bytes:
    return metadata(struct.pack(">i16sii", 1, bytes(16), 1, 32_768) + rest)


def subtask(rest: bytes) -> bytes:
    return operator(b"\0" + struct.pack(">ii", 1, 0) + rest)


NO_LISTS = struct.pack(">ii", 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        metadata(MANY),
        operator(b"\0" + MANY),
        operator(b"\x01\0\x01x" + MANY),
        subtask(MANY),
        subtask(struct.pack(">i", 1) + b"\x04" + MANY),
        subtask(struct.pack(">i", 1) + b"\x04" + struct.pack(">ih", 1, 1) + b"x\0" + MANY),
        subtask(NO_LISTS + b"\x03" + struct.pack(">ii", 0, 32_768)),
        subtask(NO_LISTS + b"\x03" + b"\0\0\0\0" + MANY),
        subtask(NO_LISTS + b"\x05" + struct.pack(">qh", 1, 1) + b"x" + struct.pack(">ii", 0, 1) + b"\x01\0\0" + MANY),
        subtask(NO_LISTS + b"\0\0" + MANY),
        subtask(NO_LISTS + b"\0\0" + struct.pack(">iiii", 1, 0, 0, 0) + MANY),
    ],
)
def test_counts_and_lengths_of_metadata(data: bytes) -> None:
    refused(decode_metadata, data)


def sealed(payload: bytes) -> bytes:
    return struct.pack("<QQ", len(payload), xxhash.xxh3_64_intdigest(payload)) + payload


def block(stored: bytes, raw_bytes: int, *, compression: int = 1, stored_bytes: int | None = None) -> bytes:
    return (
        struct.pack("<BBBxII", 0, 0, compression, raw_bytes, len(stored) if stored_bytes is None else stored_bytes)
        + stored
    )


def segment(*blocks: bytes) -> bytes:
    schema = decode_payload(CODEC.encode_base({})[16:]).schema
    return sealed(struct.pack("<BI", BASE, len(schema)) + schema + b"".join(blocks))


ZEROS = zstandard.ZstdCompressor().compress(bytes(1 << 28))
"""10 KB that become 256 MB."""


def unsized(data: bytes) -> bytes:
    """A zstd frame that does not tell its size."""
    compressor = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<QQ", 1 << 62, 0),
        sealed(struct.pack("<BI", BASE, 0xFFFFFFFF)),
        segment(block(ZEROS, 1 << 28)),
        segment(block(ZEROS, 1_000)),
        segment(block(unsized(bytes(1 << 28)), 100_000)),
        segment(block(b"", 0xFFFFFFFF)),
        segment(block(b"", 0, stored_bytes=0xFFFFFFFF)),
        segment(block(b"\x92\xdd\xff\xff\xff\xff", 6, compression=0)),
        segment(block(b"\x92\x90" + b"\x91" * 100_000, 100_002, compression=0)),
    ],
)
def test_segments_that_are_bombs(data: bytes) -> None:
    refused(lambda file: CODEC.apply(file, 0, {}), data)
    refused(lambda file: list(rows_of(checkpoint_with(file), "totals")), data)


def checkpoint_with(file: bytes) -> Any:
    handle = KeyGroupsHandle(KeyGroupRange(0, 0), (0,), ByteStreamHandle("state", file))
    state = OperatorState(
        operator=OperatorId("0" * 32),
        uid=OperatorUid("totals"),
        name=None,
        parallelism=1,
        max_parallelism=1,
        subtasks={0: OperatorSubtaskState(managed_keyed=(handle,))},
    )
    return opened(with_origin(CheckpointMetadata(checkpoint=CheckpointId(1), operators=(state,)), ORIGIN))


@pytest.mark.parametrize("data", [b"\x01\x91\xdd\xff\xff\xff\xff", b"\x01" + b"\x91" * 100_000])
def test_positions_that_are_bombs(data: bytes) -> None:
    refused(decode_positions, data)


@pytest.mark.parametrize("data", [b"\x94\xdd\xff\xff\xff\xff", b"\x94" * 100_000, b"\x94\xc6\xff\xff\xff\xff"])
def test_columns_that_are_bombs(data: bytes) -> None:
    refused(ColumnCodec().decode, data)


def test_a_message_that_is_a_bomb() -> None:
    head = encode(CancelJob(epoch=1, job="a", attempt=1))[:HEADER_BYTES]  # type: ignore[arg-type]
    for body in (b"\x02\xfe\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xff" * 100_000):
        refused(lambda data: decode(data, COMMANDS), head + body)


def refused(read: Callable[[bytes], object], data: bytes) -> None:
    read_once(read, data)  # what is made once and kept does not count
    tracemalloc.start()
    try:
        read_once(read, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LIMIT_BYTES


def read_once(read: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        read(data)
