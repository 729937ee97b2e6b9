"""Chains of segments: what the memory backend writes, and every canonical savepoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import xxhash

from moorage.errors import CorruptDataError
from moorage.inspect.decoding import MALFORMED, KeyRows, RowDecoder, decode_schema, identity
from moorage.inspect.files import StateFiles, stream_name
from moorage.serde.row_schema import RowSchema
from moorage.serde.segment_blocks import (
    BASE,
    HEAD_BYTES,
    SCHEMA_HEAD_BYTES,
    Block,
    Op,
    decode_payload,
    read_head,
    schema_bytes,
)
from moorage.state.handles import NO_OFFSET, KeyGroupsHandle, StreamHandle


class Segment(NamedTuple):
    stream: StreamHandle
    offset: int

    def schema(self, files: StateFiles) -> tuple[bytes, RowSchema]:
        """The schema by which it was written, and its bytes."""
        start = self.offset + HEAD_BYTES
        with self._errors():
            size = schema_bytes(files.read_at(self.stream, start, SCHEMA_HEAD_BYTES))
            data = files.read_at(self.stream, start + SCHEMA_HEAD_BYTES, size)
            return data, RowDecoder(decode_schema(data)).schema

    def apply(self, files: StateFiles, keys: KeyRows) -> None:
        """Bring the rows up to this segment."""
        with self._errors():
            payload = decode_payload(self._payload(files))
            if payload.kind == BASE:
                keys.clear()
            rows = RowDecoder(decode_schema(payload.schema))
            for block in payload.blocks:
                _apply(block, rows, keys)

    def _payload(self, files: StateFiles) -> bytes:
        head = read_head(files.read_at(self.stream, self.offset, HEAD_BYTES))
        payload = files.read_at(self.stream, self.offset + HEAD_BYTES, head.payload_bytes)
        if xxhash.xxh3_64_intdigest(payload) != head.checksum:
            raise CorruptDataError("wrong checksum")
        return payload

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What makes no sense is corrupt, and named."""
        try:
            yield
        except (CorruptDataError, *MALFORMED) as error:
            raise CorruptDataError(f"{stream_name(self.stream)}, key group at {self.offset}: {error}") from error


def segment_of(handle: KeyGroupsHandle, group: int) -> Segment | None:
    """A key group's segment in a handle, if it has one."""
    offset = handle.offsets[group - handle.key_groups.start] if group in handle.key_groups else NO_OFFSET
    return None if offset == NO_OFFSET else Segment(handle.stream, offset)


def _apply(block: Block, rows: RowDecoder, keys: KeyRows) -> None:
    match block.table, block.op:
        case 0, Op.PUT:
            put, values = _decode_rows(block.content)
            for key, row in zip(put, values, strict=True):
                rows.put(keys, bytes(key), row)
        case 0, _:
            for key in _decode_raws(block.content):
                keys.pop(identity(bytes(key)), None)
        case table, Op.PUT:
            put, entries, stored = _decode_entries(block.content)
            for key, entry, value in zip(put, entries, stored, strict=True):
                rows.states[table - 1].put(keys, bytes(key), bytes(entry), value)
        case table, Op.REMOVE:
            removed, entries = _decode_removed(block.content)
            for key, entry in zip(removed, entries, strict=True):
                rows.states[table - 1].remove(keys, bytes(key), bytes(entry))
        case table, _:
            for key in _decode_raws(block.content):
                rows.states[table - 1].reset(keys, bytes(key))


_Raws = list[msgspec.Raw]
_decode_raws = msgspec.msgpack.Decoder(_Raws).decode
_decode_rows = msgspec.msgpack.Decoder(tuple[_Raws, list[list[Any]]]).decode
_decode_removed = msgspec.msgpack.Decoder(tuple[_Raws, _Raws]).decode
_decode_entries = msgspec.msgpack.Decoder(tuple[_Raws, _Raws, list[Any]]).decode
