"""The files of one checkpoint, wherever they lie, read within bounds.

Nothing that a file says is believed: not its size, not where it lies. What lies outside of the storage is not touched.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import xxhash

from moorage.adapters.object_reader import ObjectReader
from moorage.errors import CorruptDataError, StorageError
from moorage.serde.state_files import expected_checksum
from moorage.state.handles import ByteStreamHandle, FileHandle, SegmentHandle, StreamHandle

CHUNK_BYTES = 8 << 20
UNKNOWN_SIZE_BYTES = -1
"""Flink may write it for a file."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://)?(.*)", re.DOTALL)
_SAME_SCHEMES = {"s3a": "s3", "s3n": "s3", "s3p": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}


class OutsideError(StorageError):
    """The file lies outside of the storage that is inspected."""


class StateFiles:
    """``root``: the URL or absolute path below which every file of the checkpoint must lie."""

    def __init__(self, reader: ObjectReader, root: str) -> None:
        self._reader = reader
        self._root = root
        self._prefix = _absolute(root).rstrip("/") + "/"
        self._sizes: dict[str, int] = {}

    def locate(self, path: str) -> str:
        """Where ``path`` lies below the root; OutsideError. Ours are relative to the root, Flink's are whole URLs."""
        if not _SCHEME.fullmatch(path) and not path.startswith("/"):
            return path
        absolute = _absolute(path)
        if not absolute.startswith(self._prefix):
            raise OutsideError(f"{path} lies outside of {self._root}: name the root of the storage with --root")
        return absolute.removeprefix(self._prefix)

    def size_bytes(self, path: str) -> int:
        """Of an object, asked for once."""
        size = self._sizes.get(path)
        if size is None:
            size = self._sizes[path] = self._reader.size_bytes(self.locate(path))
        return size

    def read(self, stream: StreamHandle) -> bytes:
        """All of a stream; CorruptDataError when its checksum is wrong, if it has one."""
        return b"".join(self.chunks(stream))

    def chunks(self, stream: StreamHandle) -> Iterator[bytes]:
        """A stream piece by piece; CorruptDataError after the last one when its checksum is wrong, if it has one."""
        size = self.stream_bytes(stream)
        digest = xxhash.xxh3_64()
        for offset in range(0, size, CHUNK_BYTES):
            chunk = self.read_at(stream, offset, min(CHUNK_BYTES, size - offset))
            digest.update(chunk)
            yield chunk
        expected = None if isinstance(stream, ByteStreamHandle) else expected_checksum(stream)
        if expected not in (None, digest.intdigest()):
            raise CorruptDataError(f"{stream_name(stream)}: wrong checksum")

    def stream_bytes(self, stream: StreamHandle) -> int:
        """How long the stream is; CorruptDataError when that is not what the checkpoint says."""
        return stream.size_bytes if isinstance(stream, ByteStreamHandle) else self._extent(stream)[1]

    def read_at(self, stream: StreamHandle, offset: int, length: int) -> bytes:
        """``length`` bytes of a stream; CorruptDataError when it does not have them."""
        size = self.stream_bytes(stream)
        if not 0 <= offset <= offset + length <= size:
            raise CorruptDataError(f"{stream_name(stream)} has {size} bytes: there are not {length} at {offset}")
        if isinstance(stream, ByteStreamHandle):
            return stream.data[offset : offset + length]
        data = self._reader.read_range(self.locate(stream.path), self._extent(stream)[0] + offset, length)
        if len(data) != length:
            raise CorruptDataError(f"{stream.path} became shorter while it was read")
        return data

    def _extent(self, stream: FileHandle | SegmentHandle) -> tuple[int, int]:
        """Offset and size of the stream in its file, which has them; CorruptDataError."""
        size = self.size_bytes(stream.path)
        if isinstance(stream, FileHandle):
            if stream.size_bytes not in (size, UNKNOWN_SIZE_BYTES):
                raise CorruptDataError(f"{stream.path} has {size} bytes, the checkpoint says {stream.size_bytes}")
            return 0, size
        if stream.offset + stream.size_bytes > size:
            raise CorruptDataError(
                f"{stream.path} has {size} bytes, the checkpoint says that {stream.size_bytes} of it lie at"
                f" {stream.offset}"
            )
        return stream.offset, stream.size_bytes


def file_name(stream: StreamHandle) -> str:
    """What to call the file of a stream."""
    return f"inline state {stream.name}" if isinstance(stream, ByteStreamHandle) else stream.path


def stream_name(stream: StreamHandle) -> str:
    """What to call a stream in a message."""
    place = f", segment at {stream.offset}" if isinstance(stream, SegmentHandle) else ""
    return f"{file_name(stream)}{place}"


def _absolute(path: str) -> str:
    """A form in which paths can be compared, whatever they were written as: ``file:/a``, ``s3:bucket/a``."""
    match = _SCHEME.fullmatch(path)
    if match is None:
        return f"file:{path}"
    scheme, rest = match[1].lower(), match[2]
    return f"{_SAME_SCHEMES.get(scheme, scheme)}:{rest}"
