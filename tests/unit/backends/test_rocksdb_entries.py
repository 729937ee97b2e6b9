"""Entries on top of what is stored, against a plain dict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from moorage.backends.rocksdb_entries import ABSENT, Entries, Loaded

INDEXES = st.integers(0, 12)


class Stored:
    """What RocksDB has, in order."""

    def __init__(self, entries: dict[int, int]) -> None:
        self.entries = entries

    def get(self, entry: int) -> Any:
        return self.entries.get(entry, ABSENT)

    def items(self) -> Iterator[tuple[int, int]]:
        return iter(sorted(self.entries.items()))

    def entries_backwards(self) -> Iterator[int]:
        return iter(sorted(self.entries, reverse=True))


class EntriesMachine(RuleBasedStateMachine):
    @initialize(stored=st.dictionaries(INDEXES, st.integers(), max_size=8), mutable=st.booleans())
    def begin(self, stored: dict[int, int], mutable: bool) -> None:
        self.stored = Stored(dict(stored))
        self.model = dict(stored)
        self.changed: set[int] = set()
        self.loaded = Loaded()
        self.entries = Entries(self.stored, self.loaded, mutable=mutable, complete=not stored, void=False)

    @rule(entry=INDEXES, value=st.integers())
    def put(self, entry: int, value: int) -> None:
        self.entries[entry] = self.model[entry] = value
        self.changed.add(entry)

    @rule(entry=INDEXES)
    def remove(self, entry: int) -> None:
        assert self.entries.pop(entry, None) == self.model.pop(entry, None)
        self.changed.add(entry)

    @rule(entry=INDEXES)
    def get(self, entry: int) -> None:
        assert self.entries.get(entry) == self.model.get(entry)
        assert (entry in self.entries) == (entry in self.model)

    @rule()
    def clear(self) -> None:
        self.model.clear()
        self.entries.clear()

    @rule()
    def last(self) -> None:
        assert next(reversed(self.entries), None) == max(self.model, default=None)

    @rule()
    def write_and_forget(self) -> None:
        if self.entries.void:
            self.stored.entries.clear()
            self.entries.void = False
        for entry in self.changed:
            value = self.entries.known(entry)
            if value is ABSENT:
                self.stored.entries.pop(entry, None)
            else:
                self.stored.entries[entry] = value
        self.changed.clear()
        assert self.stored.entries == self.model
        self.entries.forget()

    @invariant()
    def what_is_seen_is_what_is_there(self) -> None:
        assert dict(self.entries.items()) == self.model
        assert list(reversed(self.entries)) == sorted(self.model, reverse=True)
        assert len(self.entries) == len(self.model)


TestEntries = EntriesMachine.TestCase
TestEntries.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


def test_what_a_mutable_table_hands_out_is_remembered() -> None:
    stored = Stored({1: 1, 2: 2})
    for mutable, known in ((True, [1, 2]), (False, [ABSENT, ABSENT])):
        entries = Entries(stored, Loaded(), mutable=mutable, complete=False, void=False)
        list(entries.items())
        assert [entries.known(1), entries.known(2)] == known


def test_what_is_complete_asks_nobody() -> None:
    class Nobody(Stored):
        def get(self, entry: int) -> Any:
            raise AssertionError("asked")

    entries = Entries(Nobody({}), Loaded(), mutable=False, complete=True, void=False)
    assert entries.get(1) is None
    entries[1] = 2
    assert (entries[1], list(entries)) == (2, [1])


def test_to_clear_reads_nothing_and_keeps_what_comes_after() -> None:
    class Unread(Stored):
        def get(self, entry: int) -> Any:
            raise AssertionError("asked")

        def items(self) -> Iterator[tuple[int, int]]:
            raise AssertionError("listed")

        def entries_backwards(self) -> Iterator[int]:
            raise AssertionError("listed")

    loaded = Loaded()
    entries = Entries(Unread({1: 1, 2: 2}), loaded, mutable=True, complete=False, void=False)
    entries[3] = 3
    entries.clear()
    assert (entries.void, loaded.entries, list(entries), list(reversed(entries))) == (True, 0, [], [])
    entries[0] = 4
    assert (dict(entries), entries.known(3), loaded.entries) == ({0: 4}, ABSENT, 1)
