"""Why a checkpoint was not taken or not completed (Flink: CheckpointFailureReason)."""

from __future__ import annotations

from enum import Enum, auto
from typing import assert_never

from moorage.effects import CallFailure
from moorage.messages.events import DeclineReason


class CheckpointFailureReason(Enum):
    """Closed: who adds one decides in ``counts_as_failure`` and ``describe`` what it means."""

    # Nothing was triggered.
    DEACTIVATED = auto()
    NOT_ALL_REQUIRED_TASKS_RUNNING = auto()
    TOO_MANY_REQUESTS = auto()
    ID_NOT_AVAILABLE = auto()
    JOB_NOT_RUNNING = auto()
    STOPPING = auto()

    # Triggered and aborted.
    HOOK_FAILED = auto()
    HOOK_TIMEOUT = auto()
    OPERATOR_COORDINATOR_FAILED = auto()
    EXPIRED = auto()
    DECLINED_TASK_NOT_RUNNING = auto()
    DECLINED_ALIGNMENT_ABANDONED = auto()
    DECLINED_ALIGNMENT_LIMIT = auto()
    DECLINED_STORAGE = auto()
    DECLINED_LOG = auto()
    DECLINED_INTERNAL = auto()
    FOREIGN_STATE = auto()
    PARTLY_FINISHED_UNION = auto()
    METADATA_NOT_WRITTEN = auto()
    SUBSUMED = auto()
    BASE_SUBSUMED = auto()
    STALE_ATTEMPT = auto()
    NOT_REGISTERED = auto()
    JOB_FAILOVER = auto()
    JOB_STOPPED = auto()

    @property
    def counts_as_failure(self) -> bool:
        """Does it go against the tolerable number of failures in a row? What a failover can't help does not: a storage,
        a registry or a master hook that fails would fail the next attempt alike (Flink: CheckpointFailureManager)."""
        return self in _COUNTED

    @property
    def ends_attempt(self) -> bool:
        """The attempt that the checkpoint belonged to has ended."""
        return self in (_R.JOB_FAILOVER, _R.JOB_STOPPED, _R.STALE_ATTEMPT)

    @property
    def label(self) -> str:
        """For metrics."""
        return self.name.lower()


_R = CheckpointFailureReason

_COUNTED = frozenset(
    {
        _R.OPERATOR_COORDINATOR_FAILED,
        _R.EXPIRED,
        _R.DECLINED_STORAGE,
        _R.DECLINED_LOG,
        _R.DECLINED_INTERNAL,
        _R.FOREIGN_STATE,
        _R.BASE_SUBSUMED,
    }
)


def describe(reason: CheckpointFailureReason) -> str:
    """For people."""
    match reason:
        case _R.DEACTIVATED:
            return "checkpointing is not enabled for this job"
        case _R.NOT_ALL_REQUIRED_TASKS_RUNNING:
            return "not all required subtasks are running"
        case _R.TOO_MANY_REQUESTS:
            return "too many checkpoint requests are waiting already"
        case _R.ID_NOT_AVAILABLE:
            return "the registry gave no checkpoint id"
        case _R.JOB_NOT_RUNNING:
            return "the job is not running"
        case _R.STOPPING:
            return "the job is being stopped with a savepoint"
        case _R.HOOK_FAILED:
            return "a master hook failed"
        case _R.HOOK_TIMEOUT:
            return "the master hooks did not answer within their timeout"
        case _R.OPERATOR_COORDINATOR_FAILED:
            return "the coordinator of an operator could not take its snapshot"
        case _R.EXPIRED:
            return "the checkpoint was not complete within its timeout"
        case _R.DECLINED_TASK_NOT_RUNNING:
            return "a subtask declined: it is not running"
        case _R.DECLINED_ALIGNMENT_ABANDONED:
            return "a subtask declined: a newer barrier arrived first"
        case _R.DECLINED_ALIGNMENT_LIMIT:
            return "a subtask declined: its alignment would have held back more bytes than the job allows"
        case _R.DECLINED_STORAGE:
            return "a subtask declined: the checkpoint storage failed"
        case _R.DECLINED_LOG:
            return "a subtask declined: Kafka failed"
        case _R.DECLINED_INTERNAL:
            return "a subtask declined: its snapshot failed"
        case _R.FOREIGN_STATE:
            return "a subtask referred to a file that is not the checkpoint's"
        case _R.PARTLY_FINISHED_UNION:
            return "some subtasks of an operator with union state have finished, and their part of it is gone"
        case _R.METADATA_NOT_WRITTEN:
            return "the checkpoint's metadata could not be written"
        case _R.SUBSUMED:
            return "a newer checkpoint was completed first"
        case _R.BASE_SUBSUMED:
            return "the checkpoint that it builds on is not retained any more"
        case _R.STALE_ATTEMPT:
            return "the job has started another attempt"
        case _R.NOT_REGISTERED:
            return "the registry refused the checkpoint"
        case _R.JOB_FAILOVER:
            return "the job restarts"
        case _R.JOB_STOPPED:
            return "the job is stopped"
        case _ as never:
            assert_never(never)


def reason_of_decline(declined: DeclineReason) -> CheckpointFailureReason:
    match declined:
        case DeclineReason.NOT_RUNNING:
            return _R.DECLINED_TASK_NOT_RUNNING
        case DeclineReason.STORAGE:
            return _R.DECLINED_STORAGE
        case DeclineReason.LOG:
            return _R.DECLINED_LOG
        case DeclineReason.ALIGNMENT_ABANDONED:
            return _R.DECLINED_ALIGNMENT_ABANDONED
        case DeclineReason.ALIGNMENT_LIMIT:
            return _R.DECLINED_ALIGNMENT_LIMIT
        case DeclineReason.INTERNAL:
            return _R.DECLINED_INTERNAL
        case _ as never:
            assert_never(never)


def reason_of_registration(failure: CallFailure) -> CheckpointFailureReason:
    """Why the registry did not add a checkpoint."""
    match failure:
        case CallFailure.STALE:
            return _R.STALE_ATTEMPT
        case CallFailure.BASE_SUBSUMED:
            return _R.BASE_SUBSUMED
        case CallFailure.UNAVAILABLE | CallFailure.FENCED | CallFailure.CORRUPT | CallFailure.REFUSED:
            return _R.NOT_REGISTERED
        case _ as never:
            assert_never(never)
