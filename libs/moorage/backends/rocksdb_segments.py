"""The rows of a RocksDB instance as blocks of segments (``serde.keyed_segments``), for canonical snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

import msgspec

from moorage.backends.canonical import CHUNK_BYTES
from moorage.backends.rocksdb_codec import RocksDbCodec
from moorage.backends.rocksdb_states import scan_entries
from moorage.backends.rocksdb_store import Scan, in_chunks
from moorage.serde.keyed_segments import BASE, BLOCK_ROWS, KeyedSegmentCodec
from moorage.serde.segment_blocks import Block

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)


class RocksDbSegments(Generic[K, R]):
    """Out of a frozen view of an instance."""

    def __init__(self, scan: Scan, codec: RocksDbCodec[K, R], segments: KeyedSegmentCodec[K, R]) -> None:
        self._scan = scan
        self._codec = codec
        self._segments = segments

    def blocks(self, group: int) -> Iterator[Sequence[Block]]:
        """All rows of a key group and their entries, about CHUNK_BYTES at a time; nothing if it has no rows."""
        codec = self._codec
        writer = self._segments.writer(BASE)
        for chunk in in_chunks(self._scan(*codec.table_bounds(group, None)), BLOCK_ROWS):
            rows = codec.decode_rows([value for _, value in chunk])
            keys = codec.decode_keys([key for key, _ in chunk])
            writer.rows(dict(zip(keys, rows, strict=True)), keys)
            if writer.raw_bytes >= CHUNK_BYTES:
                yield writer.take().blocks
        for number, state in enumerate(self._segments.states if writer.size else (), 1):
            for columns in scan_entries(self._scan, codec, state, *codec.table_bounds(group, state)):
                writer.entries(number, *map(list, columns))
                if writer.raw_bytes >= CHUNK_BYTES:
                    yield writer.take().blocks
        if writer.raw_bytes:
            yield writer.take().blocks
