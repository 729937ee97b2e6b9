"""States beside the rows (``moorage.api.state``) on RocksDB: bound to their keys, written entry by entry."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from rocksdict import WriteBatch

from moorage.api.keyed_state import KeyedContext
from moorage.api.state import StateField, StateTable
from moorage.backends.rocksdb_codec import RocksDbCodec, successor
from moorage.backends.rocksdb_entries import ABSENT, Entries, Loaded
from moorage.backends.rocksdb_store import RocksDbStore, Scan, in_chunks

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_CHUNK = 500
"""Entries that are decoded at a time."""
_SINGLE_DELETES_MAX = 64
"""So many entries are deleted one by one; for more a range costs less, which every later read has to look at."""


class _StoredEntries(Generic[K, R]):
    """``rocksdb_entries.EntrySource`` of one key."""

    __slots__ = ("_codec", "_prefix", "_state", "_store")

    def __init__(self, store: RocksDbStore, codec: RocksDbCodec[K, R], state: StateField, prefix: bytes) -> None:
        self._store = store
        self._codec = codec
        self._state = state
        self._prefix = prefix

    def get(self, entry: Any) -> Any:
        (stored,) = self._store.get([self._prefix + self._codec.encode_entry(entry)])
        return ABSENT if stored is None else self._codec.decode_values(self._state, [stored])[0]

    def items(self) -> Iterator[tuple[Any, Any]]:
        for _, entries, values in scan_entries(
            self._store.scan, self._codec, self._state, self._prefix, successor(self._prefix)
        ):
            yield from zip(entries, values, strict=True)

    def entries_backwards(self) -> Iterator[Any]:
        for key in self._store.keys_backwards(self._prefix, successor(self._prefix)):
            yield self._codec.decode_entries(self._state, [key])[1][0]


class RocksDbStates(Generic[K, R]):
    """The states of all rows of a backend."""

    def __init__(self, store: RocksDbStore, codec: RocksDbCodec[K, R], context: KeyedContext) -> None:
        self._store = store
        self._codec = codec
        self._tables: dict[tuple[int, str], StateTable] = {}
        self._changed: dict[tuple[int, str], set[tuple[K, Any]]] = {}
        self._context = context
        self._loaded = Loaded()

    @property
    def loaded_entries(self) -> int:
        """Held in memory since ``forget``."""
        return self._loaded.entries

    # --- rows come and go --------------------------------------------------------------------------------------------

    def bind_new(self, group: int, key: K, row: R, *, void: bool) -> None:
        """A row with the defaults. ``void``: RocksDB may have entries of a former row of the key."""
        for state in self._codec.states:
            (prefix,) = self._codec.encode_prefixes(group, state, [key])
            self._bind(group, state, key, prefix, row, complete=True, void=void)

    def bind(self, group: int, keys: Sequence[K], rows: Sequence[R]) -> None:
        """Rows that were read. States of one value are read with them, all at once."""
        for state in self._codec.states:
            prefixes = self._codec.encode_prefixes(group, state, keys)
            bound = [
                self._bind(group, state, key, prefix, row, complete=False, void=False)
                for key, prefix, row in zip(keys, prefixes, rows, strict=True)
            ]
            if state.kind in ("value", "reducing"):
                self._prefetch(state, prefixes, bound)

    def _bind(
        self, group: int, state: StateField, key: K, prefix: bytes, row: R, *, complete: bool, void: bool
    ) -> Entries:
        table = self._table(group, state)
        source = _StoredEntries(self._store, self._codec, state, prefix)
        entries = Entries(source, self._loaded, mutable=table.mutable, complete=complete, void=void)
        bound = state.declaration.fresh()
        bound.bind(key, entries, table)
        setattr(row, state.name, bound)
        return entries

    def _prefetch(self, state: StateField, prefixes: Sequence[bytes], bound: Sequence[Entries]) -> None:
        only = self._codec.encode_entry(None)
        found = self._store.get([prefix + only for prefix in prefixes])
        values = iter(self._codec.decode_values(state, [value for value in found if value is not None]))
        for entries, stored in zip(bound, found, strict=True):
            entries.learn(None, ABSENT if stored is None else next(values))

    def _table(self, group: int, state: StateField) -> StateTable:
        table = self._tables.get((group, state.name))
        if table is None:
            changed = self._changed[group, state.name] = set()
            table = self._tables[group, state.name] = state.table(self._context, changed)
        return table

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, batch: WriteBatch, group: int, rows: Mapping[K, R | None]) -> int:
        """What changed in the states of these rows; None: the row was removed, and its entries go. Returns how many
        entries were written that will be over some time, though nobody asks for them."""
        expiring = 0
        encode, encode_entry = self._codec.encode_value, self._codec.encode_entry
        for state in self._codec.states:
            for key, row in rows.items():
                if row is None or entries_of(row, state).void:
                    (prefix,) = self._codec.encode_prefixes(group, state, [key])
                    delete_entries(batch, self._store, prefix)
            changed = self._changed.get((group, state.name))
            if not changed:
                continue
            present = [(key, entry, row) for key, entry in changed if (row := rows[key]) is not None]
            changed.clear()
            if state.ttl is not None and state.ttl.time == "processing":
                expiring += len(present)
            prefixes = self._codec.encode_prefixes(group, state, [key for key, _, _ in present])
            written: dict[bytes, bytes] = {}
            for prefix, (_, entry, row) in zip(prefixes, present, strict=True):
                value = entries_of(row, state).known(entry)
                if value is ABSENT:
                    batch.delete(prefix + encode_entry(entry))
                else:
                    written[prefix + encode_entry(entry)] = encode(value)
            self._codec.check_entries(state, written)
            for stored, encoded in written.items():
                batch[stored] = encoded
        for row in rows.values():
            if row is not None:
                for state in self._codec.states:
                    entries_of(row, state).void = False
        return expiring

    def forget(self, rows: Iterator[R]) -> None:
        """Everything is written, and these rows stay: drop what their states remember."""
        for row in rows:
            for state in self._codec.states:
                entries_of(row, state).forget()
        self._loaded.entries = 0


def entries_of(row: msgspec.Struct, state: StateField) -> Entries:
    """Of a row that is bound."""
    entries: Entries = getattr(row, state.name)._entries  # noqa: SLF001 - what backends keep
    return entries


def scan_entries(
    scan: Scan, codec: RocksDbCodec[K, R], state: StateField, start: bytes, end: bytes
) -> Iterator[tuple[Sequence[K], Sequence[Any], list[Any]]]:
    """Keys, entries and values side by side, some hundred at a time."""
    found = scan(start, end)
    for chunk in in_chunks(found, _CHUNK):
        keys, entries = codec.decode_entries(state, [key for key, _ in chunk])
        yield keys, entries, codec.decode_values(state, [value for _, value in chunk])


def delete_entries(batch: WriteBatch, store: RocksDbStore, prefix: bytes) -> None:
    """All that RocksDB has of one key in one state."""
    end = successor(prefix)
    keys = [key for key, _ in itertools.islice(store.scan(prefix, end), _SINGLE_DELETES_MAX + 1)]
    if len(keys) > _SINGLE_DELETES_MAX:
        batch.delete_range(prefix, end)
    else:
        for key in keys:
            batch.delete(key)
