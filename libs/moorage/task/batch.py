"""What operators of a chain hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from moorage.ids import TopicPartition


class Origin(NamedTuple):
    """Where the records of a batch lie in the input, for people."""

    partition: TopicPartition
    offsets: Sequence[int]


class Batch(NamedTuple):
    """Records of one key group (or input partition), column by column."""

    group: int
    """Partition of a forward exchange that the results of these records belong to."""
    values: Sequence[Any]
    timestamps_ms: Sequence[int]
    origin: Origin | None = None
    """Straight from a source: as many offsets as values."""
