"""What becomes of a job's checkpoints when the job ends. Flink: CheckpointRetentionPolicy, CheckpointProperties.

Pure functions of what the registry holds, so coordinator and cleaner agree without a word: what retention discards the
coordinator never restores, and the cleaner takes it out of the registry, deletes it, and some time later forgets a job
of which nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum

from moorage.messages.registry import CheckpointRecord, JobRecord, JobStatus


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
    return status.has_ended and record.kind == "checkpoint" and status not in _RETAINED[retention]


def discarded(job: JobRecord, checkpoints: Iterable[CheckpointRecord]) -> Sequence[CheckpointRecord]:
    """Which of the completed checkpoints that the registry holds nobody may restore any more."""
    retention = CheckpointRetention(job.graph.checkpoint.retention)
    return [record for record in checkpoints if is_discarded(record, job.status, retention)]


def is_over(job: JobRecord, checkpoints: Iterable[CheckpointRecord]) -> bool:
    """The job has ended and nothing of it is kept, neither a checkpoint nor a savepoint: it may be forgotten."""
    kept = list(checkpoints)
    return job.status.has_ended and len(discarded(job, kept)) == len(kept)
