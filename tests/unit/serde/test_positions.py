"""Position vectors and commit markers as bytes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import CorruptDataError
from moorage.ids import Attempt, CheckpointId, ExchangeId, OperatorUid
from moorage.serde.positions import (
    claim_key,
    decode_commit,
    decode_marker,
    decode_positions,
    encode_claim,
    encode_marker,
    encode_positions,
    marker_key,
)
from moorage.state.positions import CommitClaim, CommitMarker, ExchangePositions, InputPositions

POSITIONS = InputPositions(
    (ExchangePositions(ExchangeId("a--b"), (0, 0, 1), (2, 2, 1), (0, 1, 0), (5, 3, 7), (7, 0, 4)),)
)
MARKER = CommitMarker(
    sink=OperatorUid("results"),
    key_group=4,
    checkpoint=CheckpointId(9),
    attempt=Attempt(2),
    producers=(0, 1),
    offsets=(17, 12),
)


def test_positions_have_these_bytes() -> None:
    data = encode_positions(POSITIONS)
    assert data.hex() == "01919196a4612d2d629300000193020201930001009305030793070004"
    assert decode_positions(data) == POSITIONS
    assert POSITIONS.exchanges[0].start_offsets() == {0: 3, 1: 7}


def test_markers_have_these_bytes() -> None:
    data = encode_marker(MARKER)
    assert data[:1] == b"\x01"
    assert msgspec.msgpack.decode(data[1:]) == {
        "sink": "results",
        "key_group": 4,
        "checkpoint": 9,
        "attempt": 2,
        "producers": [0, 1],
        "offsets": [17, 12],
        "finished": [],
    }
    assert decode_marker(data) == MARKER
    assert MARKER.start_offset == 12
    assert marker_key(MARKER.sink, MARKER.key_group) == b"results/4"


@pytest.mark.parametrize("decode", [decode_positions, decode_marker])
@pytest.mark.parametrize("data", [b"", b"\x02", b"\x01", b"\x01\xff", b"\x01" + b"\x91" * 100_000])
def test_other_bytes_are_corrupt(decode: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(CorruptDataError, match=r"channel positions|commit marker"):
        decode(data)


def test_columns_of_different_lengths_are_corrupt() -> None:
    uneven = InputPositions((ExchangePositions(ExchangeId("a--b"), (0, 1), (1, 1), (0,), (5,), (0,)),))
    with pytest.raises(CorruptDataError, match="positions of a--b: the columns differ in length"):
        decode_positions(encode_positions(uneven))
    for broken in (
        msgspec.structs.replace(MARKER, offsets=(1,)),
        msgspec.structs.replace(MARKER, producers=(), offsets=()),
    ):
        with pytest.raises(CorruptDataError, match="marker of results: the columns differ in length or are empty"):
            decode_marker(encode_marker(broken))


@given(st.binary(max_size=40), st.integers(0, 200), st.integers(0, 255))
def test_no_bytes_raise_anything_else(data: bytes, index: int, byte: int) -> None:
    for decode, good in ((decode_positions, encode_positions(POSITIONS)), (decode_marker, encode_marker(MARKER))):
        damaged = bytearray(good)
        damaged[index % len(damaged)] = byte
        for candidate in (data, b"\x01" + data, bytes(damaged)):
            with suppress(CorruptDataError):
                decode(candidate)  # type: ignore[operator]


def test_claims_lie_among_markers() -> None:
    claim = CommitClaim(
        sink=OperatorUid("results"), key_group=4, parallelism=3, base=CheckpointId(7), attempt=Attempt(2)
    )
    data = encode_claim(claim)
    assert data[:1] == b"\x02"
    assert decode_commit(data) == claim
    assert decode_commit(encode_marker(MARKER)) == MARKER
    assert claim_key(OperatorUid("results"), 4, 3) == b"results/4/3"
    with pytest.raises(CorruptDataError, match="commit marker: unknown version 02"):
        decode_marker(data)
