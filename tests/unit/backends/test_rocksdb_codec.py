"""Keys and values of RocksDB: order, prefixes, schemas of older classes, and bytes that are nothing of ours."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.api.keyed_state import KeyedState
from moorage.api.state import ListState, MapState
from moorage.backends.rocksdb_codec import GONE, RocksDbCodec, group_start, successor
from moorage.errors import CorruptDataError, StateError


class Row(KeyedState):
    count: int = 0
    note: str = ""
    items: MapState[tuple[str, int], float] = MapState()
    history: ListState[int] = ListState()


CODEC: RocksDbCodec[Any, Row] = RocksDbCodec("totals", Any, Row)
ITEMS, HISTORY = CODEC.states

keys = st.recursive(
    st.text() | st.binary() | st.integers(-(2**63), 2**64 - 1) | st.booleans() | st.none(),
    lambda parts: st.lists(parts, max_size=3).map(tuple),
    max_leaves=4,
)


@given(group=st.integers(0, 32_767), key=keys)
def test_a_key_comes_back_and_lies_in_its_group(group: int, key: Any) -> None:
    (stored,) = CODEC.encode_keys(group, [key])
    assert group_start(group) <= stored < group_start(group + 1)
    assert list(CODEC.decode_keys([stored])) == [key]


@given(key=keys, other=keys)
def test_no_key_has_the_prefix_of_another(key: Any, other: Any) -> None:
    first, second = CODEC.encode_prefixes(7, ITEMS, [key, other])
    assert first == second or not second.startswith(first)


@given(key=keys, name=st.text(), number=st.integers(-100, 100), value=st.floats(allow_nan=False))
def test_an_entry_comes_back(key: Any, name: str, number: int, value: float) -> None:
    (prefix,) = CODEC.encode_prefixes(3, ITEMS, [key])
    stored = prefix + CODEC.encode_entry((name, number))
    start, end = CODEC.table_bounds(3, ITEMS)
    assert start <= stored < end
    assert prefix <= stored < successor(prefix)
    found, entries = CODEC.decode_entries(ITEMS, [stored])
    assert (list(found), list(entries)) == ([key], [(name, number)])
    assert CODEC.decode_values(ITEMS, [CODEC.encode_value(value)]) == [value]


@given(st.lists(st.integers(0, 2**40), unique=True))
def test_indexes_of_lists_sort_as_they_count(indexes: list[int]) -> None:
    assert sorted(indexes) == sorted(indexes, key=CODEC.encode_entry)


@given(stored=st.lists(st.binary(max_size=30), max_size=4))
def test_bytes_that_are_nothing_of_ours_are_corrupt_data(stored: list[bytes]) -> None:
    for read in (
        lambda: CODEC.decode_rows(stored),
        lambda: CODEC.decode_keys(stored),
        lambda: CODEC.decode_entries(ITEMS, stored),
        lambda: CODEC.decode_values(HISTORY, stored),
    ):
        with suppress(CorruptDataError, StateError):
            read()


def test_rows_of_several_schemas_are_read_side_by_side() -> None:
    class Former(KeyedState):
        note: str = ""
        gone: int = 1

    former: RocksDbCodec[str, Former] = RocksDbCodec("totals", str, Former)
    now: RocksDbCodec[str, Row] = RocksDbCodec("totals", str, Row, former.schemas, former.state_names)
    stored = [
        former.encode_value(Former(note="a")),
        now.encode_value(Row(count=2, note="b")),
        former.encode_value(Former(note="c")),
    ]
    assert [(row.count, row.note) for row in now.decode_rows(stored)] == [(0, "a"), (2, "b"), (0, "c")]
    assert now.schemas[0] == former.schemas[0]
    assert len(now.schemas) == 2


def test_states_keep_their_numbers_and_dropped_ones_are_never_used_again() -> None:
    class Other(KeyedState):
        more: MapState[str, int] = MapState()
        things: MapState[tuple[str, int], float] = MapState()

    class Renamed(Other, renamed={"items": "things"}):
        more: MapState[str, int] = MapState()
        things: MapState[tuple[str, int], float] = MapState()

    codec: RocksDbCodec[Any, Renamed] = RocksDbCodec("totals", Any, Renamed, CODEC.schemas, CODEC.state_names)
    assert codec.forget_dropped_states() == [CODEC.number_of_state("history")]
    assert codec.state_names == ["things", GONE, "more"]
    assert codec.table_bounds(0, codec.states[1]) == CODEC.table_bounds(0, ITEMS)
    assert codec.forget_dropped_states() == []


def test_a_class_that_was_changed_too_often_says_what_to_do() -> None:
    codec: RocksDbCodec[Any, Row] = RocksDbCodec("totals", Any, Row)
    with pytest.raises(StateError, match="no room for more states; take a canonical savepoint"):
        [codec.number_of_state(f"state-{number}") for number in range(300)]


@pytest.mark.parametrize("schema", [b"", b"\xc1", msgspec.msgpack.encode([1, 2, 3])])
def test_a_schema_that_is_none_is_corrupt_data(schema: bytes) -> None:
    with pytest.raises(CorruptDataError, match="operator 'totals'"):
        RocksDbCodec("totals", Any, Row, [schema])


def test_a_key_that_can_not_be_stored_is_told_with_its_operator() -> None:
    with pytest.raises(StateError, match=r"operator 'totals': a key of Row can't be stored"):
        CODEC.encode_keys(0, [object()])
