"""The write cache: what a batch finds, what is written, what is forgotten."""

from __future__ import annotations

import pytest

from moorage.backends.rocksdb_cache import RowCache


def test_a_batch_learns_which_rows_only_the_store_may_have() -> None:
    cache: RowCache[str, str] = RowCache([3])
    rows, missing = cache.claim(3, ["a", "b", "a"])
    assert (rows, missing) == ({}, {"a", "b"})
    rows["a"] = "row"
    rows, missing = cache.claim(3, ["a", "c"])
    assert (rows, missing) == ({"a": "row"}, {"c"})
    assert (cache.hits, cache.misses) == (1, 3)


def test_a_removed_row_is_not_looked_for_until_its_removal_is_written() -> None:
    cache: RowCache[str, str] = RowCache([0])
    rows, _ = cache.claim(0, ["a"])
    rows["a"] = "row"
    list(cache.take_dirty())
    rows, _ = cache.claim(0, ["a"])
    del rows["a"]
    assert cache.claim(0, ["a"])[1] == set()
    assert list(cache.take_dirty()) == [(0, [("a", None)])]
    assert cache.claim(0, ["a"])[1] == {"a"}


def test_dirty_rows_are_taken_once() -> None:
    cache: RowCache[str, str] = RowCache([0, 1])
    for group in (0, 1):
        rows, _ = cache.claim(group, ["a"])
        rows["a"] = f"row {group}"
    assert cache.dirty_rows == 2
    assert list(cache.take_dirty()) == [(0, [("a", "row 0")]), (1, [("a", "row 1")])]
    assert (cache.dirty_rows, list(cache.take_dirty())) == (0, [])


def test_a_row_that_is_used_in_every_generation_stays() -> None:
    cache: RowCache[str, str] = RowCache([0])
    rows, _ = cache.claim(0, ["hot", "cold"])
    rows |= {"hot": "h", "cold": "c"}
    for _ in range(2):
        list(cache.take_dirty())
        cache.age()
        rows, missing = cache.claim(0, ["hot"])
        assert (rows, missing) == ({"hot": "h"}, set())
    assert cache.claim(0, ["cold"])[1] == {"cold"}


def test_rows_that_are_not_written_are_never_forgotten() -> None:
    cache: RowCache[str, str] = RowCache([0])
    cache.claim(0, ["a"])
    with pytest.raises(ValueError, match="1 rows are not written"):
        cache.age()


def test_old_rows_that_are_dirty_are_written_with_what_they_are() -> None:
    cache: RowCache[str, str] = RowCache([0])
    rows, _ = cache.claim(0, ["a"])
    rows["a"] = "row"
    list(cache.take_dirty())
    cache.age()
    rows, missing = cache.claim(0, ["a"])
    rows["a"] += " changed"
    assert missing == set()
    assert list(cache.take_dirty()) == [(0, [("a", "row changed")])]
