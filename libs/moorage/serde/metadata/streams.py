"""Stream handles: where bytes lie (Flink: StreamStateHandle)."""

from __future__ import annotations

from enum import IntEnum

from moorage.errors import MetadataError
from moorage.serde.metadata.binary import Reader, Writer
from moorage.state.handles import ByteStreamHandle, FileHandle, SegmentHandle, StreamHandle

NO_STATE = 0
"""Stands for a handle of any kind that is not there."""

STREAM_BYTES = 1
"""The least that a stream handle takes."""

_UNKNOWN_SIZE = -1
"""Flink's FileStateHandle allows it."""


class _Type(IntEnum):
    BYTES = 1
    FILE = 2
    KEY_GROUPS = 3
    RELATIVE_FILE = 6
    SEGMENT = 15
    EMPTY_SEGMENT = 16


_MISPLACED: dict[int, str] = {
    NO_STATE: "a stream handle is missing",
    _Type.KEY_GROUPS: "a KeyGroupsStateHandle stands for a stream, which is not supported",
    _Type.EMPTY_SEGMENT: "an EmptySegmentFileStateHandle stands where only state can",
}


def read_stream(reader: Reader) -> StreamHandle:
    match reader.byte("type of a stream handle"):
        case _Type.BYTES:
            return ByteStreamHandle(reader.text("name of a byte stream"), reader.data("a byte stream"))
        case _Type.FILE:
            size_bytes = reader.size("size of a file", least=_UNKNOWN_SIZE)
            return FileHandle(reader.path("path of a file"), size_bytes)
        case _Type.RELATIVE_FILE:
            relative_path = reader.path("relative path of a file")
            if relative_path.startswith("/"):
                raise reader.corrupt(f"relative path of a file: {relative_path!r} is not relative")
            path = f"{reader.folder}/{relative_path}" if reader.folder else relative_path
            return FileHandle(path, reader.size("size of a file", least=_UNKNOWN_SIZE), relative_path)
        case _Type.SEGMENT:
            offset, size_bytes = reader.size("offset of a segment"), reader.size("size of a segment")
            shared = reader.flag(reader.int32("scope of a segment"), "scope of a segment")
            path = reader.path("path of a merged file")
            return SegmentHandle(path, offset, size_bytes, shared, reader.text("id of a logical file"))
        case code:
            raise reader.corrupt(_MISPLACED.get(code, f"stream handle of type {code}"))


def write_stream(writer: Writer, handle: StreamHandle) -> None:
    match handle:
        case ByteStreamHandle():
            writer.byte(_Type.BYTES)
            writer.text(handle.name)
            writer.data(handle.data)
        case FileHandle():
            if handle.relative_path is None:
                writer.byte(_Type.FILE)
                writer.size(handle.size_bytes, least=_UNKNOWN_SIZE)
                writer.path(handle.path)
            elif handle.relative_path.startswith("/"):
                raise MetadataError(f"relative path of a file: {handle.relative_path!r} is not relative")
            else:
                writer.byte(_Type.RELATIVE_FILE)
                writer.path(handle.relative_path)
                writer.size(handle.size_bytes, least=_UNKNOWN_SIZE)
        case SegmentHandle():
            writer.byte(_Type.SEGMENT)
            writer.size(handle.offset)
            writer.size(handle.size_bytes)
            writer.int32(handle.shared)
            writer.path(handle.path)
            writer.text(handle.logical_file)


def read_coordinator_state(reader: Reader) -> ByteStreamHandle | None:
    """State of an operator coordinator lies in the metadata itself, or there is none."""
    if reader.took(NO_STATE):
        return None
    stream = read_stream(reader)
    if not isinstance(stream, ByteStreamHandle):
        raise reader.corrupt(f"the coordinator state is a {type(stream).__name__} and no ByteStreamHandle")
    return stream


def write_coordinator_state(writer: Writer, handle: ByteStreamHandle | None) -> None:
    if handle is None:
        writer.byte(NO_STATE)
    else:
        write_stream(writer, handle)


def read_segment(reader: Reader) -> SegmentHandle | None:
    """A segment of a merged file, or None for the placeholder of one."""
    if reader.took(_Type.EMPTY_SEGMENT):
        return None
    stream = read_stream(reader)
    if not isinstance(stream, SegmentHandle):
        raise reader.corrupt(f"a merged operator state is a {type(stream).__name__} and no SegmentHandle")
    return stream


def write_segment(writer: Writer, handle: SegmentHandle | None) -> None:
    if handle is None:
        writer.byte(_Type.EMPTY_SEGMENT)
    else:
        write_stream(writer, handle)
