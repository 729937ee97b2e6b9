"""Files of keyed state: what was stored comes back, into a class that has changed since, or not at all."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import uuid
from typing import Any

import msgspec
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import moorage as mo
from moorage.errors import CorruptDataError, StateError
from moorage.serde.keyed_segments import BASE, DELTA, KeyedSegmentCodec, read_segment


class Total(mo.KeyedState):
    count: int = 0
    amounts: list[float] = []  # noqa: RUF012 - msgspec gives each row its own


def codec(row_type: type[mo.KeyedState] = Total, key_type: Any = str) -> KeyedSegmentCodec[Any, Any]:
    return KeyedSegmentCodec("totals", key_type, row_type)


def test_a_base_replaces_and_a_delta_changes() -> None:
    rows: dict[str, Any] = {"gone": Total(count=9)}
    base = codec().encode_base({"a": Total(count=1, amounts=[1.0]), "b": Total(count=2)})
    delta = codec().encode_delta({"a": Total(count=3), "c": Total()}, ["a", "b", "c"])
    file = base + delta
    assert codec().apply(file, 0, rows) == BASE
    assert rows == {"a": Total(count=1, amounts=[1.0]), "b": Total(count=2)}
    assert codec().apply(file, len(base), rows) == DELTA
    assert rows == {"a": Total(count=3), "c": Total()}


def test_segments_have_these_bytes() -> None:
    segment = codec().encode_base({"a": Total(count=1, amounts=[0.5])})
    assert segment.hex() == (
        "21000000"
        + segment[4:12].hex()
        + "930092a5636f756e74a7616d6f756e747391"
        + "92a1619201"
        + "91cb3fe0000000000000"
    )
    assert read_segment(b"xx" + segment, 2) == segment[12:]


def test_every_flipped_or_missing_byte_is_noticed() -> None:
    segment = codec().encode_base({"a": Total(count=1)})
    for index in range(len(segment)):
        damaged = bytearray(segment)
        damaged[index] ^= 0x10
        for data in (bytes(damaged), segment[:index]):
            with pytest.raises(CorruptDataError, match="state segment at 0"):
                read_segment(data, 0)
    for offset in (-1, len(segment)):
        with pytest.raises(CorruptDataError, match="lies outside its file"):
            read_segment(segment, offset)


def segment_of(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "little") + xxhash.xxh3_64_intdigest(payload).to_bytes(8, "little") + payload


@given(st.binary(max_size=40))
def test_no_content_raises_anything_else(payload: bytes) -> None:
    with pytest.raises((CorruptDataError, StateError), match="totals"):
        codec().apply(segment_of(payload), 0, {})


@pytest.mark.parametrize("payload", [[2, ["count", "amounts"], []], [0, ["count"], [["a", [1, 2]]]]])
def test_content_that_makes_no_sense_is_corrupt(payload: Any) -> None:
    with pytest.raises(CorruptDataError, match="operator 'totals': state segment"):
        codec().apply(segment_of(msgspec.msgpack.encode(payload)), 0, {})


def test_a_payload_that_is_nested_too_deeply_is_corrupt() -> None:
    with pytest.raises(CorruptDataError, match="recursion"):
        codec().apply(segment_of(b"\x93\x00\x90" + b"\x91" * 100_000), 0, {})


# --- classes that have changed ---------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int = 0


class Added(mo.KeyedState):
    """Total with a new field of every kind, in another order and without ``amounts``."""

    colour: Colour = Colour.RED
    point: Point = msgspec.field(default_factory=Point)
    total: Total | None = None
    since: datetime.datetime = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    price: decimal.Decimal = decimal.Decimal("1.5")
    id: uuid.UUID = uuid.UUID(int=1)
    tags: set[str] = msgspec.field(default_factory=lambda: {"new"})
    names: dict[int, str] = msgspec.field(default_factory=lambda: {1: "one"})
    raw: bytes = b"\xff"
    count: int = 0


def restored(stored: bytes, row_type: type[mo.KeyedState]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    codec(row_type).apply(stored, 0, rows)
    return rows


def test_fields_may_be_added_removed_and_reordered() -> None:
    stored = codec().encode_base({"a": Total(count=4, amounts=[1.0]), "b": Total(count=5)})
    rows = restored(stored, Added)
    assert rows == {"a": Added(count=4), "b": Added(count=5)}
    rows["a"].tags.add("mine")
    assert rows["b"].tags == {"new"}
    assert restored(codec(Added).encode_base(rows), Added) == rows


def test_a_field_of_another_type_is_named_with_what_to_do() -> None:
    class Text(mo.KeyedState):
        count: str = ""
        amounts: list[float] = []  # noqa: RUF012 - as above

    class TextAdded(mo.KeyedState):
        count: str = ""

    stored = codec().encode_base({"a": Total(count=4)})
    for row_type in (Text, TextAdded):
        with pytest.raises(
            StateError, match=r"operator 'totals': stored rows don't fit Text.*Give the field back its old"
        ):
            restored(stored, row_type)


def test_a_row_that_can_not_be_stored_is_named() -> None:
    with pytest.raises(
        StateError, match=r"operator 'totals': a row of Total can't be stored: .*object.* is unsupported"
    ):
        codec().encode_base({"a": Total(amounts=[object()])})  # type: ignore[list-item]


def test_keys_of_undeclared_type_come_back_hashable() -> None:
    rows: dict[Any, Any] = {key: Total(count=1) for key in (1, "1", (1, ("a", None)), None, b"x")}
    back: dict[Any, Any] = {}
    codec(key_type=Any).apply(codec(key_type=Any).encode_base(rows), 0, back)
    assert back == rows
