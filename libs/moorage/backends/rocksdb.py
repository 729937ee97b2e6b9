"""The RocksDB backend: rows on the local disk, for state that is larger than memory, with incremental checkpoints.

Theory of operation
-------------------
User code works on decoded rows in a ``RowCache``; rows that a batch needs and the cache does not have are read from
RocksDB in one call. Changed rows are written when there are many of them, before rows are forgotten, and at a snapshot,
so between two calls RocksDB and the dirty rows of the cache together are the state.

At a snapshot the dirty rows are written; everything else happens in a thread (``rocksdb_snapshot``). Until it has
flushed the memtable and linked the tables, changed rows are gathered in the cache, however many there are, within
reason. A disk that fails there fails the checkpoint; when rows can't be read or written, the subtask fails.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec
from rocksdict import WriteBatch

from moorage.api.keyed_state import KeyedContext
from moorage.backends.canonical import CanonicalSnapshot
from moorage.backends.keyed import IsSparse, KeyedSnapshot, SnapshotForm, never_sparse
from moorage.backends.rocksdb_cache import RowCache
from moorage.backends.rocksdb_codec import RocksDbCodec
from moorage.backends.rocksdb_environment import Owner, RocksDbEnvironment
from moorage.backends.rocksdb_expiry import ExpirySweep
from moorage.backends.rocksdb_restore import RestoredStore, RocksDbRestore
from moorage.backends.rocksdb_segments import RocksDbSegments
from moorage.backends.rocksdb_snapshot import RocksDbSnapshot, Table
from moorage.backends.rocksdb_states import RocksDbStates
from moorage.backends.rocksdb_store import RocksDbStore
from moorage.ids import CheckpointId
from moorage.serde.keyed_segments import KeyedSegmentCodec
from moorage.state.handles import KeyedHandle, StreamHandle
from moorage.state.key_groups import KeyGroupRange

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_PATIENCE = 4
"""So many times as many rows are gathered, dirty ones and others, while a snapshot makes its links."""
_ROLLING_CHECKPOINTS = 16
"""A checkpoint stores at most this fraction of the tables anew that lie in merged files which are hardly used."""
_ROW_OVERHEAD_BYTES = 300
_ROW_FACTOR = 3
"""A decoded row with its key and its place in a dict takes about ``_ROW_OVERHEAD_BYTES + _ROW_FACTOR * encoded``, and
each of its states the overhead once more."""
_FIRST_GUESS_BYTES = 100
"""What an encoded row is taken for before one was written."""

_PROPERTIES = MappingProxyType(
    {
        "live_bytes": "estimate-live-data-size",
        "table_bytes": "live-sst-files-size",
        "memtable_bytes": "cur-size-all-mem-tables",
        "pending_compaction_bytes": "estimate-pending-compaction-bytes",
        "running_compactions": "num-running-compactions",
        "entries": "estimate-num-keys",
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
        *,
        is_sparse: IsSparse = never_sparse,
    ) -> None:
        self.context = KeyedContext()
        self.owner = owner
        self._operator = operator
        self._key_groups = key_groups
        self._key_type = key_type
        self._row_type = row_type
        self._environment = environment
        self._is_sparse = is_sparse
        self._backend_id = str(uuid.uuid4())
        self._folder = environment.join(self)
        self._codec: RocksDbCodec[K, R] = RocksDbCodec(operator, key_type, row_type)
        self._store: RocksDbStore | None = None
        self._states: RocksDbStates[K, R] | None = None
        self._expiry: ExpirySweep[K, R] | None = None
        self.cache: RowCache[K, R] = RowCache(key_groups.groups())
        self._fresh: set[K] = set()
        """Keys of the present batch that had no row before it."""
        self._new_rows = 0
        """Of a class with states, since something was written."""
        self._row_bytes = _row_bytes(_FIRST_GUESS_BYTES, self._codec)
        self._base = CheckpointId(0)
        self._tables: Mapping[str, Table] = {}
        """Tables of the base."""
        self._undecided: list[RocksDbSnapshot | CanonicalSnapshot] = []
        self._linking: RocksDbSnapshot | None = None
        """A snapshot that may not have its links yet."""

    @property
    def store(self) -> RocksDbStore:
        """Opened when it is first needed: a restore brings its own."""
        if self._store is None:
            return self._use(RocksDbStore(self._folder / "db", self._environment.options()), self._codec)
        return self._store

    @property
    def states(self) -> RocksDbStates[K, R]:
        if self._states is None:
            self._states = RocksDbStates(self.store, self._codec, self.context)
        return self._states

    def _use(self, store: RocksDbStore, codec: RocksDbCodec[K, R]) -> RocksDbStore:
        self._codec = codec
        self._store = store
        return store

    # --- rows --------------------------------------------------------------------------------------------------------

    def rows_for(self, group: int, keys: Sequence[K]) -> MutableMapping[K, R]:
        cache = self.cache
        patience = _PATIENCE if self._linking is not None and not self._linking.linked else 1
        if cache.dirty_rows >= patience * self._environment.dirty_rows_max:
            self._write_dirty()
        loaded = cache.young_rows if self._states is None else cache.young_rows + self._states.loaded_entries
        if 2 * loaded * self._row_bytes > patience * self._environment.rows_max_bytes:
            self._write_dirty()
            cache.age()
            if self._states is not None:
                self._states.forget(cache.old_rows())
        rows, missing = cache.claim(group, keys)
        if missing:
            self._fetch(group, list(missing), rows)
            missing.difference_update(rows)
        self._fresh = missing
        return rows

    def new_row(self, group: int, key: K) -> R:
        row = self._row_type()
        if self._codec.states:
            self._new_rows += 1
            self.states.bind_new(group, key, row, void=key not in self._fresh)
        return row

    def _fetch(self, group: int, keys: Sequence[K], rows: dict[K, R]) -> None:
        values = self.store.get(self._codec.encode_keys(group, keys))
        found = [key for key, value in zip(keys, values, strict=True) if value is not None]
        if not found:
            return
        decoded = self._codec.decode_rows([value for value in values if value is not None])
        if self._codec.states:
            self.states.bind(group, found, decoded)
        rows.update(zip(found, decoded, strict=True))

    def _write_dirty(self, *, at_snapshot: bool = False) -> None:
        """Write what was changed, and delete some of what is over."""
        if self._linking is not None:
            self._linking.link()
            self._linking = None
        batch = WriteBatch(raw_mode=True)
        encode = self._codec.encode_value
        expiring = 0
        for group, rows in self.cache.take_dirty():
            stored = self._codec.encode_keys(group, [key for key, _ in rows])
            encoded = [None if row is None else encode(row) for _, row in rows]
            self._codec.check_rows([value for value in encoded if value is not None])
            for key, value in zip(stored, encoded, strict=True):
                if value is None:
                    batch.delete(key)
                else:
                    batch[key] = value
            if self._codec.states:
                expiring += self.states.write(batch, group, dict(rows))
        if len(batch):
            self._row_bytes = _row_bytes(batch.size_in_bytes() // len(batch), self._codec)
            self.store.write(batch)
        self._sweep(expiring + self._new_rows, at_snapshot=at_snapshot)
        self._new_rows = 0

    def _sweep(self, added: int, *, at_snapshot: bool) -> None:
        if self._expiry is None:
            self._expiry = ExpirySweep(self.store, self._codec, self._row_type, self._key_groups.groups())
        batch = WriteBatch(raw_mode=True)
        for key in self._expiry.over(self.context.processing_ms, added, at_snapshot=at_snapshot):
            batch.delete(key)
        if len(batch):
            self.store.write(batch)

    # --- snapshot ----------------------------------------------------------------------------------------------------

    def snapshot(
        self, checkpoint: CheckpointId, base: CheckpointId, form: SnapshotForm = SnapshotForm.INCREMENTAL
    ) -> KeyedSnapshot:
        self._adopt(base)
        self._write_dirty(at_snapshot=True)
        if form is SnapshotForm.CANONICAL:
            return self._canonical(checkpoint)
        snapshot = RocksDbSnapshot(
            operator=self._operator,
            backend_id=self._backend_id,
            checkpoint=checkpoint,
            key_groups=self._key_groups,
            store=self.store,
            folder=self._folder / f"chk-{checkpoint}",
            base=self._kept_tables() if form is SnapshotForm.INCREMENTAL else {},
            schemas=self._codec.schemas,
            state_names=self._codec.state_names,
        )
        self._linking = snapshot
        self._undecided.append(snapshot)
        return snapshot

    def _kept_tables(self) -> Mapping[str, Table]:
        """Tables of the base, but for a few that are to be stored anew."""
        sparse = [name for name, (stream, file) in self._tables.items() if self._is_sparse(stream, file.size_bytes)]
        anew = set(sparse[: -(-len(self._tables) // _ROLLING_CHECKPOINTS)])
        return {name: table for name, table in self._tables.items() if name not in anew} if anew else self._tables

    def _canonical(self, checkpoint: CheckpointId) -> CanonicalSnapshot:
        segments: KeyedSegmentCodec[K, R] = KeyedSegmentCodec(self._operator, self._key_type, self._row_type)
        snapshot = CanonicalSnapshot(
            operator=self._operator,
            checkpoint=checkpoint,
            key_groups=self._key_groups,
            groups=self._key_groups.groups(),
            schema=segments.schema,
            blocks=RocksDbSegments(self.store.frozen(), self._codec, segments).blocks,
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
        self._use(restored.store, restored.codec)
        self._tables = restored.tables
        self._base = checkpoint

    # --- sizes, the end ----------------------------------------------------------------------------------------------

    def row_count(self) -> int:
        return 0 if self._store is None else self._store.property("estimate-num-keys")

    def figures(self) -> Mapping[str, int]:
        store, cache = self._store, self.cache
        figures = {name: 0 if store is None else store.property(source) for name, source in _PROPERTIES.items()}
        return {**figures, "cache_hits": cache.hits, "cache_misses": cache.misses}

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._environment.leave(self)


def _row_bytes(encoded_bytes: int, codec: RocksDbCodec[K, R]) -> int:
    return _ROW_OVERHEAD_BYTES * (1 + len(codec.states)) + _ROW_FACTOR * encoded_bytes
