"""Key groups: the same hash and the same ranges as librdkafka and Flink."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moorage.errors import PipelineError
from moorage.state.key_groups import (
    EMPTY_KEY_GROUP_RANGE,
    KeyGroupRange,
    hashable_keys,
    is_plain_key,
    key_bytes,
    key_group,
    key_group_range,
    owner_of,
)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("user-1", b"user-1"),
        ("ü", b"\xc3\xbc"),
        (b"\xff", b"\xff"),
        (1, b"\x01"),
        (True, b"\xc3"),
        (1.0, b"\xcb\x3f\xf0" + bytes(6)),
        (None, b"\xc0"),
        ((1, "a"), b"\x92\x01\xa1a"),
    ],
)
def test_the_bytes_of_a_key(key: Any, expected: bytes) -> None:
    assert key_bytes(key) == expected


def test_key_groups_are_those_of_librdkafka() -> None:
    # CRC-32 as everybody has it: 0xCBF43926 is the check value of its definition.
    assert key_group("123456789", 1 << 15) == 0xCBF43926 % (1 << 15)
    assert key_group(b"123456789", 32) == 0xCBF43926 % 32
    assert key_group("", 32) == 0


@given(st.integers(1, 300), st.data())
def test_ranges_cover_everything_once_and_agree_with_owners(max_parallelism: int, data: st.DataObject) -> None:
    parallelism = data.draw(st.integers(1, max_parallelism))
    ranges = [key_group_range(max_parallelism, parallelism, subtask) for subtask in range(parallelism)]
    assert [group for r in ranges for group in r.groups()] == list(range(max_parallelism))
    assert max(map(len, ranges)) - min(map(len, ranges)) <= 1
    for subtask, r in enumerate(ranges):
        assert all(owner_of(group, max_parallelism, parallelism) == subtask for group in r.groups())


def test_ranges_are_those_of_flink() -> None:
    # KeyGroupRangeAssignmentTest: 128 key groups on 3 subtasks.
    assert [key_group_range(128, 3, i) for i in range(3)] == [
        KeyGroupRange(0, 42),
        KeyGroupRange(43, 85),
        KeyGroupRange(86, 127),
    ]


@pytest.mark.parametrize("parallelism", [0, -1, 9])
def test_parallelism_is_bounded_by_the_number_of_key_groups(parallelism: int) -> None:
    with pytest.raises(PipelineError, match=f"parallelism {parallelism} must be between 1 and max_parallelism 8"):
        key_group_range(8, parallelism, 0)


def test_ranges_intersect() -> None:
    assert KeyGroupRange(0, 4).intersection(KeyGroupRange(3, 9)) == KeyGroupRange(3, 4)
    assert KeyGroupRange(0, 4).intersection(KeyGroupRange(5, 9)) == EMPTY_KEY_GROUP_RANGE
    assert len(EMPTY_KEY_GROUP_RANGE) == 0
    assert 4 in KeyGroupRange(0, 4)
    assert 5 not in KeyGroupRange(0, 4)
    assert "4" not in KeyGroupRange(0, 4)


def test_plain_keys_are_known_and_made_hashable_again() -> None:
    assert all(map(is_plain_key, ("a", b"a", 1, 1.5, True, None, (), (1, ("a", None)))))
    assert not any(map(is_plain_key, ([1], {}, (1, [2]), frozenset(), object())))
    keys = ["a", "b"]
    assert hashable_keys(keys) is keys
    assert hashable_keys(["a", [1, ["b"]], None]) == ["a", (1, ("b",)), None]
    for key in ({}, [1, [{}]], object()):
        with pytest.raises(ValueError, match=r"a key can't be a (dict|object)"):
            hashable_keys(["a", key])
