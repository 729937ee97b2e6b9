"""States by themselves, as user code and its tests see them."""

from __future__ import annotations

import operator
from typing import Any

import msgspec
import pytest

import moorage as mo
from moorage.api.state import State, StateTable, is_mutable, state_fields


class Time:
    timestamp_ms = 0
    processing_ms = 0


class Frozen(msgspec.Struct, frozen=True):
    x: int
    y: tuple[str, ...] = ()


class Loose(msgspec.Struct):
    x: int


class Basket(mo.KeyedState):
    items: mo.MapState[str, int] = mo.MapState()
    recent: mo.ListState[str] = mo.ListState()
    largest: mo.ReducingState[int] = mo.ReducingState(max)
    last: mo.ValueState[str] = mo.ValueState()


def bound(state: State, *, mutable: bool = False) -> tuple[State, Time, set[tuple[Any, Any]]]:
    """A state of the key "k" as a backend binds it, the time, and what has changed."""
    time, changed = Time(), set[tuple[Any, Any]]()
    state.bind("k", {}, StateTable(state._table.ttl, mutable, time, changed))
    return state, time, changed


def test_rows_without_a_backend_have_states_too() -> None:
    row, other = Basket(), Basket()
    row.items["tea"] = 1
    row.items["tea"] += 1
    row.recent.extend(["a", "b"])
    row.largest.add(3)
    row.largest.add(2)
    row.last.set("x")
    assert (dict(row.items), list(row.recent), row.largest.get(), row.last.get()) == ({"tea": 2}, ["a", "b"], 3, "x")
    assert not any((other.items, other.recent, other.largest, other.last))
    assert repr(row.items) == "MapState([('tea', 2)])"
    for state in (row.items, row.recent, row.largest, row.last):
        state.clear()
        assert not state


def test_a_map_is_a_mapping() -> None:
    items = Basket().items
    items.update({"a": 1, "b": 2})
    assert (len(items), list(items), "a" in items, items.get("c"), items.pop("a")) == (2, ["a", "b"], True, None, 1)
    with pytest.raises(KeyError):
        items["a"]
    with pytest.raises(KeyError):
        del items["a"]
    assert items.setdefault("c", 3) == 3
    assert items == {"b": 2, "c": 3}


def test_a_list_goes_on_behind_its_last_value() -> None:
    recent = Basket().recent
    recent.append("a")
    recent.replace(["b", "c"])
    recent.append("d")
    assert (list(recent), len(recent)) == (["b", "c", "d"], 3)


def test_values_and_sums_may_be_missing() -> None:
    row = Basket()
    assert (row.last.get(), row.last.get("none"), row.largest.get(0)) == (None, "none", 0)


def test_what_is_written_counts_as_changed_and_what_can_be_changed_does_when_it_is_read() -> None:
    items, _, changed = bound(mo.MapState())
    assert isinstance(items, mo.MapState)
    items["a"] = 1
    items["b"] = [2]
    del items["a"]
    assert changed == {("k", "a"), ("k", "b")}
    for mutable in (False, True):
        items, _, changed = bound(mo.MapState(), mutable=mutable)
        items._entries["a"] = [1]
        assert items._get("a") == [1]
        assert changed == ({("k", "a")} if mutable else set())


@pytest.mark.parametrize(
    ("value_type", "mutable"),
    [
        (int, False),
        (str | None, False),
        (Frozen, False),
        (tuple[int, ...], False),
        (tuple[list[int], int], True),
        (list[int], True),
        (Loose, True),
        (frozenset[str], False),
        (dict[str, int], True),
        (Any, True),
    ],
)
def test_whether_a_value_can_be_changed_follows_from_its_type(value_type: Any, mutable: bool) -> None:
    assert is_mutable(value_type) is mutable


# --- time to live ----------------------------------------------------------------------------------------------------


def test_an_entry_that_is_over_is_gone() -> None:
    items, time, changed = bound(mo.MapState(ttl=mo.Ttl(after_ms=10)))
    assert isinstance(items, mo.MapState)
    items["a"] = 1
    time.processing_ms = 5
    items["b"] = 2
    assert dict(items) == {"a": 1, "b": 2}
    time.processing_ms = 10
    assert ("a" in items, len(items), list(items)) == (False, 1, ["b"])
    changed.clear()
    assert items.get("a") is None
    assert changed == {("k", "a")}, "it is removed when it is read"
    assert list(items._entries) == ["b"]


def test_reading_begins_the_time_anew_if_it_is_to() -> None:
    value, time, _ = bound(mo.ValueState(ttl=mo.Ttl(after_ms=10, update="on_read_and_write")))
    assert isinstance(value, mo.ValueState)
    value.set("x")
    for now_ms in (9, 18, 27):
        time.processing_ms = now_ms
        assert value.get() == "x"
    time.processing_ms = 37
    assert value.get() is None


def test_what_is_over_may_be_seen_once_more_if_it_may() -> None:
    value, time, _ = bound(mo.ValueState(ttl=mo.Ttl(after_ms=10, visibility="until_cleaned_up")))
    assert isinstance(value, mo.ValueState)
    value.set("x")
    time.processing_ms = 10
    assert (value.get(), value.get()) == ("x", None)


def test_values_of_a_list_end_one_by_one() -> None:
    recent, time, _ = bound(mo.ListState(ttl=mo.Ttl(after_ms=10, time="record")))
    assert isinstance(recent, mo.ListState)
    for now_ms in (0, 4, 8):
        time.timestamp_ms = now_ms
        recent.append(now_ms)
    time.timestamp_ms, time.processing_ms = 12, 1_000
    assert (len(recent), list(recent)) == (2, [4, 8])


def test_a_sum_that_is_over_begins_anew() -> None:
    total, time, _ = bound(mo.ReducingState(operator.add, ttl=mo.Ttl(after_ms=10)))
    assert isinstance(total, mo.ReducingState)
    total.add(1)
    time.processing_ms = 10
    total.add(2)
    assert total.get() == 2


# --- declarations ----------------------------------------------------------------------------------------------------


class Later(Basket):
    more: mo.MapState[int, list[str]] = mo.MapState(ttl=mo.Ttl(after_ms=1))


def test_declarations_are_read_off_the_class_and_inherited() -> None:
    fields = state_fields(Later)
    assert [(f.name, f.kind, f.entry_type, f.value_type) for f in fields] == [
        ("items", "map", str, int),
        ("recent", "list", int, str),
        ("largest", "reducing", type(None), int),
        ("last", "value", type(None), str),
        ("more", "map", int, list[str]),
    ]
    assert fields[-1].stored_type == tuple[list[str], int]


class Undeclared(mo.KeyedState):
    items: mo.MapState[str, int] = msgspec.field(default_factory=mo.MapState)


class Untyped(mo.KeyedState):
    items: int = mo.MapState()  # type: ignore[assignment]


class Crossed(mo.KeyedState):
    items: mo.MapState[str, int] = mo.ListState()  # type: ignore[assignment]


class Unstorable(mo.KeyedState):
    items: mo.MapState[str, int | Loose | Frozen] = mo.MapState()


@pytest.mark.parametrize(
    ("row_type", "what"),
    [
        (Undeclared, r"Undeclared.items: a state is declared as `items: MapState\[str, int\] = MapState\(\)`"),
        (Untyped, "Untyped.items: a state is declared as"),
        (Crossed, "Crossed.items: a state is declared as"),
        (Unstorable, "Unstorable.items: .* can't be stored: If a type union contains multiple Struct types"),
    ],
)
def test_wrong_declarations_are_refused(row_type: Any, what: str) -> None:
    with pytest.raises(mo.PipelineError, match=what):
        state_fields(row_type)


def test_a_time_to_live_must_be_some_time() -> None:
    with pytest.raises(mo.PipelineError, match="after_ms=0"):
        mo.Ttl(after_ms=0)
    with pytest.raises(mo.PipelineError, match="must be one of split, union, broadcast"):
        mo.OperatorListState("all")  # type: ignore[arg-type]
