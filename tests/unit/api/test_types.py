"""What is inferred of the types of results and keys, and how records of such types are read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypedDict

import msgspec
import pytest

import moorage as mo
from moorage.api.operators import result_type_of, selector


class Order(msgspec.Struct):
    user: str
    amount: float


@dataclasses.dataclass
class Point:
    x: int


class Row(TypedDict):
    name: str


def one(value: Any) -> Order: ...  # type: ignore[empty-body]
def perhaps(value: Any) -> Order | None: ...
def either(value: Any) -> int | str | None: ...
def nothing(value: Any) -> None: ...
def unknown(value: Any): ...  # type: ignore[no-untyped-def]
def unresolved(value: Any) -> Missing: ...  # type: ignore[name-defined]  # noqa: F821
def many(value: Any) -> Iterator[Order]: ...  # type: ignore[empty-body]
def generated(value: Any) -> Generator[Order, None, None]: ...  # type: ignore[empty-body]
def some(value: Any) -> Iterable[Order]: ...  # type: ignore[empty-body]
def listed(value: Any) -> list[Order]: ...  # type: ignore[empty-body]
def sequence(value: Any) -> Sequence[Order]: ...  # type: ignore[empty-body]
def same(value: Any) -> tuple[Order, ...]: ...  # type: ignore[empty-body]
def mixed(value: Any) -> tuple[Order, int]: ...  # type: ignore[empty-body]
def bare(value: Any) -> list: ...  # type: ignore[type-arg, empty-body]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (one, Order),
        (perhaps, Order),
        (either, int | str),
        (nothing, Any),
        (unknown, Any),
        (unresolved, Any),
        (len, Any),
        (Order, Order),
        (str, str),
    ],
)
def test_the_result_of_a_function(function: Callable[..., Any], expected: Any) -> None:
    assert result_type_of(function) == expected


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (many, Order),
        (generated, Order),
        (some, Order),
        (listed, Order),
        (sequence, Order),
        (same, Order),
        (mixed, Any),
        (bare, Any),
        (one, Any),
        (unknown, Any),
        (list, Any),
    ],
)
def test_the_elements_of_what_a_function_returns(function: Callable[..., Any], expected: Any) -> None:
    assert result_type_of(function, iterable=True) == expected


@pytest.mark.parametrize(
    ("value_type", "value", "key", "expected", "key_type"),
    [
        (Order, Order("ann", 1.0), "user", "ann", str),
        (Point, Point(3), "x", 3, int),
        (Row, {"name": "n"}, "name", "n", str),
        (dict, {"a": 1}, "a", 1, Any),
        (Any, {"a": 1}, "a", 1, Any),
        (Any, [5, 6], one, None, Order),
        (Any, 5, str, "5", str),
    ],
)
def test_a_key_is_taken_from_what_the_type_says(
    value_type: Any, value: Any, key: Any, expected: Any, key_type: Any
) -> None:
    select, found = selector("key_by", key, value_type)
    assert select(value) == expected
    assert found == key_type


def test_a_type_goes_through_filters_and_is_replaced_by_maps() -> None:
    stream = mo.Pipeline("orders").source("orders", mo.KafkaSource("orders", value=mo.Json(Order)))
    with pytest.raises(mo.PipelineError, match="Order has no field"):
        stream.filter(bool, uid="all").key_by("x")
    with pytest.raises(mo.PipelineError, match="Point has no field"):
        stream.map(lambda _: Point(1), uid="point", returns=Point).key_by("user")
    with pytest.raises(mo.PipelineError, match="Point has no field"):
        stream.flat_map(lambda _: [Point(1)], uid="points", returns=Point).key_by("user")
    stream.map(unknown).key_by("anything")


def test_the_results_of_process_have_the_type_that_it_says() -> None:
    class Yields(mo.KeyedState):
        def process(self, value: Any, ctx: mo.KeyedContext) -> Iterator[Order]:
            yield value

    class Returns(mo.KeyedState):
        def process(self, value: Any, ctx: mo.KeyedContext) -> Order | None:
            return None

    keyed = mo.Pipeline("orders").source("orders", mo.KafkaSource("orders")).key_by("user")
    for uid, state in (("yields", Yields), ("returns", Returns)):
        with pytest.raises(mo.PipelineError, match="Order has no field 'usr'"):
            keyed.process(uid, state).key_by("usr")
    with pytest.raises(mo.PipelineError, match="Point has no field 'usr'"):
        keyed.process("overridden", Returns, returns=Point).key_by("usr")


@pytest.mark.parametrize(
    ("format_", "value", "data"),
    [
        (mo.Json(), {"a": [1, None]}, b'{"a":[1,null]}'),
        (mo.Json(Order), Order("ann", 2.0), b'{"user":"ann","amount":2.0}'),
        (mo.Text(), "grüße", "grüße".encode()),
        (mo.Raw(), b"\x00\xff", b"\x00\xff"),
    ],
)
def test_formats_go_both_ways(format_: mo.Format, value: Any, data: bytes) -> None:
    assert format_.encoder()(value) == data
    assert format_.decoder()(data) == value


@pytest.mark.parametrize("value", [5, [1, 2], "text", None, bytearray(b"x")])
def test_raw_takes_bytes_only(value: Any) -> None:
    with pytest.raises(TypeError):
        mo.Raw().encoder()(value)


def test_formats_name_themselves() -> None:
    assert [repr(f) for f in (mo.Json(), mo.Json(Order), mo.Text(), mo.Raw())] == [
        "Json()",
        "Json(Order)",
        "Text()",
        "Raw()",
    ]
