"""The write cache in front of RocksDB: decoded rows, which user code changes in place.

Reading a row from RocksDB, decoding it, encoding it and writing it back costs ten times what user code does with it,
so rows that are used often stay decoded, and a row that changes often is written once in a while.

Two generations stand in for an order of use, which would cost something for every record: rows that a batch asks for
are in the young one; when that has become too large, it becomes the old one and what was old is forgotten, so a row
stays that is used at least once in a generation. Changed rows are *dirty* until they are written, and are never
forgotten before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
R = TypeVar("R")


class RowCache(Generic[K, R]):
    """Rows of one backend, by key group and key."""

    def __init__(self, groups: Iterable[int]) -> None:
        self._groups = tuple(groups)
        self._young: dict[int, dict[K, R]] = {group: {} for group in self._groups}
        self._old: dict[int, dict[K, R]] = {group: {} for group in self._groups}
        self._dirty: dict[int, set[K]] = {group: set() for group in self._groups}
        self.dirty_rows = 0
        self.young_rows = 0
        """At most so many; rows that user code removed count, too."""
        self.hits = 0
        """Keys of batches whose row was here."""
        self.misses = 0

    def claim(self, group: int, keys: Sequence[K]) -> tuple[dict[K, R], set[K]]:
        """The mapping in which a batch finds and changes its rows, and those keys of which only the store knows whether
        they have one: the caller puts what it finds into the mapping. All keys are dirty from now on."""
        rows, dirty = self._young[group], self._dirty[group]
        wanted = set(keys)
        missing = wanted.difference(rows)
        if missing:
            old = self._old[group]
            for key in missing.intersection(old):
                rows[key] = old.pop(key)
            self.young_rows += len(missing)
            missing.difference_update(rows)
            # A dirty key without a row was removed, and the store does not know yet.
            missing.difference_update(dirty)
        self.misses += len(missing)
        self.hits += len(wanted) - len(missing)
        self.dirty_rows -= len(dirty)
        dirty |= wanted
        self.dirty_rows += len(dirty)
        return rows, missing

    def take_dirty(self) -> Iterator[tuple[int, list[tuple[K, R | None]]]]:
        """Per key group what is to be written, None for rows that were removed; all rows are clean afterwards."""
        self.dirty_rows = 0
        for group, keys in self._dirty.items():
            if keys:
                self._dirty[group] = set()
                young, old = self._young[group], self._old[group]
                yield group, [(key, young[key] if key in young else old.get(key)) for key in keys]

    def age(self) -> None:
        """Forget the rows that no batch has asked for in a generation. There must be no dirty ones."""
        if self.dirty_rows:
            raise ValueError(f"{self.dirty_rows} rows are not written yet")
        self._old = self._young
        self._young = {group: {} for group in self._groups}
        self.young_rows = 0

    def old_rows(self) -> Iterator[R]:
        """Rows of the old generation."""
        return (row for rows in self._old.values() for row in rows.values())
