"""What was touched in a key group since a snapshot, and where that is cheap a log of it.

Theory of operation
-------------------
To encode a row that was touched a second ago takes several times as long as to encode one that was touched just now:
it has to come from main memory again, and it is user code that waits meanwhile, since one thread runs at a time. So
rows are encoded when their batch is over, into a log of blocks that is the delta of the next snapshot as it is. That is
worth it as long as keys are touched about once between two snapshots. When they are touched more often, the log is
dropped and the snapshot encodes the rows itself (``memory_encoding``).

What is noted is bounded though no checkpoint completes for hours: when it outgrows what a delta is worth, the key group
is just known to have changed as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar

import msgspec

from moorage.errors import StateError
from moorage.serde.keyed_segments import DELTA, KeyedSegmentCodec, SegmentWriter

K = TypeVar("K")
R = TypeVar("R", bound=msgspec.Struct)

_LOG_FACTOR = 1.5
"""Rows in the log for each key in it, at most."""
_LOG_BYTES = 2 << 20
"""A log grows until the next snapshot; past this its memory is worth more than the time that it saves."""


class Changes(Generic[K, R]):
    """Of one key group, between two snapshots."""

    __slots__ = ("entries", "keys", "log", "renewed", "whole")

    def __init__(self, codec: KeyedSegmentCodec[K, R], *, whole: bool = False) -> None:
        self.keys: set[K] = set()
        self.renewed: set[K] = set()
        """Rows that were made anew: whatever entries were stored under the key are gone."""
        self.entries: list[set[tuple[K, Any]]] = [set() for _ in codec.states]
        """Of each state: key and entry."""
        self.log: SegmentWriter[K, R] | None = None if codec.states or whole else codec.writer(DELTA)
        """Every key as it was when it was touched last; None: not known."""
        self.whole = whole
        """So much has changed that nothing is noted any more: the key group is written in full next."""

    def __len__(self) -> int:
        return len(self.keys) + sum(map(len, self.entries))

    @property
    def any(self) -> bool:
        return self.whole or len(self) > 0

    def write_log(self, rows: Mapping[K, R], touched: Collection[K]) -> None:
        """After user code has touched these keys."""
        log = self.log
        if log is None:
            return
        if log.size + len(touched) > _LOG_FACTOR * len(self.keys) or log.raw_bytes > _LOG_BYTES:
            self.log = None
            return
        try:
            log.rows(rows, touched)
        except StateError:
            self.log = None  # the snapshot will meet the row, too, and fails of it

    def absorb(self, earlier: Changes[K, R]) -> None:
        """These are now the changes since an earlier snapshot; neither is ``whole``."""
        self.keys |= earlier.keys
        self.renewed |= earlier.renewed
        for mine, others in zip(self.entries, earlier.entries, strict=True):
            mine |= others
        self.log = None


class LoggedDelta(Generic[K, R]):
    """A key group of a snapshot that is encoded already."""

    finished = True
    expired: Sequence[Any] = ()

    def __init__(self, writer: SegmentWriter[K, R]) -> None:
        self.writer = writer

    def encode(self) -> None:
        """It is."""

    def cancel(self) -> None:
        """Nothing goes on."""


def logged_delta(codec: KeyedSegmentCodec[K, R], since: Sequence[Changes[K, R]]) -> LoggedDelta[K, R] | None:
    """The delta of these changes, oldest first, if all of them have a log."""
    writer = codec.writer(DELTA)
    for changes in since:
        if changes.log is None:
            return None
        writer.extend(changes.log)
    return LoggedDelta(writer)
