"""What becomes of a job's checkpoints when the job ends. Flink: CheckpointRetentionPolicy, CheckpointProperties.

The coordinator decides, because only it can tell a job that has ended from one that is being submitted again: it takes
the checkpoints out of the registry. What is out of the registry the cleaner deletes.
"""

from __future__ import annotations

from enum import Enum

from moorage.messages.registry import CheckpointRecord, JobStatus


class CheckpointRetention(Enum):
    """The names are Flink's. Subsumed checkpoints go in any case, savepoints never but by dispose."""

    NEVER_RETAIN_AFTER_TERMINATION = "never_retain_after_termination"
    RETAIN_ON_FAILURE = "retain_on_failure"
    RETAIN_ON_CANCELLATION = "retain_on_cancellation"
    """Also on failure and suspension: as long as somebody may want to go on from there."""


_RETAINED = {
    CheckpointRetention.NEVER_RETAIN_AFTER_TERMINATION: frozenset[JobStatus](),
    CheckpointRetention.RETAIN_ON_FAILURE: frozenset({JobStatus.FAILED}),
    CheckpointRetention.RETAIN_ON_CANCELLATION: frozenset(
        {JobStatus.FAILED, JobStatus.CANCELED, JobStatus.SUSPENDED},
    ),
}


def is_discarded(record: CheckpointRecord, status: JobStatus, retention: CheckpointRetention) -> bool:
    """Whether a completed checkpoint goes when its job reaches ``status``; never while the job runs."""
    has_ended = status.is_terminal or status is JobStatus.SUSPENDED
    return has_ended and record.kind == "checkpoint" and status not in _RETAINED[retention]
