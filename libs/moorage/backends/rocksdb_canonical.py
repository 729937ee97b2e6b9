"""Snapshots of a RocksDB backend in the segments that every backend reads (``serde.keyed_segments``).

They are read out of RocksDB and written to a local file in a thread, key group by key group.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from moorage.backends.pieces import StatePiece
from moorage.backends.rocksdb_codec import RocksDbCodec
from moorage.backends.rocksdb_states import scan_entries
from moorage.backends.rocksdb_store import Scan
from moorage.errors import StateStoreError
from moorage.ids import CheckpointId
from moorage.serde.keyed_segments import BASE, BLOCK_ROWS, KeyedSegmentCodec
from moorage.state.handles import NO_OFFSET, KeyGroupsHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)


_FILE_BYTES = 64 << 20


class CanonicalSegments(Generic[K, R]):
    """Segments out of a frozen view of an instance."""

    def __init__(self, scan: Scan, codec: RocksDbCodec[K, R], key_type: Any, row_type: type[R]) -> None:
        self._scan = scan
        self._codec = codec
        self._segments: KeyedSegmentCodec[K, R] = KeyedSegmentCodec(codec.operator, key_type, row_type)

    def segment(self, group: int) -> bytes:
        """All rows of a key group and their entries; nothing if it has no rows."""
        codec = self._codec
        writer = self._segments.writer(BASE)
        found = self._scan(*codec.table_bounds(group, None))
        while chunk := list(itertools.islice(found, BLOCK_ROWS)):
            rows = codec.decode_rows([value for _, value in chunk])
            keys = codec.decode_keys([key for key, _ in chunk])
            writer.rows(dict(zip(keys, rows, strict=True)), keys)
        if not writer.size:
            return b""
        for number, state in enumerate(self._segments.states, 1):
            for columns in scan_entries(self._scan, codec, state, *codec.table_bounds(group, state)):
                writer.entries(number, *map(list, columns))
        return writer.finish()


def _given_up(_: int) -> bytes:
    raise StateStoreError("the snapshot was given up")


class CanonicalSnapshot:
    """The snapshot: files of segments, each of whole key groups, so that a restore has a bounded one in memory."""

    def __init__(
        self,
        *,
        operator: str,
        checkpoint: CheckpointId,
        key_groups: KeyGroupRange,
        folder: Path,
        segment: Callable[[int], bytes],
    ) -> None:
        """``folder`` does not exist yet. ``segment``: of a key group as it was at the barrier, empty when it has no
        rows."""
        self.checkpoint = checkpoint
        self._operator = operator
        self._key_groups = key_groups
        self._folder = folder
        self._segment = segment
        self._files: list[dict[int, int]] = []
        """Of each file: key group -> offset."""

    def encode(self) -> Sequence[StatePiece]:
        try:
            self._folder.mkdir()
            groups = iter(self._key_groups.groups())
            while True:
                path = self._folder / str(len(self._files))
                offsets = self._write(path, groups)
                if not offsets:
                    break
                self._files.append(offsets)
        except OSError as error:
            raise StateStoreError(f"can't write the snapshot in {self._folder}: {error.strerror}") from error
        return [
            StatePiece(f"{self._operator}.{number}", True, self._folder / str(number))
            for number in range(len(self._files))
        ]

    def _write(self, path: Path, groups: Iterator[int]) -> dict[int, int]:
        """Segments of the next key groups, until the file is large enough."""
        offsets: dict[int, int] = {}
        position = 0
        with path.open("xb") as file:
            for group in groups:
                segment = self._segment(group)
                if segment:
                    file.write(segment)
                    offsets[group] = position
                    position += len(segment)
                if position >= _FILE_BYTES:
                    break
        return offsets

    def finish(self, streams: Sequence[StreamHandle]) -> tuple[KeyGroupsHandle, ...]:
        self.discard()
        return tuple(
            KeyGroupsHandle(
                self._key_groups,
                tuple(offsets.get(group, NO_OFFSET) for group in self._key_groups.groups()),
                stream,
            )
            for offsets, stream in zip(self._files, streams, strict=True)
        )

    def discard(self) -> None:
        """Take away the local files, and let go of what was frozen."""
        self._segment = _given_up
        shutil.rmtree(self._folder, ignore_errors=True)
