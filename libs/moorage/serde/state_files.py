"""Reading state files: of the size and with the checksum that their handle says.

A file of ours carries the checksum (xxh3-64) of its content at the end of its name, a segment of a merged file in its
logical file id, which is a free text in Flink's format. So the content is nothing but the state, whatever wrote it; and
what Flink wrote has neither and is read by its size alone.
"""

from __future__ import annotations

import re

import xxhash

from moorage.errors import CorruptDataError
from moorage.naming import checksum_of
from moorage.ports import CheckpointStorage
from moorage.state.handles import ByteStreamHandle, FileHandle, SegmentHandle, StreamHandle

_SEGMENT = re.compile(r"xxh3-([0-9a-f]{16})")


def segment_id(data: bytes) -> str:
    """The logical file id of a segment with this content."""
    return f"xxh3-{xxhash.xxh3_64_intdigest(data):016x}"


def expected_checksum(stream: FileHandle | SegmentHandle) -> int | None:
    """What the content must have; None: nobody wrote it down."""
    if isinstance(stream, FileHandle):
        return checksum_of(stream.relative_path or stream.path)
    match = _SEGMENT.fullmatch(stream.logical_file)
    return None if match is None else int(match[1], 16)


def check_content(stream: FileHandle | SegmentHandle, data: bytes) -> None:
    """CorruptDataError unless ``data`` is what was written."""
    if len(data) != stream.size_bytes:
        raise CorruptDataError(
            f"state file {stream.path} has {len(data)} bytes, its checkpoint says {stream.size_bytes}"
        )
    expected = expected_checksum(stream)
    if expected is not None and xxhash.xxh3_64_intdigest(data) != expected:
        where = f", segment at {stream.offset}" if isinstance(stream, SegmentHandle) else ""
        raise CorruptDataError(f"state file {stream.path}{where}: wrong checksum")


def read_stream(storage: CheckpointStorage, stream: StreamHandle) -> bytes:
    """*Blocking.* What a handle refers to. ObjectMissingError, CorruptDataError."""
    match stream:
        case ByteStreamHandle():
            return stream.data
        case FileHandle():
            data = storage.read(stream.path)
        case SegmentHandle():
            data = storage.read_range(stream.path, stream.offset, stream.size_bytes) if stream.size_bytes else b""
    check_content(stream, data)
    return data
