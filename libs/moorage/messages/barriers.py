"""Payloads of control frames that travel inline with records, and what kind of snapshot they ask for."""

from __future__ import annotations

from enum import Enum

import msgspec

from moorage.ids import CheckpointId


class SnapshotKind(Enum):
    """What is taken, and what follows (Flink: SnapshotType)."""

    CHECKPOINT = "checkpoint"
    FULL_CHECKPOINT = "full_checkpoint"
    """Refers to no file of an earlier checkpoint."""
    SAVEPOINT = "savepoint"
    """Sinks don't commit with it: nothing restarts from it by itself."""
    SUSPEND = "suspend"
    """Stop with savepoint: sources stop behind the barrier, sinks commit, the job ends."""
    TERMINATE = "terminate"
    """As SUSPEND, but sources end their data before the barrier (drain)."""

    @property
    def is_savepoint(self) -> bool:
        return self in (SnapshotKind.SAVEPOINT, SnapshotKind.SUSPEND, SnapshotKind.TERMINATE)

    @property
    def stops(self) -> bool:
        return self in (SnapshotKind.SUSPEND, SnapshotKind.TERMINATE)


class Alignment(Enum):
    """When a subtask with inputs takes its snapshot (design, section 6; Flink: CheckpointOptions.AlignmentType)."""

    ALIGNED = "aligned"
    UNALIGNED = "unaligned"
    """At the trigger or the first barrier."""
    TIMEOUT = "timeout"
    """Aligned until ``aligned_timeout_ms`` after the trigger, then unaligned."""
    AT_LEAST_ONCE = "at_least_once"
    """At the last barrier, and nothing is held back meanwhile."""


class SnapshotOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Flink: CheckpointOptions. A savepoint is ALIGNED always."""

    kind: SnapshotKind = SnapshotKind.CHECKPOINT
    alignment: Alignment = Alignment.ALIGNED
    aligned_timeout_ms: int = 0
    native: bool = False
    """Savepoints: in the backend's own format, else in the canonical one that every backend reads."""
    location: str | None = None
    """Savepoints: the folder that everything is written to, as a URL or relative to the checkpoint storage."""

    @property
    def is_full(self) -> bool:
        return self.kind is not SnapshotKind.CHECKPOINT


CHECKPOINT = SnapshotOptions()
"""An aligned incremental checkpoint."""


class Barrier(msgspec.Struct, frozen=True, kw_only=True):
    """What lies before it in the channel belongs to the checkpoint, what comes after does not.

    Flink: CheckpointBarrier.
    """

    checkpoint: CheckpointId
    triggered_ms: int
    """Wall clock of the coordinator at the trigger, for the start delay."""
    base: CheckpointId = CheckpointId(0)
    """Newest completed checkpoint at the trigger: increments build on it and on nothing else. 0: none."""
    options: SnapshotOptions = CHECKPOINT
