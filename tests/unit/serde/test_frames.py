"""Frames and their payloads: bytes that never change, and nothing but CorruptDataError for what is not ours."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from moorage.errors import CorruptDataError
from moorage.ids import Attempt
from moorage.serde.frames import (
    HEADER_BYTES,
    ColumnCodec,
    Columns,
    Frame,
    FrameKind,
    decode_frame,
    encode_frame,
)

FRAME = Frame(FrameKind.DATA, Attempt(3), 2, 9, 5, b"payload")
GOLDEN = {
    FRAME: "0101010003000000020000000900000005000000ae1965ac6ebd4ea17061796c6f6164",
    Frame(
        FrameKind.BARRIER, Attempt(1), 0, 0, 0, b"\xc3\x01"
    ): "01020000010000000000000000000000000000002e4623a91c972784c301",
    Frame(
        FrameKind.END_OF_DATA, Attempt(2**32 - 1), 31, 7, 0, b""
    ): "01050000ffffffff1f00000007000000000000009f46f1988b4c7edd",
}


class Order(msgspec.Struct):
    user: str
    amount: float


@dataclasses.dataclass(frozen=True)
class Pair:
    left: int
    right: int


@pytest.mark.parametrize("frame", GOLDEN, ids=lambda frame: frame.kind.name)
def test_frames_have_these_bytes(frame: Frame) -> None:
    encoded = encode_frame(*frame)
    assert encoded.hex() == GOLDEN[frame]
    assert decode_frame(encoded) == frame


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    data = encode_frame(*FRAME)
    for index in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[index] ^= 1 << bit
            with pytest.raises(CorruptDataError, match="frame"):
                decode_frame(bytes(damaged))


def test_a_frame_that_is_cut_off_or_too_long_is_noticed() -> None:
    data = encode_frame(*FRAME)
    for length in range(len(data)):
        with pytest.raises(CorruptDataError, match="shorter than its header" if length < HEADER_BYTES else "checksum"):
            decode_frame(data[:length])
    with pytest.raises(CorruptDataError, match="checksum"):
        decode_frame(data + b"\0")


def resealed(head: bytes, payload: bytes) -> bytes:
    """A frame with the right checksum, whatever its header."""
    return head + xxhash.xxh3_64_intdigest(head + payload).to_bytes(8, "little") + payload


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (b"\x02\x01\x01\0", "format version 2, this Moorage reads 1"),
        (b"\x01\x03\x00\0", "unknown kind 3"),
        (b"\x01\x01\x02\0", "unknown kind 1 or codec 2"),
    ],
)
def test_what_a_later_version_writes_is_refused(head: bytes, message: str) -> None:
    with pytest.raises(CorruptDataError, match=message):
        decode_frame(resealed(head + bytes(16), b""))


@given(st.binary(max_size=80))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        decode_frame(data)


# --- columns ---------------------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=5,
)
KEYS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.tuples(inner, inner),
    max_leaves=3,
)
HEADERS = st.none() | st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.binary()), max_size=2)


@given(st.lists(st.tuples(KEYS, PLAIN, st.integers(-(2**63), 2**63 - 1), HEADERS), max_size=5), st.booleans())
@settings(max_examples=200)
def test_columns_of_plain_data_go_both_ways(rows: list[tuple[Any, Any, int, Any]], with_headers: bool) -> None:
    keys, values, timestamps, headers = ([row[i] for row in rows] for i in range(4))
    codec: ColumnCodec[Any, Any] = ColumnCodec()
    decoded = codec.decode(codec.encode(Columns(keys, values, timestamps, headers if with_headers else None)))
    assert decoded.keys == keys
    assert [type(key) for key in decoded.keys] == [type(key) for key in keys]
    assert decoded.values == values
    assert list(decoded.timestamps_ms) == timestamps
    assert decoded.headers == (headers if with_headers else None)


def test_columns_have_these_bytes() -> None:
    payload = ColumnCodec().encode(Columns(["a"], [{"n": 1}], [2], [[("h", b"x")]]))
    assert payload.hex() == "9491a1619181a16e01c408" + "0200000000000000" + "919192a168c40178"


def test_declared_types_come_back() -> None:
    codec: ColumnCodec[Pair, Order] = ColumnCodec(Pair, Order)
    columns = Columns([Pair(1, 2)], [Order("ann", 1.5)], [7])
    decoded = codec.decode(codec.encode(columns))
    assert (decoded.keys, decoded.values, len(decoded)) == ([Pair(1, 2)], [Order("ann", 1.5)], 1)


def test_another_type_than_declared_is_named() -> None:
    payload = ColumnCodec().encode(Columns(["a"], ["text"], [0]))
    with pytest.raises(CorruptDataError, match="not of the type that was declared: Expected `int`, got `str`"):
        ColumnCodec(str, int).decode(payload)


@pytest.mark.parametrize(
    "document",
    [
        (["a", "b"], [1], b"\0" * 8, None),
        (["a"], [1], b"\0" * 16, None),
        (["a"], [1], b"\0" * 7, None),
        (["a"], [1], b"\0" * 8, [None, None]),
        (["a"], [1], b"\0" * 8),
        {"keys": []},
    ],
)
def test_columns_that_do_not_fit_are_corrupt(document: Any) -> None:
    with pytest.raises(CorruptDataError):
        ColumnCodec().decode(msgspec.msgpack.encode(document))


def test_a_payload_that_is_nested_too_deeply_is_corrupt() -> None:
    with pytest.raises(CorruptDataError, match="recursion"):
        ColumnCodec().decode(b"\x94\x91" + b"\x91" * 100_000)


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 255))
@settings(max_examples=200)
def test_no_payload_raises_anything_else(data: bytes, index: int, byte: int) -> None:
    good = bytearray(ColumnCodec().encode(Columns(["a", (1, "b")], [1, {"x": [b"y"]}], [1, 2], [None, [("h", b"")]])))
    good[index % len(good)] = byte
    for codec in (ColumnCodec(), ColumnCodec(str, Order)):
        for payload in (data, bytes(good)):
            try:
                columns = codec.decode(payload)
            except CorruptDataError:
                continue
            assert len(columns.keys) == len(columns.values) == len(columns.timestamps_ms)
