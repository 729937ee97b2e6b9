"""Entries whose time is over and that nobody asks for: found a few at a time, so that they don't stay for ever.

RocksDB could drop them when it compacts, but not through rocksdict. So every write of changes looks at some entries,
where the one before has stopped, and round again (Flink: incremental cleanup): at twice as many as it has written, so
that the round keeps up with what is added, and a snapshot at some more. Only the worker's clock goes on without
records, so states that live by the time of records are left to whoever reads them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

import msgspec

from moorage.api.state import StateField, Ttl
from moorage.backends.rocksdb_codec import RocksDbCodec
from moorage.backends.rocksdb_store import RocksDbStore

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_LOOKED_AT = 2_000
"""Entries at every snapshot, at least: about 3 ms."""
_LOOKED_AT_FACTOR = 2
"""Entries for each that was written."""
_CHUNK = 500
"""Entries that are decoded at a time."""


class _Table(NamedTuple):
    """The entries of a state in a key group."""

    state: StateField
    ttl: Ttl
    start: bytes
    end: bytes


class ExpirySweep(Generic[K, R]):
    """Goes round over everything that a backend has."""

    def __init__(self, store: RocksDbStore, codec: RocksDbCodec[K, R], groups: Iterable[int]) -> None:
        self._store = store
        self._codec = codec
        self._tables = [
            _Table(state, state.ttl, *codec.table_bounds(group, state))
            for group in groups
            for state in codec.states
            if state.ttl is not None and state.ttl.time == "processing"
        ]
        self._at = 0
        self._next = self._tables[0].start if self._tables else b""

    def expired(self, now_ms: int, written: int, *, at_snapshot: bool) -> list[bytes]:
        """Keys of entries that are over, among the next ones. What was changed must have been written; ``written``:
        how many entries that was."""
        over: list[bytes] = []
        left = max(_LOOKED_AT if at_snapshot else 0, _LOOKED_AT_FACTOR * written)
        for _ in self._tables if left else ():
            state, ttl, _, end = self._tables[self._at]
            stored = self._store.scan(self._next, end)
            while found := list(itertools.islice(stored, min(left, _CHUNK))):
                values = self._codec.decode_values(state, [value for _, value in found])
                over += [
                    key
                    for (key, _), (_, begun_ms) in zip(found, values, strict=True)
                    if begun_ms + ttl.after_ms <= now_ms
                ]
                left -= len(found)
                if not left:
                    self._next = found[-1][0] + b"\0"
                    return over
            self._at = (self._at + 1) % len(self._tables)
            self._next = self._tables[self._at].start
        return over
