"""Key groups: the unit in which keyed state and exchange partitions are owned.

A key group is a partition of a keyed exchange (design, section 4). Subtask ``i`` of ``p`` owns the contiguous range
that Flink's ``KeyGroupRangeAssignment`` gives it, so a rescale moves ownership of whole partitions and never data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

from moorage.errors import PipelineError
from moorage.ids import KeyGroup

DEFAULT_MAX_PARALLELISM = 32
UPPER_BOUND_MAX_PARALLELISM = 1 << 15
"""As in Flink."""

# Deterministic: mappings are sorted, so that equal keys have equal bytes.
_CANONICAL = msgspec.msgpack.Encoder(order="deterministic")


def key_bytes(key: object) -> bytes:
    """The bytes that are hashed: str as UTF-8, bytes as they are, everything else as canonical msgpack."""
    if isinstance(key, str):
        return key.encode()
    if isinstance(key, bytes):
        return key
    return _CANONICAL.encode(key)


def key_group(key: object, max_parallelism: int) -> KeyGroup:
    """``crc32(key bytes) % max_parallelism``: librdkafka's ``consistent`` partitioner."""
    return KeyGroup(crc32(key_bytes(key)) % max_parallelism)


_PLAIN_KEYS = frozenset({str, bytes, int, float, bool, type(None)})


def is_plain_key(key: object) -> bool:
    """Whether a key whose type is not declared comes back from msgpack as it was: str, bytes, numbers, None, and tuples
    of them."""
    return all(map(is_plain_key, key)) if type(key) is tuple else type(key) in _PLAIN_KEYS


def hashable_keys(keys: Sequence[Any]) -> Sequence[Any]:
    """Plain keys as msgpack gives them back: what is a list now was a tuple. ValueError for what was no plain key."""
    return keys if _PLAIN_KEYS.issuperset(map(type, keys)) else list(map(_with_tuples, keys))


def _with_tuples(key: Any) -> Any:
    if type(key) is list:
        return tuple(map(_with_tuples, key))
    if type(key) not in _PLAIN_KEYS:
        raise ValueError(f"a key can't be a {type(key).__name__}")
    return key


class KeyGroupRange(msgspec.Struct, frozen=True, array_like=True):
    """Key groups ``start`` to ``end``, both included. An empty range is ``start > end`` (Flink: KeyGroupRange)."""

    start: int
    end: int

    def __len__(self) -> int:
        return max(0, self.end - self.start + 1)

    def __contains__(self, group: object) -> bool:
        return isinstance(group, int) and self.start <= group <= self.end

    def groups(self) -> range:
        return range(self.start, self.end + 1)

    def intersection(self, other: KeyGroupRange) -> KeyGroupRange:
        start, end = max(self.start, other.start), min(self.end, other.end)
        return KeyGroupRange(start, end) if start <= end else EMPTY_KEY_GROUP_RANGE


EMPTY_KEY_GROUP_RANGE = KeyGroupRange(0, -1)


def key_group_range(max_parallelism: int, parallelism: int, subtask: int) -> KeyGroupRange:
    """What subtask ``subtask`` of ``parallelism`` owns (Flink: computeKeyGroupRangeForOperatorIndex)."""
    if not 0 < parallelism <= max_parallelism:
        raise PipelineError(f"parallelism {parallelism} must be between 1 and max_parallelism {max_parallelism}")
    start = (subtask * max_parallelism + parallelism - 1) // parallelism
    end = ((subtask + 1) * max_parallelism - 1) // parallelism
    return KeyGroupRange(start, end)


def owner_of(group: int, max_parallelism: int, parallelism: int) -> int:
    """The subtask that owns a key group (Flink: computeOperatorIndexForKeyGroup)."""
    return group * parallelism // max_parallelism
