"""Rows of a class that has changed since they were stored."""

from __future__ import annotations

import operator
from typing import Any

import msgspec
import pytest

import moorage as mo
from moorage.errors import CorruptDataError, PipelineError, StateError
from moorage.serde.keyed_segments import DELTA, KeyedSegmentCodec
from moorage.serde.row_schema import NEVER_WRITTEN_MS, RowReader, RowSchema, row_schema


class Old(mo.KeyedState):
    n: int = 0
    tag: str = ""
    pages: mo.MapState[str, int] = mo.MapState()
    last: mo.ValueState[int] = mo.ValueState()


def stored() -> bytes:
    row = Old(n=3, tag="t")
    row.pages["a"] = 1
    row.last.set(5)
    return old_codec().encode_base({"k": row})


def old_codec() -> KeyedSegmentCodec[str, Old]:
    return KeyedSegmentCodec("totals", str, Old)


def read(row_type: type[mo.KeyedState], key_type: Any = str) -> Any:
    rows: dict[Any, Any] = {}
    KeyedSegmentCodec("totals", key_type, row_type).apply(stored(), 0, rows)
    (row,) = rows.values()
    return row


def test_fields_and_states_may_be_renamed() -> None:
    class New(mo.KeyedState, renamed={"n": "count", "pages": "seen"}):
        seen: mo.MapState[str, float] = mo.MapState()
        count: float = 0.0
        new: mo.ListState[str] = mo.ListState()

    class Newer(New, renamed={"tag": "label"}):
        label: str = ""

    row = read(Newer)
    assert (row.count, dict(row.seen), list(row.new), row.label) == (3.0, {"a": 1}, [], "t")


def test_a_time_to_live_may_come_and_go() -> None:
    class Mortal(mo.KeyedState):
        pages: mo.MapState[str, int] = mo.MapState(ttl=mo.Ttl(after_ms=10))

    row = read(Mortal)
    assert row.pages._entries == {"a": (1, NEVER_WRITTEN_MS)}
    assert dict(row.pages) == {"a": 1}
    codec: KeyedSegmentCodec[str, Mortal] = KeyedSegmentCodec("totals", str, Mortal)
    rows: dict[str, Any] = {}
    old_codec().apply(codec.encode_base({"k": row}), 0, rows)
    assert dict(rows["k"].pages) == {"a": 1}


def test_a_new_name_for_what_is_no_field_is_refused() -> None:
    with pytest.raises(PipelineError, match="names 'other', which is no field"):
        type("Bad", (mo.KeyedState,), {"__annotations__": {}}, renamed={"n": "other"})


def test_a_field_may_have_had_several_names() -> None:
    class New(mo.KeyedState, renamed={"n": "total", "count": "total"}):
        total: int = 0

    class Newer(mo.KeyedState, renamed={"count": "total", "n": "total"}):
        total: int = 0

    assert [read(row_type).total for row_type in (New, Newer)] == [3, 3]


def test_a_former_name_that_is_a_field_still_is_refused() -> None:
    with pytest.raises(PipelineError, match="'n' has another name now, but it is a field still"):
        type("Bad", (Old,), {"__annotations__": {"count": "int"}, "count": 0}, renamed={"n": "count"})


class Text(mo.KeyedState):
    n: str = ""


class TextPages(mo.KeyedState):
    pages: mo.MapState[str, str] = mo.MapState()


class NumberedPages(mo.KeyedState):
    pages: mo.MapState[int, int] = mo.MapState()


class ListedPages(mo.KeyedState):
    pages: mo.ListState[int] = mo.ListState()


class RowPages(mo.KeyedState):
    pages: dict[str, int] = msgspec.field(default_factory=dict)


class StateOfN(mo.KeyedState):
    n: mo.ReducingState[int] = mo.ReducingState(operator.add)


@pytest.mark.parametrize(
    ("row_type", "what"),
    [
        (Text, "field 'n' of Text was int and is str now"),
        (TextPages, "state 'pages' of TextPages was int and is str now"),
        (NumberedPages, "state 'pages', its keys of NumberedPages was str and is int now"),
        (ListedPages, "state 'pages' of ListedPages was a map, is a list now"),
        (RowPages, "field 'pages' of RowPages was a state and is stored in the row now"),
        (StateOfN, "field 'n' of StateOfN was stored in the row and is a state now"),
    ],
)
def test_any_other_change_is_refused_by_its_name(row_type: type[mo.KeyedState], what: str) -> None:
    with pytest.raises(StateError, match=f"operator 'totals': {what}. Give it back its old type"):
        read(row_type)


def test_a_key_of_another_type_is_refused() -> None:
    with pytest.raises(StateError, match="the key of Old was str and is int now, which changes the bytes of keys"):
        read(Old, int)


@pytest.mark.parametrize("schema", [[], [["int"], [["n", []]], []], [["str"], [["n", ["list"]]], []]])
def test_a_schema_that_makes_no_sense_is_corrupt(schema: Any) -> None:
    with pytest.raises((CorruptDataError, msgspec.ValidationError, StateError)):
        RowReader("totals", msgspec.convert(schema, RowSchema), str, Text)


def test_the_schema_of_a_row_type_is_this() -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(row_schema(str, Old))) == [
        ["str"],
        [["n", ["int"]], ["tag", ["str"]], ["pages", ["state"]], ["last", ["state"]]],
        [["pages", "map", ["str"], ["int"], False], ["last", "value", ["none"], ["int"], False]],
    ]


def test_entries_in_a_delta() -> None:
    codec = old_codec()
    rows: dict[str, Any] = {}
    codec.apply(stored(), 0, rows)
    writer = codec.writer(DELTA)
    writer.rows({"k": Old(n=4)}, ["k"])
    writer.removed_entries(1, ["k"], ["a"])
    writer.entries(1, ["k", "k"], ["b", "c"], [2, 3])
    writer.reset(2, ["k"])
    assert codec.apply(writer.finish(), 0, rows) == DELTA
    assert (rows["k"].n, dict(rows["k"].pages), rows["k"].last.get()) == (4, {"b": 2, "c": 3}, None)


def test_entries_of_a_key_without_a_row_are_corrupt() -> None:
    codec = old_codec()
    writer = codec.writer(DELTA)
    writer.entries(1, ["k"], ["b"], [2])
    with pytest.raises(CorruptDataError, match="entries of a key that has no row"):
        codec.apply(writer.finish(), 0, {})
