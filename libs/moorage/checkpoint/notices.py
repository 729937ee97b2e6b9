"""What the checkpoint coordinator reports to people, and what it answers to a request by hand."""

from __future__ import annotations

import msgspec

from moorage.checkpoint.reasons import CheckpointFailureReason as Reason
from moorage.checkpoint.reasons import describe
from moorage.checkpoint.stats import CheckpointStats
from moorage.effects import Notice
from moorage.ids import Attempt, CheckpointId, JobId, OperatorUid


class CheckpointTriggered(Notice, frozen=True, kw_only=True):
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId


class CheckpointCompleted(Notice, frozen=True, kw_only=True):
    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId
    completed_ms: int
    stats: CheckpointStats


class CheckpointAborted(Notice, frozen=True, kw_only=True):
    """``checkpoint`` and ``stats`` None: it was refused before it had an id."""

    job: JobId
    attempt: Attempt
    checkpoint: CheckpointId | None
    reason: Reason
    detail: str
    stats: CheckpointStats | None = None


class SavepointNotDeleted(Notice, frozen=True, kw_only=True):
    """Files of a savepoint that failed are left, because the storage did not answer; nobody else deletes them."""

    job: JobId
    folder: str
    detail: str


class HooksNotClosed(Notice, frozen=True, kw_only=True):
    """A master hook failed when it was closed, which was the end of it anyway."""

    job: JobId
    detail: str


class OperatorCoordinatorNotClosed(Notice, frozen=True, kw_only=True):
    """The coordinator of an operator failed at the end of an attempt, which could not fail any more."""

    job: JobId
    operator: OperatorUid
    detail: str


class CheckpointDone(msgspec.Struct, frozen=True):
    """Reply to a request by hand."""

    checkpoint: CheckpointId
    path: str
    """Of a checkpoint its ``_metadata``, of a savepoint its folder."""


class CheckpointFailed(msgspec.Struct, frozen=True):
    """Reply to a request by hand."""

    checkpoint: CheckpointId | None
    reason: Reason
    detail: str

    @property
    def message(self) -> str:
        return describe(self.reason) + (f": {self.detail}" if self.detail else "")
