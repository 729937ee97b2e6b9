"""Encoding rows for a snapshot while the loop goes on changing them.

Theory of operation
-------------------
A snapshot does not copy rows, it remembers which ones it wants: of a key group either all of them (a base), or those
that changed (a delta), where there is no log of them (``memory_changes``). A thread encodes them slice by slice. Before
the loop lets user code touch rows of that key group it has those encoded that are still to be (``preserve``), so what
is stored is always what a row was at the barrier: copy on write, with the encoded row for the copy. Every key is
encoded once, by whoever comes first.

``lock`` guards one key group of one snapshot for the length of a slice, about a millisecond; ``turn`` lets the loop in
between two slices, which a lock alone would not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from moorage.api.state import StateField, StateTable
from moorage.backends.memory_changes import Changes
from moorage.errors import StateError
from moorage.serde.keyed_segments import BASE, BLOCK_ROWS, DELTA, KeyedSegmentCodec
from moorage.serde.segment_blocks import Block

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_KEYS_WITH_STATES = 100
"""Keys of a slice where each may have many entries."""
_REMEMBERED_KEYS = 250_000
"""Of a key group with more keys it is not remembered which are encoded: that would take more than what is encoded."""
_ENTRIES_MAX = 2_000
"""A key's entries that are encoded at once."""


class Expired(NamedTuple):
    """An entry whose time was over when its key group was written in full, or a row that had nothing left."""

    state: str | None
    """None: the row."""
    key: Any
    entry: Any = None
    stored: Any = None


class BlankRow(Generic[R]):
    """What a row is that is as good as none."""

    def __init__(self, row_type: type[R], states: Sequence[StateField]) -> None:
        self._states = [state.name for state in states]
        blank = row_type()
        self._defaults = [
            (name, getattr(blank, name)) for name in row_type.__struct_fields__ if name not in self._states
        ]

    def is_like(self, row: R) -> bool:
        return not any(getattr(row, name)._entries for name in self._states) and all(  # noqa: SLF001 - what backends keep
            getattr(row, name) == default for name, default in self._defaults
        )


class GroupEncoding(Generic[K, R]):
    """One key group of one snapshot, from the barrier until its segment is encoded."""

    def __init__(
        self,
        codec: KeyedSegmentCodec[K, R],
        rows: Mapping[K, R],
        tables: Sequence[StateTable],
        changes: Sequence[Changes[K, R]] | None,
        turn: threading.Event,
    ) -> None:
        """``rows`` is live. ``changes`` since the segment that a delta builds on; None: a base."""
        self._rows = rows
        self._tables = tables
        self._codec = codec
        self._states = codec.states
        self._since = changes
        self._changes: Changes[K, R] | None = None
        self._changed_entries: list[dict[K, list[Any]]] = []
        self.writer = codec.writer(BASE if changes is None else DELTA)
        """The segment; whole when ``encode`` returns."""
        self._lock = threading.Lock()
        self._turn = turn
        self._keys: list[K] | None = None
        """What there is to encode; known when the first slice is."""
        self._position = 0
        self._blank = BlankRow(codec.row_type, codec.states) if any(table.ttl for table in tables) else None
        self._slice = _KEYS_WITH_STATES if codec.states else BLOCK_ROWS
        self._done: set[K] = set()
        self._copied: list[tuple[int, list[tuple[K, dict[Any, Any]]]]] = []
        """Of a state: keys and all their entries, which nobody changes."""
        self._failure: StateError | None = None
        self.finished = False
        """The loop need not preserve anything any more."""
        self.expired: list[Expired] = []

    def preserve(self, keys: Iterable[K]) -> None:
        """In the loop, before these rows are touched."""
        self._turn.clear()
        try:
            with self._lock:
                if not self.finished:
                    self._begin()
                    fresh = [key for key in dict.fromkeys(keys) if key not in self._done]
                    # A key that comes into being now is not the snapshot's: it must not be taken for one that was.
                    self._done.update(fresh)
                    wanted: Any = self._rows if self._changes is None else self._changes.keys
                    self._encode([key for key in fresh if key in wanted])
        except StateError as error:
            self._failure = error
        finally:
            self._turn.set()

    def encode(self) -> None:
        """*Blocking*, in a thread. StateError."""
        for _ in self._slices():
            pass

    def blocks(self, chunk_bytes: int) -> Iterator[Sequence[Block]]:
        """*Blocking*, in a thread: the same, but the segment is given away as it comes, and is not kept. StateError."""
        for _ in self._slices():
            if self.writer.raw_bytes >= chunk_bytes:
                yield self._drained()
        if self.writer.raw_bytes:
            yield self._drained()

    def _drained(self) -> Sequence[Block]:
        with self._lock:
            blocks = self.writer.drain()
        self._codec.check(blocks)
        return blocks

    def _slices(self) -> Iterator[None]:
        """Encode slice by slice."""
        while not self.finished:
            self._turn.wait()
            with self._lock:
                if self._failure is not None:
                    raise self._failure
                keys = self._begin()
                some = keys[self._position : self._position + self._slice]
                self._position += self._slice
                self._encode([key for key in some if key not in self._done] if self._done else some)
                if self._position >= len(keys):
                    self.finished = True
                elif len(keys) <= _REMEMBERED_KEYS:
                    self._done.update(some)
                # Else the loop encodes rows anew that it is about to touch: they are what they were at the barrier.
            yield
        if self._failure is not None:
            raise self._failure
        for number, copied in self._copied:
            for key, mapping in copied:
                rest = iter(mapping.items())
                while part := dict(islice(rest, BLOCK_ROWS)):
                    self.writer.entries(number, [key] * len(part), list(part), list(part.values()))
                    yield
        # Forgotten here, because to forget many keys takes a while.
        self._keys, self._done, self._copied = [], set(), []
        self._since, self._changes, self._changed_entries = None, None, []

    def cancel(self) -> None:
        """Nobody wants the segment any more."""
        self.finished = True

    # --- under the lock ----------------------------------------------------------------------------------------------

    def _begin(self) -> list[K]:
        if self._keys is None:
            if self._since is None:
                self._keys = list(self._rows)
            else:
                self._changes = self._merged(self._since)
                self._keys = list(self._changes.keys)
        return self._keys

    def _merged(self, since: Sequence[Changes[K, R]]) -> Changes[K, R]:
        if len(since) == 1:
            merged = since[0]
        else:
            merged = Changes(self._codec)
            for changes in since:
                merged.absorb(changes)
        for entries in merged.entries:
            by_key: dict[K, list[Any]] = {}
            for key, entry in entries:
                by_key.setdefault(key, []).append(entry)
            self._changed_entries.append(by_key)
        return merged

    def _encode(self, keys: list[K]) -> None:
        if not keys:
            return
        self.writer.rows(self._rows, keys)
        if self._changes is None and self._blank is not None:
            self.expired += [Expired(None, key) for key in keys if self._blank.is_like(self._rows[key])]
        for number, (state, table) in enumerate(zip(self._states, self._tables, strict=True), 1):
            if self._changes is None:
                self._encode_all(number, state.name, table, keys)
            else:
                self._encode_changed(number, state.name, self._changes, keys)

    def _encode_all(self, number: int, name: str, table: StateTable, keys: list[K]) -> None:
        rows, writer = self._rows, self.writer
        stored = [(key, getattr(rows[key], name)._entries) for key in keys]  # noqa: SLF001 - what backends keep
        if table.ttl is not None and table.ttl.time == "processing":
            # By the time of records nothing is over for sure: a key that is late has its own.
            for place, (key, entries) in enumerate(stored):
                over = [(entry, value) for entry, value in entries.items() if table.expired(value)]
                if over:
                    self.expired += [Expired(name, key, entry, value) for entry, value in over]
                    gone = {entry for entry, _ in over}
                    stored[place] = (key, {e: value for e, value in entries.items() if e not in gone})
        if not table.mutable:
            # To copy them takes a tenth of the time, and they are encoded when nobody waits.
            large = [(key, dict(entries)) for key, entries in stored if len(entries) > _ENTRIES_MAX]
            if large:
                self._copied.append((number, large))
                stored = [(key, entries) for key, entries in stored if len(entries) <= _ENTRIES_MAX]
        writer.all_entries(number, stored)

    def _encode_changed(self, number: int, name: str, changes: Changes[K, R], keys: list[K]) -> None:
        rows, writer = self._rows, self.writer
        by_key = self._changed_entries[number - 1]
        renewed = [key for key in keys if key in changes.renewed and key in rows]
        writer.reset(number, renewed)
        put: tuple[list[K], list[Any], list[Any]] = ([], [], [])
        removed: tuple[list[K], list[Any]] = ([], [])
        for key in keys:
            row = rows.get(key)
            if row is None or (key not in by_key and key not in changes.renewed):
                continue  # a row that is gone has taken its entries with it
            entries = getattr(row, name)._entries  # noqa: SLF001
            for entry in entries if key in changes.renewed else by_key[key]:
                if entry in entries:
                    put[0].append(key)
                    put[1].append(entry)
                    put[2].append(entries[entry])
                else:
                    removed[0].append(key)
                    removed[1].append(entry)
        writer.removed_entries(number, *removed)
        writer.entries(number, *put)
