"""From handles to an open RocksDB instance with the key groups of one subtask.

The instance of the former subtask that holds most of ours is opened as it is: its tables stay shared with the
checkpoint that they came from. What is not ours is taken out of it by range, what other subtasks had of ours is copied
into it (Flink: RocksDBIncrementalRestoreOperation). Segments, of which the memory backend's checkpoints and canonical
savepoints are made, are written row by row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import xxhash
from rocksdict import WriteBatch

from moorage.api.state import StateField
from moorage.backends.rocksdb_codec import GONE, RocksDbCodec, group_start, successor, table_bounds
from moorage.backends.rocksdb_environment import RocksDbEnvironment
from moorage.backends.rocksdb_snapshot import Contents, Table, decode_contents
from moorage.backends.rocksdb_store import CURRENT, MANIFEST_PREFIX, TABLE_SUFFIX, RocksDbStore
from moorage.errors import CorruptDataError, StateError, StateStoreError
from moorage.serde.keyed_segments import BASE, Change, KeyedSegmentCodec, Op
from moorage.state.handles import (
    NO_OFFSET,
    HandleAndLocalPath,
    IncrementalKeyedHandle,
    KeyedHandle,
    KeyGroupsHandle,
    StreamHandle,
)
from moorage.state.key_groups import KeyGroupRange

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_DOWNLOADS = 3
"""Files of one subtask that are read, each as a whole, at the same time."""
_BATCH_ROWS = 5_000
_FILE_NAME = re.compile(rf"[0-9]+{re.escape(TABLE_SUFFIX)}|{MANIFEST_PREFIX}[0-9]+|{CURRENT}")

Read = Callable[[StreamHandle], bytes]


class RestoredStore(Generic[K, R], NamedTuple):
    """Loaded in a thread, adopted by the loop."""

    store: RocksDbStore
    codec: RocksDbCodec[K, R]
    tables: Mapping[str, Table]
    """Tables of the store that the checkpoint has, too."""


class RocksDbRestore(Generic[K, R]):
    """One restore, *blocking*. ``folder`` is the backend's and exists."""

    def __init__(
        self,
        *,
        operator: str,
        key_groups: KeyGroupRange,
        key_type: Any,
        row_type: type[R],
        environment: RocksDbEnvironment,
        folder: Path,
        read: Read,
    ) -> None:
        self._operator = operator
        self._key_groups = key_groups
        self._key_type = key_type
        self._row_type = row_type
        self._environment = environment
        self._folder = folder
        self._read = read

    def run(self, handles: Sequence[KeyedHandle]) -> RestoredStore[K, R]:
        """CorruptDataError, StateError, StateStoreError."""
        instances: list[IncrementalKeyedHandle] = []
        chain: list[KeyGroupsHandle] = []
        for handle in handles:
            match handle:
                case IncrementalKeyedHandle():
                    instances.append(handle)
                case KeyGroupsHandle():
                    chain.append(handle)
                case _:
                    raise StateError(
                        f"operator {self._operator!r}: a {type(handle).__name__} is not state that Moorage has written"
                    )
        instances.sort(key=lambda handle: -len(handle.key_groups.intersection(self._key_groups)))
        restored = self._open_base(instances[0]) if instances else self._open_new()
        for handle in instances[1:]:
            self._copy(handle, restored)
        self._rewrite_entries(restored)
        self._apply(chain, restored)
        return restored

    # --- instances ---------------------------------------------------------------------------------------------------

    def _open_new(self) -> RestoredStore[K, R]:
        store = RocksDbStore(self._folder / "db", self._environment.options())
        return RestoredStore(store, RocksDbCodec(self._operator, self._key_type, self._row_type), {})

    def _open_base(self, handle: IncrementalKeyedHandle) -> RestoredStore[K, R]:
        contents = self._download(handle, self._folder / "db")
        store = RocksDbStore(self._folder / "db", self._environment.options())
        ours, theirs = self._key_groups, handle.key_groups
        foreign = WriteBatch(raw_mode=True)
        if theirs.start < ours.start:
            foreign.delete_range(group_start(theirs.start), group_start(ours.start))
        if theirs.end > ours.end:
            foreign.delete_range(group_start(ours.end + 1), group_start(theirs.end + 1))
        tables = {h.local_path: Table(h.stream, contents.files[h.local_path]) for h in handle.shared}
        codec: RocksDbCodec[K, R] = RocksDbCodec(
            self._operator, self._key_type, self._row_type, contents.schemas, contents.state_names
        )
        for number in codec.forget_dropped_states():
            for group in ours.intersection(theirs).groups():
                foreign.delete_range(*table_bounds(group, number))
        if len(foreign):
            store.write(foreign)
        return RestoredStore(store, codec, tables)

    def _copy(self, handle: IncrementalKeyedHandle, into: RestoredStore[K, R]) -> None:
        """What the instance has of our key groups, under the numbers that the other one has for schemas and states."""
        contents = self._download(handle, self._folder / "other")
        theirs: RocksDbCodec[K, R] = RocksDbCodec(
            self._operator, self._key_type, self._row_type, contents.schemas, contents.state_names
        )
        dropped = frozenset(theirs.forget_dropped_states())
        schemas = [bytes([into.codec.number_of_schema(schema)]) for schema in theirs.schemas]
        names = theirs.state_names
        states = b"\0" + bytes(0 if name == GONE else into.codec.number_of_state(name) for name in names)
        wanted = handle.key_groups.intersection(self._key_groups)
        other = RocksDbStore(self._folder / "other", self._environment.options())
        try:
            writer = _Writer(into.store)
            for key, value in other.scan(group_start(wanted.start), group_start(wanted.end + 1)):
                if key[2] not in dropped:
                    writer.put(key[:2] + states[key[2] : key[2] + 1] + key[3:], schemas[value[0]] + value[1:])
            writer.flush()
        except IndexError as error:
            raise CorruptDataError(f"operator {self._operator!r}: a stored row is of no known schema") from error
        finally:
            other.close()

    def _rewrite_entries(self, restored: RestoredStore[K, R]) -> None:
        """Entries of a type that was widened must be found under the bytes that they have now."""
        store, codec = restored.store, restored.codec
        writer = _Writer(store)
        for state in codec.states_with_other_entries():
            for group in self._key_groups.groups():
                for key, value in store.scan(*codec.table_bounds(group, state)):
                    (owner,), (entry,) = codec.decode_entries(state, [key])
                    (prefix,) = codec.encode_prefixes(group, state, [owner])
                    now = prefix + codec.encode_entry(entry)
                    if now != key:
                        writer.put(now, value)
                        writer.delete([key])
        writer.flush()

    def _download(self, handle: IncrementalKeyedHandle, folder: Path) -> Contents:
        """The files of a snapshot, verified."""
        what = f"operator {self._operator!r}, checkpoint {handle.checkpoint}"
        contents = decode_contents(self._read(handle.metadata), what)
        files = (*handle.shared, *handle.private)
        if sorted(file.local_path for file in files) != sorted(contents.files):
            raise CorruptDataError(f"{what}: files and table of contents differ")
        for file in files:
            if not _FILE_NAME.fullmatch(file.local_path):
                raise CorruptDataError(f"{what}: {file.local_path!r} is not a file of RocksDB")

        def fetch(file: HandleAndLocalPath) -> None:
            data = self._read(file.stream)
            expected = contents.files[file.local_path]
            if len(data) != expected.size_bytes or xxhash.xxh3_64_intdigest(data) != expected.checksum:
                raise CorruptDataError(f"{what}: {file.local_path} is not what was written: wrong size or checksum")
            (folder / file.local_path).write_bytes(data)

        try:
            folder.mkdir()
            with ThreadPoolExecutor(_DOWNLOADS, thread_name_prefix="restore") as pool:
                for _ in pool.map(fetch, files):
                    pass
        except OSError as error:
            raise StateStoreError(f"can't write local state in {folder}: {error.strerror}") from error
        return contents

    # --- segments ----------------------------------------------------------------------------------------------------

    def _apply(self, chain: Sequence[KeyGroupsHandle], into: RestoredStore[K, R]) -> None:
        segments: KeyedSegmentCodec[K, R] = KeyedSegmentCodec(self._operator, self._key_type, self._row_type)
        begun: set[int] = set()
        for handle in chain:
            wanted = handle.key_groups.intersection(self._key_groups)
            places = [(group, handle.offsets[group - handle.key_groups.start]) for group in wanted.groups()]
            places = [(group, offset) for group, offset in places if offset != NO_OFFSET]
            if not places:
                continue
            data = self._read(handle.stream)
            for group, offset in places:
                kind, changes = segments.changes(data, offset)
                writer = _Writer(into.store)
                if kind == BASE and group in begun:
                    writer.delete_range(group_start(group), group_start(group + 1))
                begun.add(group)
                self._apply_changes(group, changes, into.codec, writer)
                writer.flush()

    def _apply_changes(self, group: int, changes: Iterable[Change], codec: RocksDbCodec[K, R], writer: _Writer) -> None:
        for state, op, keys, entries, values in changes:
            if state is None:
                stored = codec.encode_keys(group, keys)
                if op is Op.PUT:
                    for key, row in zip(stored, values, strict=True):
                        writer.put(key, codec.encode_value(row))
                else:
                    writer.delete(stored)
                    for one in codec.states:
                        self._reset(group, one, keys, codec, writer)
            elif op is Op.RESET:
                self._reset(group, state, keys, codec, writer)
            else:
                prefixes = codec.encode_prefixes(group, state, keys)
                stored = [prefix + codec.encode_entry(entry) for prefix, entry in zip(prefixes, entries, strict=True)]
                if op is Op.PUT:
                    for key, value in zip(stored, values, strict=True):
                        writer.put(key, codec.encode_value(value))
                else:
                    writer.delete(stored)

    def _reset(
        self, group: int, state: StateField, keys: Sequence[K], codec: RocksDbCodec[K, R], writer: _Writer
    ) -> None:
        for prefix in codec.encode_prefixes(group, state, keys):
            writer.delete_range(prefix, successor(prefix))


class _Writer:
    """Writes in batches, in order."""

    def __init__(self, store: RocksDbStore) -> None:
        self._store = store
        self._batch = WriteBatch(raw_mode=True)

    def put(self, key: bytes, value: bytes) -> None:
        self._batch[key] = value
        if len(self._batch) >= _BATCH_ROWS:
            self.flush()

    def delete(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            self._batch.delete(key)

    def delete_range(self, start: bytes, end: bytes) -> None:
        self._batch.delete_range(start, end)

    def flush(self) -> None:
        self._store.write(self._batch)
        self._batch = WriteBatch(raw_mode=True)
