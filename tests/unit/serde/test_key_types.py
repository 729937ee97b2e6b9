"""A key type that has changed: what is read keeps its bytes, and so its key group; on either backend."""

from __future__ import annotations

import datetime
import enum
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

import moorage as mo
from moorage.backends.rocksdb_codec import RocksDbCodec
from moorage.errors import StateError
from moorage.serde.keyed_segments import KeyedSegmentCodec
from moorage.state.key_groups import key_group

MAX_PARALLELISM = 32_768


class Row(mo.KeyedState):
    n: int = 0


class Colour(enum.Enum):
    RED = "red"


class MoreColours(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Place(msgspec.Struct, frozen=True):
    shop: str
    till: int = 0


class RenamedPlace(msgspec.Struct, frozen=True):
    shop: str
    till: int = 0


class FloorPlace(msgspec.Struct, frozen=True):
    shop: str
    till: int = 0
    floor: int = 0


class TurnedPlace(msgspec.Struct, frozen=True):
    till: int = 0
    shop: str = ""


class FloatPlace(msgspec.Struct, frozen=True):
    shop: str
    till: float = 0


def in_memory(key: Any, written: Any, read: Any) -> Any:
    rows: dict[Any, Any] = {}
    segment = KeyedSegmentCodec("totals", written, Row).encode_base({key: Row()})
    KeyedSegmentCodec("totals", read, Row).apply(segment, 0, rows)
    (restored,) = rows
    return restored


def in_rocksdb(key: Any, written: Any, read: Any) -> Any:
    former: RocksDbCodec[Any, Row] = RocksDbCodec("totals", written, Row)
    present: RocksDbCodec[Any, Row] = RocksDbCodec("totals", read, Row, former.schemas)
    stored = former.encode_keys(0, [key])
    (restored,) = present.decode_keys(stored)
    assert present.encode_keys(0, [restored]) == stored, "it is found where it lies"
    return restored


backends = pytest.mark.parametrize("restored", [in_memory, in_rocksdb])
Restored = Callable[[Any, Any, Any], Any]


@backends
@pytest.mark.parametrize(
    ("written", "read", "key"),
    [
        (int, int, 5),
        (str, Any, "a"),
        (float, Any, 2.0),
        (tuple[str, int], Any, ("a", 1)),
        (Any, int, 7),
        (Any, tuple[str, int | None], ("a", None)),
        (int, int | str, 7),
        (int, int | float, 7),
        (float, int | float, 2.0),
        (int | None, int | str | None, None),
        (tuple[str, int], tuple[str, int | None], ("a", 3)),
        (Colour, MoreColours, Colour.RED),
        (Place, RenamedPlace, Place("north", 2)),
    ],
)
def test_a_key_that_is_read_keeps_its_key_group(restored: Restored, written: Any, read: Any, key: Any) -> None:
    found = restored(key, written, read)
    assert key_group(found, MAX_PARALLELISM) == key_group(key, MAX_PARALLELISM)


@backends
@pytest.mark.parametrize(
    ("written", "read", "key"),
    [
        (int, float, 7),
        (int, float | None, 7),
        (int | str, float | str, 7),
        (tuple[str, int], tuple[str, float], ("a", 1)),
        (tuple[int, int], tuple[int, ...], (1, 2)),
        (Any, float, 7),
        (Any, tuple[float, str], (1, "a")),
        (Any, Place, ("a",)),
        (str, int, "a"),
        (int | None, int, None),
        (MoreColours, Colour, MoreColours.RED),
        (Colour, str, Colour.RED),
        (uuid.UUID, Any, uuid.UUID(int=1)),
        (datetime.date, str, datetime.date(2026, 1, 1)),
        (Place, FloorPlace, Place("north", 2)),
        (FloorPlace, Place, FloorPlace("north", 2)),
        (Place, TurnedPlace, Place("north", 2)),
        (Place, FloatPlace, Place("north", 2)),
        (tuple[Place, int], tuple[FloorPlace, int], (Place("north"), 2)),
    ],
)
def test_any_other_change_is_refused_with_the_operator(restored: Restored, written: Any, read: Any, key: Any) -> None:
    with pytest.raises(StateError, match=r"operator 'totals': the key of Row was .*, which changes the bytes of keys"):
        restored(key, written, read)


def test_what_would_be_lost() -> None:
    """Why an int key can't become a float."""
    assert key_group(7, MAX_PARALLELISM) != key_group(7.0, MAX_PARALLELISM)
    assert key_group(Place("north"), MAX_PARALLELISM) != key_group(FloorPlace("north"), MAX_PARALLELISM)
