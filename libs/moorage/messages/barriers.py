"""Payloads of control frames that travel inline with records."""

from __future__ import annotations

import msgspec

from moorage.ids import CheckpointId


class Barrier(msgspec.Struct, frozen=True, kw_only=True):
    """What lies before it in the channel belongs to the checkpoint, what comes after does not.

    Flink: CheckpointBarrier.
    """

    checkpoint: CheckpointId
    triggered_ms: int
    """Wall clock of the coordinator at the trigger, for the start delay."""
    base: CheckpointId = CheckpointId(0)
    """Newest completed checkpoint at the trigger: increments build on it and on nothing else. 0: none."""
