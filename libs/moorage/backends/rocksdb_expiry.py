"""Entries whose time is over and that nobody asks for: found a few at a time, so that they don't stay for ever.

RocksDB could drop them when it compacts, but not through rocksdict. So every snapshot looks at some entries, where the
one before has stopped, and round again (Flink: incremental cleanup). Only the worker's clock goes on without records,
so states that live by the time of records are left to whoever reads them.
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
"""Entries at a time: about 3 ms."""


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

    def expired(self, now_ms: int) -> list[bytes]:
        """Keys of entries that are over, among the next some thousand. What was changed must have been written."""
        over: list[bytes] = []
        left = _LOOKED_AT
        for _ in self._tables:
            state, ttl, _, end = self._tables[self._at]
            found = list(itertools.islice(self._store.scan(self._next, end), left))
            values = self._codec.decode_values(state, [value for _, value in found])
            over += [
                key for (key, _), (_, begun_ms) in zip(found, values, strict=True) if begun_ms + ttl.after_ms <= now_ms
            ]
            if len(found) == left:
                self._next = found[-1][0] + b"\0"
                break
            left -= len(found)
            self._at = (self._at + 1) % len(self._tables)
            self._next = self._tables[self._at].start
        return over
