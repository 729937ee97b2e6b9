"""What the checkpoint coordinator reports to people, and what it answers to a request by hand."""

from __future__ import annotations

import msgspec

from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.checkpoint.reasons import describe
from moorage.effects import Notice
from moorage.ids import Attempt, CheckpointId, JobId


class CheckpointTriggered(Notice, frozen=True, kw_only=True):
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId


class CheckpointCompleted(Notice, frozen=True, kw_only=True):
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId
    duration_ms: int
    state_bytes: int
    written_bytes: int
    alignment_ms: int
    """The longest of a subtask."""
    completed_ms: int


class CheckpointAborted(Notice, frozen=True, kw_only=True):
    """``checkpoint`` None: it was refused before it had an id."""

    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId | None
    reason: Reason
    detail: str


class CheckpointDone(msgspec.Struct, frozen=True):
    """Reply to a request by hand."""

    checkpoint: CheckpointId
    path: str


class CheckpointFailed(msgspec.Struct, frozen=True):
    """Reply to a request by hand."""

    checkpoint: CheckpointId | None
    reason: Reason
    detail: str

    @property
    def message(self) -> str:
        return describe(self.reason) + (f": {self.detail}" if self.detail else "")
