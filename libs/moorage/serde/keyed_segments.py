"""Files of keyed state: one segment per key group, each with its own length and checksum.

::

    file     = segment*                      KeyGroupsHandle.offsets says where each begins
    segment  = length u32 | xxh3-64 u64 | payload        (little endian)
    payload  = msgpack [kind, fields, rows]
    kind     = 0 base: these are all rows of the key group; 1 delta: rows changed since the segment before
    rows     = [[key, row], ...]             row = its fields in the order of ``fields``; nil: deleted

Rows carry no field names; the names are written once a segment, so a class whose fields were added, removed or
reordered since then is recognised and its rows are put together by name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import xxhash

from moorage.errors import CorruptDataError, StateError
from moorage.state.key_groups import hashable_keys

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

BASE = 0
DELTA = 1

_HEAD = struct.Struct("<IQ")
HEAD_BYTES = _HEAD.size


class KeyedSegmentCodec(Generic[K, R]):
    """Segments of one operator: ``row_type`` is its KeyedState class (array_like), ``key_type`` that of its keys."""

    def __init__(self, operator: str, key_type: Any, row_type: type[R]) -> None:
        self._operator = operator
        self._row_type = row_type
        self._plain_keys = key_type is Any
        self._fields = [field.name for field in msgspec.structs.fields(row_type)]
        self._encoder = msgspec.msgpack.Encoder()
        row: Any = row_type
        self._typed: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
            tuple[int, list[str], list[tuple[key_type, row | None]]]
        )
        self._evolving: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
            tuple[int, list[str], list[tuple[key_type, list[Any] | None]]]
        )
        self._row = msgspec.msgpack.Decoder(row_type)
        self._header: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(tuple[int, list[str], msgspec.Raw])

    def encode_base(self, rows: Mapping[K, R]) -> bytes:
        return self._segment(BASE, list(rows.items()))

    def encode_delta(self, rows: Mapping[K, R], changed: Iterable[K]) -> bytes:
        get = rows.get
        return self._segment(DELTA, [(key, get(key)) for key in changed])

    def _segment(self, kind: int, rows: list[tuple[K, R | None]]) -> bytes:
        try:
            payload = self._encoder.encode((kind, self._fields, rows))
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise StateError(
                f"operator {self._operator!r}: a row of {self._row_type.__name__} can't be stored: {error}"
            ) from error
        return _HEAD.pack(len(payload), xxhash.xxh3_64_intdigest(payload)) + payload

    def apply(self, file: bytes, offset: int, rows: MutableMapping[K, R]) -> int:
        """Bring ``rows`` up to the segment at ``offset``; returns its kind. CorruptDataError, StateError."""
        payload = read_segment(file, offset)
        try:
            kind, fields, _ = self._header.decode(payload)
        except (ValueError, RecursionError) as error:
            raise self._corrupt(error) from error
        if kind not in (BASE, DELTA):
            raise self._corrupt(f"unknown kind {kind}")
        try:
            if fields == self._fields:
                _, _, changes = self._typed.decode(payload)
            else:
                _, _, raw = self._evolving.decode(payload)
                changes = [(key, None if row is None else self._evolve(fields, row)) for key, row in raw]
            keys: Sequence[Any] = [key for key, _ in changes]
            if self._plain_keys:
                keys = hashable_keys(keys)
        except msgspec.ValidationError as error:
            raise StateError(
                f"operator {self._operator!r}: stored rows don't fit {self._row_type.__name__}: {error}."
                " Give the field back its old type, or start without this state"
            ) from error
        except (ValueError, TypeError, RecursionError) as error:
            raise self._corrupt(error) from error
        if kind == BASE:
            rows.clear()
        for key, (_, row) in zip(keys, changes, strict=True):
            if row is None:
                rows.pop(key, None)
            else:
                rows[key] = row
        return int(kind)

    def _corrupt(self, what: object) -> CorruptDataError:
        return CorruptDataError(f"operator {self._operator!r}: state segment: {what}")

    def _evolve(self, fields: list[str], row: list[Any]) -> R:
        stored = dict(zip(fields, row, strict=True))
        default = self._row_type()
        known = [stored[name] if name in stored else getattr(default, name) for name in self._fields]
        return self._row.decode(self._encoder.encode(known))


class SegmentHead(NamedTuple):
    """What stands before a payload."""

    payload_bytes: int
    checksum: int
    """xxh3-64 of the payload."""


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
