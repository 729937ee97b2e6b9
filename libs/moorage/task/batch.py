"""What operators of a chain hand to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Batch(NamedTuple):
    """Records of one key group (or input partition), column by column."""

    group: int
    """Partition of a forward exchange that the results of these records belong to."""
    values: Sequence[Any]
    timestamps_ms: Sequence[int]
