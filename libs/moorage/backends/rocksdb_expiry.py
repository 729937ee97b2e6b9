"""Entries whose time is over and that nobody asks for: found a few at a time, so that they don't stay for ever.

RocksDB could drop them when it compacts, but not through rocksdict. So every write of changes looks at some entries,
where the one before has stopped, and round again (Flink: incremental cleanup): at twice as many as it has written, so
that the round keeps up with what is added, and a snapshot at some more. Only the worker's clock goes on without
records, so states that live by the time of records are left to whoever reads them.

The round passes the rows, too, of classes that have such states: a row with nothing but defaults, all of whose entries
are gone, goes. Its key meets the defaults again. Where entries were found in the same round the row goes with the next.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from moorage.api.state import StateField
from moorage.backends.rocksdb_codec import RocksDbCodec, successor
from moorage.backends.rocksdb_store import RocksDbStore

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_LOOKED_AT = 2_000
"""Entries and rows at every snapshot, at least: about 3 ms."""
_LOOKED_AT_FACTOR = 2
"""Entries and rows for each that was added."""
_CHUNK = 500
"""Entries that are decoded at a time."""

Stored = Sequence[tuple[bytes, bytes]]


class _Table(NamedTuple):
    """The entries of a state in a key group, or its rows."""

    state: StateField | None
    start: bytes
    end: bytes


class ExpirySweep(Generic[K, R]):
    """Goes round over everything that a backend has."""

    def __init__(
        self, store: RocksDbStore, codec: RocksDbCodec[K, R], row_type: type[R], groups: Iterable[int]
    ) -> None:
        self._store = store
        self._codec = codec
        self._row_type = row_type
        ending = [state for state in codec.states if state.ttl is not None and state.ttl.time == "processing"]
        self._tables = [
            _Table(state, *codec.table_bounds(group, state))
            for group in (groups if ending else ())
            for state in (*ending, None)
        ]
        self._at = 0
        self._next = self._tables[0].start if self._tables else b""

    def over(self, now_ms: int, added: int, *, at_snapshot: bool) -> list[bytes]:
        """Keys of entries that are over and of rows that have nothing left, among the next ones. What was changed must
        have been written; ``added``: how many entries that may end, and rows, that was."""
        over: list[bytes] = []
        left = max(_LOOKED_AT if at_snapshot else 0, _LOOKED_AT_FACTOR * added)
        for _ in self._tables if left else ():
            state, _, end = self._tables[self._at]
            stored = self._store.scan(self._next, end)
            while found := list(itertools.islice(stored, min(left, _CHUNK))):
                over += self._blank(found) if state is None else self._expired(state, found, now_ms)
                left -= len(found)
                if not left:
                    self._next = found[-1][0] + b"\0"
                    return over
            self._at = (self._at + 1) % len(self._tables)
            self._next = self._tables[self._at].start
        return over

    def _expired(self, state: StateField, found: Stored, now_ms: int) -> list[bytes]:
        after_ms = state.ttl.after_ms if state.ttl is not None else 0
        values = self._codec.decode_values(state, [value for _, value in found])
        return [key for (key, _), (_, begun_ms) in zip(found, values, strict=True) if begun_ms + after_ms <= now_ms]

    def _blank(self, found: Stored) -> list[bytes]:
        # Compared by its bytes, because most rows are none.
        blank = self._codec.encode_value(self._row_type())
        rows = [key for key, value in found if self._present(value, blank) == blank]
        for state in self._codec.states:
            if rows:
                prefixes = [self._codec.prefix_of_row(row, state) for row in rows]
                begun = self._store.begun(prefixes, successor(prefixes[-1]))
                rows = [row for row, has_entries in zip(rows, begun, strict=True) if not has_entries]
        return rows

    def _present(self, value: bytes, blank: bytes) -> bytes:
        """A row as the present class stores it."""
        if value[0] == blank[0]:
            return value
        return self._codec.encode_value(self._codec.decode_rows([value])[0])
