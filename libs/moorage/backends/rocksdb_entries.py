"""The entries of one state of one key: what is in RocksDB, and on top of it what was read and changed since.

``State`` works on it as on a dict. It reads what it is asked for, remembers it, and writes nothing: the backend does,
for the entries that the state has reported as changed.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, MutableMapping
from typing import Any, Protocol

ABSENT: Any = object()
"""There is no such entry, or not any more."""


class EntrySource(Protocol):
    """What RocksDB has of the entries of one key in one state; values as ``State`` keeps them."""

    def get(self, entry: Any) -> Any:
        """ABSENT, if there is none."""
        ...

    def items(self) -> Iterator[tuple[Any, Any]]:
        """In the order of RocksDB's keys: lists from their beginning."""
        ...

    def entries_backwards(self) -> Iterator[Any]:
        """The entries, the last one first."""
        ...


class Loaded:
    """How many entries are held in memory by all states of a backend; too many count as too many rows."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries = 0


class Entries(MutableMapping[Any, Any]):
    """See above. ``complete``: RocksDB has nothing, or nothing that counts."""

    __slots__ = ("_complete", "_known", "_last", "_loaded", "_mutable", "_source", "void")

    def __init__(self, source: EntrySource, loaded: Loaded, *, mutable: bool, complete: bool, void: bool) -> None:
        self._source = source
        self._known: dict[Any, Any] = {}
        """Entry -> what is stored or will be, or ABSENT."""
        self._complete = complete
        """What is not known is not there."""
        self._last: int | None = None
        """The last index of a list, if it is known."""
        self._loaded = loaded
        self._mutable = mutable
        self.void = void
        """The key's row was made anew, or the state was cleared: what RocksDB has must be deleted before anything is
        written."""

    # --- for the backend ---------------------------------------------------------------------------------------------

    def known(self, entry: Any) -> Any:
        """What a changed entry is now, or ABSENT."""
        return self._known.get(entry, ABSENT)

    def learn(self, entry: Any, stored: Any) -> None:
        """What is stored under an entry, or ABSENT."""
        if entry not in self._known:
            self._loaded.entries += 1
        self._known[entry] = stored

    def forget(self) -> None:
        """RocksDB has everything: nothing needs to be remembered."""
        self._known.clear()
        self._complete = False

    # --- for State ---------------------------------------------------------------------------------------------------

    def __getitem__(self, entry: Any) -> Any:
        stored = self._known.get(entry, None)
        if stored is None and entry not in self._known:
            stored = ABSENT if self._complete else self._source.get(entry)
            self.learn(entry, stored)
        if stored is ABSENT:
            raise KeyError(entry)
        return stored

    def __setitem__(self, entry: Any, stored: Any) -> None:
        self.learn(entry, stored)
        if self._last is not None and entry > self._last:
            self._last = entry

    def __delitem__(self, entry: Any) -> None:
        self[entry]  # KeyError
        self.learn(entry, ABSENT)
        if entry == self._last:
            self._last = None

    def __iter__(self) -> Iterator[Any]:
        return (entry for entry, _ in self._pairs())

    def __len__(self) -> int:
        return sum(1 for _ in self._pairs())

    def __reversed__(self) -> Iterator[Any]:
        """Of lists: the indexes, the last one first."""
        if self._last is not None:
            yield self._last
        known = sorted((entry for entry, stored in self._known.items() if stored is not ABSENT), reverse=True)
        stored = iter(()) if self._complete else self._source.entries_backwards()
        before = self._last
        for entry in heapq.merge(known, stored, reverse=True):
            if (before is None or entry < before) and self._known.get(entry, 0) is not ABSENT:
                if self._last is None:
                    self._last = entry
                before = entry
                yield entry

    def items(self) -> Any:
        return _Items(self)

    def clear(self) -> None:
        """Without a look at what RocksDB has: the backend deletes all of it."""
        self._loaded.entries -= len(self._known)
        self._known.clear()
        self._complete = self.void = True
        self._last = None

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        """What RocksDB has, in its order, then what it does not have yet."""
        known, new = self._known, dict.fromkeys(self._known)
        if not self._complete:
            for entry, stored in self._source.items():
                new.pop(entry, None)
                if entry in known:
                    stored = known[entry]
                elif self._mutable:
                    # It may be changed in place by whoever gets it, so it must be this one that is written.
                    self.learn(entry, stored)
                if stored is not ABSENT:
                    yield entry, stored
        for entry in new:
            if known[entry] is not ABSENT:
                yield entry, known[entry]


class _Items:
    """``Entries.items()``: without asking for every value once more."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return self._entries._pairs()  # noqa: SLF001 - of this module

    def __len__(self) -> int:
        return len(self._entries)
