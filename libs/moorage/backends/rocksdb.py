"""The RocksDB backend: rows on the local disk, for state that is larger than memory, with incremental checkpoints.

Theory of operation
-------------------
User code works on decoded rows in a ``RowCache``; rows that a batch needs and the cache does not have are read from
RocksDB in one call. Changed rows are written when there are many of them, before rows are forgotten, and at a snapshot,
so between two calls RocksDB and the dirty rows of the cache together are the state.

A snapshot flushes RocksDB's memtable, which is as large as what changed since the last one and bounded by the budget,
and makes hard links to its tables; everything else happens in a thread (``rocksdb_snapshot``). A disk that fails there
fails the checkpoint; when rows can't be read or written, the subtask fails.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec
from rocksdict import WriteBatch

from moorage.api.keyed_state import KeyedContext
from moorage.backends.keyed import KeyedSnapshot, SnapshotForm
from moorage.backends.rocksdb_cache import RowCache
from moorage.backends.rocksdb_codec import RocksDbCodec, group_start
from moorage.backends.rocksdb_environment import Owner, RocksDbEnvironment
from moorage.backends.rocksdb_restore import RestoredStore, RocksDbRestore
from moorage.backends.rocksdb_snapshot import CanonicalSnapshot, RocksDbSnapshot, Table
from moorage.backends.rocksdb_store import RocksDbStore
from moorage.errors import StateStoreError
from moorage.ids import CheckpointId
from moorage.serde.keyed_segments import KeyedSegmentCodec
from moorage.state.handles import KeyedHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_ROW_OVERHEAD_BYTES = 300
_ROW_FACTOR = 3
"""A decoded row with its key and its place in a dict takes about ``_ROW_OVERHEAD_BYTES + _ROW_FACTOR * encoded``."""
_FIRST_GUESS_BYTES = 100
"""What an encoded row is taken for before one was written."""

_PROPERTIES = MappingProxyType(
    {
        "live_bytes": "estimate-live-data-size",
        "table_bytes": "live-sst-files-size",
        "memtable_bytes": "cur-size-all-mem-tables",
        "pending_compaction_bytes": "estimate-pending-compaction-bytes",
        "running_compactions": "num-running-compactions",
        "rows": "estimate-num-keys",
        "background_errors": "background-errors",
    }
)
"""Figures of a backend -> properties of RocksDB."""


class RocksDbKeyedBackend(Generic[K, R]):
    """Keyed state of one operator in one subtask."""

    def __init__(
        self,
        operator: str,
        key_groups: KeyGroupRange,
        key_type: Any,
        row_type: type[R],
        environment: RocksDbEnvironment,
        owner: Owner,
    ) -> None:
        self.context = KeyedContext()
        self.owner = owner
        self._operator = operator
        self._key_groups = key_groups
        self._key_type = key_type
        self._row_type = row_type
        self._environment = environment
        self._backend_id = str(uuid.uuid4())
        self._folder = environment.join(self)
        self._store: RocksDbStore | None = None
        self._codec: RocksDbCodec[K, R] = RocksDbCodec(operator, key_type, row_type)
        self.cache: RowCache[K, R] = RowCache(key_groups.groups())
        self._row_bytes = _ROW_OVERHEAD_BYTES + _ROW_FACTOR * _FIRST_GUESS_BYTES
        self._base = CheckpointId(0)
        self._tables: Mapping[str, Table] = {}
        """Tables of the base."""
        self._undecided: list[RocksDbSnapshot | CanonicalSnapshot] = []

    @property
    def store(self) -> RocksDbStore:
        """Opened when it is first needed: a restore brings its own."""
        if self._store is None:
            self._store = RocksDbStore(self._folder / "db", self._environment.options())
        return self._store

    # --- rows --------------------------------------------------------------------------------------------------------

    def rows_for(self, group: int, keys: Sequence[K]) -> MutableMapping[K, R]:
        cache = self.cache
        if cache.dirty_rows >= self._environment.dirty_rows_max:
            self._write_dirty()
        if 2 * cache.young_rows * self._row_bytes > self._environment.rows_max_bytes:
            self._write_dirty()
            cache.age()
        rows, missing = cache.claim(group, keys)
        if missing:
            self._fetch(group, missing, rows)
        return rows

    def new_row(self, group: int, key: K) -> R:
        return self._row_type()

    def _fetch(self, group: int, keys: Iterable[K], rows: dict[K, R]) -> None:
        decode = self._codec.decode_row
        values = self.store.get(self._codec.encode_keys(group, keys))
        for key, value in zip(keys, values, strict=True):
            if value is not None:
                rows[key] = decode(value)

    def _write_dirty(self) -> None:
        batch = WriteBatch(raw_mode=True)
        encode = self._codec.encode_row
        for group, rows in self.cache.take_dirty():
            stored = self._codec.encode_keys(group, [key for key, _ in rows])
            for key, (_, row) in zip(stored, rows, strict=True):
                if row is None:
                    batch.delete(key)
                else:
                    batch[key] = encode(row)
        if len(batch):
            self._row_bytes = _ROW_OVERHEAD_BYTES + _ROW_FACTOR * batch.size_in_bytes() // len(batch)
            self.store.write(batch)

    # --- snapshot ----------------------------------------------------------------------------------------------------

    def snapshot(
        self, checkpoint: CheckpointId, base: CheckpointId, form: SnapshotForm = SnapshotForm.INCREMENTAL
    ) -> KeyedSnapshot:
        self._adopt(base)
        self._write_dirty()
        if form is SnapshotForm.CANONICAL:
            return self._canonical(checkpoint)
        folder = self._folder / f"chk-{checkpoint}"
        failure: StateStoreError | None = None
        try:
            self.store.link_files(folder)
        except StateStoreError as error:
            failure = error
        snapshot = RocksDbSnapshot(
            operator=self._operator,
            backend_id=self._backend_id,
            checkpoint=checkpoint,
            key_groups=self._key_groups,
            folder=folder,
            base=self._tables if form is SnapshotForm.INCREMENTAL else {},
            schemas=self._codec.schemas,
            failure=failure,
        )
        self._undecided.append(snapshot)
        return snapshot

    def _canonical(self, checkpoint: CheckpointId) -> CanonicalSnapshot:
        scan, codec = self.store.frozen(), self._codec
        segments: KeyedSegmentCodec[K, R] = KeyedSegmentCodec(self._operator, self._key_type, self._row_type)

        def segment(group: int) -> bytes:
            entries = list(scan(group_start(group), group_start(group + 1)))
            if not entries:
                return b""
            keys = codec.decode_keys([key for key, _ in entries])
            rows = map(codec.decode_row, [value for _, value in entries])
            return segments.encode_base(dict(zip(keys, rows, strict=True)))

        snapshot = CanonicalSnapshot(
            operator=self._operator,
            checkpoint=checkpoint,
            key_groups=self._key_groups,
            file=self._folder / f"chk-{checkpoint}.segments",
            segment=segment,
        )
        self._undecided.append(snapshot)
        return snapshot

    def _adopt(self, base: CheckpointId) -> None:
        """``base`` is complete: later checkpoints build on it."""
        if base == self._base:
            return
        snapshot = next((s for s in self._undecided if s.checkpoint == base), None)
        # A base that this subtask never took part in has no tables of ours: build on nothing.
        self._tables = (snapshot.tables or {}) if isinstance(snapshot, RocksDbSnapshot) else {}
        self._base = base
        for decided in [s for s in self._undecided if s.checkpoint <= base]:
            self._forget(decided)

    def aborted(self, checkpoint: CheckpointId) -> None:
        for snapshot in [s for s in self._undecided if s.checkpoint == checkpoint]:
            self._forget(snapshot)

    def _forget(self, snapshot: RocksDbSnapshot | CanonicalSnapshot) -> None:
        snapshot.discard()
        self._undecided.remove(snapshot)

    # --- restore -----------------------------------------------------------------------------------------------------

    def load(self, handles: Sequence[KeyedHandle], read: Callable[[StreamHandle], bytes]) -> RestoredStore[K, R]:
        return RocksDbRestore[K, R](
            operator=self._operator,
            key_groups=self._key_groups,
            key_type=self._key_type,
            row_type=self._row_type,
            environment=self._environment,
            folder=self._folder,
            read=read,
        ).run(handles)

    def adopt(self, restored: RestoredStore[K, R], checkpoint: CheckpointId) -> None:
        self._store = restored.store
        self._codec = restored.codec
        self._tables = restored.tables
        self._base = checkpoint

    # --- sizes, the end ----------------------------------------------------------------------------------------------

    def row_count(self) -> int:
        return self.store.property("estimate-num-keys")

    def figures(self) -> Mapping[str, int]:
        store, cache = self._store, self.cache
        figures = {name: 0 if store is None else store.property(source) for name, source in _PROPERTIES.items()}
        return {**figures, "cache_hits": cache.hits, "cache_misses": cache.misses}

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._environment.leave(self)
