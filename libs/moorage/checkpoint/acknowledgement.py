"""What becomes of an acknowledgement (Flink: PendingCheckpoint.TaskAcknowledgeResult)."""

from __future__ import annotations

from enum import Enum


class AcknowledgeOutcome(Enum):
    SUCCESS = "success"
    DUPLICATE = "duplicate"
    """This subtask has acknowledged already."""
    UNKNOWN = "unknown"
    """Nobody waits for this subtask, or it reports an operator that it does not have."""
    DISCARDED = "discarded"
    """The checkpoint is aborted: what the acknowledgement brings is garbage."""
