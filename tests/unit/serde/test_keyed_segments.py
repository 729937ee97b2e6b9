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
import zstandard
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
    schema = [["str"], [["count", ["int"]], ["amounts", ["list", ["float"]]]], []]
    content = [["a"], [[1, [0.5]]]]
    stored, raw = (msgspec.msgpack.encode(what) for what in (schema, content))
    payload = b"\x00" + len(stored).to_bytes(4, "little") + stored
    payload += b"\x00\x00\x00\x00" + len(raw).to_bytes(4, "little") * 2 + raw
    assert segment[:8] == len(payload).to_bytes(8, "little")
    assert segment[16:] == payload
    assert read_segment(b"xx" + segment, 2) == payload


def test_what_is_large_is_compressed() -> None:
    rows = {f"key-{i}": Total(count=i) for i in range(10_000)}
    segment = codec().encode_base(rows)
    assert len(segment) < 60_000
    back: dict[str, Any] = {}
    codec().apply(segment, 0, back)
    assert back == rows


def test_a_block_that_claims_to_be_huge_is_not_decompressed() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(100_000_000))
    for claimed in (100_000_000, 1_000_000, 2**32 - 1):
        block = b"\x00\x00\x01\x00" + claimed.to_bytes(4, "little") + len(bomb).to_bytes(4, "little") + bomb
        with pytest.raises(CorruptDataError, match="not as large as it says"):
            codec().apply(segment_of(HEADER + block), 0, {})


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


HEADER = codec().encode_base({})[16:]


def segment_of(payload: bytes) -> bytes:
    return len(payload).to_bytes(8, "little") + xxhash.xxh3_64_intdigest(payload).to_bytes(8, "little") + payload


def block_of(content: bytes, table: int = 0, op: int = 0) -> bytes:
    return bytes([table, op, 0, 0]) + len(content).to_bytes(4, "little") * 2 + content


@given(st.binary(max_size=40))
def test_no_content_raises_anything_else(payload: bytes) -> None:
    for segment in (payload, HEADER + payload, HEADER + block_of(payload)):
        try:
            codec().apply(segment_of(segment), 0, {})
        except (CorruptDataError, StateError) as error:
            assert "state segment" in str(error) or "stored rows" in str(error)  # noqa: PT017 - most raise, not all
        else:
            assert segment in (HEADER, HEADER + block_of(msgspec.msgpack.encode([[], []])))


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        (b"\x02" + HEADER[1:], "unknown kind 2"),
        (b"\x00\xff\xff\xff\xff", "ends before its schema does"),
        (HEADER + block_of(msgspec.msgpack.encode([["a"], []])), "different lengths"),
        (HEADER + block_of(msgspec.msgpack.encode([["a"], []]), table=1), "range"),
        (HEADER + block_of(b"", op=9), "unknown kind 9"),
        (HEADER + block_of(b"\x92\x90" + b"\x91" * 100_000), "recursion"),
    ],
)
def test_content_that_makes_no_sense_is_corrupt(payload: bytes, what: str) -> None:
    with pytest.raises(CorruptDataError, match=f"state segment.*{what}"):
        codec().apply(segment_of(payload), 0, {})


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
            StateError, match=r"operator 'totals': field 'count' of Text\w* was int and is str now. Give it back its"
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
