"""The bytes of a segment of keyed state: length, checksum, schema, blocks. What is in a block is not known here.

::

    segment  = length u64 | xxh3-64 u64 | payload                    (little endian)
    payload  = kind u8 | length u32 | schema | block*                schema: msgpack of ``row_schema.RowSchema``
    kind     = 0 base: all there is of the key group; 1 delta: what changed since the segment before
    block    = table u8 | op u8 | compression u8 | 0 | raw length u32 | stored length u32 | content
    table    = 0 rows; n the n-th state of the schema
    op       = 0 put; 1 remove; 2 reset: all entries of a key in that state are gone
    compression = 0 none; 1 zstd

A block is compressed by itself and is small (``keyed_segments.BLOCK_ROWS`` rows), so a reader needs memory for one at a
time. A block that says that it is much larger than what is stored of it is refused before it is decompressed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from io import SEEK_END, BytesIO
from typing import NamedTuple

import xxhash
import zstandard

from moorage.errors import CorruptDataError

BASE = 0
DELTA = 1

_HEAD = struct.Struct("<QQ")
_PAYLOAD = struct.Struct("<BI")
_BLOCK = struct.Struct("<BBBxII")
HEAD_BYTES = _HEAD.size
SCHEMA_HEAD_BYTES = _PAYLOAD.size
"""What stands before the schema, at the begin of a payload."""

_PLAIN = 0
_ZSTD = 1
_COMPRESS_FROM_BYTES = 256
"""Smaller blocks gain nothing."""
_EXPANSION_MAX = 250
"""A block that zstd makes smaller than this is stored as it is: no reader need believe in more."""
_LEVEL = 1


class Op(IntEnum):
    PUT = 0
    REMOVE = 1
    RESET = 2


class Block(NamedTuple):
    """Some changes of one table."""

    table: int
    op: Op
    content: bytes


class SegmentHead(NamedTuple):
    """What stands before a payload."""

    payload_bytes: int
    checksum: int
    """xxh3-64 of the payload."""


class Payload(NamedTuple):
    kind: int
    schema: bytes
    blocks: Iterator[Block]
    """Decompressed one by one. CorruptDataError."""


class OpenSegment(NamedTuple):
    """A segment before its blocks are compressed."""

    kind: int
    schema: bytes
    blocks: Sequence[Block]


def seal(segments: Sequence[OpenSegment]) -> list[bytes]:
    """*Blocking*: compress them. Blocks of all segments are compressed in one call, because with every call another
    thread takes over, and getting back from a loop that is busy takes it milliseconds."""
    stored = _stored([block for segment in segments for block in segment.blocks])
    sealed = []
    for kind, schema, blocks in segments:
        parts = [_PAYLOAD.pack(kind, len(schema)), schema]
        for _ in blocks:
            parts += next(stored)
        payload = b"".join(parts)
        sealed.append(_HEAD.pack(len(payload), xxhash.xxh3_64_intdigest(payload)) + payload)
    return sealed


class SegmentFile:
    """A file of segments in memory, which are written some blocks at a time: beside what is compressed it needs room
    for those alone."""

    def __init__(self) -> None:
        self._file = BytesIO()
        self._begin: int | None = None
        """Of the segment that is being written."""
        self._digest = xxhash.xxh3_64()

    @property
    def size_bytes(self) -> int:
        return self._file.tell()

    def begin(self, kind: int, schema: bytes) -> int:
        """A new segment, and the end of the one before; its offset."""
        self._end()
        self._begin = self._file.tell()
        self._digest = xxhash.xxh3_64()
        self._file.write(bytes(HEAD_BYTES))  # until length and checksum are known
        self._write(_PAYLOAD.pack(kind, len(schema)))
        self._write(schema)
        return self._begin

    def add(self, blocks: Sequence[Block]) -> None:
        """*Blocking*: compress them."""
        for parts in _stored(blocks):
            for part in parts:
                self._write(part)

    def getvalue(self) -> bytes:
        """All of it; nothing more can be added to the last segment."""
        self._end()
        return self._file.getvalue()

    def _write(self, part: bytes) -> None:
        self._digest.update(part)
        self._file.write(part)

    def _end(self) -> None:
        if self._begin is not None:
            payload_bytes = self._file.tell() - self._begin - HEAD_BYTES
            self._file.seek(self._begin)
            self._file.write(_HEAD.pack(payload_bytes, self._digest.intdigest()))
            self._file.seek(0, SEEK_END)
            self._begin = None


def _stored(blocks: Sequence[Block]) -> Iterator[tuple[bytes, bytes]]:
    """Head and content of each, all of them compressed in one call."""
    compressed = iter(_compressed([block.content for block in blocks if len(block.content) >= _COMPRESS_FROM_BYTES]))
    for table, op, content in blocks:
        stored, compression = content, _PLAIN
        if len(content) >= _COMPRESS_FROM_BYTES:
            smaller = next(compressed)
            if len(content) // _EXPANSION_MAX < len(smaller) < len(content):
                stored, compression = smaller, _ZSTD
        yield _BLOCK.pack(table, op, compression, len(content), len(stored)), stored


def _compressed(contents: Sequence[bytes]) -> Iterable[bytes]:
    if not contents:
        return ()
    buffers = zstandard.ZstdCompressor(level=_LEVEL).multi_compress_to_buffer(list(contents))
    return (buffers[number].tobytes() for number in range(len(contents)))


def read_head(data: bytes, offset: int = 0) -> SegmentHead:
    """The head at ``offset``, which need not be true; CorruptDataError when ``data`` ends before it does."""
    if not 0 <= offset <= len(data) - HEAD_BYTES:
        raise CorruptDataError(f"state segment at {offset} lies outside its file of {len(data)} bytes")
    return SegmentHead(*_HEAD.unpack_from(data, offset))


def read_segment(file: bytes, offset: int) -> bytes:
    """The payload of the segment at ``offset``, verified."""
    length, checksum = read_head(file, offset)
    start = offset + HEAD_BYTES
    payload = file[start : start + length]
    if len(payload) != length:
        raise CorruptDataError(f"state segment at {offset} is cut off: {len(payload)} of {length} bytes")
    if xxhash.xxh3_64_intdigest(payload) != checksum:
        raise CorruptDataError(f"state segment at {offset}: wrong checksum")
    return payload


def schema_bytes(payload: bytes) -> int:
    """How long the schema is, by the first SCHEMA_HEAD_BYTES of a payload. CorruptDataError."""
    if len(payload) < SCHEMA_HEAD_BYTES:
        raise CorruptDataError("state segment: it ends before its schema")
    size: int = _PAYLOAD.unpack_from(payload)[1]
    return size


def decode_payload(payload: bytes) -> Payload:
    """Take a verified payload apart. CorruptDataError."""
    if len(payload) < _PAYLOAD.size:
        raise CorruptDataError("state segment: it ends before its schema")
    kind, schema_bytes = _PAYLOAD.unpack_from(payload)
    start = _PAYLOAD.size + schema_bytes
    if kind not in (BASE, DELTA):
        raise CorruptDataError(f"state segment: unknown kind {kind}")
    if start > len(payload):
        raise CorruptDataError("state segment: it ends before its schema does")
    return Payload(kind, payload[_PAYLOAD.size : start], _blocks(payload, start))


def _blocks(payload: bytes, start: int) -> Iterator[Block]:
    decompress = zstandard.ZstdDecompressor().decompress
    while start < len(payload):
        if start + _BLOCK.size > len(payload):
            raise CorruptDataError("state segment: it ends within the head of a block")
        table, op, compression, raw_bytes, stored_bytes = _BLOCK.unpack_from(payload, start)
        start += _BLOCK.size
        stored = payload[start : start + stored_bytes]
        start += stored_bytes
        if len(stored) != stored_bytes or op not in iter(Op):
            raise CorruptDataError(f"state segment: a block of table {table} is cut off or of unknown kind {op}")
        if compression == _ZSTD and raw_bytes <= _EXPANSION_MAX * (stored_bytes + 1):
            try:
                # The frame's own size is not believed: at most ``raw_bytes`` are made of it.
                if zstandard.frame_content_size(stored) == raw_bytes:
                    stored = decompress(stored, max_output_size=raw_bytes)
            except zstandard.ZstdError as error:
                raise CorruptDataError(f"state segment: a block of table {table}: {error}") from error
        if len(stored) != raw_bytes or compression not in (_PLAIN, _ZSTD):
            raise CorruptDataError(f"state segment: a block of table {table} is not as large as it says")
        yield Block(table, Op(op), stored)
