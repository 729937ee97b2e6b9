"""Both backends behind one face, for tests: a storage of pieces, and subtasks that snapshot into it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from moorage.api.keyed_state import KeyedState
from moorage.backends.keyed import IsSparse, KeyedBackend, KeyedSnapshot, never_sparse
from moorage.backends.memory import MemoryKeyedBackend
from moorage.backends.rocksdb import RocksDbKeyedBackend
from moorage.backends.rocksdb_environment import Owner, RocksDbEnvironment, RocksDbMemory
from moorage.state.handles import FileHandle, KeyedHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

GROUPS = 8
ALL = KeyGroupRange(0, GROUPS - 1)
SMALL = RocksDbMemory(rocksdb_bytes=8 << 20, rows_bytes=20_000, dirty_rows_max=5)
"""Rows are written and forgotten all the time."""


class Row(KeyedState):
    count: int = 0
    tags: list[str] = []  # noqa: RUF012 - msgspec copies it


Backend = KeyedBackend[str, Row]
NewBackend = Callable[..., KeyedBackend[str, Any]]


def group_of(key: str) -> int:
    return crc32(key.encode()) % GROUPS


def memory(
    groups: KeyGroupRange = ALL, row_type: type[KeyedState] = Row, is_sparse: IsSparse = never_sparse
) -> MemoryKeyedBackend[str, Any]:
    return MemoryKeyedBackend("totals", groups, str, row_type, is_sparse=is_sparse)


def rocksdb(environment: RocksDbEnvironment) -> Callable[..., RocksDbKeyedBackend[str, Any]]:
    def new(
        groups: KeyGroupRange = ALL, row_type: type[KeyedState] = Row, is_sparse: IsSparse = never_sparse
    ) -> RocksDbKeyedBackend[str, Any]:
        owner = Owner("job", "vertex", 0)
        return RocksDbKeyedBackend("totals", groups, str, row_type, environment, owner, is_sparse=is_sparse)

    return new


class Storage:
    """Where pieces of snapshots are kept, by paths that are never used twice."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self._written = 0
        self.last_written_bytes = 0
        """Of the newest ``store``."""

    def store(self, snapshot: KeyedSnapshot) -> tuple[KeyedHandle, ...]:
        """A snapshot from its second phase to its end."""
        streams: list[StreamHandle] = []
        self.last_written_bytes = 0
        for piece in snapshot.encode():
            data = piece.data.read_bytes() if isinstance(piece.data, Path) else piece.data
            self._written += 1
            path = f"{self._written}-{piece.name}"
            self.files[path] = data
            self.last_written_bytes += len(data)
            streams.append(FileHandle(path, len(data)))
        return snapshot.finish(streams)

    def read(self, stream: StreamHandle) -> bytes:
        assert isinstance(stream, FileHandle)
        return self.files[stream.path]


def change(backend: KeyedBackend[str, Any], keys: Sequence[str], count: int = 1) -> None:
    """As a batch of records does: each key's row gets its count raised."""
    for key in keys:
        rows = backend.rows_for(group_of(key), [key])
        if key not in rows:
            rows[key] = backend.new_row(group_of(key), key)
        rows[key].count += count


def counts(backend: KeyedBackend[str, Any], keys: Sequence[str]) -> dict[str, int]:
    """The counts of those keys that have a row."""
    found = {key: backend.rows_for(group_of(key), [key]).get(key) for key in keys}
    return {key: row.count for key, row in found.items() if row is not None}
