"""Frames: the values of exchange messages.

A frame is a fixed header and a payload. Its header tells whether it counts (attempt, producer) without decoding the
payload, and its checksum (xxh3-64 over header and payload) is verified before anything of it is believed.

========  =====  ======================================================
offset    bytes  content
========  =====  ======================================================
0         1      format version (1)
1         1      kind
2         1      codec of a data payload (1: columns in msgpack)
3         1      0
4         4      attempt of the job
8         4      producer subtask
12        4      sequence number
16        4      number of records
20        8      checksum
28               payload
========  =====  ======================================================

The sequence number counts the frames of a channel (attempt, producer, partition) from 0 on, so a reader finds out when
one was lost, whoever lost it. All integers are little endian. The payload of a data frame is one msgpack array of
columns (keys, values, timestamps, headers); that of a barrier is an Avro ``Barrier``; the others have none. Kafka
compresses whole batches of frames, so frames are not compressed themselves.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import xxhash

from moorage.errors import CorruptDataError
from moorage.ids import Attempt
from moorage.state.key_groups import hashable_keys

K = TypeVar("K")
V = TypeVar("V")

_VERSION = 1
_COLUMNS = 1
_HEAD = struct.Struct("<BBBxIIII")
_CHECKSUM = struct.Struct("<Q")
SEQUENCES = 1 << 32
"""Sequence numbers begin again from 0 there."""
HEADER_BYTES = _HEAD.size + _CHECKSUM.size


class FrameKind(IntEnum):
    DATA = 1
    BARRIER = 2
    END_OF_DATA = 5
    """No data follows from this producer in this attempt; barriers may."""
    END_OF_PARTITION = 6
    """Nothing at all follows: the producer has finished."""


class Frame(NamedTuple):
    kind: FrameKind
    attempt: Attempt
    producer: int
    sequence: int
    records: int
    payload: bytes


def encode_frame(
    kind: FrameKind, attempt: Attempt, producer: int, sequence: int, records: int, payload: bytes
) -> bytes:
    codec = _COLUMNS if kind is FrameKind.DATA else 0
    head = _HEAD.pack(_VERSION, kind, codec, attempt, producer, sequence, records)
    checksum = xxhash.xxh3_64_intdigest(head + payload)
    return b"".join((head, _CHECKSUM.pack(checksum), payload))


_KINDS = {int(kind): kind for kind in FrameKind}


def decode_frame(data: bytes) -> Frame:
    """Raises CorruptDataError that says what is wrong."""
    if len(data) < HEADER_BYTES:
        raise CorruptDataError(f"frame of {len(data)} bytes is shorter than its header")
    version, kind, codec, attempt, producer, sequence, records = _HEAD.unpack_from(data)
    if version != _VERSION:
        raise CorruptDataError(f"frame has format version {version}, this Moorage reads {_VERSION}")
    payload = data[HEADER_BYTES:]
    digest = xxhash.xxh3_64(data[: _HEAD.size])
    digest.update(payload)
    (expected,) = _CHECKSUM.unpack_from(data, _HEAD.size)
    if digest.intdigest() != expected:
        raise CorruptDataError(f"frame checksum is {digest.intdigest():016x}, its header says {expected:016x}")
    frame_kind = _KINDS.get(kind)
    if frame_kind is None or (frame_kind is FrameKind.DATA and codec != _COLUMNS):
        raise CorruptDataError(f"frame of unknown kind {kind} or codec {codec}")
    return Frame(frame_kind, Attempt(attempt), producer, sequence, records, payload)


Headers = Sequence[tuple[str, bytes]]


class Columns(NamedTuple, Generic[K, V]):
    """Records of one key group, column by column; all columns have the same length.

    Also what operators hand to each other: a batch is never taken apart between two operators.
    """

    keys: Sequence[K]
    values: Sequence[V]
    timestamps_ms: Sequence[int]
    headers: Sequence[Headers | None] | None = None
    """None when no record has any."""

    def __len__(self) -> int:
        return len(self.values)

    def piece(self, start: int, end: int) -> Columns[K, V]:
        """The records from index ``start`` to before ``end``."""
        headers = None if self.headers is None else self.headers[start:end]
        return Columns(self.keys[start:end], self.values[start:end], self.timestamps_ms[start:end], headers)


class ColumnCodec(Generic[K, V]):
    """Payloads of data frames. Types make decoding faster and give typed values back; ``Any`` gives what msgpack has:
    None, bool, int, float, str, bytes, list, dict; but keys are hashable, so they have tuples for lists."""

    def __init__(self, key_type: Any = Any, value_type: Any = Any) -> None:
        self._plain_keys = key_type is Any
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
            tuple[list[key_type], list[value_type], bytes, list[list[tuple[str, bytes]] | None] | None]
        )

    def encode(self, columns: Columns[K, V]) -> bytes:
        """Raises TypeError, ValueError, OverflowError or RecursionError for what has no msgpack form."""
        timestamps = array("q", columns.timestamps_ms).tobytes()
        return self._encoder.encode((columns.keys, columns.values, timestamps, columns.headers))

    def decode(self, payload: bytes) -> Columns[K, V]:
        try:
            keys, values, packed, headers = self._decoder.decode(payload)
            timestamps = array("q")
            timestamps.frombytes(packed)
            if self._plain_keys:
                keys = hashable_keys(keys)
        except msgspec.ValidationError as error:
            raise CorruptDataError(f"frame payload is not of the type that was declared: {error}") from error
        except (ValueError, RecursionError) as error:
            raise CorruptDataError(f"frame payload: {error}") from error
        if not len(keys) == len(values) == len(timestamps) or (headers is not None and len(headers) != len(values)):
            raise CorruptDataError("frame payload: its columns differ in length")
        return Columns(keys, values, timestamps, headers)
