"""Bytes of position vectors (inside checkpoint metadata) and of commit markers (values of the commits topic).

A version byte, then msgpack. Both lie inside something that carries a checksum: metadata, or a Kafka record batch.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from moorage.errors import CorruptDataError
from moorage.ids import OperatorUid
from moorage.state.positions import CommitClaim, CommitMarker, InputPositions

_VERSION = b"\x01"
_CLAIM = b"\x02"
"""What a claim begins with, which lies among the markers."""
_encoder = msgspec.msgpack.Encoder()
_positions = msgspec.msgpack.Decoder(InputPositions)
_claim = msgspec.msgpack.Decoder(CommitClaim)
_marker = msgspec.msgpack.Decoder(CommitMarker)

T = TypeVar("T")


def encode_positions(positions: InputPositions) -> bytes:
    return _VERSION + _encoder.encode(positions)


def decode_positions(data: bytes) -> InputPositions:
    positions = _decode("channel positions", _positions, data)
    for part in positions.exchanges:
        columns = (part.partitions, part.attempts, part.producers, part.offsets, part.until)
        if len({*map(len, columns)}) > 1:
            raise CorruptDataError(f"channel positions of {part.exchange}: the columns differ in length")
    return positions


def marker_key(sink: OperatorUid, key_group: int) -> bytes:
    """Compaction key of a commit marker."""
    return f"{sink}/{key_group}".encode()


def encode_marker(marker: CommitMarker) -> bytes:
    return _VERSION + _encoder.encode(marker)


def decode_marker(data: bytes) -> CommitMarker:
    marker = _decode("commit marker", _marker, data)
    if not len(marker.producers) == len(marker.offsets) > 0:
        raise CorruptDataError(f"commit marker of {marker.sink}: the columns differ in length or are empty")
    return marker


def claim_key(sink: OperatorUid, key_group: int, parallelism: int) -> bytes:
    """Compaction key of a claim."""
    return f"{sink}/{key_group}/{parallelism}".encode()


def encode_claim(claim: CommitClaim) -> bytes:
    return _CLAIM + _encoder.encode(claim)


def decode_commit(data: bytes) -> CommitMarker | CommitClaim:
    """A value of the commits topic."""
    return _decode("claim", _claim, data, _CLAIM) if data[:1] == _CLAIM else decode_marker(data)


def _decode(kind: str, decoder: msgspec.msgpack.Decoder[T], data: bytes, version: bytes = _VERSION) -> T:
    if data[:1] != version:
        raise CorruptDataError(f"{kind}: unknown version {data[:1].hex() or 'nothing'}")
    try:
        return decoder.decode(data[1:])
    except (ValueError, RecursionError) as error:
        raise CorruptDataError(f"{kind}: {error}") from error
