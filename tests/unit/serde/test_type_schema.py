"""Which type reads what another one wrote. What is allowed is really readable, by msgpack."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest

from moorage.serde.type_schema import describe, mismatch, schema_of


class Colour(enum.Enum):
    RED = "red"


class MoreColours(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct):
    x: int


class FloatPoint(msgspec.Struct):
    x: float
    y: int = 0


class NeedyPoint(msgspec.Struct):
    x: int
    y: int


class ArrayPoint(msgspec.Struct, array_like=True):
    x: int


class LongArrayPoint(msgspec.Struct, array_like=True):
    x: int
    y: int


class TurnedArrayPoint(msgspec.Struct, array_like=True):
    y: int
    x: int


class PrefixedArrayPoint(msgspec.Struct, array_like=True):
    label: int
    x: int = 0


class RenamedArrayPoint(msgspec.Struct, array_like=True):
    left: int


class ArrayFloatPoint(msgspec.Struct, array_like=True):
    x: float
    y: int = 0


@dataclasses.dataclass
class DataPoint:
    x: int


class TypedPoint(TypedDict):
    x: int


class NamedPoint(NamedTuple):
    x: int


class NamedLine(NamedTuple):
    x: int
    y: int = 0


class ClosedPoint(msgspec.Struct, forbid_unknown_fields=True):
    x: int


class ClosedArrayPoint(msgspec.Struct, forbid_unknown_fields=True, array_like=True):
    x: int


class Tree(msgspec.Struct):
    value: int
    children: list[Tree] = []


class FloatTree(msgspec.Struct):
    value: float
    children: list[FloatTree] = []


class Cat(msgspec.Struct, tag=True):
    name: str


class Dog(msgspec.Struct, tag=True):
    name: str


READABLE: list[tuple[Any, Any, Any]] = [
    (int, int, 1),
    (int, float, 1),
    (int, int | None, 1),
    (int | None, float | str | None, 1),
    (Any, int, 1),
    (Point, Any, Point(1)),
    (list[int], set[float], [1]),
    (tuple[int, int], list[float], (1, 2)),
    (tuple[int, int], tuple[float, int], (1, 2)),
    (tuple[int, ...], frozenset[int], (1,)),
    (dict[str, int], dict[str, float], {"a": 1}),
    (Colour, str, Colour.RED),
    (Colour, MoreColours, Colour.RED),
    (Literal["a"], Literal["a", "b"], "a"),
    (Literal[1], int, 1),
    (Point, FloatPoint, Point(1)),
    (NeedyPoint, Point, NeedyPoint(1, 2)),
    (ArrayPoint, ArrayFloatPoint, ArrayPoint(1)),
    (LongArrayPoint, ArrayPoint, LongArrayPoint(1, 2)),
    (ArrayPoint, RenamedArrayPoint, ArrayPoint(1)),
    (NamedPoint, ArrayPoint, NamedPoint(1)),
    (NamedPoint, NamedLine, NamedPoint(1)),
    (NamedLine, ArrayPoint, NamedLine(1, 2)),
    (Point, ClosedPoint, Point(1)),
    (ClosedPoint, FloatPoint, ClosedPoint(1)),
    (DataPoint, Point, DataPoint(1)),
    (TypedPoint, DataPoint, {"x": 1}),
    (Tree, FloatTree, Tree(1, [Tree(2)])),
    (Cat, Cat | Dog, Cat("tom")),
]


@pytest.mark.parametrize(("written", "read", "value"), READABLE)
def test_what_is_said_to_be_readable_is(written: Any, read: Any, value: Any) -> None:
    stored = msgspec.msgpack.decode(msgspec.msgpack.encode(schema_of(written)))
    assert mismatch(stored, schema_of(read)) is None
    msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=read)


MOVED = "{0}.{1} has moved, but {0} is stored without names: add fields at its end only"
LOST = "{0} has lost the field {1!r}, and refuses what has more fields than it"

REFUSED: list[tuple[Any, Any, str]] = [
    (int, str, "was int and is str now"),
    (float, int, "was float and is int now"),
    (bool, int, "was bool and is int now"),
    (int | None, int, "was None and is int now"),
    (int, str | None, "was int and is None | str now"),
    (list[int], list[str], "was int and is str now"),
    (list[int], tuple[int, int], "was list[int] and is tuple[int, int] now"),
    (tuple[int, int], tuple[int], "was tuple[int, int] and is tuple[int] now"),
    (dict[str, int], dict[int, int], "was str and is int now"),
    (MoreColours, Colour, "was one of 'blue', 'red' and is one of 'red' now"),
    (Colour, int, "was one of 'red' and is int now"),
    (str, Colour, "was str and is one of 'red' now"),
    (datetime.datetime, str, "was datetime and is str now"),
    (uuid.UUID, decimal.Decimal, "was uuid and is decimal now"),
    (FloatPoint, Point, "Point.x was float and is int now"),
    (Point, NeedyPoint, "NeedyPoint has the new field 'y', which has no default"),
    (Point, ArrayPoint, "was Point and is ArrayPoint now"),
    (NamedLine, NamedPoint, LOST.format("NamedPoint", "y")),
    (NeedyPoint, ClosedPoint, LOST.format("ClosedPoint", "y")),
    (LongArrayPoint, ClosedArrayPoint, LOST.format("ClosedArrayPoint", "y")),
    (LongArrayPoint, TurnedArrayPoint, MOVED.format("TurnedArrayPoint", "y")),
    (list[ArrayPoint], list[PrefixedArrayPoint], MOVED.format("PrefixedArrayPoint", "x")),
    (list[dict[str, FloatPoint]], list[dict[str, Point]], "Point.x was float and is int now"),
    (Cat, Dog, "was Cat and is Dog now"),
    (FloatTree, Tree, "Tree.value was float and is int now"),
]


@pytest.mark.parametrize(("written", "read", "why"), REFUSED)
def test_what_can_not_be_read_is_named(written: Any, read: Any, why: str) -> None:
    assert mismatch(schema_of(written), schema_of(read)) == why


def test_what_is_refused_for_lost_fields_is_really_unreadable() -> None:
    for value, kind in (
        (NamedLine(1), NamedPoint),
        (NeedyPoint(1, 2), ClosedPoint),
        (LongArrayPoint(1, 2), ClosedArrayPoint),
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)


def test_every_type_reads_itself() -> None:
    for value_type in {kind for pair in READABLE for kind in pair[:2]} | {
        bytes,
        bytearray,
        datetime.date,
        datetime.time,
        datetime.timedelta,
        msgspec.Raw,
        msgspec.msgpack.Ext,
        None,
    }:
        assert mismatch(schema_of(value_type), schema_of(value_type)) is None
        assert describe(schema_of(value_type))
